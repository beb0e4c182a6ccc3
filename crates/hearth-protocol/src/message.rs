//! Requests and replies: what travels on the control lane.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::addressed::addressed;
use crate::archive::{ArchiveRequest, ArchiveResult};
use crate::dial::{DialRequest, DialResult};
use crate::files::{FileRequest, FileResult};
use crate::history::{HistoryRequest, HistoryResult};
use crate::kernel::{KernelRequest, KernelResult};
use crate::packages::{PackageRequest, PackageResult};
use crate::process::{ProcessRequest, ProcessResult};
use crate::secrets::{SecretRequest, SecretResult};
use crate::service::{ServiceRequest, ServiceResult};
use crate::shell::{ShellRequest, ShellResult};
use crate::{
    Attach, ErrorCode, ExitStatus, Fault, OutputTotals, ProcessId, ProcessInfo, ProcessRef, PtySize, Renew, Signal,
    SignalScope, Start, StreamName, Tag, limits,
};

/// Names a request within a session, and its streams. Chosen by the host; free again once the request has had its last reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub u64);

/// One line from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// The request's own id; for [`RequestBody::Credit`] and [`RequestBody::Detach`] the id of the request they are about.
    pub id: RequestId,
    /// What is asked.
    #[serde(flatten)]
    pub body: RequestBody,
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, body) = addressed(deserializer)?;
        Ok(Self { id: id.ok_or_else(|| D::Error::missing_field("id"))?, body })
    }
}

/// What a host may ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum RequestBody {
    /// Asks whether the agent is there. Reply: [`ReplyBody::Pong`].
    Ping {},
    /// Asks what the guest is. Reply: [`ReplyBody::Info`].
    Info {},
    /// Makes the guest this sandbox's own. Reply: [`ReplyBody::Done`], before which no other work should be asked.
    Renew(Renew),
    /// Does what can be done before the guest is saved as what others are restored from: what the first [`RequestBody::Renew`] writes to is then
    /// at hand. Nothing is to be asked behind it but whether the agent is there. Reply: [`ReplyBody::Done`].
    Settle {},
    /// Stops all processes, so that a save catches them all at one moment and none goes on before its guest was renewed. Nothing can be
    /// started until [`RequestBody::Thaw`], which a guest that was saved so needs as well. Reply: [`ReplyBody::Done`], when
    /// none goes on in its own code any more; what it has asked of the kernel may still be done.
    Freeze {},
    /// Lets all processes go on. Harmless when they do. Reply: [`ReplyBody::Done`].
    Thaw {},
    /// Starts a process. Replies: [`ReplyBody::Started`], then, when attached, its streams and [`ReplyBody::Exit`].
    Start(Start),
    /// Follows a process that is there already. Replies: as for an attached [`RequestBody::Start`].
    Attach(Attach),
    /// Stops following; the process goes on. The followed request gets [`ReplyBody::Done`] and nothing after it. Chunks of input that are on
    /// their way go nowhere: a host that sent some detaches by [`ChunkHeader::detach`](crate::ChunkHeader::detach).
    Detach {},
    /// Sends a signal. Reply: [`ReplyBody::Done`].
    Signal {
        /// To which process.
        process: ProcessRef,
        /// Which.
        signal: Signal,
        /// To it alone, to all it has started, or to the job in the foreground of its terminal.
        #[serde(default)]
        scope: SignalScope,
    },
    /// Changes the size of a process's terminal. Reply: [`ReplyBody::Done`].
    Resize {
        /// Whose terminal.
        process: ProcessRef,
        /// To what.
        size: PtySize,
    },
    /// Lists the processes, the ended ones that are still remembered included, at most [`crate::limits::LISTED`] at a time. Reply:
    /// [`ReplyBody::Processes`].
    List {
        /// Goes on behind this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<ProcessId>,
        /// Those alone that bear this tag.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<Tag>,
    },
    /// Does something with a process that is there.
    Process(ProcessRequest),
    /// Does something with shells.
    Shell(ShellRequest),
    /// Allows more bytes of one of this request's output streams. No reply.
    Credit {
        /// Which stream.
        stream: StreamName,
        /// How many more.
        bytes: u64,
    },
    /// Does something with files.
    File(FileRequest),
    /// Does something with kernels.
    Kernel(KernelRequest),
    /// Does something with packages.
    Packages(PackageRequest),
    /// Connects to something inside the guest.
    Dial(DialRequest),
    /// Does something with secrets. It is done before the next request is looked at.
    Secret(SecretRequest),
    /// Does something with services.
    Service(ServiceRequest),
    /// Moves a directory tree as an archive.
    Archive(ArchiveRequest),
    /// Does something with the workspace's history.
    History(HistoryRequest),
    /// Ends everything: ends all processes, writes back disks, leaves its own clean and powers off (or, outside a VM, exits). Reply:
    /// [`ReplyBody::Done`], just before.
    Shutdown {
        /// The time between TERM (and HUP, where a process has a terminal) and KILL in milliseconds, at most [`limits::GRACE_MS`];
        /// without it there is only KILL.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
    },
}

