//! The tools, by what they are about.

mod files;
mod follow;
mod history;
mod kernels;
mod process;
mod run;
mod sandboxes;
mod services;
mod shells;

use std::sync::{Arc, LazyLock};

use crate::tool::{Entry, Profile};

pub(crate) use files::all;

/// Every tool there is, in the order in which they are listed. Their schemas are made once a process.
static ALL: LazyLock<Vec<Arc<Entry>>> = LazyLock::new(|| {
    let all = [run::tools(), sandboxes::tools(), process::tools(), files::tools(), history::tools()];
    let more = [services::tools(), shells::tools(), kernels::tools()];
    all.into_iter().chain(more).flatten().map(Arc::new).collect()
});

/// The tools of a profile.
pub(crate) fn of(profile: Profile) -> Vec<Arc<Entry>> {
    ALL.iter().filter(|entry| entry.profile <= profile).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn names(profile: Profile) -> Vec<String> {
        of(profile).iter().map(|entry| entry.tool.name.to_string()).collect()
    }

    #[test]
    fn each_profile_has_the_tools_of_the_one_before_it() {
        assert_eq!(names(Profile::Run), ["run"]);
        let [core, full] =
            [Profile::Core, Profile::Full].map(|profile| names(profile).into_iter().collect::<BTreeSet<_>>());
        assert!(core.is_subset(&full) && core.len() < full.len() && core.contains("run"));
        assert_eq!(full.len(), names(Profile::Full).len(), "a name stands twice");
    }

    #[test]
    fn every_tool_is_described_and_refuses_what_it_does_not_know() {
        for entry in of(Profile::Full) {
            let tool = &entry.tool;
            assert!(tool.description.as_ref().is_some_and(|text| text.len() > 40), "{} is not described", tool.name);
            assert_eq!(tool.input_schema.get("additionalProperties"), Some(&Value::Bool(false)), "{}", tool.name);
            assert!(tool.output_schema.is_some() && tool.annotations.is_some(), "{}", tool.name);
            let required =
                tool.input_schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let known = [
                "sandbox",
                "command",
                "process",
                "path",
                "content",
                "edits",
                "pattern",
                "patch",
                "name",
                "guest_port",
                "port",
                "code",
                "kernel",
            ];
            assert!(
                required.iter().all(|field| field.as_str().is_some_and(|field| known.contains(&field))),
                "{}: {required:?}",
                tool.name
            );
            let Some(Value::Object(fields)) = tool.input_schema.get("properties") else { continue };
            for (field, rule) in fields {
                assert!(rule.get("description").is_some(), "{}: {field} is not described", tool.name);
            }
        }
    }
}
