//! A client's configuration: where it is, and its text with Hearth in it. All else in the text stays to the letter.

use std::path::{Path, PathBuf};

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstObjectProp, CstRootNode};
use serde_json::{Value, json};
use toml_edit::{DocumentMut, Item, Table};

use crate::arguments::{McpClient, McpScope};

/// The name under which clients know Hearth.
const NAME: &str = "hearth";
/// The variable of Hearth's that its entry has where it is set. Others in it are its owner's.
pub(super) const HOME: &str = "HEARTH_HOME";

/// What a client starts.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) command: String,
    pub(super) arguments: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// The directories that configurations are in.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) home: PathBuf,
    /// What `XDG_CONFIG_HOME` says, else `.config` of the home.
    pub(super) config: PathBuf,
    /// What `CODEX_HOME` says, else `.codex` of the home.
    pub(super) codex: PathBuf,
    pub(super) project: PathBuf,
}

/// The file that a client reads. Formats and places are those of each client's own documentation.
pub(super) fn file(client: McpClient, scope: McpScope, places: &Places) -> PathBuf {
    let Places { home, config, codex, project } = places;
    match (client, scope) {
        (McpClient::ClaudeCode, McpScope::User) => home.join(".claude.json"),
        (McpClient::ClaudeCode, McpScope::Project) => project.join(".mcp.json"),
        (McpClient::Codex, McpScope::User) => codex.join("config.toml"),
        (McpClient::Codex, McpScope::Project) => project.join(".codex/config.toml"),
        (McpClient::Opencode, McpScope::User) => or_with_comments(config.join("opencode/opencode.json")),
        (McpClient::Opencode, McpScope::Project) => or_with_comments(project.join("opencode.json")),
        (McpClient::Cursor, McpScope::User) => home.join(".cursor/mcp.json"),
        (McpClient::Cursor, McpScope::Project) => project.join(".cursor/mcp.json"),
        (McpClient::Vscode, McpScope::User) => config.join("Code/User/mcp.json"),
        (McpClient::Vscode, McpScope::Project) => project.join(".vscode/mcp.json"),
    }
}

/// The same file as JSON with comments, where that is the one there is.
fn or_with_comments(path: PathBuf) -> PathBuf {
    let other = path.with_extension("jsonc");
    if other.exists() && !path.exists() { other } else { path }
}

/// The text of a configuration, which may be empty, with Hearth in it.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn with(client: McpClient, text: &str, server: &Server) -> Result<String, String> {
    let Server { command, arguments, env } = server;
    let mut plain = json!({ "command": command, "args": arguments });
    let (section, entry) = match client {
        McpClient::Codex => return with_toml(text, server),
        McpClient::Opencode => {
            let whole: Vec<&String> = [command].into_iter().chain(arguments).collect();
            let entry = json!({ "type": "local", "command": whole, "enabled": true });
            return with_json(text, "mcp", entry, ("environment", env));
        }
        McpClient::Cursor => ("mcpServers", plain),
        McpClient::ClaudeCode => ("mcpServers", typed(&mut plain).take()),
        McpClient::Vscode => ("servers", typed(&mut plain).take()),
    };
    with_json(text, section, entry, ("env", env))
}

fn typed(entry: &mut Value) -> &mut Value {
    entry["type"] = "stdio".into();
    entry
}

/// What else its owner has in Hearth's entry, variables among it, stays.
fn with_json(text: &str, section: &str, entry: Value, env: (&str, &[(String, String)])) -> Result<String, String> {
    // JSON, with the comments and the commas at the end that some clients take.
    let options = ParseOptions {
        allow_comments: true,
        allow_trailing_commas: true,
        allow_loose_object_property_names: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    let root = CstRootNode::parse(text, &options).map_err(|error| error.to_string())?;
    let object = root.object_value().ok_or("it holds no JSON object")?;
    let servers = object.object_value_or_create(section).ok_or_else(|| format!("its {section:?} is no JSON object"))?;
    let there = servers.object_value_or_set(NAME);
    for (name, value) in entry.as_object().into_iter().flatten() {
        set(&there, name, value.clone());
    }
    set_variables(&there, env);
    Ok(root.to_string())
}

fn set(object: &CstObject, name: &str, value: Value) {
    match object.get(name) {
        Some(there) => there.set_value(input(value)),
        None => drop(object.append(name, input(value))),
    }
}

fn set_variables(entry: &CstObject, (field, env): (&str, &[(String, String)])) {
    if let Some(there) = entry.object_value(field) {
        there.get(HOME).into_iter().for_each(CstObjectProp::remove);
        if there.properties().is_empty() {
            entry.get(field).into_iter().for_each(CstObjectProp::remove);
        }
    }
    if !env.is_empty() {
        let there = entry.object_value_or_set(field);
        env.iter().for_each(|(name, value)| set(&there, name, value.as_str().into()));
    }
}

fn input(value: Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text),
        Value::Array(items) => CstInputValue::Array(items.into_iter().map(input).collect()),
        Value::Object(fields) => {
            CstInputValue::Object(fields.into_iter().map(|(name, value)| (name, input(value))).collect())
        }
    }
}

