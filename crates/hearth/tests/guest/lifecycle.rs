//! Copies of a guest, and a guest that comes back: restored, forked, paused.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_engine::channel::Event;
use hearth_engine::fleet::SandboxName;
use hearth_engine::protocol::{Attach, Command, Delivery, ProcessId, Start};
use hearth_engine::{DiskMib, EngineError, ForkSpec, SandboxSpec, SavedFault, SnapshotFileError, StartFrom};

use crate::support::Guest;

/// Counts for ever, a line each time.
const COUNTER: &str = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done";

/// What must differ between two guests of one template.
async fn identity(guest: &Guest) -> [String; 4] {
    let random = guest.say("head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n'").await;
    let uuid = guest.say("cat /proc/sys/kernel/random/uuid").await;
    [random, uuid, guest.say("cat /etc/machine-id").await, guest.say("hostname").await]
}

async fn check_clock(guest: &Guest) {
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let said: u128 = guest.say("date +%s%N").await.parse().unwrap();
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let slack = Duration::from_millis(100);
    let (earliest, latest) = ((before - slack).as_nanos(), (after + slack).as_nanos());
    assert!((earliest..=latest).contains(&said), "{said} is not within {earliest} to {latest}");
}

/// The counter goes on without a gap, and its output is all there from the beginning.
async fn check_counter(guest: &Guest, counter: ProcessId, lines: usize) {
    let attach = Attach { process: counter.into(), stdout: 0, stderr: 0, delivery: Delivery::Bounded };
    let process = guest.channel().attach(attach).await.unwrap();
    let mut seen = String::new();
    while seen.lines().count() <= lines {
        if let Some(Event::Output { bytes, .. }) = process.next_event().await.unwrap() {
            seen += &String::from_utf8_lossy(&bytes);
        }
    }
    let counted = seen.lines().take(lines).map(|line| line.parse::<usize>().unwrap());
    assert!(counted.eq(1..=lines), "{seen}");
}

#[tokio::test]
async fn b52_guests_of_one_template_share_no_identity_and_have_the_right_time() {
    let Some(first) = Guest::boot().await else { return };
    let second = first.beside(first.engine().create(&SandboxSpec::default()).await.unwrap());
    let (one, other) = (identity(&first).await, identity(&second).await);
    one.iter().zip(&other).for_each(|(one, other)| assert_ne!(one, other));
    check_clock(&first).await;
    check_clock(&second).await;
    second.remove().await;
    first.remove().await;
}

#[tokio::test]
async fn copies_answer_whatever_their_source_was_asked_while_they_were_made() {
    let Some(source) = Guest::boot().await else { return };
    let fork = || source.engine().fork(source.sandbox(), ForkSpec { copies: 2, secrets: false });
    let channel = source.channel();
    assert!(channel.quiet().is_some(), "nothing was asked that is not answered");
    let quiet = fork().await.unwrap();
    let asked = tokio::select! {
        forked = fork() => forked.unwrap(),
        // A request that is under way when memory is taken is answered in the source alone.
        () = async { loop { channel.ping().await.unwrap() } } => unreachable!("it asks for ever"),
    };
    let attach = Start { attach: Some(Delivery::Lossless), ..Start::new(Command::Shell(COUNTER.into())) };
    let followed = channel.start(attach).await.unwrap();
    assert_eq!(channel.quiet(), None);
    let in_use = fork().await.unwrap();
    drop(followed);
    assert_eq!(channel.quiet(), None, "something could still come for it");
    for copy in [quiet, asked, in_use].into_iter().flat_map(|forked| forked.copies) {
        let copy = source.beside(copy);
        assert_eq!(copy.say("echo here").await, "here");
        copy.remove().await;
    }
    assert_eq!(source.say("echo here").await, "here");
    source.remove().await;
}

