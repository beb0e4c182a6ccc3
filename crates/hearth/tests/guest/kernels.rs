//! Kernels in a machine: the first finds its interpreter in the template's memory.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hearth_engine::channel::KernelSent;
use hearth_engine::protocol::kernel::{KernelEvent, KernelExec, KernelLanguage};
use hearth_engine::{ForkSpec, SandboxSpec};

use crate::support::Guest;

/// Runs code in a Python kernel, and returns what its last expression comes to.
async fn value(guest: &Guest, name: &str, code: &str) -> String {
    let exec = KernelExec { name: Some(name.into()), ..KernelExec::new(KernelLanguage::Python) };
    let operation = guest.channel().exec_in_kernel(exec, code).await.unwrap();
    let mut value = None;
    loop {
        match operation.next().await.unwrap().expect("it tells its end") {
            KernelSent::Event(KernelEvent::Result(result)) => {
                value = result.data["text/plain"].as_str().map(str::to_owned)
            }
            KernelSent::Ran(ran) => return value.unwrap_or_else(|| panic!("{ran:?}")),
            _ => {}
        }
    }
}

async fn is_warmed(guest: &Guest, name: &str) -> bool {
    let kernels = guest.channel().kernels().await.unwrap();
    kernels.iter().find(|kernel| kernel.name == name).unwrap().warmed
}

/// What the first kernel of each guest draws, after it has been seen to be the one that has waited.
async fn draws(guest: &Guest) -> [String; 3] {
    let code = "import os, random, uuid\nrandom.random(), uuid.uuid4().hex, os.urandom(8).hex()";
    let drawn = value(guest, "first", code).await;
    assert!(is_warmed(guest, "first").await);
    let drawn: Vec<_> = drawn.trim_matches(['(', ')']).split(", ").map(str::to_owned).collect();
    drawn.try_into().unwrap()
}

fn assert_all_differ(drawn: &[[String; 3]]) {
    for (index, one) in drawn.iter().enumerate() {
        for other in &drawn[..index] {
            one.iter().zip(other).for_each(|(one, other)| assert_ne!(one, other));
        }
    }
}

#[tokio::test]
async fn the_first_kernel_of_a_restored_guest_was_in_its_template_and_is_its_own_all_the_same() {
    let Some(first) = Guest::boot().await else { return };
    let second = first.beside(first.engine().create(&SandboxSpec::default()).await.unwrap());
    for guest in [&first, &second] {
        assert!(guest.channel().list().await.unwrap().is_empty(), "what waits counts for nothing that runs");
    }
    assert_all_differ(&[draws(&first).await, draws(&second).await]);
    for guest in [&first, &second] {
        let of_process = "import os, getpass\ngetpass.getuser(), os.getcwd(), os.environ['HEARTH_SANDBOX_ID']";
        let seen = value(guest, "first", of_process).await;
        assert_eq!(seen, format!("('user', '/workspace', '{}')", guest.sandbox().id()));
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let time: f64 = value(guest, "first", "import time; time.time()").await.parse().unwrap();
        let lag = Duration::from_secs_f64(time).abs_diff(before);
        assert!(lag < Duration::from_secs(10), "{lag:?}");
        value(guest, "second", "1").await;
        assert!(!is_warmed(guest, "second").await, "there is only one");
    }
    second.remove().await;
    first.remove().await;
}

#[tokio::test]
async fn an_interpreter_waits_through_a_pause_and_a_fork() {
    let Some(source) = Guest::boot().await else { return };
    let source = source.through_a_pause(|_| {}).await;
    let forked = source.engine().fork(source.sandbox(), ForkSpec { copies: 2, secrets: false }).await.unwrap();
    let copies: Vec<_> = forked.copies.into_iter().map(|copy| source.beside(copy)).collect();
    let mut drawn = vec![draws(&source).await];
    for copy in copies {
        drawn.push(draws(&copy).await);
        copy.remove().await;
    }
    assert_all_differ(&drawn);
    source.remove().await;
}
