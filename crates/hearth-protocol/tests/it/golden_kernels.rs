//! The messages of the groups `kernel` and `packages`, and the events of a kernel.

use hearth_protocol::kernel::{
    KernelError, KernelEvent, KernelExec, KernelInfo, KernelLanguage, KernelName, KernelRan, KernelRequest,
    KernelResult, KernelStart, KernelState, KernelValue,
};
use hearth_protocol::packages::{Install, PackageLanguage, PackageRequest, PackageResult};
use hearth_protocol::{ExitStatus, Finished, OutputTotals, ProcessId, Reply, ReplyBody, RequestBody, RequestId};

use crate::golden::{check_reply, check_request};

pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    requests.chain(replies().into_iter().map(|(text, _)| text.to_owned())).collect()
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    let named = || KernelName { name: "one".into() };
    let start = KernelStart {
        name: Some("one".into()),
        cwd: Some("/tmp".into()),
        env: [("A".to_owned(), "b".into())].into(),
        secrets: [("TOKEN".to_owned(), "KEY".to_owned())].into(),
        user: Some("root".into()),
        imports: vec!["json".into()],
        ..KernelStart::new(KernelLanguage::Python)
    };
    let exec = KernelExec {
        name: Some("one".into()),
        code: Some("x = 1\n".into()),
        env: [("A".to_owned(), "b".into())].into(),
        secrets: [("TOKEN".to_owned(), "KEY".to_owned())].into(),
        timeout_ms: Some(1000),
        grace_ms: Some(5),
        ..KernelExec::new(KernelLanguage::Bash)
    };
    let install = Install {
        from: Some("wheels".into()),
        directory: Some("app".into()),
        env: [("A".to_owned(), "b".into())].into(),
        timeout_ms: Some(1000),
        ..Install::new(PackageLanguage::Javascript, ["lodash@^4"])
    };
    let kernel = |(text, request)| (text, RequestBody::Kernel(request));
    let packages = |(text, install)| (text, RequestBody::Packages(PackageRequest::Install(install)));
    let kernels = [
        (
            r#"{"id":9,"type":"kernel","op":"start","language":"javascript"}"#,
            KernelRequest::Start(KernelStart::new(KernelLanguage::Javascript)),
        ),
        (
            r#"{"id":9,"type":"kernel","op":"start","language":"python","name":"one","cwd":"/tmp","env":{"A":"b"},"secrets":{"TOKEN":"KEY"},"user":"root","imports":["json"]}"#,
            KernelRequest::Start(start),
        ),
        (
            r#"{"id":9,"type":"kernel","op":"exec","language":"python"}"#,
            KernelRequest::Exec(KernelExec::new(KernelLanguage::Python)),
        ),
        (
            r#"{"id":9,"type":"kernel","op":"exec","language":"bash","name":"one","code":"x = 1\n","env":{"A":"b"},"secrets":{"TOKEN":"KEY"},"timeout_ms":1000,"grace_ms":5}"#,
            KernelRequest::Exec(exec),
        ),
        (r#"{"id":9,"type":"kernel","op":"list"}"#, KernelRequest::List {}),
        (r#"{"id":9,"type":"kernel","op":"interrupt","name":"one"}"#, KernelRequest::Interrupt(named())),
        (r#"{"id":9,"type":"kernel","op":"restart","name":"one"}"#, KernelRequest::Restart(named())),
        (r#"{"id":9,"type":"kernel","op":"stop","name":"one"}"#, KernelRequest::Stop(named())),
        (r#"{"id":9,"type":"kernel","op":"warm"}"#, KernelRequest::Warm {}),
    ];
    let installs = [
        (
            r#"{"id":9,"type":"packages","op":"install","language":"python","packages":["six==1.16.0"]}"#,
            Install::new(PackageLanguage::Python, ["six==1.16.0"]),
        ),
        (
            r#"{"id":9,"type":"packages","op":"install","language":"javascript","packages":["lodash@^4"],"from":"wheels","directory":"app","env":{"A":"b"},"timeout_ms":1000}"#,
            install,
        ),
    ];
    kernels.into_iter().map(kernel).chain(installs.into_iter().map(packages)).collect()
}

fn replies() -> Vec<(&'static str, Reply)> {
    let output = OutputTotals { stdout: 3, data: 7, ..OutputTotals::default() };
    let reply = |result, output| Reply { id: Some(RequestId(9)), body: ReplyBody::Finished { result, output } };
    let kernel = |result| reply(Finished::Kernel(result), OutputTotals::default());
    let info = |state, process: Option<_>| KernelInfo {
        name: "one".into(),
        language: KernelLanguage::Bash,
        state,
        warmed: process.is_none(),
        process,
        execs: 2,
    };
    let plain = KernelRan {
        kernel: "one".into(),
        code: 0,
        signal: None,
        error: None,
        interrupted: false,
        timed_out: false,
        out_of_memory: false,
        fresh: false,
        state_lost: false,
        dropped: 0,
        duration_us: 1,
    };
    let full = KernelRan {
        code: 137,
        signal: Some(9),
        error: Some(KernelError { name: "E".into(), value: "v".into() }),
        interrupted: true,
        timed_out: true,
        out_of_memory: true,
        fresh: true,
        state_lost: true,
        dropped: 5,
        ..plain.clone()
    };
    let status = ExitStatus {
        code: Some(1),
        signal: None,
        timed_out: false,
        out_of_memory: false,
        duration_us: 1,
        cpu_us: 2,
        peak_memory_bytes: None,
    };
    vec![
        (r#"{"id":9,"type":"finished","result":{"kernel":{"done":{}}}}"#, kernel(KernelResult::Done {})),
        (
            r#"{"id":9,"type":"finished","result":{"kernel":{"kernel":{"name":"one","language":"bash","state":"idle","process":4,"execs":2,"failed_imports":{"a":"b"}}}}}"#,
            kernel(KernelResult::Kernel {
                kernel: info(KernelState::Idle, Some(ProcessId(4))),
                failed_imports: [("a".to_owned(), "b".to_owned())].into(),
            }),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"kernel":{"kernels":[{"name":"one","language":"bash","state":"busy","process":4,"execs":2},{"name":"one","language":"bash","state":"ended","execs":2,"warmed":true}]}}}"#,
            kernel(KernelResult::Kernels(vec![
                info(KernelState::Busy, Some(ProcessId(4))),
                info(KernelState::Ended, None),
            ])),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"kernel":{"ran":{"kernel":"one","code":0,"duration_us":1}}},"output":{"stdout":3,"stderr":0,"data":7}}"#,
            reply(Finished::Kernel(KernelResult::Ran(plain)), output),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"kernel":{"ran":{"kernel":"one","code":137,"signal":9,"error":{"name":"E","value":"v"},"interrupted":true,"timed_out":true,"out_of_memory":true,"fresh":true,"state_lost":true,"dropped":5,"duration_us":1}}}}"#,
            kernel(KernelResult::Ran(full)),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"packages":{"installed":{"code":1,"timed_out":false,"out_of_memory":false,"duration_us":1,"cpu_us":2}}}}"#,
            reply(Finished::Packages(PackageResult::Installed(status)), OutputTotals::default()),
        ),
    ]
}

