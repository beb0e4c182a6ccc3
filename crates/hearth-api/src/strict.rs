//! Requests that are read strictly: what is wrong with one is told by its field.

use serde::de::DeserializeOwned;

use crate::{ErrorBody, OwnCode};

fn invalid(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(OwnCode::InvalidRequest, message)
}

/// Reads a JSON object, and names the field that is to blame for a failure.
///
/// # Errors
/// [`OwnCode::InvalidRequest`].
pub fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ErrorBody> {
    // An array would be taken for the fields in their order.
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(invalid("this must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let said = error.inner().to_string();
        // Unknown parts of the way to it are question marks.
        let path = path.trim_end_matches(['?', '.']).to_owned();
        named(&said, (!path.is_empty()).then_some(path))
    })?;
    reader.end().map_err(|_| invalid("the body has something behind its JSON"))?;
    Ok(value)
}

/// Makes an error of what a deserializer said, which names a field that is missing, unknown or there twice in backquotes.
pub fn named(said: &str, path: Option<String>) -> ErrorBody {
    let quoted =
        ["unknown", "missing", "duplicate"].iter().find_map(|how| said.strip_prefix(&format!("{how} field `")));
    let inner = quoted.and_then(|rest| rest.split('`').next());
    let field = match (path, inner) {
        (Some(path), Some(inner)) if path != inner && !path.ends_with(&format!(".{inner}")) => {
            Some(format!("{path}.{inner}"))
        }
        (Some(path), _) => Some(path),
        (None, inner) => inner.map(str::to_owned),
    };
    let message = match &field {
        Some(field) if quoted.is_none() => format!("{field}: {said}"),
        _ => said.to_owned(),
    };
    ErrorBody { field, ..invalid(message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CreateSandbox, ExecRequest};

    #[track_caller]
    fn check<T: DeserializeOwned + std::fmt::Debug>(json: &str, field: Option<&str>) {
        let error = parse::<T>(json.as_bytes()).unwrap_err();
        assert_eq!(error.field.as_deref(), field, "{error:?}");
        assert_eq!(error.code.status(), 400);
    }

    #[test]
    fn what_is_wrong_with_a_body_is_told_by_its_field() {
        check::<CreateSandbox>(r#"{"memory": 5}"#, Some("memory"));
        check::<CreateSandbox>(r#"{"memory_mib": "5"}"#, Some("memory_mib"));
        check::<CreateSandbox>(r#"{"memory_mib": -5}"#, Some("memory_mib"));
        check::<CreateSandbox>(r#"{"labels": {"a": 5}}"#, Some("labels.a"));
        check::<CreateSandbox>(r#"{"accelerator": "gpu"}"#, Some("accelerator"));
        check::<ExecRequest>("{}", Some("command"));
        check::<ExecRequest>(r#"{"command": 5}"#, Some("command"));
        check::<ExecRequest>(r#"{"command": "x", "limits": {"cpu": 1}}"#, Some("limits.cpu"));
        for no_object in ["", "[]", "{", "5", "{} {}", "\u{0}"] {
            check::<CreateSandbox>(no_object, None);
        }
    }
}
