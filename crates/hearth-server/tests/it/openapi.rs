//! The description that is checked in is that of the code, and what it describes is what is served.

use std::path::Path;

use hearth_server::openapi;
use serde_json::Value;

use crate::support::Daemon;

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

#[test]
fn the_checked_in_description_is_that_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let kept: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(kept == openapi(env!("CARGO_PKG_VERSION")), "the API has changed: hearth openapi > docs/openapi.json");
}

#[test]
fn every_path_is_added_where_it_is_described() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let adders: Vec<_> = std::fs::read_dir(&sources)
        .unwrap()
        .chain(std::fs::read_dir(sources.join("exec")).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file() && std::fs::read_to_string(path).unwrap().contains(".route("))
        .collect();
    assert!(adders.is_empty(), "{adders:?} add routes past the description: use Api::at");
}

#[tokio::test]
async fn what_is_described_is_what_is_served() {
    let daemon = Daemon::start();
    let document = openapi("1.2.3");
    let (_, served) = daemon.ask("GET", "/openapi.json", "").await;
    assert!(serde_json::from_str::<Value>(&served).unwrap() == document);
    for (path, methods) in document["paths"].as_object().unwrap() {
        // What would go on for ever, and what needs no refusal.
        if ["/v1/events", "/openapi.json"].contains(&path.as_str()) {
            continue;
        }
        let path = path.replace(['{', '}'], "");
        for method in METHODS {
            let (status, said) = daemon.ask(&method.to_ascii_uppercase(), &path, "{}").await;
            let refused = serde_json::from_str::<Value>(&said).unwrap_or_default();
            assert_ne!(refused["code"], "unknown_endpoint", "{method} {path}");
            assert_eq!(status != 405, methods.get(method).is_some(), "{method} {path}: {status} {said}");
        }
    }
}

#[test]
fn every_operation_has_a_name_of_its_own_and_says_what_it_does() {
    let document = openapi("1.2.3");
    let operations: Vec<&Value> =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values()).collect();
    let names: std::collections::BTreeSet<&str> =
        operations.iter().map(|operation| operation["operationId"].as_str().unwrap()).collect();
    assert_eq!(names.len(), operations.len());
    for operation in operations {
        assert!(!operation["summary"].as_str().unwrap().is_empty(), "{operation}");
        let answers = operation["responses"].as_object().unwrap();
        assert_eq!(answers.keys().filter(|status| !status.ends_with("XX")).count(), 1, "{operation}");
    }
}