#[test]
fn requests_about_kernels_and_packages() {
    requests().into_iter().for_each(|(text, body)| check_request(text, body));
}

#[test]
fn replies_about_kernels_and_packages() {
    replies().into_iter().for_each(|(text, reply)| check_reply(text, &reply));
}

#[test]
fn events_of_a_kernel() {
    let value = KernelValue {
        data: [("text/plain".to_owned(), "1".into()), ("application/json".to_owned(), serde_json::json!({ "a": [1] }))]
            .into(),
        omitted: [("text/html".to_owned(), 9)].into(),
    };
    let plain = KernelValue { omitted: [].into(), ..value.clone() };
    let error = KernelEvent::Error { name: "E".into(), value: "v".into(), traceback: "a\nb".into() };
    for (text, event) in [
        (r#"{"type":"result","data":{"application/json":{"a":[1]},"text/plain":"1"}}"#, KernelEvent::Result(plain)),
        (
            r#"{"type":"display","data":{"application/json":{"a":[1]},"text/plain":"1"},"omitted":{"text/html":9}}"#,
            KernelEvent::Display(value),
        ),
        (r#"{"type":"error","name":"E","value":"v","traceback":"a\nb"}"#, error),
    ] {
        assert_eq!(String::from_utf8(event.to_line()).unwrap(), format!("{text}\n"));
        assert_eq!(KernelEvent::parse(text.as_bytes()).unwrap(), event);
    }
    for bad in ["", "[]", r#"{"type":"dance"}"#, r#"{"type":"error","name":"E"}"#, r#"{"type":"result","data":[]}"#] {
        assert!(KernelEvent::parse(bad.as_bytes()).is_err(), "{bad}");
    }
}
