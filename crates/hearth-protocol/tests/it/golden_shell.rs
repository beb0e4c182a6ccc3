//! The messages of group `shell` as the bytes they are.

use hearth_protocol::process::{OutputRead, Written};
use hearth_protocol::shell::{
    CloseShell, Idle, IdleEnd, IdleReason, NoFields, OpenShell, Opened, PlainRead, ReadPlain, ReadShell, ResizeShell,
    ShellInfo, ShellName, ShellRequest, ShellResult, SignalShell, WaitIdle, WriteShell,
};
use hearth_protocol::{
    Command, ExitStatus, Finished, OutputTotals, ProcessId, PtySize, RequestBody, ResourceLimits, Signal, SignalScope,
    parse_request,
};

use crate::golden::check_request;
use crate::golden_process::{check_results, whole};

/// The golden texts, without newlines.
pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    requests.chain(results().into_iter().map(|(text, _, output)| whole(text, &output))).collect()
}

fn name() -> ShellName {
    ShellName::new("main").unwrap()
}

fn requests() -> Vec<(&'static str, ShellRequest)> {
    let size = PtySize { columns: 80, rows: 24 };
    let full = OpenShell {
        name: name(),
        command: Some(Command::Argv(vec!["bash".into(), "-i".into()])),
        cwd: Some("/tmp".into()),
        env: [("PS1".to_owned(), "$ ".into())].into(),
        secrets: [("TOKEN".to_owned(), "token".to_owned())].into(),
        redact: vec!["hunter2".into()],
        user: Some("root".into()),
        size,
        limits: ResourceLimits { pids: Some(9), ..ResourceLimits::default() },
    };
    vec![
        (
            r#"{"id":9,"type":"shell","op":"open","name":"main","size":{"columns":120,"rows":30}}"#,
            ShellRequest::Open(OpenShell::new(name())),
        ),
        (
            r#"{"id":9,"type":"shell","op":"open","name":"main","command":{"argv":["bash","-i"]},"cwd":"/tmp","env":{"PS1":"$ "},"secrets":{"TOKEN":"token"},"redact":["hunter2"],"user":"root","size":{"columns":80,"rows":24},"limits":{"pids":9}}"#,
            ShellRequest::Open(full),
        ),
        (r#"{"id":9,"type":"shell","op":"list"}"#, ShellRequest::List(NoFields {})),
        (
            r#"{"id":9,"type":"shell","op":"write","name":"main","text":"ls","newline":true,"wait_ms":5}"#,
            ShellRequest::Write(WriteShell { name: name(), text: Some("ls".into()), newline: true, wait_ms: 5 }),
        ),
        (
            r#"{"id":9,"type":"shell","op":"read","name":"main","from":5,"limit":65536,"wait_ms":5}"#,
            ShellRequest::Read(ReadShell { from: 5, wait_ms: 5, ..ReadShell::new(name()) }),
        ),
        (
            r#"{"id":9,"type":"shell","op":"read_plain","name":"main","since":5,"limit":65536}"#,
            ShellRequest::ReadPlain(ReadPlain { since: 5, ..ReadPlain::new(name()) }),
        ),
        (
            r#"{"id":9,"type":"shell","op":"wait_idle","name":"main","quiet_ms":200,"timeout_ms":30000,"until":"prompt"}"#,
            ShellRequest::WaitIdle(WaitIdle::new(name(), Idle::Prompt)),
        ),
        (
            r#"{"id":9,"type":"shell","op":"signal","name":"main","signal":"INT","scope":"foreground"}"#,
            ShellRequest::Signal(SignalShell { name: name(), signal: Signal::Int, scope: SignalScope::Foreground }),
        ),
        (
            r#"{"id":9,"type":"shell","op":"resize","name":"main","size":{"columns":80,"rows":24}}"#,
            ShellRequest::Resize(ResizeShell { name: name(), size }),
        ),
        (
            r#"{"id":9,"type":"shell","op":"close","name":"main","grace_ms":5000}"#,
            ShellRequest::Close(CloseShell { name: name(), grace_ms: Some(5000) }),
        ),
    ]
}

fn results() -> Vec<(&'static str, Finished, OutputTotals)> {
    let none = OutputTotals::default();
    let data = OutputTotals { data: 5, ..none };
    let read = OutputRead { at: 10, length: 5, total: 20, ended: false };
    let exit = ExitStatus {
        code: Some(0),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        duration_us: 1,
        cpu_us: 2,
        peak_memory_bytes: Some(3),
    };
    let info = ShellInfo {
        name: name(),
        process: ProcessId(3),
        pid: 70,
        size: PtySize { columns: 80, rows: 24 },
        age_ms: 9,
        output: 5,
        exit: None,
    };
    let plain = PlainRead { next: 7, lines: 2, first: 3, more: false, gap: false, alternate: false, ended: false };
    let shell = Finished::Shell;
    vec![
        (
            r#"{"shell":{"opened":{"process":3,"pid":70}}}"#,
            shell(ShellResult::Opened(Opened { process: ProcessId(3), pid: 70 })),
            none,
        ),
        (
            r#"{"shell":{"list":[{"name":"main","process":3,"pid":70,"size":{"columns":80,"rows":24},"age_ms":9,"output":5}]}}"#,
            shell(ShellResult::List(vec![info])),
            none,
        ),
        (r#"{"shell":{"written":{"accepted":4096}}}"#, shell(ShellResult::Written(Written { accepted: 4096 })), none),
        (r#"{"shell":{"read":{"at":10,"length":5,"total":20,"ended":false}}}"#, shell(ShellResult::Read(read)), data),
        (r#"{"shell":{"plain":{"next":7,"lines":2,"first":3,"ended":false}}}"#, shell(ShellResult::Plain(plain)), data),
        (
            r#"{"shell":{"plain":{"next":7,"lines":2,"first":3,"more":true,"gap":true,"alternate":true,"ended":false}}}"#,
            shell(ShellResult::Plain(PlainRead { more: true, gap: true, alternate: true, ..plain })),
            data,
        ),
        (
            r#"{"shell":{"idle":{"reason":"timeout","job":true}}}"#,
            shell(ShellResult::Idle(IdleEnd { reason: IdleReason::Timeout, job: true })),
            none,
        ),
        (
            r#"{"shell":{"closed":{"code":0,"timed_out":false,"out_of_memory":false,"duration_us":1,"cpu_us":2,"peak_memory_bytes":3}}}"#,
            shell(ShellResult::Closed(exit)),
            none,
        ),
        (r#"{"shell":{"done":{}}}"#, shell(ShellResult::Done {}), none),
    ]
}

#[test]
fn each_request_about_shells_has_its_bytes() {
    requests().into_iter().for_each(|(text, body)| check_request(text, RequestBody::Shell(body)));
}

#[test]
fn each_result_about_shells_has_its_bytes() {
    check_results(results());
}

#[test]
fn what_a_request_about_shells_leaves_out_has_a_default() {
    let parsed = |text: &str| parse_request(text.as_bytes()).expect(text).body;
    assert_eq!(
        parsed(r#"{"id":9,"type":"shell","op":"open","name":"main"}"#),
        RequestBody::Shell(ShellRequest::Open(OpenShell::new(name())))
    );
    assert_eq!(
        parsed(r#"{"id":9,"type":"shell","op":"wait_idle","name":"main"}"#),
        RequestBody::Shell(ShellRequest::WaitIdle(WaitIdle::new(name(), Idle::Quiet)))
    );
    for signal in [r#""INT""#, r#""sigint""#, "2", r#""2""#] {
        let text = format!(r#"{{"id":9,"type":"shell","op":"signal","name":"main","signal":{signal}}}"#);
        let signal = SignalShell { name: name(), signal: Signal::Int, scope: SignalScope::Foreground };
        assert_eq!(parsed(&text), RequestBody::Shell(ShellRequest::Signal(signal)));
    }
}
