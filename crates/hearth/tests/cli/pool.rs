//! Machines that are ready beforehand.

use hearth_client::Client;
use hearth_client::api::exec::CommandLine;
use hearth_client::api::{CreateSandbox, ExecRequest, PoolInfo, PoolKindInfo};
use rustix::process::{Signal, kill_process};

use crate::support::{Home, Running, assert_code, text};

/// A daemon in the foreground.
pub(crate) struct Daemon {
    // In the order in which they must go.
    running: Option<Running>,
    pub(crate) client: Client,
    pub(crate) home: Home,
}

impl Daemon {
    pub(crate) fn with(options: &[&str]) -> Option<Self> {
        let home = Home::with_images()?;
        let running = Running::start(&mut home.command(&[&["daemon"], options].concat()));
        let client = Client::new(home.path().join("hearth.sock"));
        Some(Self { running: Some(running), client, home })
    }

    /// Waits until the pool is as it is to be. It cannot be followed, so this asks again, with the guest's own answer in between.
    async fn wait_for(&self, wanted: impl Fn(&PoolInfo) -> bool) -> PoolInfo {
        let asking = async {
            loop {
                match self.client.pool().await {
                    Ok(pool) if wanted(&pool) => return pool,
                    _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                }
            }
        };
        tokio::time::timeout(crate::support::HANG, asking).await.unwrap()
    }

    async fn shell(&self, sandbox: &str, script: &str) -> String {
        let result = self.client.exec(sandbox, &ExecRequest::new(CommandLine::Shell(script.into()))).await.unwrap();
        assert_eq!(result.exit_code, 0, "{}", result.stderr.data);
        result.stdout.data.trim_end().to_owned()
    }

    pub(crate) fn end(mut self) {
        // They would outlive it; the pool does not.
        assert_code(&self.home.hearth(&["rm", "--all"]), 0);
        let running = self.running.take().unwrap();
        running.signal(Signal::TERM);
        assert_code(&running.finish(), 0);
        self.home.assert_nothing_left();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // A test that has failed leaves no daemon behind.
        if let Some(running) = self.running.take() {
            running.signal(Signal::TERM);
            running.finish();
        }
    }
}

/// One that is ready, and two on standby.
fn is_full(kind: &PoolKindInfo) -> bool {
    (kind.ready, kind.standby, kind.making) == (1, 2, 0)
}

fn phases(info: &hearth_client::api::SandboxInfo) -> Vec<&str> {
    info.phases.iter().map(|phase| phase.name.as_str()).collect()
}