#[tokio::test]
async fn a_fork_goes_on_from_one_moment_in_every_copy_and_in_the_source() {
    let Some(source) = Guest::boot().await else { return };
    source.say("echo before > /workspace/file; mkdir -p /tmp/d; echo x > /tmp/d/x").await;
    let counter = source.channel().start(Start::new(Command::Shell(COUNTER.into()))).await.unwrap().id();
    let forked = source.engine().fork(source.sandbox(), ForkSpec { copies: 3, secrets: false }).await.unwrap();
    assert!(forked.changed_bytes > 0 && forked.stopped > Duration::ZERO);
    let guests: Vec<Guest> = forked.copies.into_iter().map(|copy| source.beside(copy)).collect();
    let mut names = vec![identity(&source).await];
    for (number, copy) in guests.iter().enumerate() {
        assert_eq!(copy.say("cat /workspace/file").await, "before");
        copy.say(&format!("echo {number} > /workspace/file")).await;
        names.push(identity(copy).await);
        check_clock(copy).await;
        check_counter(copy, counter, 8).await;
    }
    assert_eq!(source.say("cat /workspace/file").await, "before");
    for (index, one) in names.iter().enumerate() {
        for other in &names[..index] {
            one.iter().zip(other).for_each(|(one, other)| assert_ne!(one, other));
        }
    }
    // A copy is forked like any other.
    let again = guests[2].engine().fork(guests[2].sandbox(), ForkSpec { copies: 1, secrets: false }).await.unwrap();
    for copy in again.copies {
        let copy = source.beside(copy);
        assert_eq!(copy.say("cat /workspace/file").await, "2");
        copy.remove().await;
    }
    for guest in guests {
        guest.remove().await;
    }
    source.remove().await;
}

#[tokio::test]
async fn ten_pauses_lose_nothing_and_processes_go_on() {
    let Some(mut guest) = Guest::boot().await else { return };
    let counter = guest.channel().start(Start::new(Command::Shell(COUNTER.into()))).await.unwrap().id();
    let before = guest.say("cat /etc/machine-id; hostname; echo kept > /tmp/kept").await;
    let name = guest.sandbox().id().clone();
    for _ in 0..10 {
        guest = guest.through_a_pause(|paused| assert!(paused.saved_bytes() > 0 && *paused.id() == name)).await;
        assert_eq!(guest.say("cat /tmp/kept").await, "kept");
    }
    assert_eq!(guest.say("cat /etc/machine-id; hostname").await, before);
    check_clock(&guest).await;
    check_counter(&guest, counter, 20).await;
    guest.remove().await;
}

#[tokio::test]
async fn a_damaged_pause_is_refused_and_lies_as_it_did() {
    let Some(guest) = Guest::boot().await else { return };
    guest.say("echo kept > /tmp/kept").await;
    let flip = |directory: &Path, at: fn(usize) -> usize| {
        let memory = directory.join("memory");
        let mut bytes = std::fs::read(&memory).unwrap();
        let at = at(bytes.len());
        bytes[at] ^= 1;
        std::fs::write(&memory, bytes).unwrap();
    };
    let last = |length| length - 1;
    let (guest, error) = guest.through_a_broken_pause(|saved| flip(saved, last), |saved| flip(saved, last)).await;
    assert!(matches!(error, EngineError::Saved { source: SavedFault::Damaged { .. } }), "{error}");
    let (guest, error) = guest.through_a_broken_pause(|saved| flip(saved, |_| 0), |saved| flip(saved, |_| 0)).await;
    assert!(matches!(error, EngineError::Saved { source: SavedFault::Memory { .. } }), "{error}");
    assert_eq!(guest.say("cat /tmp/kept").await, "kept");
    guest.remove().await;
}

