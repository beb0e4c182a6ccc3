//! What must hold whatever line a client sends. The property test beside it and the fuzz target `workspace_line` both run this, on the
//! dialect's own reader of requests, which knows nothing of the rest of the agent.

#[path = "../../../src/dialect/workspace/path.rs"]
#[allow(dead_code, reason = "a part of the whole is checked")]
mod path;
#[path = "../../../src/dialect/workspace/request.rs"]
#[allow(dead_code, reason = "a part of the whole is checked")]
mod request;
#[path = "../../../src/dialect/workspace/texts.rs"]
#[allow(dead_code, reason = "a part of the whole is checked")]
mod texts;

use path::WorkspacePath;
use request::{Request, Value};
use texts::Refusal;

/// A line is a request or is refused with a text. Its fields then are what they can be; a path is inside the workspace, or none; nothing
/// that goes to the system holds a NUL.
pub(crate) fn workspace_line(line: &[u8]) {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(Refusal(text)) => return assert!(!text.is_empty()),
    };
    for name in ["action", "command", "path", "env", "text", "cursor", "recursive", "redact_values", "a"] {
        let bytes = request.bytes(name, "");
        if let Ok(bytes) = &bytes {
            assert!(!bytes.contains(&0));
            assert!(bytes.len() <= 4 * line.len() + 16, "{} from {}", bytes.len(), line.len());
            if let Ok(path) = WorkspacePath::parse(bytes) {
                check_path(&path);
                assert_eq!(WorkspacePath::parse(&path.text).as_ref(), Ok(&path));
            }
        }
        if let (Ok(text), Ok(bytes)) = (request.text(name, ""), bytes) {
            assert_eq!(text.as_bytes(), bytes);
        }
        let _ = (request.integer(name, 0), request.flag(name, false), request.given(name).map(Value::to_text));
    }
    for (name, value) in request.environment("exec").unwrap_or_default() {
        assert!(!name.is_empty() && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric()));
        assert!(!value.contains(&0));
    }
}

fn check_path(path: &WorkspacePath) {
    assert!(path.text == b"/workspace" || path.text.starts_with(b"/workspace/"));
    let mut depth = 0_i64;
    for part in path.relative().split(|&byte| byte == b'/') {
        depth += if part == b".." { -1 } else { 1 };
        assert!(depth >= 0, "{}", path.shown());
    }
    assert_eq!(
        path.parents().last().unwrap_or_default().len(),
        path.relative().iter().rposition(|&b| b == b'/').unwrap_or(0)
    );
}
