//! Kernels, in every language whose interpreter is here.

use std::process::{Command, Stdio};

use hearth_channel::{Channel, ChannelError, KernelSent};
use hearth_protocol::kernel::{KernelEvent, KernelExec, KernelLanguage, KernelRan};
use hearth_protocol::{Outcome as Retry, StreamName};

use crate::support::HANG;

mod bash;
mod contexts;
mod javascript;
mod python;
mod spare;

use KernelLanguage::{Bash, Javascript, Python};

/// What a piece of code did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) events: Vec<KernelEvent>,
    ran: Option<KernelRan>,
}

impl Done {
    pub(crate) fn ran(&self) -> &KernelRan {
        self.ran.as_ref().unwrap()
    }

    pub(crate) fn code(&self) -> i32 {
        self.ran().code
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8(self.stdout.clone()).unwrap()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8(self.stderr.clone()).unwrap()
    }

    /// The value of the last expression as text.
    pub(crate) fn value(&self) -> Option<String> {
        self.events.iter().find_map(|event| match event {
            KernelEvent::Result(value) => Some(value.data["text/plain"].as_str().unwrap().to_owned()),
            _ => None,
        })
    }

    /// The traceback of the error that ended it.
    pub(crate) fn traceback(&self) -> String {
        let traceback = self.events.iter().find_map(|event| match event {
            KernelEvent::Error { traceback, .. } => Some(traceback.clone()),
            _ => None,
        });
        traceback.unwrap_or_else(|| panic!("no error: {self:?}"))
    }
}

/// Whether a program can be run where the agent would find it; says so when not.
pub(crate) fn is_here(language: KernelLanguage) -> bool {
    let program = language.program();
    let version = Command::new(program)
        .arg("--version")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdout(Stdio::null())
        .status();
    let here = version.is_ok_and(|status| status.success());
    if !here {
        eprintln!("skipped: there is no {program} here");
    }
    here
}

pub(crate) async fn exec(channel: &Channel, exec: KernelExec, code: &str) -> Result<Done, ChannelError> {
    let operation = channel.exec_in_kernel(exec, code).await?;
    let collect = async {
        let mut done = Done::default();
        while let Some(sent) = operation.next().await? {
            match sent {
                KernelSent::Output(StreamName::Stderr, bytes) => done.stderr.extend_from_slice(&bytes),
                KernelSent::Output(_, bytes) => done.stdout.extend_from_slice(&bytes),
                KernelSent::Event(event) => done.events.push(event),
                KernelSent::Ran(ran) => done.ran = Some(*ran),
            }
        }
        Ok(done)
    };
    tokio::time::timeout(HANG, collect).await.expect("the code ends")
}

/// Runs code in the default kernel of a language.
pub(crate) async fn run(channel: &Channel, language: KernelLanguage, code: &str) -> Done {
    exec(channel, KernelExec::new(language), code).await.unwrap()
}

/// Runs code that is expected to end well, and returns what it printed.
pub(crate) async fn print(channel: &Channel, language: KernelLanguage, code: &str) -> String {
    let done = run(channel, language, code).await;
    assert_eq!((done.code(), done.err().as_str()), (0, ""), "{code}: {done:?}");
    done.out()
}