#[tokio::test]
async fn a_disk_is_whole_in_source_and_copies_while_it_is_written_to() {
    let spec = SandboxSpec { disk: Some(DiskMib::new(512).unwrap()), ..SandboxSpec::default() };
    let Some(source) = Guest::boot_with(spec).await else { return };
    // Each record is a number and its own checksum; a torn or missing one shows.
    let writer = "cd /workspace; i=0; while :; do i=$((i+1)); head -c 20000 /dev/urandom > f.$i; sha256sum f.$i >> sums; sync f.$i sums; done";
    source.channel().start(Start::new(Command::Shell(writer.into()))).await.unwrap();
    // Two: the last is not looked at, and sha256sum fails when there is none.
    source.say("until [ \"$(wc -l </workspace/sums)\" -ge 2 ] 2>/dev/null; do sleep 0.1; done").await;
    let mut depth = Vec::new();
    for _ in 0..3 {
        let forked = source.engine().fork(source.sandbox(), ForkSpec { copies: 2, secrets: false }).await.unwrap();
        for copy in forked.copies {
            let copy = source.beside(copy);
            // What stands in a copy is what the source had then, and the writer goes on there as well.
            copy.say("cd /workspace && kill %1 2>/dev/null; head -n -1 sums | sha256sum --check --quiet").await;
            depth.push(copy.say("wc -l < /workspace/sums").await.parse::<u64>().unwrap());
            copy.remove().await;
        }
    }
    source.say("cd /workspace && head -n -1 sums | sha256sum --check --quiet").await;
    assert!(depth.iter().all(|lines| *lines > 0), "{depth:?}");
    let source = source.through_a_pause(|_| {}).await;
    source.say("cd /workspace && head -n -1 sums | sha256sum --check --quiet").await;
    source.remove().await;
}

#[tokio::test]
async fn a_booted_sandbox_is_forked_saved_and_paused_too() {
    let disk = Some(DiskMib::new(64).unwrap());
    let Some(guest) = Guest::boot_with(SandboxSpec { start: StartFrom::Boot, disk, ..SandboxSpec::default() }).await
    else {
        return;
    };
    let fork = |copies| ForkSpec { copies, secrets: false };
    for copies in [0, 101] {
        let error = guest.engine().fork(guest.sandbox(), fork(copies)).await.unwrap_err();
        assert!(matches!(error, EngineError::Copies { .. }), "{error}");
    }
    guest.say("echo memory > /dev/shm/file; echo disk > /workspace/file").await;
    let read = "cat /dev/shm/file /workspace/file";
    let counter = guest.channel().start(Start::new(Command::Shell(COUNTER.into()))).await.unwrap().id();
    let forked = guest.engine().fork(guest.sandbox(), fork(2)).await.unwrap();
    for copy in forked.copies {
        let copy = guest.beside(copy);
        check_counter(&copy, counter, 5).await;
        assert_eq!(copy.say(read).await, "memory\ndisk");
        // A copy's own copy lies on the same.
        let again = guest.engine().fork(copy.sandbox(), fork(1)).await.unwrap().copies.remove(0);
        let again = guest.beside(again);
        assert_eq!(again.say(read).await, "memory\ndisk");
        again.remove().await;
        copy.remove().await;
    }
    let name = SandboxName::new("booted").unwrap();
    guest.engine().snapshot(guest.sandbox(), &name).await.unwrap();
    let started = guest.engine().create(&guest.engine().spec_of_snapshot(&name).unwrap()).await.unwrap();
    let started = guest.beside(started);
    assert_eq!(started.say(read).await, "memory\ndisk");
    started.remove().await;
    // Its file has the disk that no template has, and goes to another home.
    let file = guest.home().join("booted.hearth");
    guest.engine().export_snapshot(&name, &file).await.unwrap();
    guest.engine().remove_snapshot(&name).unwrap();
    let Some(other) = Guest::engine_alone() else { return };
    other.engine().import_snapshot(std::fs::File::open(&file).unwrap(), &name).await.unwrap();
    let there = guest.beside(other.engine().create(&other.engine().spec_of_snapshot(&name).unwrap()).await.unwrap());
    assert_eq!(there.say(read).await, "memory\ndisk");
    there.remove().await;
    let mut guest = guest;
    for _ in 0..2 {
        guest = guest.through_a_pause(|_| {}).await;
        assert_eq!(guest.say(read).await, "memory\ndisk");
        check_counter(&guest, counter, 5).await;
    }
    guest.remove().await;
}

