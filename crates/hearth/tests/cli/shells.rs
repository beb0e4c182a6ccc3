//! Shells: on this terminal by the command, by name through the API.

use hearth_client::api::protocol::shell::{Idle, IdleReason, ShellName};
use hearth_client::api::protocol::{PtySize, Signal, SignalScope};
use hearth_client::api::shells::{CloseShell, OpenShell, ReadScreen, ReadShell, SignalShell, WaitShell, WriteShell};
use hearth_client::{Client, ClientError};

use crate::held::Daemon;
use crate::screen::Terminal;
use crate::support::{HANG, assert_code, text};

#[test]
fn hearth_shell_is_a_login_shell_on_this_terminal() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let mut terminal = Terminal::new(91, 33);
    let before = terminal.settings();
    let running = terminal.start(&mut home.0.command(&["shell", "-e", "COLOUR=blue", "a"]));
    terminal.type_text("shopt -q login_shell && echo login-$((6*7)) $COLOUR $(stty size) $PWD\r");
    terminal.read_until("login-42 blue 33 91 /workspace");
    terminal.type_text("exit 7\r");
    assert_code(&running.finish(), 7);
    assert_eq!(format!("{:?}", terminal.settings().local_modes), format!("{:?}", before.local_modes));
    // Without a terminal it reads what it is given.
    let piped = home.0.hearth_with_input(&["shell", "a"], b"echo $0; exit 3\n".to_vec());
    assert_code(&piped, 3);
    assert_eq!(text(&piped.stdout), "bash\n");
}

#[test]
fn b13_b14_b16_a_named_shell_is_typed_at_read_and_closed_through_the_api() {
    let Some(home) = Daemon::with_images() else { return };
    home.ok(&["create", "--name", "a"]);
    let client = Client::new(home.0.path().join("hearth.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(HANG, use_a_shell(&client)).await.unwrap() });
}

async fn use_a_shell(client: &Client) {
    let at_prompt = WaitShell { until: Idle::Prompt, timeout_ms: Some(60_000), ..WaitShell::default() };
    let type_line = async |line: &'static str| {
        let write = WriteShell { newline: Some(true), wait_ms: None };
        let written = client.write_shell("a", "work", &write, line.into()).await.unwrap();
        assert_eq!(written.accepted, line.len() as u64 + 1);
    };
    let open = OpenShell {
        size: Some(PtySize { columns: 80, rows: 24 }),
        env: [("PS1".to_owned(), "$ ".into())].into(),
        ..OpenShell::new(ShellName::new("work").unwrap())
    };
    let opened = client.open_shell("a", &open).await.unwrap();
    let refused = client.open_shell("a", &open).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { body } if body.code.name() == "already_exists"));
    let shells = client.shells("a").await.unwrap().shells;
    assert_eq!((shells.len(), shells[0].process), (1, opened.process));
    assert_eq!(client.wait_shell("a", "work", &at_prompt).await.unwrap().reason, IdleReason::Idle);

    client.resize_shell("a", "work", PtySize { columns: 100, rows: 30 }).await.unwrap();
    type_line("stty size; printf 'a\\033[31mb\\n'").await;
    assert_eq!(client.wait_shell("a", "work", &at_prompt).await.unwrap().reason, IdleReason::Idle);
    let screen = client.read_screen("a", "work", &ReadScreen::default()).await.unwrap();
    assert!(screen.text.contains("30 100\nab\n"), "{screen:?}");
    let (first, all) = client.read_shell("a", "work", &ReadShell::default()).await.unwrap();
    assert!(text(&all).contains("a\u{1b}[31mb\r\n"), "{all:?}");
    let piece = ReadShell { from: Some(5), limit: Some(7), wait_ms: None };
    let (read, bytes) = client.read_shell("a", "work", &piece).await.unwrap();
    assert_eq!((first.at, read.at, &bytes[..]), (0, 5, &all[5..12]));

    type_line("sleep 600").await;
    let resting = client.wait_shell("a", "work", &WaitShell::default()).await.unwrap();
    assert!(resting.job, "{resting:?}");
    client
        .signal_shell("a", "work", &SignalShell { signal: Signal::Int, scope: SignalScope::Foreground })
        .await
        .unwrap();
    let end = client.wait_shell("a", "work", &at_prompt).await.unwrap();
    assert_eq!((end.reason, end.job), (IdleReason::Idle, false));
    let later = ReadScreen { since: Some(screen.read.next), ..ReadScreen::default() };
    let more = client.read_screen("a", "work", &later).await.unwrap();
    assert!(more.text.contains("sleep 600") && !more.text.contains("30 100"), "{more:?}");

    let status = client.close_shell("a", "work", &CloseShell::default()).await.unwrap();
    assert!(status.signal.is_some() || status.code.is_some());
    let gone = client.read_screen("a", "work", &ReadScreen::default()).await.unwrap_err();
    assert!(matches!(gone, ClientError::Refused { body } if body.code.name() == "unknown_name"));
}
