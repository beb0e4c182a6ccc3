//! The messages of the group `history`.

use hearth_protocol::files::FileKind;
use hearth_protocol::history::{
    Change, ChangeKind, Checkpoint, CheckpointName, Diffed, HistoryRequest, HistoryResult, Named, NoFields, Patch,
    Patched, ResetDone,
};
use hearth_protocol::{Finished, OutputTotals, Reply, ReplyBody, RequestBody, RequestId, decode_record, encode_record};

use crate::golden::{check_reply, check_request};

pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    requests.chain(replies().into_iter().map(|(text, _)| text.to_owned())).collect()
}

fn named(name: &str) -> Named {
    Named { name: CheckpointName::new(name).unwrap() }
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    let patch = Patch { path: "sub".into(), strip: 0, reverse: true, check: true };
    let requests = [
        (r#"{"id":9,"type":"history","op":"checkpoint"}"#, HistoryRequest::Checkpoint(Named::default())),
        (r#"{"id":9,"type":"history","op":"checkpoint","name":"a.1"}"#, HistoryRequest::Checkpoint(named("a.1"))),
        (r#"{"id":9,"type":"history","op":"list"}"#, HistoryRequest::List(NoFields {})),
        (r#"{"id":9,"type":"history","op":"remove","name":"a"}"#, HistoryRequest::Remove(named("a"))),
        (r#"{"id":9,"type":"history","op":"diff"}"#, HistoryRequest::Diff(Named::default())),
        (r#"{"id":9,"type":"history","op":"changes","name":"a"}"#, HistoryRequest::Changes(named("a"))),
        (r#"{"id":9,"type":"history","op":"patch"}"#, HistoryRequest::Patch(Patch::default())),
        (
            r#"{"id":9,"type":"history","op":"patch","path":"sub","strip":0,"reverse":true,"check":true}"#,
            HistoryRequest::Patch(patch),
        ),
        (r#"{"id":9,"type":"history","op":"reset","name":"a"}"#, HistoryRequest::Reset(named("a"))),
    ];
    requests.map(|(text, request)| (text, RequestBody::History(request))).into()
}

fn replies() -> Vec<(&'static str, Reply)> {
    let reply = |result| {
        let body = ReplyBody::Finished { result: Finished::History(result), output: OutputTotals::default() };
        Reply { id: Some(RequestId(9)), body }
    };
    let checkpoint = Checkpoint { name: "a".into(), taken_ms: 5, files: 2, bytes: 7, skipped: 0 };
    let results = [
        (
            r#"{"id":9,"type":"finished","result":{"history":{"taken":{"name":"a","taken_ms":5,"files":2,"bytes":7}}}}"#,
            HistoryResult::Taken(checkpoint),
        ),
        (r#"{"id":9,"type":"finished","result":{"history":{"listed":{}}}}"#, HistoryResult::Listed {}),
        (r#"{"id":9,"type":"finished","result":{"history":{"removed":{}}}}"#, HistoryResult::Removed {}),
        (
            r#"{"id":9,"type":"finished","result":{"history":{"diffed":{"created":1,"modified":2,"deleted":3,"left_out":4,"skipped":5}}}}"#,
            HistoryResult::Diffed(Diffed { created: 1, modified: 2, deleted: 3, left_out: 4, skipped: 5 }),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"history":{"patched":{"files":1,"hunks":2,"moved":1}}}}"#,
            HistoryResult::Patched(Patched { files: 1, hunks: 2, moved: 1 }),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"history":{"reset":{"restored":1,"removed":2,"adjusted":3}}}}"#,
            HistoryResult::Reset(ResetDone { restored: 1, removed: 2, adjusted: 3, left_out: 0 }),
        ),
    ];
    results.map(|(text, result)| (text, reply(result))).into()
}

#[test]
fn requests_about_history_are_these_bytes() {
    requests().into_iter().for_each(|(text, body)| check_request(text, body));
}

#[test]
fn results_about_history_are_these_bytes() {
    replies().into_iter().for_each(|(text, reply)| check_reply(text, &reply));
}

#[test]
fn changes_are_these_bytes() {
    let change = Change {
        path: b"\xff".to_vec().into(),
        change: ChangeKind::Modified,
        kind: FileKind::File,
        bytes_before: Some(1),
        bytes: Some(2),
    };
    let mut line = Vec::new();
    encode_record(&change, &mut line);
    let golden = br#"{"path":{"hex":"ff"},"change":"modified","kind":"file","bytes_before":1,"bytes":2}"#;
    assert_eq!(line.strip_suffix(b"\n").unwrap(), golden);
    assert_eq!(decode_record::<Change>(golden), Ok(change));
    let newer = br#"{"path":"a","change":"dreamt","kind":"file"}"#;
    assert_eq!(decode_record::<Change>(newer).unwrap().change, ChangeKind::Unknown);
}
