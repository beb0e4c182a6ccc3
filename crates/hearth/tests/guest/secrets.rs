//! Secrets in a machine.

use hearth_engine::protocol::secrets::Secret;
use hearth_engine::protocol::{Command, Start};

use crate::support::Guest;

#[tokio::test]
async fn b43_a_secret_is_the_users_file_and_variable_and_no_output_shows_it() {
    let Some(guest) = Guest::boot().await else { return };
    let secret = Secret { name: "TOKEN".into(), value: "correct-horse".into(), file: true };
    guest.channel().set_secrets(vec![secret]).await.unwrap();
    let script = "stat -c '%U %a' $HEARTH_SECRETS/TOKEN; stat -f -c %T $HEARTH_SECRETS; printf correct-; sleep 0.1; \
                  echo horse; cat $HEARTH_SECRETS/TOKEN >&2; test $TOKEN = $(cat $HEARTH_SECRETS/TOKEN)";
    let mut start = Start::new(Command::Shell(script.into()));
    start.secrets = [("TOKEN".to_owned(), "TOKEN".to_owned())].into();
    let outcome = guest.start(start).await;
    assert_eq!(String::from_utf8_lossy(&outcome.stdout), "user 600\ntmpfs\n[REDACTED]\n");
    assert_eq!(String::from_utf8_lossy(&outcome.stderr), "[REDACTED]");
    assert_eq!(outcome.status.code, Some(0));
    guest.remove().await;
}

#[tokio::test]
async fn b52_two_sandboxes_have_different_machine_ids_and_the_hosts_clock() {
    let (first, second) = tokio::join!(Guest::boot(), Guest::boot());
    let (Some(first), Some(second)) = (first, second) else { return };
    let mut ids = Vec::new();
    for guest in [first, second] {
        let before = std::time::SystemTime::now();
        let seen = guest.run("cat /etc/machine-id; date +%s.%N").await;
        let text = String::from_utf8(seen.stdout).unwrap();
        let (id, time) = text.trim().split_once('\n').unwrap();
        ids.push(id.to_owned());
        let guests = time.parse::<f64>().unwrap();
        let unix = |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let (least, most) = (unix(before), unix(std::time::SystemTime::now()));
        assert!((least - 1.0..most + 1.0).contains(&guests), "{guests} is not between {least} and {most}");
        guest.remove().await;
    }
    assert_ne!(ids[0], ids[1]);
    assert!(ids.iter().all(|id| id.len() == 32), "{ids:?}");
}