#[tokio::test]
async fn a_snapshot_starts_any_number_of_sandboxes_and_travels_as_a_file() {
    let spec = SandboxSpec { disk: Some(DiskMib::new(64).unwrap()), ..SandboxSpec::default() };
    let Some(source) = Guest::boot_with(spec).await else { return };
    let engine = source.engine();
    let name = |text: &str| SandboxName::new(text).unwrap();
    source.say("echo saved > /workspace/file; sync").await;
    let counter = source.channel().start(Start::new(Command::Shell(COUNTER.into()))).await.unwrap().id();
    let taken = engine.snapshot(source.sandbox(), &name("one")).await.unwrap();
    assert_eq!(engine.snapshots(), std::slice::from_ref(&taken.record));
    let error = engine.snapshot(source.sandbox(), &name("one")).await.unwrap_err();
    assert!(matches!(error, EngineError::SnapshotExists { .. }), "{error}");
    source.say("echo later > /workspace/file").await;
    let mut names = vec![identity(&source).await];
    for _ in 0..2 {
        let copy = source.beside(engine.create(&engine.spec_of_snapshot(&name("one")).unwrap()).await.unwrap());
        assert_eq!(copy.say("cat /workspace/file").await, "saved");
        check_counter(&copy, counter, 5).await;
        names.push(identity(&copy).await);
        copy.remove().await;
    }
    assert!(names[0][0] != names[1][0] && names[1][0] != names[2][0] && names[1][2] != names[2][2], "{names:?}");
    // The file holds all of it, its template as well: another home needs the image alone.
    let file = source.home().join("one.hearth");
    engine.export_snapshot(&name("one"), &file).await.unwrap();
    let Some(other) = Guest::engine_alone() else { return };
    let open = || std::fs::File::open(&file).unwrap();
    let imported = other.engine().import_snapshot(open(), &name("two")).await.unwrap();
    assert_eq!((imported.name.as_str(), &imported.memory), ("two", &taken.record.memory));
    let copy = other.of(other.engine().create(&other.engine().spec_of_snapshot(&name("two")).unwrap()).await.unwrap());
    assert_eq!(copy.say("cat /workspace/file").await, "saved");
    check_counter(&copy, counter, 5).await;
    copy.remove().await;
    // A file that was cut off or changed is refused, and adds nothing.
    let whole = std::fs::read(&file).unwrap();
    for damaged in [&whole[..whole.len() / 2], &whole[..100], b"hello"] {
        std::fs::write(&file, damaged).unwrap();
        let error = other.engine().import_snapshot(open(), &name("three")).await.unwrap_err();
        assert!(matches!(error, EngineError::SnapshotFile { .. }), "{error}");
    }
    let mut flipped = whole.clone();
    flipped[whole.len() * 3 / 4] ^= 1;
    std::fs::write(&file, &flipped).unwrap();
    let error = other.engine().import_snapshot(open(), &name("three")).await.unwrap_err();
    let damaged = matches!(
        error,
        EngineError::SnapshotFile {
            source: SnapshotFileError::Saved(_) | SnapshotFileError::Read { .. } | SnapshotFileError::Unexpected { .. }
        }
    );
    assert!(damaged, "{error}");
    assert_eq!(other.engine().snapshots().len(), 1);
    // So is a snapshot whose files are not what was saved.
    let memory = source.home().join("snapshots/one/memory");
    let mut bytes = std::fs::read(&memory).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&memory, bytes).unwrap();
    let error = engine.create(&engine.spec_of_snapshot(&name("one")).unwrap()).await.unwrap_err();
    assert!(matches!(error, EngineError::Saved { source: SavedFault::Damaged { .. } }), "{error}");
    engine.remove_snapshot(&name("one")).unwrap();
    assert!(matches!(engine.remove_snapshot(&name("one")), Err(EngineError::NoSnapshot { .. })));
    source.remove().await;
}

