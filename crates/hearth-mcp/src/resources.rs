//! Files and diffs of sandboxes as resources.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hearth_client::api::files::ReadFile;
use hearth_client::api::history::Since;
use hearth_client::api::protocol::files::FileRoot;
use hearth_client::api::protocol::{ErrorCode, Fault};
use hearth_client::api::{ErrorBody, ListSandboxes, OwnCode};
use hearth_client::{Client, Download};
use rmcp::model::{Resource, ResourceContents, ResourceTemplate};

use crate::refused::Refused;
use crate::tools::all;

/// The largest resource that is read, in bytes.
const LARGEST: u64 = 4 * 1024 * 1024;

/// What all resources begin with.
const BASE: &str = "hearth://sandboxes/";

/// What can be read, whatever sandboxes there are.
pub(crate) fn templates() -> Vec<ResourceTemplate> {
    let file = ResourceTemplate::new(format!("{BASE}{{id}}/files/{{+path}}"), "file").with_description(
        "A file in the workspace of a sandbox: its id or name, and the path from /workspace, percent-encoded where need be",
    );
    let diff = ResourceTemplate::new(format!("{BASE}{{id}}/diff"), "diff")
        .with_description("What has changed in the workspace of a sandbox since it was made or seeded, as a patch")
        .with_mime_type("text/x-diff");
    vec![file, diff]
}

/// The diffs of the sandboxes there are.
pub(crate) async fn list(client: &Client) -> Result<Vec<Resource>, Refused> {
    let sandboxes = client.list(&ListSandboxes::default()).await?.sandboxes;
    let diffs = sandboxes.into_iter().map(|sandbox| {
        let name = sandbox.name.unwrap_or_else(|| sandbox.id.clone());
        Resource::new(format!("{BASE}{}/diff", sandbox.id), format!("{name}/diff"))
            .with_description(format!("What has changed in the workspace of {name}"))
            .with_mime_type("text/x-diff")
    });
    Ok(diffs.collect())
}

/// What a URI names.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    File { sandbox: String, path: Vec<u8> },
    Diff { sandbox: String },
}

fn parse(uri: &str) -> Option<Named> {
    let (sandbox, below) = uri.strip_prefix(BASE)?.split_once('/')?;
    let sandbox = String::from_utf8(decoded(sandbox)?).ok().filter(|sandbox| !sandbox.is_empty())?;
    match below.strip_prefix("files/") {
        Some(path) => Some(Named::File { sandbox, path: decoded(path).filter(|path| !path.is_empty())? }),
        None if below == "diff" => Some(Named::Diff { sandbox }),
        None => None,
    }
}

/// Takes percent-encoding away; `None` when it is none.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                u8::try_from(digit(rest.next())? * 16 + digit(rest.next())?).ok()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

/// Reads one, whole.
pub(crate) async fn read(client: &Client, uri: &str) -> Result<ResourceContents, Refused> {
    match parse(uri) {
        Some(Named::File { sandbox, path }) => {
            let file = ReadFile::at(FileRoot::Workspace, &path.into());
            contents(client.read_file(&sandbox, &file).await?, uri, "text/plain").await
        }
        Some(Named::Diff { sandbox }) => {
            contents(client.diff(&sandbox, &Since::default()).await?, uri, "text/x-diff").await
        }
        None => {
            let hint = format!("{BASE}{{id}}/files/{{path}} and {BASE}{{id}}/diff can be read");
            let body = ErrorBody::new(OwnCode::InvalidValue, format!("{uri:?} names no resource"));
            Err(body.with_field("uri").with_hint(Some(hint)).into())
        }
    }
}

async fn contents(download: Download, uri: &str, kind: &str) -> Result<ResourceContents, Refused> {
    let (bytes, total) = all(download, LARGEST).await?;
    if total > LARGEST {
        let message = format!("{uri} has {total} bytes, and a resource at most {LARGEST}");
        let hint = "read it in parts with the tool file_read, or see diff with list_only";
        let body = ErrorBody::from(Fault::never_started(ErrorCode::TooLarge, message));
        return Err(body.with_hint(Some(hint.to_owned())).into());
    }
    Ok(match String::from_utf8(bytes) {
        Ok(text) => ResourceContents::text(text, uri).with_mime_type(kind),
        Err(error) => {
            ResourceContents::blob(STANDARD.encode(error.as_bytes()), uri).with_mime_type("application/octet-stream")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_names_a_file_or_a_diff_or_nothing() {
        let file = |sandbox: &str, path: &[u8]| Some(Named::File { sandbox: sandbox.into(), path: path.to_vec() });
        assert_eq!(parse("hearth://sandboxes/web/files/src/a%20b.py"), file("web", b"src/a b.py"));
        assert_eq!(parse("hearth://sandboxes/web/files/%ff"), file("web", b"\xff"));
        assert_eq!(parse("hearth://sandboxes/web/diff"), Some(Named::Diff { sandbox: "web".into() }));
        for bad in [
            "hearth://sandboxes/web",
            "hearth://sandboxes//diff",
            "hearth://sandboxes/web/files/",
            "file:///x",
            "hearth://sandboxes/web/diff/x",
            "hearth://sandboxes/web/files/%f",
            "hearth://sandboxes/web/files/%zz",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
