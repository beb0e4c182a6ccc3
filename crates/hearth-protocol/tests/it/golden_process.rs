//! The messages of group `process` as the bytes they are.

use hearth_protocol::process::{
    CloseStdin, OutputRead, ProcessRequest, ProcessResult, ReadOutput, WriteInput, Written,
};
use hearth_protocol::{
    Finished, OutputTotals, ProcessId, Reply, ReplyBody, RequestBody, RequestId, StreamName, Tag, parse_request,
};

use crate::golden::{check_reply, check_request};

/// The golden texts, without newlines.
pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    requests.chain(results().into_iter().map(|(text, _, output)| whole(text, &output))).collect()
}

/// The whole reply that has this result.
pub(crate) fn whole(result: &str, output: &OutputTotals) -> String {
    let totals = if output.data == 0 { "" } else { r#","output":{"stdout":0,"stderr":0,"data":5}"# };
    format!(r#"{{"id":9,"type":"finished","result":{result}{totals}}}"#)
}

fn requests() -> Vec<(&'static str, ProcessRequest)> {
    let read = ReadOutput::new(ProcessId(3));
    vec![
        (
            r#"{"id":9,"type":"process","op":"read","process":3,"from":0,"limit":65536}"#,
            ProcessRequest::Read(read.clone()),
        ),
        (
            r#"{"id":9,"type":"process","op":"read","process":3,"stream":"stderr","from":7,"limit":10,"wait_ms":500}"#,
            ProcessRequest::Read(ReadOutput { stream: StreamName::Stderr, from: 7, limit: 10, wait_ms: 500, ..read }),
        ),
        (
            r#"{"id":9,"type":"process","op":"write","process":"web","text":"a\n","wait_ms":1000}"#,
            ProcessRequest::Write(WriteInput::new(Tag::new("web").unwrap(), Some("a\n".into()))),
        ),
        (
            r#"{"id":9,"type":"process","op":"close_stdin","process":3}"#,
            ProcessRequest::CloseStdin(CloseStdin { process: ProcessId(3).into() }),
        ),
    ]
}

fn results() -> Vec<(&'static str, Finished, OutputTotals)> {
    let none = OutputTotals::default();
    let data = OutputTotals { data: 5, ..none };
    let read = OutputRead { at: 10, length: 5, total: 20, ended: false };
    vec![
        (r#"{"process":{"done":{}}}"#, Finished::Process(ProcessResult::Done {}), none),
        (
            r#"{"process":{"read":{"at":10,"length":5,"total":20,"ended":false}}}"#,
            Finished::Process(ProcessResult::Read(read)),
            data,
        ),
        (
            r#"{"process":{"written":{"accepted":4096}}}"#,
            Finished::Process(ProcessResult::Written(Written { accepted: 4096 })),
            none,
        ),
    ]
}

/// Checks results as the replies they come in.
pub(crate) fn check_results(results: Vec<(&'static str, Finished, OutputTotals)>) {
    for (text, result, output) in results {
        let reply = Reply { id: Some(RequestId(9)), body: ReplyBody::Finished { result, output } };
        check_reply(&whole(text, &output), &reply);
    }
}

#[test]
fn each_request_about_processes_has_its_bytes() {
    requests().into_iter().for_each(|(text, body)| check_request(text, RequestBody::Process(body)));
}

#[test]
fn each_result_about_processes_has_its_bytes() {
    check_results(results());
}

#[test]
fn what_a_request_about_processes_leaves_out_has_a_default() {
    let parsed = |text: &str| parse_request(text.as_bytes()).expect(text).body;
    assert_eq!(
        parsed(r#"{"id":9,"type":"process","op":"read","process":3}"#),
        RequestBody::Process(ProcessRequest::Read(ReadOutput::new(ProcessId(3))))
    );
    assert_eq!(
        parsed(r#"{"id":9,"type":"process","op":"write","process":3}"#),
        RequestBody::Process(ProcessRequest::Write(WriteInput::new(ProcessId(3), None)))
    );
}