#[tokio::test]
async fn a_second_sandbox_of_a_kind_was_ready_and_is_its_own() {
    let Some(daemon) = Daemon::with(&["--pool", "1"]) else { return };
    daemon.wait_for(|_| true).await;
    let first = daemon.client.create(&CreateSandbox::default()).await.unwrap();
    assert!(!phases(&first).contains(&"claimed"), "before the first use nothing is ready");
    daemon.wait_for(|pool| pool.kinds.first().is_some_and(|kind| kind.ready == 1)).await;

    let begun = std::time::Instant::now();
    let second = daemon.client.create(&CreateSandbox::default()).await.unwrap();
    let took = begun.elapsed();
    assert_eq!(phases(&second), ["claimed", "ready"], "after {took:?}");
    let ask = "hostname; cat /etc/machine-id; echo $HEARTH_SANDBOX_ID; head -c 16 /dev/urandom | od -An -tx1; date +%s";
    let (one, two) = (daemon.shell(&first.id, ask).await, daemon.shell(&second.id, ask).await);
    let (one, two): (Vec<_>, Vec<_>) = (one.lines().collect(), two.lines().collect());
    assert_eq!((two[0], two[2]), (second.id.as_str(), second.id.as_str()));
    assert!(one.iter().zip(&two).take(4).all(|(one, two)| one != two), "{one:?} {two:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(two[4].parse().unwrap()) <= 1);

    // Another size is another kind, and one that cannot be made takes nothing from the pool.
    daemon.wait_for(|pool| pool.kinds.first().is_some_and(|kind| kind.ready == 1)).await;
    let twice = CreateSandbox { name: Some("x".into()), memory_mib: Some(256), ..CreateSandbox::default() };
    assert!(!phases(&daemon.client.create(&twice).await.unwrap()).contains(&"claimed"));
    let pool = daemon.wait_for(|pool| pool.kinds.len() == 2 && pool.kinds.iter().all(is_full)).await;
    assert!(daemon.client.create(&twice).await.is_err(), "the name is taken");
    assert_eq!(daemon.client.pool().await.unwrap(), pool);
    assert!(daemon.client.metrics().await.unwrap().contains("hearth_pool_machines{state=\"ready\"} 2\n"));
    assert!(text(&daemon.home.hearth(&["pool"]).stderr).contains("2 ready"));
    daemon.end();
}

#[tokio::test]
async fn a_ready_machine_that_dies_is_replaced_and_never_handed_out() {
    let Some(daemon) = Daemon::with(&["--pool", "1"]) else { return };
    daemon.wait_for(|_| true).await;
    let first = daemon.client.create(&CreateSandbox::default()).await.unwrap();
    daemon.client.remove(&first.id).await.unwrap();
    daemon.wait_for(|pool| pool.kinds.first().is_some_and(|kind| kind.ready == 1)).await;
    for child in daemon.home.machines(daemon.running.as_ref().unwrap()) {
        kill_process(child, Signal::KILL).unwrap();
    }
    // Whether or not its death has been seen yet.
    let second = daemon.client.create(&CreateSandbox::default()).await.unwrap();
    assert_eq!(daemon.shell(&second.id, "echo alive").await, "alive");
    daemon.wait_for(|pool| pool.kinds.first().is_some_and(is_full)).await;
    daemon.end();
}

#[tokio::test]
async fn who_comes_while_no_machine_is_ready_gets_a_qemu_that_waits_and_one_that_died_is_nobodys() {
    let Some(daemon) = Daemon::with(&["--pool", "1"]) else { return };
    daemon.wait_for(|_| true).await;
    let request = CreateSandbox::default();
    let first = daemon.client.create(&request).await.unwrap();
    daemon.wait_for(|pool| pool.kinds.first().is_some_and(is_full)).await;
    let made =
        tokio::join!(daemon.client.create(&request), daemon.client.create(&request), daemon.client.create(&request));
    let made = [made.0, made.1, made.2].map(|made| made.unwrap());
    let ready = made.iter().filter(|info| phases(info) == ["claimed", "ready"]).count();
    let standby = made.iter().filter(|info| phases(info) == ["claimed", "started", "connected", "ready"]).count();
    let pool = daemon.client.pool().await.unwrap();
    assert_eq!((ready, standby, pool.claimed, pool.standby, pool.missed), (1, 2, 1, 2, 1));
    let mut seen = Vec::new();
    for info in made.iter().chain([&first]) {
        let own = daemon.shell(&info.id, "hostname; cat /etc/machine-id; date +%s").await;
        let own: Vec<_> = own.lines().collect();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert!(own[0] == info.id && now.abs_diff(own[2].parse().unwrap()) <= 1, "{own:?}");
        seen.push(own[1].to_owned());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4, "each has a machine id of its own");

    // What dies while it waits is made anew.
    let mine: Vec<_> = made.iter().chain([&first]).map(|info| info.id.clone()).collect();
    let before = daemon.wait_for(|pool| pool.kinds.first().is_some_and(is_full)).await;
    for own in daemon.home.left().iter().filter(|own| !mine.iter().any(|id| own.ends_with(id))) {
        kill_process(Home::noted_machine(own).unwrap(), Signal::KILL).unwrap();
    }
    let after = daemon.wait_for(|pool| pool.lost == before.lost + 3 && pool.kinds.first().is_some_and(is_full)).await;
    assert_eq!(after.made, before.made + 3);
    daemon.end();
}

#[tokio::test]
async fn a_qemu_that_waits_for_its_guest_ends_with_a_daemon_that_is_killed() {
    let Some(mut daemon) = Daemon::with(&["--pool", "1"]) else { return };
    daemon.wait_for(|_| true).await;
    let first = daemon.client.create(&CreateSandbox::default()).await.unwrap();
    daemon.wait_for(|pool| pool.kinds.first().is_some_and(is_full)).await;
    assert_eq!(daemon.home.noted_machines().len(), 4);
    let running = daemon.running.take().unwrap();
    running.signal(Signal::KILL);
    running.finish();
    let begun = std::time::Instant::now();
    // Its sandbox and the machine that is ready have a guest, and wait for the next daemon.
    while daemon.home.noted_machines().len() > 2 {
        assert!(begun.elapsed() < crate::support::HANG, "they wait for nobody");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let listed = text(&daemon.home.hearth(&["ls", "--quiet"]).stdout);
    assert_eq!(listed.trim(), first.id);
    assert_code(&daemon.home.hearth(&["rm", "--all"]), 0);
    daemon.home.assert_nothing_left();
}

#[tokio::test]
async fn forty_at_once_neither_fail_nor_start_all_at_once() {
    let Some(daemon) = Daemon::with(&["--pool", "0"]) else { return };
    daemon.wait_for(|_| true).await;
    let small = CreateSandbox { memory_mib: Some(128), ..CreateSandbox::default() };
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let (client, small) = (daemon.client.clone(), small.clone());
        making.spawn(async move { client.create(&small).await });
    }
    for made in making.join_all().await {
        made.unwrap();
    }
    assert_eq!(daemon.client.pool().await.unwrap(), PoolInfo::default());
    daemon.end();
}

#[tokio::test]
async fn a_full_budget_is_waited_for_and_refused_by_name_in_the_end() {
    let options = ["--pool", "1", "--max-memory", "600", "--queue", "1", "--queue-timeout", "2s"];
    let Some(daemon) = Daemon::with(&options) else { return };
    daemon.wait_for(|_| true).await;
    let first = daemon.client.create(&CreateSandbox::default()).await.unwrap();
    let refused = |outcome: Result<_, hearth_client::ClientError>| match outcome {
        Err(hearth_client::ClientError::Refused { body }) => *body,
        other => panic!("{other:?}"),
    };
    let request = CreateSandbox::default();
    let (one, two) = tokio::join!(daemon.client.create(&request), daemon.client.create(&request));
    let (one, two) = (refused(one), refused(two));
    assert_eq!((one.code.name(), two.code.name()), ("limit_reached".into(), "limit_reached".into()));
    let messages = [one.message, two.message];
    assert!(messages.iter().any(|message| message.contains("of 600 MiB of memory")), "{messages:?}");
    assert!(messages.iter().any(|message| message.contains("of 1 waiting requests")), "{messages:?}");
    // What they had been given of the pool has come back to it.
    daemon.wait_for(|pool| pool.kinds.first().is_some_and(|kind| (kind.ready, kind.making) == (1, 0))).await;
    let (waited, removed) = tokio::join!(daemon.client.create(&request), daemon.client.remove(&first.id));
    removed.unwrap();
    waited.unwrap();
    daemon.end();
}

#[tokio::test]
async fn where_memory_is_short_nothing_is_kept_ready_and_what_nobody_uses_is_paused() {
    // More than this machine has, or than any other that runs tests.
    let Some(daemon) = Daemon::with(&["--pool", "1", "--memory-floor", "65536"]) else { return };
    daemon.wait_for(|_| true).await;
    let request = CreateSandbox::default();
    let (idle, busy) = tokio::join!(daemon.client.create(&request), daemon.client.create(&request));
    let (idle, busy) = (idle.unwrap(), busy.unwrap());
    assert_code(&daemon.home.hearth(&["exec", "--detach", &busy.id, "sleep", "600"]), 0);
    daemon.shell(&idle.id, "echo kept > /tmp/file").await;
    let mut following = Running::start(&mut daemon.home.command(&["events", "--after", "0"]));
    loop {
        let line = following.read_until("\n");
        assert!(!line.is_empty(), "the events ended");
        if line.contains(&idle.id) && line.contains("paused") && line.contains("memory is short") {
            break;
        }
    }
    following.signal(Signal::KILL);
    following.finish();
    assert!(daemon.client.pool().await.unwrap().is_pressed);
    let state = daemon.client.inspect(&busy.id).await.unwrap().state;
    assert_eq!(state, hearth_client::api::SandboxState::Running, "something runs in it");
    assert_eq!(daemon.shell(&idle.id, "cat /tmp/file").await, "kept");
    daemon.end();
}
