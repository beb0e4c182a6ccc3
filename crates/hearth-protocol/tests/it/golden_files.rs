//! The messages of the group `file`, and the records of its streams.

use hearth_protocol::files::{
    Case, Chmod, Create, Enough, FileEntry, FileEvent, FileKind, FileRequest, FileResult, FileRoot, FileRow, Line,
    List, Mkdir, Place, Read, Remove, Search, Symlink, TextEdit, Transfer, Watch, Write,
};
use hearth_protocol::{
    ErrorCode, Finished, OutputTotals, RawString, Reply, ReplyBody, RequestBody, RequestId, decode_record,
    encode_record, parse_request,
};

use crate::golden::{check_reply, check_request};

pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    requests.chain(replies().into_iter().map(|(text, _)| text.to_owned())).collect()
}

fn entry() -> FileEntry {
    FileEntry {
        path: "a".into(),
        kind: FileKind::File,
        size: 5,
        allocated: 4096,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        links: 1,
        modified_ns: 1,
        target: None,
        unreadable: None,
    }
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    let odd = || RawString::from(b"\xff".as_slice());
    let search = Search {
        root: FileRoot::Home,
        literal: true,
        case: Case::Smart,
        word: true,
        globs: vec!["*.rs".into(), "!x".into()],
        hidden: true,
        ignored: true,
        before: 1,
        after: 2,
        limit: Some(3),
        limit_per_file: Some(4),
        line_bytes: Some(5),
        timeout_ms: Some(6),
        ..Search::new("", "a.")
    };
    let files = vec![
        (r#"{"id":9,"type":"file","op":"stat","path":"a"}"#, FileRequest::Stat("a".into())),
        (
            r#"{"id":9,"type":"file","op":"stat","root":"system","path":{"hex":"ff"}}"#,
            FileRequest::Stat(Place::new(FileRoot::System, odd())),
        ),
        (r#"{"id":9,"type":"file","op":"list","path":""}"#, FileRequest::List(List::new(""))),
        (
            r#"{"id":9,"type":"file","op":"list","root":"home","path":"a","recursive":true,"depth":2,"limit":3,"after":"b/c"}"#,
            FileRequest::List(List {
                root: FileRoot::Home,
                recursive: true,
                depth: Some(2),
                limit: Some(3),
                after: Some("b/c".into()),
                ..List::new("a")
            }),
        ),
        (r#"{"id":9,"type":"file","op":"read","path":"a"}"#, FileRequest::Read(Read::new("a"))),
        (
            r#"{"id":9,"type":"file","op":"read","path":"a","offset":1,"length":2,"at_most":3}"#,
            FileRequest::Read(Read { offset: 1, length: Some(2), at_most: Some(3), ..Read::new("a") }),
        ),
        (r#"{"id":9,"type":"file","op":"write","path":"a"}"#, FileRequest::Write(Write::new("a"))),
        (
            r#"{"id":9,"type":"file","op":"write","path":"a","mode":493,"create":"new","append":true}"#,
            FileRequest::Write(Write { mode: Some(0o755), create: Create::New, append: true, ..Write::new("a") }),
        ),
        (r#"{"id":9,"type":"file","op":"edit","path":"a"}"#, FileRequest::Edit("a".into())),
        (
            r#"{"id":9,"type":"file","op":"mkdir","path":"a","parents":true,"mode":448}"#,
            FileRequest::Mkdir(Mkdir { parents: true, mode: Some(0o700), ..Mkdir::new("a") }),
        ),
        (r#"{"id":9,"type":"file","op":"move","path":"a","to":"b"}"#, FileRequest::Move(Transfer::new("a", "b"))),
        (
            r#"{"id":9,"type":"file","op":"copy","path":"a","to":"b","replace":true}"#,
            FileRequest::Copy(Transfer { replace: true, ..Transfer::new("a", "b") }),
        ),
        (
            r#"{"id":9,"type":"file","op":"remove","path":"a","recursive":true,"missing_ok":true}"#,
            FileRequest::Remove(Remove { recursive: true, missing_ok: true, ..Remove::new("a") }),
        ),
        (
            r#"{"id":9,"type":"file","op":"symlink","path":"a","target":{"hex":"ff"},"replace":true}"#,
            FileRequest::Symlink(Symlink { replace: true, ..Symlink::new("a", odd()) }),
        ),
        (
            r#"{"id":9,"type":"file","op":"chmod","path":"a","mode":420,"recursive":true,"directory_mode":493}"#,
            FileRequest::Chmod(Chmod { recursive: true, directory_mode: Some(0o755), ..Chmod::new("a", 0o644) }),
        ),
        (
            r#"{"id":9,"type":"file","op":"search","path":"","pattern":"a."}"#,
            FileRequest::Search(Search::new("", "a.")),
        ),
        (
            r#"{"id":9,"type":"file","op":"search","root":"home","path":"","pattern":"a.","literal":true,"case":"smart","word":true,"globs":["*.rs","!x"],"hidden":true,"ignored":true,"before":1,"after":2,"limit":3,"limit_per_file":4,"line_bytes":5,"timeout_ms":6}"#,
            FileRequest::Search(search),
        ),
        (
            r#"{"id":9,"type":"file","op":"watch","path":"a","recursive":true}"#,
            FileRequest::Watch(Watch { recursive: true, ..Watch::new("a") }),
        ),
    ];
    files.into_iter().map(|(text, request)| (text, RequestBody::File(request))).collect()
}

fn replies() -> Vec<(&'static str, Reply)> {
    let output = OutputTotals::default();
    let results = vec![
        (r#"{"id":9,"type":"finished","result":{"file":{"done":{}}}}"#, FileResult::Done {}),
        (
            r#"{"id":9,"type":"finished","result":{"file":{"entry":{"path":"a","kind":"file","size":5,"allocated":4096,"mode":420,"uid":1000,"gid":1000,"links":1,"modified_ns":1}}}}"#,
            FileResult::Entry(entry()),
        ),
        (
            r#"{"id":9,"type":"finished","result":{"file":{"listed":{"entries":2,"next":"a/b"}}}}"#,
            FileResult::Listed { entries: 2, next: Some("a/b".into()) },
        ),
        (r#"{"id":9,"type":"finished","result":{"file":{"read":{"size":5}}}}"#, FileResult::Read { size: 5 }),
        (
            r#"{"id":9,"type":"finished","result":{"file":{"edited":{"replaced":2,"entry":{"path":"a","kind":"file","size":5,"allocated":4096,"mode":420,"uid":1000,"gid":1000,"links":1,"modified_ns":1}}}}}"#,
            FileResult::Edited { replaced: 2, entry: entry() },
        ),
        (
            r#"{"id":9,"type":"finished","result":{"file":{"copied":{"entries":1,"bytes":2,"skipped":3}}}}"#,
            FileResult::Copied { entries: 1, bytes: 2, skipped: 3 },
        ),
        (
            r#"{"id":9,"type":"finished","result":{"file":{"removed":{"entries":1}}}}"#,
            FileResult::Removed { entries: 1 },
        ),
        (
            r#"{"id":9,"type":"finished","result":{"file":{"changed":{"entries":1}}}}"#,
            FileResult::Changed { entries: 1 },
        ),
        (
            r#"{"id":9,"type":"finished","result":{"file":{"searched":{"matches":1,"files":2,"skipped":3,"bytes":4,"enough":"matches"}}}}"#,
            FileResult::Searched { matches: 1, files: 2, skipped: 3, bytes: 4, enough: Some(Enough::Matches) },
        ),
    ];
    let reply = |result| ReplyBody::Finished { result: Finished::File(result), output };
    results.into_iter().map(|(text, result)| (text, Reply { id: Some(RequestId(9)), body: reply(result) })).collect()
}

#[test]
fn each_request_about_files_has_its_bytes() {
    requests().into_iter().for_each(|(text, body)| check_request(text, body));
}

#[test]
fn each_result_about_files_has_its_bytes() {
    replies().into_iter().for_each(|(text, reply)| check_reply(text, &reply));
}

fn check_record<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug>(
    text: &str,
    record: T,
) {
    let mut line = Vec::new();
    encode_record(&record, &mut line);
    assert_eq!(String::from_utf8(line).unwrap(), format!("{text}\n"));
    assert_eq!(decode_record::<T>(text.as_bytes()).expect(text), record);
}

#[test]
fn each_record_about_files_has_its_bytes() {
    let link = FileEntry { kind: FileKind::Symlink, target: Some("b".into()), ..entry() };
    check_record(
        r#"{"path":"a","kind":"symlink","size":5,"allocated":4096,"mode":420,"uid":1000,"gid":1000,"links":1,"modified_ns":1,"target":"b"}"#,
        link.clone(),
    );
    let closed = FileEntry { kind: FileKind::Directory, unreadable: Some(ErrorCode::PermissionDenied), ..entry() };
    check_record(
        r#"{"path":"a","kind":"directory","size":5,"allocated":4096,"mode":420,"uid":1000,"gid":1000,"links":1,"modified_ns":1,"unreadable":"permission_denied"}"#,
        closed.clone(),
    );
    for (text, entry) in [
        (r#"["a","file",5,4096,420,1000,1000,1,1]"#, entry()),
        (r#"["a","symlink",5,4096,420,1000,1000,1,1,"b"]"#, link),
        (r#"["a","directory",5,4096,420,1000,1000,1,1,null,"permission_denied"]"#, closed),
    ] {
        let mut row = Vec::new();
        encode_record(&FileRow(&entry), &mut row);
        assert_eq!(String::from_utf8(row).unwrap(), format!("{text}\n"));
        assert_eq!(decode_record::<FileEntry>(text.as_bytes()).expect(text), entry);
    }
    let line = Line { path: "a".into(), line: 7, text: "text".into(), spans: vec![(0, 1), (3, 4)], cut: true };
    check_record(r#"{"path":"a","line":7,"text":"text","spans":[[0,1],[3,4]],"cut":true}"#, line.clone());
    check_record(r#"{"path":"a","line":7,"text":"text"}"#, Line { spans: Vec::new(), cut: false, ..line });
    check_record(r#"{"old":"a","new":"b"}"#, TextEdit::once("a", "b"));
    check_record(r#"{"old":"a","new":"b","count":2}"#, TextEdit { count: Some(2), ..TextEdit::once("a", "b") });
    check_record(r#"{"old":"a","new":"b","all":true}"#, TextEdit { all: true, ..TextEdit::once("a", "b") });
    let path = || RawString::from("a");
    for (text, event) in [
        (r#"{"event":"started","directories":1}"#, FileEvent::Started { directories: 1 }),
        (r#"{"event":"created","path":"a","directory":true}"#, FileEvent::Created { path: path(), directory: true }),
        (r#"{"event":"modified","path":"a"}"#, FileEvent::Modified { path: path() }),
        (r#"{"event":"written","path":"a"}"#, FileEvent::Written { path: path() }),
        (r#"{"event":"attributes","path":"a"}"#, FileEvent::Attributes { path: path(), directory: false }),
        (r#"{"event":"removed","path":"a"}"#, FileEvent::Removed { path: path(), directory: false }),
        (
            r#"{"event":"renamed","from":"b","path":"a"}"#,
            FileEvent::Renamed { from: "b".into(), path: path(), directory: false },
        ),
        (r#"{"event":"overflow"}"#, FileEvent::Overflow {}),
    ] {
        check_record(text, event);
    }
}

#[test]
fn what_cannot_be_meant_is_refused_by_name() {
    for (request, field) in [
        (r#""op":"dance","path":"a""#, "op"),
        (r#""op":"stat""#, "path"),
        (r#""op":"stat","path":"a","extra":1"#, "extra"),
        (r#""op":"stat","path":"a\u0000""#, "NUL"),
        (r#""op":"stat","path":"a","root":"moon""#, "moon"),
        (r#""op":"list","path":"","depth":2"#, "depth"),
        (r#""op":"list","path":"","recursive":true,"depth":0"#, "depth"),
        (r#""op":"list","path":"","limit":0"#, "limit"),
        (r#""op":"read","path":"a","offset":-1"#, "u64"),
        (r#""op":"write","path":"a","mode":65535"#, "mode"),
        (r#""op":"write","path":"a","create":"never""#, "never"),
        (r#""op":"mkdir","path":"a","mode":4096"#, "mode"),
        (r#""op":"move","path":"a""#, "to"),
        (r#""op":"symlink","path":"a","target":"""#, "target"),
        (r#""op":"chmod","path":"a","mode":4096"#, "mode"),
        (r#""op":"chmod","path":"a","mode":1,"directory_mode":1"#, "directory_mode"),
        (r#""op":"search","path":"","pattern":"""#, "pattern"),
        (r#""op":"search","path":"","pattern":"a","limit":0"#, "limit"),
        (r#""op":"search","path":"","pattern":"a","before":101"#, "before"),
        (r#""op":"search","path":"","pattern":"a","line_bytes":99999"#, "line_bytes"),
        (r#""op":"search","path":"","pattern":"a","timeout_ms":0"#, "timeout_ms"),
    ] {
        let line = format!(r#"{{"id":9,"type":"file",{request}}}"#);
        let refused = parse_request(line.as_bytes()).expect_err(&line);
        let ReplyBody::Error(fault) = &refused.body else { panic!("{line}: {refused:?}") };
        assert_eq!((refused.id, fault.code), (Some(RequestId(9)), ErrorCode::InvalidField), "{line}");
        assert!(fault.message.contains(field), "{line}: {}", fault.message);
    }
    for edit in [TextEdit::once("", "a"), TextEdit { count: Some(0), ..TextEdit::once("a", "") }] {
        assert!(edit.validate().is_err());
    }
    assert!(TextEdit { count: Some(1), all: true, ..TextEdit::once("a", "") }.validate().is_err());
}
