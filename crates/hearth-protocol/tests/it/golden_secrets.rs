//! The messages of the group `secret`, and what else carries secrets.

use hearth_protocol::secrets::{Secret, SecretInfo, SecretList, SecretRequest, SecretResult, SecretValue};
use hearth_protocol::{Command, Finished, OutputTotals, Renew, Reply, ReplyBody, RequestBody, RequestId, Start};

use crate::golden::{check_reply, check_request};

pub(crate) fn messages() -> Vec<String> {
    let requests = requests().into_iter().map(|(text, _)| text.to_owned());
    requests.chain(replies().into_iter().map(|(text, _)| text.to_owned())).collect()
}

fn secrets() -> Vec<Secret> {
    let secret = |name: &str, value: &[u8], file| Secret { name: name.into(), value: value.into(), file };
    vec![secret("TOKEN", b"a\"\0", true), secret("KEY", b"\xff", false)]
}

fn requests() -> Vec<(&'static str, RequestBody)> {
    let start = Start {
        secrets: [("API_KEY".to_owned(), "TOKEN".to_owned())].into(),
        redact: vec![SecretValue::from("x"), SecretValue::from(b"\xff".as_slice())],
        ..Start::new(Command::Shell("true".into()))
    };
    let renew = Renew {
        unix_nanoseconds: Some(1),
        seed: Some("0f".repeat(32)),
        hostname: Some("box".into()),
        machine_id: Some("ab".repeat(16)),
        secrets: Some(secrets()),
        env: Some([("HEARTH_SANDBOX_ID".to_owned(), "sb-1".into())].into()),
    };
    vec![
        (
            r#"{"id":9,"type":"secret","op":"set","secrets":[{"name":"TOKEN","value":"a\"\u0000"},{"name":"KEY","value":{"hex":"ff"},"file":false}]}"#,
            RequestBody::Secret(SecretRequest::Set { secrets: secrets() }),
        ),
        (
            r#"{"id":9,"type":"secret","op":"replace","secrets":[]}"#,
            RequestBody::Secret(SecretRequest::Replace { secrets: vec![] }),
        ),
        (
            r#"{"id":9,"type":"secret","op":"remove","names":["TOKEN"]}"#,
            RequestBody::Secret(SecretRequest::Remove { names: vec!["TOKEN".into()] }),
        ),
        (r#"{"id":9,"type":"secret","op":"list"}"#, RequestBody::Secret(SecretRequest::List {})),
        (
            r#"{"id":9,"type":"start","command":{"shell":"true"},"secrets":{"API_KEY":"TOKEN"},"redact":["x",{"hex":"ff"}]}"#,
            RequestBody::Start(start),
        ),
        (
            r#"{"id":9,"type":"renew","unix_nanoseconds":1,"seed":"0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f","hostname":"box","machine_id":"abababababababababababababababab","secrets":[{"name":"TOKEN","value":"a\"\u0000"},{"name":"KEY","value":{"hex":"ff"},"file":false}],"env":{"HEARTH_SANDBOX_ID":"sb-1"}}"#,
            RequestBody::Renew(renew),
        ),
    ]
}

fn replies() -> Vec<(&'static str, Reply)> {
    let reply = |result| {
        let body = ReplyBody::Finished { result: Finished::Secret(result), output: OutputTotals::default() };
        Reply { id: Some(RequestId(9)), body }
    };
    let info = SecretInfo { name: "TOKEN".into(), bytes: 3, file: true, set_unix_ms: 5 };
    let list = SecretList { directory: "/run/hearth/secrets".into(), secrets: vec![info] };
    vec![
        (r#"{"id":9,"type":"finished","result":{"secret":{"done":{}}}}"#, reply(SecretResult::Done {})),
        (
            r#"{"id":9,"type":"finished","result":{"secret":{"list":{"directory":"/run/hearth/secrets","secrets":[{"name":"TOKEN","bytes":3,"file":true,"set_unix_ms":5}]}}}}"#,
            reply(SecretResult::List(list)),
        ),
    ]
}

#[test]
fn each_message_about_secrets_has_its_bytes() {
    requests().into_iter().for_each(|(text, body)| check_request(text, body));
    replies().into_iter().for_each(|(text, reply)| check_reply(text, &reply));
}
