//! Every kind of message as the bytes it is. A change here is a change of the protocol: it breaks peers.

use bytes::{Bytes, BytesMut};
use hearth_protocol::archive::{ArchiveRequest, ArchiveResult, Compression, Export, Exported, Import, Imported};
use hearth_protocol::dial::{DialRequest, DialResult};
use hearth_protocol::files::{FileKind, FileResult, FileRoot};
use hearth_protocol::{
    AgentHello, Attach, Budget, ChunkDecoder, ChunkHeader, Command, Delivery, Epoch, ErrorCode, ExitStatus, Fault,
    Finished, HelloAnswer, HostHello, Info, Keep, Lane, OutputTotals, ProcessId, ProcessInfo, ProcessState, PtySize,
    RawString, Renew, Reply, ReplyBody, Request, RequestBody, RequestId, ResourceLimits, Signal, SignalScope, Start,
    StreamName, Tag, encode_line, parse_request,
};

fn epoch() -> Epoch {
    "00112233445566778899aabbccddeeff".parse().unwrap()
}

/// The golden texts, without newlines, for those who want something nearly right.
pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    let replies = replies().into_iter().map(|(text, _)| text.to_owned());
    let groups = [
        crate::golden_files::messages(),
        crate::golden_kernels::messages(),
        crate::golden_process::messages(),
        crate::golden_history::messages(),
        crate::golden_secrets::messages(),
        crate::golden_services::messages(),
        crate::golden_shell::messages(),
    ]
    .concat();
    requests
        .chain(replies)
        .chain(groups)
        .chain([HOST_HELLO, AGENT_HELLO, AGENT_REFUSAL, CHUNK, LAST_CHUNK].map(str::to_owned))
        .collect()
}

const HOST_HELLO: &str = r#"{"hello":{"epoch":"00112233445566778899aabbccddeeff","lane":"control","min":1,"max":1}}"#;
const AGENT_HELLO: &str =
    r#"{"hello":{"epoch":"00112233445566778899aabbccddeeff","lane":"bulk","protocol":1,"agent":"0.1.0"}}"#;
const AGENT_REFUSAL: &str = r#"{"hello":{"epoch":"00112233445566778899aabbccddeeff","lane":"control","error":{"code":"unsupported_version","message":"this agent speaks protocol 1 to 1, the host 7 to 9","outcome":"never_started"},"agent":"0.1.0"}}"#;
const CHUNK: &str = r#"{"id":9,"stream":"stdout","at":4096,"payload":5}"#;
const LAST_CHUNK: &str = r#"{"id":9,"stream":"data","at":4096,"last":{"type":"finished","result":{"file":{"listed":{"entries":3}}},"output":{"stdout":0,"stderr":0,"data":4101}},"payload":5}"#;