/// One line from the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reply {
    /// The request that is answered; `None` when the line could not be read far enough to know.
    pub id: Option<RequestId>,
    /// The answer.
    #[serde(flatten)]
    pub body: ReplyBody,
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (id, body) = addressed::<_, Option<RequestId>, _>(deserializer)?;
        Ok(Self { id: id.flatten(), body })
    }
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ReplyBody {
    /// Answers a ping.
    Pong {},
    /// Describes the guest.
    Info(Info),
    /// It is done, and there is nothing more to say. The last reply.
    Done {},
    /// The process runs.
    Started {
        /// Its name.
        process: ProcessId,
        /// Its number in the guest.
        pid: u32,
    },
    /// The process has ended. The last reply, but stream data up to these totals may still follow on the bulk lane.
    Exit {
        /// How it ended.
        status: ExitStatus,
        /// Where its streams end.
        output: OutputTotals,
    },
    /// The processes there are.
    Processes {
        /// In the order of their start.
        processes: Vec<ProcessInfo>,
        /// Whether there are more behind the last.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        more: bool,
    },
    /// More input may be sent.
    Credit {
        /// Which stream: [`StreamName::Stdin`].
        stream: StreamName,
        /// How many more bytes.
        bytes: u64,
    },
    /// An operation has ended well. The last reply, but stream data up to these totals may still follow on the bulk lane. The last of that may
    /// bring it along: [`ChunkHeader::last`](crate::ChunkHeader::last).
    Finished {
        /// What came of it.
        result: Finished,
        /// Where its streams end.
        #[serde(default, skip_serializing_if = "OutputTotals::is_zero")]
        output: OutputTotals,
    },
    /// It did not succeed. The last reply.
    Error(Fault),
}

/// What came of an operation, by its group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finished {
    /// Of [`RequestBody::Process`].
    Process(ProcessResult),
    /// Of [`RequestBody::Shell`].
    Shell(ShellResult),
    /// Of [`RequestBody::File`].
    File(FileResult),
    /// Of [`RequestBody::Dial`].
    Dial(DialResult),
    /// Of [`RequestBody::Secret`].
    Secret(SecretResult),
    /// Of [`RequestBody::Service`].
    Service(ServiceResult),
    /// Of [`RequestBody::Archive`].
    Archive(ArchiveResult),
    /// Of [`RequestBody::History`].
    History(HistoryResult),
    /// Of [`RequestBody::Kernel`].
    Kernel(KernelResult),
    /// Of [`RequestBody::Packages`].
    Packages(PackageResult),
}

/// What the guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// The agent's version.
    pub agent: String,
    /// The kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The host name.
    pub hostname: String,
    /// Seconds since boot.
    pub uptime_seconds: u64,
    /// The guest's memory in bytes.
    pub memory_bytes: u64,
    /// The agent's own resident memory in bytes.
    pub agent_resident_bytes: u64,
    /// How process trees are tracked and stopped: `cgroup`, or why not.
    pub process_trees: String,
}