fn with_toml(text: &str, server: &Server) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error: toml_edit::TomlError| error.to_string())?;
    let servers = document.entry("mcp_servers").or_insert_with(|| {
        let mut table = Table::new();
        table.set_implicit(true);
        Item::Table(table)
    });
    let servers = servers.as_table_like_mut().ok_or("its mcp_servers is no table")?;
    let there = servers.entry(NAME).or_insert_with(|| Item::Table(Table::new()));
    let entry = there.as_table_like_mut().ok_or("its mcp_servers.hearth is no table")?;
    let values: toml_edit::Array = server.arguments.iter().map(String::as_str).collect();
    entry.insert("command", toml_edit::value(server.command.as_str()));
    entry.insert("args", toml_edit::value(values));
    let variables = entry.entry("env").or_insert_with(|| toml_edit::value(toml_edit::InlineTable::new()));
    let variables = variables.as_table_like_mut().ok_or("its mcp_servers.hearth.env is no table")?;
    variables.remove(HOME);
    server.env.iter().for_each(|(name, value)| drop(variables.insert(name, toml_edit::value(value.as_str()))));
    if variables.is_empty() {
        entry.remove("env");
    }
    Ok(document.to_string())
}

/// Where a path leads, through links: they are kept, and what they point to is replaced.
pub(super) fn target(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Server {
        Server { command: "/opt/hearth".into(), arguments: vec!["mcp".into()], env: Vec::new() }
    }

    fn json_of(client: McpClient, text: &str) -> Value {
        serde_json::from_str(&with(client, text, &server()).unwrap()).unwrap()
    }

    #[test]
    fn each_client_gets_the_form_that_it_reads() {
        let stdio = json!({ "type": "stdio", "command": "/opt/hearth", "args": ["mcp"] });
        assert_eq!(json_of(McpClient::ClaudeCode, ""), json!({ "mcpServers": { "hearth": stdio } }));
        assert_eq!(json_of(McpClient::Vscode, "{}"), json!({ "servers": { "hearth": stdio } }));
        let plain = json!({ "command": "/opt/hearth", "args": ["mcp"] });
        assert_eq!(json_of(McpClient::Cursor, " \n"), json!({ "mcpServers": { "hearth": plain } }));
        let local = json!({ "type": "local", "command": ["/opt/hearth", "mcp"], "enabled": true });
        assert_eq!(json_of(McpClient::Opencode, ""), json!({ "mcp": { "hearth": local } }));
        let toml = with(McpClient::Codex, "", &server()).unwrap();
        assert_eq!(toml, "[mcp_servers.hearth]\ncommand = \"/opt/hearth\"\nargs = [\"mcp\"]\n");
    }

    #[test]
    fn variables_are_handed_on_under_each_clients_name_for_them() {
        let server = Server { env: vec![("HEARTH_HOME".into(), "/h".into())], ..server() };
        for (client, place) in [
            (McpClient::ClaudeCode, "/mcpServers/hearth/env"),
            (McpClient::Cursor, "/mcpServers/hearth/env"),
            (McpClient::Vscode, "/servers/hearth/env"),
            (McpClient::Opencode, "/mcp/hearth/environment"),
        ] {
            let value: Value = serde_json::from_str(&with(client, "", &server).unwrap()).unwrap();
            assert_eq!(value.pointer(place), Some(&json!({ "HEARTH_HOME": "/h" })), "{client:?}");
        }
        assert!(with(McpClient::Codex, "", &server).unwrap().contains("env = { HEARTH_HOME = \"/h\" }"));
    }

    #[test]
    fn all_else_stays_to_the_letter() {
        let before = "{\n  // mine\n  \"b\": 1.50, \"a\": [ ],\n  \"servers\": {\n    \"other\": { \"command\": \"x\" }, // that one\n  }\n}\n";
        let after = with(McpClient::Vscode, before, &server()).unwrap();
        for kept in ["  // mine\n", "\"b\": 1.50, \"a\": [ ],", "\"other\": { \"command\": \"x\" }, // that one"] {
            assert!(after.contains(kept), "{after}");
        }
        assert_eq!(with(McpClient::Vscode, &after, &server()).unwrap(), after, "a second time changes nothing");
        let before = "# mine\nmodel = 'x' # why\n\n[mcp_servers.other]\ncommand = \"y\"\n\n[tui]\n a=1\n";
        let after = with(McpClient::Codex, before, &server()).unwrap();
        assert!(after.starts_with("# mine\nmodel = 'x' # why\n\n[mcp_servers.other]\ncommand = \"y\"\n"), "{after}");
        assert!(after.contains("[mcp_servers.hearth]\n") && after.contains("[tui]\n a=1\n"), "{after}");
        assert_eq!(with(McpClient::Codex, &after, &server()).unwrap(), after, "a second time changes nothing");
    }

    #[test]
    fn what_its_owner_has_added_to_hearths_own_entry_stays() {
        let at_home = Server { env: vec![("HEARTH_HOME".into(), "/h".into())], ..server() };
        for (client, section, field) in [
            (McpClient::ClaudeCode, "mcpServers", "env"),
            (McpClient::Cursor, "mcpServers", "env"),
            (McpClient::Vscode, "servers", "env"),
            (McpClient::Opencode, "mcp", "environment"),
        ] {
            let before = json!({ section: { "hearth": { "command": "old", "timeout": 9, field: { "HEARTH_HOME": "/old", "MINE": "1" } } } });
            let after = with(client, &before.to_string(), &at_home).unwrap();
            let value: Value = serde_json::from_str(&after).unwrap();
            let entry = &value[section]["hearth"];
            assert_eq!(entry[field], json!({ "HEARTH_HOME": "/h", "MINE": "1" }), "{client:?}");
            assert!(entry["timeout"] == 9 && entry["command"] != "old", "{client:?}: {after}");
            assert_eq!(with(client, &after, &at_home).unwrap(), after, "{client:?}: a second time changes nothing");
            assert_eq!(json_of(client, &after)[section]["hearth"][field], json!({ "MINE": "1" }), "{client:?}");
            let alone = with(client, "", &at_home).unwrap();
            assert_eq!(json_of(client, &alone)[section]["hearth"].get(field), None, "{client:?}");
        }
        for before in [
            "[mcp_servers.hearth]\ncommand = \"old\"\nenv = { MINE = \"1\", HEARTH_HOME = \"/old\" } # mine\n",
            "[mcp_servers.hearth]\ncommand = \"old\"\n\n[mcp_servers.hearth.env]\nHEARTH_HOME = \"/old\"\nMINE = \"1\"\n",
        ] {
            let after = with(McpClient::Codex, before, &at_home).unwrap();
            assert!(after.contains("MINE = \"1\"") && after.contains("HEARTH_HOME = \"/h\""), "{after}");
            assert_eq!(with(McpClient::Codex, &after, &at_home).unwrap(), after, "a second time changes nothing");
            let after = with(McpClient::Codex, &after, &server()).unwrap();
            assert!(after.contains("MINE = \"1\"") && !after.contains("HEARTH_HOME"), "{after}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        for text in ["{", "[]", "{\"mcpServers\": 5}", "{'mcpServers': {}}", "{\"a\": 1 \"b\": 2}", "nonsense"] {
            assert!(with(McpClient::Cursor, text, &server()).is_err(), "{text}");
        }
        for text in ["= 5", "mcp_servers = 5", "[mcp_servers]\nhearth = 5"] {
            assert!(with(McpClient::Codex, text, &server()).is_err(), "{text}");
        }
    }
}