#[tokio::test]
async fn an_idle_guest_has_no_ticks_and_its_timers_wait_for_none() {
    let Some(guest) = Guest::boot().await else { return };
    let list = Start::new(Command::Argv(vec!["cat".into(), "/proc/timer_list".into()]));
    let list = guest.start(Start { user: Some("root".into()), ..list }).await;
    let list = String::from_utf8(list.stdout).unwrap();
    let of = |name: &str| list.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix(": "));
    // NOHZ_MODE_HIGHRES, of kernel/time/tick-sched.h; one that Linux 6.12 has no more, and a bit instead.
    assert_eq!(of(".hres_active"), Some("1"), "{list}");
    assert!(of(".nohz").is_some_and(|nohz| nohz != "0") || of(".nohz_mode") == Some("2"), "{list}");
    guest.remove().await;
}

/// Whether its QEMU has begun as one that was there before.
fn has_begun_translated(guest: &Guest) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", guest.sandbox().machine().pid())).unwrap();
    maps.contains("/memfd:hearth-qemu")
}

#[tokio::test]
async fn sandboxes_begin_in_a_qemu_that_has_translated_what_they_do_first_and_share_nothing_else() {
    let spec = SandboxSpec { disk: Some(DiskMib::new(64).unwrap()), ..SandboxSpec::default() };
    let Some(first) = Guest::boot_with(spec.clone()).await else { return };
    if first.sandbox().accelerator() != "tcg" {
        return println!("skipped: nothing is translated here");
    }
    let second = first.beside(first.engine().create(&spec).await.unwrap());
    assert!(has_begun_translated(&first) && has_begun_translated(&second));
    assert_eq!(second.channel().list().await.unwrap(), [], "what was rehearsed is nobody's");
    let (one, other) = (identity(&first).await, identity(&second).await);
    one.iter().zip(&other).for_each(|(one, other)| assert_ne!(one, other));
    // Copies of a QEMU would draw the same numbers for their guests.
    assert_eq!(first.say("grep -c rdrand /proc/cpuinfo || true").await, "0");
    for (guest, word) in [(&first, "one"), (&second, "two")] {
        guest
            .say(&format!("echo {word} > /workspace/f; sync; echo 3 > /proc/sys/vm/drop_caches 2>/dev/null || true"))
            .await;
    }
    assert_eq!([first.say("cat /workspace/f").await, second.say("cat /workspace/f").await], ["one", "two"]);
    // What a copy's copy does is nothing to the others, and the other way round.
    let fork = ForkSpec { copies: 2, secrets: false };
    let copies = second.engine().fork(second.sandbox(), fork).await.unwrap().copies;
    let copies: Vec<Guest> = copies.into_iter().map(|copy| second.beside(copy)).collect();
    copies[0].say("echo three > /workspace/f; sync").await;
    let again = second.engine().fork(copies[0].sandbox(), fork).await.unwrap().copies;
    let again: Vec<Guest> = again.into_iter().map(|copy| second.beside(copy)).collect();
    again[0].say("echo four > /workspace/f; sync").await;
    for (guest, word) in [&second, &copies[0], &copies[1], &again[0], &again[1]]
        .into_iter()
        .zip(["two", "three", "two", "four", "three"])
    {
        assert!(has_begun_translated(guest), "{word}");
        assert_eq!(guest.say("cat /workspace/f; python3 -c 'print(6 * 7)'").await, format!("{word}\n42"));
    }
    for guest in copies.into_iter().chain(again) {
        guest.remove().await;
    }
    let saved = first.engine().directories().sandboxes().join(first.sandbox().id().as_str()).join("qemu");
    let mut first = first;
    for damage in [None, None, Some(100_000)] {
        first = first
            .through_a_pause(|_| {
                let mut bytes = std::fs::read(&saved).unwrap();
                damage.into_iter().for_each(|at: usize| bytes[at] ^= 1);
                std::fs::write(&saved, bytes).unwrap();
            })
            .await;
        // A QEMU that is not what was saved is no reason not to go on; what goes on in another has nothing of the template's.
        assert_eq!(has_begun_translated(&first), damage.is_none());
        assert_eq!(first.say("cat /workspace/f").await, "one");
    }
    second.remove().await;
    first.remove().await;
}