#[derive(Deserialize)]
struct Peek {
    #[serde(default)]
    id: Option<RequestId>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

const KNOWN: &[&str] = &[
    "ping", "info", "renew", "settle", "freeze", "thaw", "start", "attach", "detach", "signal", "resize", "list",
    "credit", "shutdown", "file", "dial", "secret", "service", "archive", "history", "process", "shell", "kernel",
    "packages",
];

/// Reads one line of the control lane.
///
/// # Errors
/// The reply to send instead, with the id where the line had a readable one: malformed, unknown, or an invalid field by name.
pub fn parse_request(line: &[u8]) -> Result<Request, Box<Reply>> {
    let refused =
        |id, code, message: String| Box::new(Reply { id, body: ReplyBody::Error(Fault::never_started(code, message)) });
    let request = serde_json::from_slice::<Request>(line).or_else(|error| {
        let object = line.trim_ascii_start().starts_with(b"{");
        let peek: Peek = serde_json::from_slice(if object { line } else { b"" }).map_err(|_| {
            refused(
                None,
                ErrorCode::MalformedRequest,
                "a request is a JSON object with a number `id` and a string `type`".into(),
            )
        })?;
        Err(match peek.kind {
            Some(kind) if !KNOWN.contains(&kind.as_str()) => {
                refused(peek.id, ErrorCode::UnknownRequest, format!("there is no request of type {kind:?}"))
            }
            _ => refused(peek.id, ErrorCode::InvalidField, without_values(&error.to_string())),
        })
    })?;
    match &request.body {
        RequestBody::Start(start) => start.validate(),
        RequestBody::Resize { size, .. } => size.validate(),
        RequestBody::Dial(dial) => dial.validate(),
        RequestBody::File(request) => request.validate(),
        RequestBody::Renew(renew) => renew.validate(),
        RequestBody::Secret(request) => request.validate(),
        RequestBody::Service(request) => request.validate(),
        RequestBody::Archive(archive) => archive.validate(),
        RequestBody::History(history) => history.validate(),
        RequestBody::Process(process) => process.validate(),
        RequestBody::Shell(shell) => shell.validate(),
        RequestBody::Kernel(kernel) => kernel.validate(),
        RequestBody::Packages(packages) => packages.validate(),
        RequestBody::Shutdown { grace_ms: Some(ms) } if *ms > limits::GRACE_MS => {
            let message = format!("grace_ms must be at most {}", limits::GRACE_MS);
            Err(Fault::never_started(ErrorCode::InvalidField, message))
        }
        _ => Ok(()),
    }
    .map_err(|fault| Box::new(Reply { id: Some(request.id), body: ReplyBody::Error(fault) }))?;
    Ok(request)
}

/// Takes the value out of what `serde` says about one that it could not use: it may be one that nobody should see.
fn without_values(message: &str) -> String {
    let kind = ["invalid type", "invalid value"].into_iter().find(|kind| message.starts_with(kind));
    match kind.zip(message.rfind(", expected ")) {
        Some((kind, expected)) => format!("{kind}{}", &message[expected..]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Command, Delivery, RawString};

    #[test]
    fn a_value_that_cannot_be_used_is_not_repeated() {
        for line in [
            r#"{"id":1,"type":"secret","op":"set","secrets":"hunter2"}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":["hunter2"]}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":[{"name":"A","value":["hunter2"]}]}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":[{"name":"A","value":{"hex":"hunter2"}}]}"#,
            r#"{"id":1,"type":"secret","op":"set","secrets":[{"name":"A","value":"b","file":"hunter2"}]}"#,
            r#"{"id":1,"type":"renew","secrets":"hunter2, expected "}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"redact":"hunter2"}"#,
        ] {
            let refusal = parse_request(line.as_bytes()).expect_err("refused");
            assert!(!format!("{refusal:?}").contains("hunter2"), "{refusal:?}");
            assert_eq!(code(line), ErrorCode::InvalidField);
        }
    }

    fn code(line: &str) -> ErrorCode {
        match parse_request(line.as_bytes()).expect_err("refused").body {
            ReplyBody::Error(fault) => fault.code,
            other => panic!("not an error: {other:?}"),
        }
    }

    #[test]
    fn each_kind_of_bad_request_has_its_own_code() {
        for line in ["", "[1]", "[1,\"ping\"]", "nonsense", "{\"id\":", "7", "{\"id\":\"x\"}"] {
            assert_eq!(code(line), ErrorCode::MalformedRequest, "{line:?}");
        }
        assert_eq!(code(r#"{"id":1,"type":"dance"}"#), ErrorCode::UnknownRequest);
        for line in [
            r#"{"type":"ping"}"#,
            r#"{"id":null,"type":"ping"}"#,
            r#"{"id":1}"#,
            r#"{"id":1,"type":"ping","extra":1}"#,
            r#"{"id":1,"type":"start"}"#,
            r#"{"id":1,"type":"start","command":{"argv":[]}}"#,
            r#"{"id":1,"type":"start","command":{"argv":["a\u0000"]}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"nonsense":1}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"env":{"A=B":"c"}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"timeout_ms":0}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"pty":{"columns":0,"rows":1}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"tag":""}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"tag":"a\nb"}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"keep":{"stdout":{"tail":1}}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"keep":{"stderr":{"head":99999999}}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"limits":{"memory_bytes":1}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"limits":{"pids":0}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"limits":{"cpu_percent":0}}"#,
            r#"{"id":1,"type":"start","command":{"shell":"a"},"limits":{"disk":1}}"#,
            r#"{"id":1,"type":"attach","process":-1}"#,
            r#"{"id":1,"type":"signal","process":1,"signal":99}"#,
            r#"{"id":1,"type":"process","op":"dance"}"#,
            r#"{"id":1,"type":"process","op":"read","process":1,"stream":"stdin"}"#,
            r#"{"id":1,"type":"process","op":"read","process":1,"limit":0}"#,
            r#"{"id":1,"type":"process","op":"read","process":1,"surprise":0}"#,
            r#"{"id":1,"type":"process","op":"write","process":1,"wait_ms":999999999}"#,
            r#"{"id":1,"type":"history","op":"checkpoint","name":"../x"}"#,
            r#"{"id":1,"type":"history","op":"diff","name":""}"#,
            r#"{"id":1,"type":"history","op":"reset","to":"x"}"#,
            r#"{"id":1,"type":"history","op":"list","name":"x"}"#,
            r#"{"id":1,"type":"history","op":"patch","strip":65}"#,
            r#"{"id":1,"type":"shell","op":"open","name":"../x"}"#,
            r#"{"id":1,"type":"shell","op":"open","name":"x","size":{"columns":9999,"rows":1}}"#,
            r#"{"id":1,"type":"shell","op":"open","name":"x","user":7}"#,
            r#"{"id":1,"type":"shell","op":"list","name":"x"}"#,
            r#"{"id":1,"type":"shell","op":"wait_idle","name":"x","until":"midnight"}"#,
            r#"{"id":1,"type":"shell","op":"wait_idle","name":"x","quiet_ms":0}"#,
            r#"{"id":1,"type":"shutdown","grace_ms":300001}"#,
        ] {
            assert_eq!(code(line), ErrorCode::InvalidField, "{line:?}");
        }
    }

    #[test]
    fn a_reply_to_a_line_without_an_id_has_none() {
        for line in [r#"{"id":null,"type":"pong"}"#, r#"{"type":"pong"}"#] {
            let reply: Reply = serde_json::from_str(line).unwrap();
            assert_eq!(reply, Reply { id: None, body: ReplyBody::Pong {} });
        }
    }

    #[test]
    fn requests_are_readable_json_and_bytes_round_trip() {
        let mut start = Start::new(Command::Argv(vec!["printf".into(), RawString::from(b"\xff".as_slice())]));
        start.attach = Some(Delivery::Lossless);
        let request = Request { id: RequestId(7), body: RequestBody::Start(start) };
        let line = serde_json::to_string(&request).unwrap();
        let golden = r#"{"id":7,"type":"start","command":{"argv":["printf",{"hex":"ff"}]},"attach":"lossless"}"#;
        assert_eq!(line, golden);
        assert_eq!(parse_request(line.as_bytes()).unwrap(), request);
    }
}