fn requests() -> Vec<(&'static str, RequestBody)> {
    let process = ProcessId(3);
    let argv = Command::Argv(vec!["printf".into(), RawString::from(b"\xff\x01".as_slice())]);
    let full = Start {
        cwd: Some("/tmp".into()),
        env: [("LANG".to_owned(), RawString::from("C"))].into(),
        user: Some("root".into()),
        stdin: true,
        pty: Some(PtySize { columns: 80, rows: 24 }),
        timeout_ms: Some(1000),
        grace_ms: Some(250),
        forget: true,
        attach: Some(Delivery::Lossless),
        tag: Some(Tag::new("web").unwrap()),
        keep: Keep { stderr: Budget { head: 0, tail: 65536 }, ..Keep::default() },
        limits: ResourceLimits { memory_bytes: Some(1 << 30), pids: Some(100), cpu_percent: Some(150) },
        ..Start::new(argv)
    };
    let attach = Attach { process: process.into(), stdout: 10, stderr: 0, delivery: Delivery::Bounded };
    vec![
        (r#"{"id":9,"type":"ping"}"#, RequestBody::Ping {}),
        (r#"{"id":9,"type":"info"}"#, RequestBody::Info {}),
        (r#"{"id":9,"type":"renew"}"#, RequestBody::Renew(Renew::default())),
        (r#"{"id":9,"type":"freeze"}"#, RequestBody::Freeze {}),
        (r#"{"id":9,"type":"thaw"}"#, RequestBody::Thaw {}),
        (r#"{"id":9,"type":"settle"}"#, RequestBody::Settle {}),
        (
            r#"{"id":9,"type":"start","command":{"shell":"true"}}"#,
            RequestBody::Start(Start::new(Command::Shell("true".into()))),
        ),
        (
            r#"{"id":9,"type":"start","command":{"argv":["printf",{"hex":"ff01"}]},"cwd":"/tmp","env":{"LANG":"C"},"user":"root","stdin":true,"pty":{"columns":80,"rows":24},"timeout_ms":1000,"grace_ms":250,"forget":true,"attach":"lossless","tag":"web","keep":{"stdout":{"head":131072,"tail":1048576},"stderr":{"head":0,"tail":65536}},"limits":{"memory_bytes":1073741824,"pids":100,"cpu_percent":150}}"#,
            RequestBody::Start(full),
        ),
        (
            r#"{"id":9,"type":"attach","process":3,"stdout":10,"stderr":0,"delivery":"bounded"}"#,
            RequestBody::Attach(attach),
        ),
        (r#"{"id":9,"type":"detach"}"#, RequestBody::Detach {}),
        (
            r#"{"id":9,"type":"dial","op":"tcp","port":8000}"#,
            RequestBody::Dial(DialRequest::Tcp { host: None, port: 8000, timeout_ms: None }),
        ),
        (
            r#"{"id":9,"type":"dial","op":"tcp","host":"10.0.0.1","port":8000,"timeout_ms":7}"#,
            RequestBody::Dial(DialRequest::Tcp { host: Some("10.0.0.1".into()), port: 8000, timeout_ms: Some(7) }),
        ),
        (
            r#"{"id":9,"type":"dial","op":"unix","path":"/run/x"}"#,
            RequestBody::Dial(DialRequest::Unix { path: "/run/x".into() }),
        ),
        (
            r#"{"id":9,"type":"archive","op":"import","path":"src"}"#,
            RequestBody::Archive(ArchiveRequest::Import(Import {
                root: FileRoot::Workspace,
                path: "src".into(),
                limit_bytes: None,
            })),
        ),
        (
            r#"{"id":9,"type":"archive","op":"import","root":"home","path":"","limit_bytes":7}"#,
            RequestBody::Archive(ArchiveRequest::Import(Import {
                root: FileRoot::Home,
                path: "".into(),
                limit_bytes: Some(7),
            })),
        ),
        (
            r#"{"id":9,"type":"archive","op":"export","path":{"hex":"ff"}}"#,
            RequestBody::Archive(ArchiveRequest::Export(Export {
                root: FileRoot::Workspace,
                path: RawString::from(b"\xff".as_slice()),
                compression: Compression::None,
            })),
        ),
        (
            r#"{"id":9,"type":"archive","op":"export","root":"system","path":"/srv","compression":"zstd"}"#,
            RequestBody::Archive(ArchiveRequest::Export(Export {
                root: FileRoot::System,
                path: "/srv".into(),
                compression: Compression::Zstd,
            })),
        ),
        (
            r#"{"id":9,"type":"archive","op":"export_only","path":"src"}"#,
            RequestBody::Archive(ArchiveRequest::ExportOnly(Export {
                root: FileRoot::Workspace,
                path: "src".into(),
                compression: Compression::None,
            })),
        ),
        (
            r#"{"id":9,"type":"signal","process":3,"signal":"TERM","scope":"tree"}"#,
            RequestBody::Signal { process: process.into(), signal: Signal::Term, scope: SignalScope::Tree },
        ),
        (
            r#"{"id":9,"type":"signal","process":"web","signal":"RTMIN+1","scope":"foreground"}"#,
            RequestBody::Signal {
                process: Tag::new("web").unwrap().into(),
                signal: Signal::Rt1,
                scope: SignalScope::Foreground,
            },
        ),
        (
            r#"{"id":9,"type":"resize","process":3,"size":{"columns":100,"rows":30}}"#,
            RequestBody::Resize { process: process.into(), size: PtySize { columns: 100, rows: 30 } },
        ),
        (r#"{"id":9,"type":"list"}"#, RequestBody::List { after: None, tag: None }),
        (
            r#"{"id":9,"type":"list","after":7,"tag":"web"}"#,
            RequestBody::List { after: Some(ProcessId(7)), tag: Some(Tag::new("web").unwrap()) },
        ),
        (
            r#"{"id":9,"type":"credit","stream":"stderr","bytes":65536}"#,
            RequestBody::Credit { stream: StreamName::Stderr, bytes: 65536 },
        ),
        (r#"{"id":9,"type":"shutdown"}"#, RequestBody::Shutdown { grace_ms: None }),
        (r#"{"id":9,"type":"shutdown","grace_ms":500}"#, RequestBody::Shutdown { grace_ms: Some(500) }),
    ]
}

pub(crate) fn status(code: Option<i32>, signal: Option<i32>) -> ExitStatus {
    let (timed_out, out_of_memory) = (signal.is_some(), false);
    ExitStatus { code, signal, timed_out, out_of_memory, duration_us: 1, cpu_us: 2, peak_memory_bytes: Some(3) }
}

fn replies() -> Vec<(&'static str, Reply)> {
    let id = Some(RequestId(9));
    let process = ProcessId(3);
    let reply = |body| Reply { id, body };
    let output = OutputTotals { stdout: 5, ..OutputTotals::default() };
    let info = Info {
        agent: "0.1.0".into(),
        kernel: "6.1.0".into(),
        hostname: "box".into(),
        uptime_seconds: 1,
        memory_bytes: 2,
        agent_resident_bytes: 3,
        process_trees: "cgroup".into(),
    };
    let listed = |state| ProcessInfo {
        process,
        pid: 70,
        tag: None,
        command: Command::Shell("true".into()),
        state,
        waiting: false,
        left_running: 0,
        output,
    };
    let exited = ProcessState::Exited(status(Some(0), None));
    let fault = Fault::never_started(ErrorCode::CommandNotFound, "no such command: nope");
    vec![
        (r#"{"id":9,"type":"pong"}"#, reply(ReplyBody::Pong {})),
        (
            r#"{"id":9,"type":"info","agent":"0.1.0","kernel":"6.1.0","hostname":"box","uptime_seconds":1,"memory_bytes":2,"agent_resident_bytes":3,"process_trees":"cgroup"}"#,
            reply(ReplyBody::Info(info)),
        ),
        (r#"{"id":9,"type":"done"}"#, reply(ReplyBody::Done {})),
        (r#"{"id":9,"type":"started","process":3,"pid":70}"#, reply(ReplyBody::Started { process, pid: 70 })),
        (
            r#"{"id":9,"type":"exit","status":{"code":3,"timed_out":false,"out_of_memory":false,"duration_us":1,"cpu_us":2,"peak_memory_bytes":3},"output":{"stdout":5,"stderr":0}}"#,
            reply(ReplyBody::Exit { status: status(Some(3), None), output }),
        ),
        (
            r#"{"id":9,"type":"exit","status":{"signal":9,"timed_out":true,"out_of_memory":false,"duration_us":1,"cpu_us":2,"peak_memory_bytes":3},"output":{"stdout":5,"stderr":0,"stdout_dropped":4}}"#,
            reply(ReplyBody::Exit {
                status: status(None, Some(9)),
                output: OutputTotals { stdout_dropped: 4, ..output },
            }),
        ),
        (
            r#"{"id":9,"type":"processes","processes":[{"process":3,"pid":70,"command":{"shell":"true"},"state":"running","output":{"stdout":5,"stderr":0}},{"process":3,"pid":70,"command":{"shell":"true"},"state":{"exited":{"code":0,"timed_out":false,"out_of_memory":false,"duration_us":1,"cpu_us":2,"peak_memory_bytes":3}},"output":{"stdout":5,"stderr":0}}]}"#,
            reply(ReplyBody::Processes { processes: vec![listed(ProcessState::Running), listed(exited)], more: false }),
        ),
        (
            r#"{"id":9,"type":"credit","stream":"stdin","bytes":262144}"#,
            reply(ReplyBody::Credit { stream: StreamName::Stdin, bytes: 262_144 }),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"dial":{"ended":{"sent":7}}},"output":{"stdout":0,"stderr":0,"data":5}}"#,
            reply(ReplyBody::Finished {
                result: Finished::Dial(DialResult::Ended { sent: 7 }),
                output: OutputTotals { data: 5, ..OutputTotals::default() },
            }),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"archive":{"imported":{"members":3,"bytes":7}}}}"#,
            reply(ReplyBody::Finished {
                result: Finished::Archive(ArchiveResult::Imported(Imported { members: 3, bytes: 7 })),
                output: OutputTotals::default(),
            }),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"archive":{"exported":{"kind":"directory","members":3,"bytes":7,"skipped":1,"changed":0}}},"output":{"stdout":0,"stderr":0,"data":512}}"#,
            reply(ReplyBody::Finished {
                result: Finished::Archive(ArchiveResult::Exported(Exported {
                    kind: FileKind::Directory,
                    members: 3,
                    bytes: 7,
                    skipped: 1,
                    changed: 0,
                })),
                output: OutputTotals { data: 512, ..OutputTotals::default() },
            }),
        ),
        (
            r#"{"id":9,"type":"error","code":"command_not_found","message":"no such command: nope","outcome":"never_started"}"#,
            reply(ReplyBody::Error(fault.clone())),
        ),
        (
            r#"{"id":null,"type":"error","code":"command_not_found","message":"no such command: nope","outcome":"never_started"}"#,
            Reply { id: None, body: ReplyBody::Error(fault) },
        ),
    ]
}

pub(crate) fn line(message: &impl serde::Serialize) -> String {
    let mut line = Vec::new();
    encode_line(message, &mut line).unwrap();
    String::from_utf8(line).unwrap()
}

#[test]
fn each_request_has_its_bytes() {
    requests().into_iter().for_each(|(text, body)| check_request(text, body));
}

/// A request's bytes, both ways.
#[track_caller]
pub(crate) fn check_request(text: &str, body: RequestBody) {
    let request = Request { id: RequestId(9), body };
    assert_eq!(line(&request), format!("{text}\n"));
    assert_eq!(parse_request(text.as_bytes()).expect(text), request);
}

#[test]
fn each_reply_has_its_bytes() {
    replies().into_iter().for_each(|(text, reply)| check_reply(text, &reply));
}

/// A reply's bytes, both ways.
#[track_caller]
pub(crate) fn check_reply(text: &str, reply: &Reply) {
    assert_eq!(line(reply), format!("{text}\n"));
    assert_eq!(&serde_json::from_str::<Reply>(text).expect(text), reply);
}

#[test]
fn the_hosts_hello_has_its_bytes_behind_a_newline() {
    let hello = HostHello::new(epoch(), Lane::Control);
    assert_eq!(String::from_utf8(hello.to_bytes()).unwrap(), format!("\n{HOST_HELLO}\n"));
    assert_eq!(HostHello::parse(HOST_HELLO.as_bytes()), Some(hello));
}

#[test]
fn the_agents_hello_has_its_bytes() {
    let accepted =
        AgentHello { epoch: epoch(), lane: Lane::Bulk, answer: HelloAnswer::Protocol(1), agent: "0.1.0".into() };
    let refusal = HelloAnswer::Error(hearth_protocol::negotiate(7, 9).expect_err("no common version"));
    let refused = AgentHello { epoch: epoch(), lane: Lane::Control, answer: refusal, agent: "0.1.0".into() };
    for (text, hello) in [(AGENT_HELLO, accepted), (AGENT_REFUSAL, refused)] {
        assert_eq!(String::from_utf8(hello.to_bytes()).unwrap(), format!("{text}\n"));
        assert_eq!(AgentHello::parse(text.as_bytes()), Some(hello));
    }
}

#[test]
fn a_chunk_has_its_bytes() {
    let header = ChunkHeader {
        id: RequestId(9),
        stream: StreamName::Stdout,
        at: 4096,
        end: false,
        detach: false,
        last: None,
        payload: Some(5),
    };
    let end = ChunkHeader { stream: StreamName::Stdin, at: 4101, end: true, payload: None, ..header.clone() };
    let wire = [line(&header).as_bytes(), b"a\n\xff\0b", line(&end).as_bytes()].concat();
    let golden = [CHUNK.as_bytes(), b"\na\n\xff\0b{\"id\":9,\"stream\":\"stdin\",\"at\":4101,\"end\":true}\n"].concat();
    assert_eq!(wire, golden);
    let (mut decoder, mut buffer) = (ChunkDecoder::default(), BytesMut::from(wire.as_slice()));
    let payload = Bytes::from_static(b"a\n\xff\0b");
    assert_eq!(decoder.decode(&mut buffer), Ok(Some((header, payload))));
    assert_eq!(decoder.decode(&mut buffer), Ok(Some((end, Bytes::new()))));
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
}

#[test]
fn the_last_chunk_of_an_operation_brings_its_result_along() {
    let output = OutputTotals { data: 4101, ..OutputTotals::default() };
    let result = Finished::File(FileResult::Listed { entries: 3, next: None });
    let header = ChunkHeader {
        id: RequestId(9),
        stream: StreamName::Data,
        at: 4096,
        end: false,
        detach: false,
        last: Some(Box::new(ReplyBody::Finished { result, output })),
        payload: Some(5),
    };
    assert_eq!(line(&header), format!("{LAST_CHUNK}\n"));
    assert_eq!(serde_json::from_str::<ChunkHeader>(LAST_CHUNK).unwrap(), header);
}

#[test]
fn error_codes_keep_their_names() {
    let names = [
        (ErrorCode::MalformedRequest, "malformed_request"),
        (ErrorCode::UnknownRequest, "unknown_request"),
        (ErrorCode::InvalidField, "invalid_field"),
        (ErrorCode::HeaderTooLong, "header_too_long"),
        (ErrorCode::UnsupportedVersion, "unsupported_version"),
        (ErrorCode::DuplicateRequest, "duplicate_request"),
        (ErrorCode::UnknownUser, "unknown_user"),
        (ErrorCode::WorkingDirectory, "working_directory"),
        (ErrorCode::CommandNotFound, "command_not_found"),
        (ErrorCode::CommandNotExecutable, "command_not_executable"),
        (ErrorCode::SpawnFailed, "spawn_failed"),
        (ErrorCode::UnknownProcess, "unknown_process"),
        (ErrorCode::NotRunning, "not_running"),
        (ErrorCode::NotATerminal, "not_a_terminal"),
        (ErrorCode::Busy, "busy"),
        (ErrorCode::Io, "io"),
        (ErrorCode::Internal, "internal"),
    ];
    for (code, name) in names {
        assert_eq!(serde_json::to_value(code).unwrap(), name);
        assert_eq!(serde_json::from_value::<ErrorCode>(name.into()).unwrap(), code);
    }
    assert_eq!(serde_json::from_value::<ErrorCode>("of_the_future".into()).unwrap(), ErrorCode::Unknown);
}
