//! What must hold whatever line comes: the property test here and the fuzz target `execution_line` run the same check.

use super::request::{
    Action, CODE, ErrorType, OpId, PACKAGES, Packages, Refusal, VARIABLES, parse, parse_behind_a_cut,
};

/// A line becomes a request that holds to the rules, or a refusal that can be told; and both know whom it concerns.
pub(crate) fn execution_line(line: &[u8]) {
    // What is passed over need not be good JSON, so a reader of all of it may find less.
    let whole = serde_json::from_slice::<serde_json::Value>(line).ok();
    let concerns = |op_id: &Option<OpId>| whole.as_ref().is_none_or(|whole| op_id_of(whole) == *op_id);
    match parse(line) {
        Ok(request) => {
            assert!(concerns(&request.op_id), "an answer repeats the op_id");
            holds_to_the_rules(&request.action);
        }
        Err((op_id, refusal)) => {
            assert!(op_id.is_none() || concerns(&op_id), "a refusal goes to nobody else");
            can_be_told(&refusal);
        }
    }
}

fn can_be_told(refusal: &Refusal) {
    assert!(refusal.message.chars().count() <= 2001 && !refusal.message.is_empty());
    assert!(refusal.error_type.name().ends_with("_error"));
    assert_ne!(refusal.error_type, ErrorType::Timeout, "nothing has run");
}

/// The same of what is found behind a request that was cut off.
pub(crate) fn execution_line_behind_a_cut(line: &[u8]) {
    if let Some(Ok(request)) = parse_behind_a_cut(line) {
        holds_to_the_rules(&request.action);
    }
}

/// The `op_id` of a line as any reader of JSON finds it.
fn op_id_of(line: &serde_json::Value) -> Option<OpId> {
    match line.get("op_id")? {
        serde_json::Value::String(text) if text.len() <= 1024 => Some(OpId::Text(text.clone())),
        serde_json::Value::Number(number) => {
            number.as_u64().map(OpId::Positive).or_else(|| number.as_i64().map(OpId::Negative))
        }
        _ => None,
    }
}

fn holds_to_the_rules(action: &Action) {
    match action {
        Action::Exec(exec) => {
            assert!(!exec.code.trim().is_empty() && exec.code.len() <= CODE && !exec.code.contains('\0'));
            assert!(exec.variables.len() <= VARIABLES);
            assert!((1..=300_000_000_000).contains(&exec.timeout.as_nanos()));
            for (name, value) in &exec.variables {
                assert!((1..=256).contains(&name.len()) && value.len() <= 4096);
                assert!(!name.to_ascii_uppercase().starts_with("LD_") && !name.eq_ignore_ascii_case("path"));
            }
        }
        Action::InstallPackages(Packages { language, packages, .. }) => {
            assert!((1..=PACKAGES).contains(&packages.len()));
            assert!(packages.iter().all(|package| !package.starts_with('-') && language.read(package).is_some()));
        }
        Action::WriteFile { path: Err(refusal), .. } => can_be_told(refusal),
        Action::WriteFile { path: Ok(path), .. } | Action::ReadFile { path } | Action::ListFiles { path } => {
            assert!(path.len() <= 4096 && !path.starts_with('/') && !path.contains(char::is_control));
            let mut depth = 0_i64;
            for part in path.split('/') {
                assert!(part.len() <= 255);
                depth += match part {
                    "" | "." => 0,
                    ".." => -1,
                    _ => 1,
                };
                assert!(depth >= 0, "{path:?} leads out");
            }
        }
        Action::Ping
        | Action::WarmRepl { .. }
        | Action::FileChunk { .. }
        | Action::FileEnd { .. }
        | Action::Cancel { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What the transcripts send: lines that are right, or nearly.
    fn sent() -> Vec<Vec<u8>> {
        let transcripts = [
            include_str!("../../../tests/agent/execution_dialect/transcripts/requests.txt"),
            include_str!("../../../tests/agent/execution_dialect/transcripts/files.txt"),
            include_str!("../../../tests/agent/execution_dialect/transcripts/paths.txt"),
            include_str!("../../../tests/agent/execution_dialect/transcripts/code.txt"),
            include_str!("../../../tests/agent/execution_dialect/transcripts/environment.txt"),
            include_str!("../../../tests/agent/execution_dialect/transcripts/packages.txt"),
        ];
        let line = |line: &'static str| line.strip_prefix(">> ").or_else(|| line.strip_prefix("> "));
        transcripts.iter().flat_map(|text| text.lines()).filter_map(line).map(|line| line.as_bytes().to_vec()).collect()
    }

    /// Bytes of any kind, and what is sent, with bytes changed for others or for characters of any length.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let other = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            any::<char>().prop_map(|character| character.to_string().into_bytes()),
        ];
        let changes = prop::collection::vec((any::<prop::sample::Index>(), other), 0..4);
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            (prop::sample::select(sent()), changes).prop_map(|(mut line, changes)| {
                for (at, other) in changes {
                    let at = at.index(line.len() + 1);
                    line.splice(at..line.len().min(at + 1), other);
                }
                line
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn any_line_is_a_request_that_holds_to_the_rules_or_a_refusal(line in hostile()) {
            execution_line(&line);
            execution_line_behind_a_cut(&line);
        }
    }

    #[test]
    fn limits_are_where_they_are_said_to_be() {
        let kind = |request: serde_json::Value| {
            parse(request.to_string().as_bytes()).err().map(|(_, refusal)| refusal.error_type)
        };
        let exec = |code: String| serde_json::json!({"action": "exec", "language": "python", "code": code});
        assert_eq!(kind(exec("x".repeat(CODE))), None);
        assert_eq!(kind(exec("x".repeat(CODE + 1))), Some(ErrorType::Code));
        let variables = |count: usize, name: usize, value: usize| {
            let mut request = exec("1".into());
            let pad = |number: usize| format!("V{number:03}{}", "n".repeat(name.saturating_sub(4)));
            let all = (0..count).map(|number| (pad(number), serde_json::Value::from("v".repeat(value))));
            request["env_vars"] = serde_json::Value::Object(all.collect());
            request
        };
        assert_eq!(kind(variables(100, 256, 4096)), None);
        for (count, name, value) in [(101, 4, 1), (1, 257, 1), (1, 4, 4097)] {
            assert_eq!(kind(variables(count, name, value)), Some(ErrorType::EnvVar), "{count} {name} {value}");
        }
        let packages = |count: usize| serde_json::json!({"action": "install_packages", "language": "python", "packages": vec!["a==1"; count]});
        assert_eq!((kind(packages(50)), kind(packages(51))), (None, Some(ErrorType::Package)));
        let read = |path: String| serde_json::json!({"action": "read_file", "op_id": 1, "path": path});
        let long = |length: usize| "x/".repeat(length / 2);
        assert_eq!((kind(read(long(4096))), kind(read(long(4098)))), (None, Some(ErrorType::Path)));
        assert_eq!((kind(read("x".repeat(255))), kind(read("x".repeat(256)))), (None, Some(ErrorType::Path)));
    }
}
