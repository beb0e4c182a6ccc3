//! What stands in a handler's signature, as the document has it.

use std::convert::Infallible;

use axum::Json;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, Path, Request, State};
use axum::response::{NoContent, Sse};
use futures_util::Stream;
use hearth_api::Event;
use hearth_api::exec::{FromClient, FromServer};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::answer::{Content, Created, Kind, Piece, Refusal, Upgraded};
use crate::input::{Asked, Body, LastEvent, Raw};

/// An operation that is being described.
pub(crate) struct Operation<'a> {
    schemas: &'a mut SchemaGenerator,
    pub(super) parameters: Vec<Value>,
    pub(super) body: Option<Value>,
    pub(super) responses: Map<String, Value>,
    /// What no field of the standard's can say.
    pub(super) more: Map<String, Value>,
}

impl<'a> Operation<'a> {
    pub(super) fn new(schemas: &'a mut SchemaGenerator) -> Self {
        Self { schemas, parameters: Vec::new(), body: None, responses: Map::new(), more: Map::new() }
    }

    fn schema<T: JsonSchema>(&mut self) -> Schema {
        self.schemas.subschema_for::<T>()
    }

    fn answer(&mut self, status: &str, description: &str, content: Option<(&str, Value)>) {
        let mut answer = json!({ "description": description });
        if let Some((kind, media)) = content {
            answer["content"] = json!({ kind: media });
        }
        self.responses.insert(status.to_owned(), answer);
    }

    fn answer_json<T: JsonSchema>(&mut self, status: &str, description: &str) {
        let schema = self.schema::<T>();
        self.answer(status, description, Some(("application/json", json!({ "schema": schema }))));
    }
}

/// What a handler is given.
pub(crate) trait Input {
    fn describe(operation: &mut Operation);
}

/// What a handler answers with.
pub(crate) trait Output {
    fn describe(operation: &mut Operation);
}

/// A handler, whose arguments are `A`.
pub(crate) trait Described<A> {
    fn describe(operation: &mut Operation);
}

macro_rules! described {
    ($($input:ident)*) => {
        impl<F, R, $($input: Input),*> Described<($($input,)*)> for F
        where
            F: Fn($($input),*) -> R,
            R: Future<Output: Output>,
        {
            fn describe(operation: &mut Operation) {
                $($input::describe(operation);)*
                R::Output::describe(operation);
            }
        }
    };
}

described!();
described!(A);
described!(A B);
described!(A B C);
described!(A B C D);
described!(A B C D E);
described!(A B C D E G);

/// What is not of the request, or stands in the path.
macro_rules! untold {
    ($($kind:ty),*) => {$(
        impl Input for $kind {
            fn describe(_: &mut Operation) {}
        }
    )*};
}

untold!(Path<String>, Path<(String, String)>, Result<WebSocketUpgrade, WebSocketUpgradeRejection>);

impl<T> Input for State<T> {
    fn describe(_: &mut Operation) {}
}

impl<T> Input for Extension<T> {
    fn describe(_: &mut Operation) {}
}

impl<T: JsonSchema> Input for Body<T> {
    fn describe(operation: &mut Operation) {
        let schema = operation.schema::<T>();
        let is_required = T::json_schema(operation.schemas).get("required").is_some();
        let content = json!({ "application/json": { "schema": schema } });
        operation.body = Some(json!({ "required": is_required, "content": content }));
    }
}

impl<T: JsonSchema> Input for Asked<T> {
    fn describe(operation: &mut Operation) {
        let mut whole = T::json_schema(operation.schemas);
        let required = whole.remove("required").unwrap_or_default();
        let Some(Value::Object(fields)) = whole.remove("properties") else { return };
        for (name, mut schema) in fields {
            let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
            let is_required = required.as_array().is_some_and(|all| all.iter().any(|one| *one == *name));
            let mut told = json!({ "name": name, "in": "query", "required": is_required, "schema": given(schema) });
            if let Some(description) = description {
                told["description"] = description;
            }
            operation.parameters.push(told);
        }
    }
}

/// A parameter that is there has a value: none is told by leaving it out.
fn given(mut schema: Value) -> Value {
    if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.retain(|kind| kind != "null");
        if let [kind] = kinds.as_slice() {
            schema["type"] = kind.clone();
        }
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice["type"] != "null");
        if let [choice] = choices.as_slice() {
            return choice.clone();
        }
    }
    schema
}

fn bytes(operation: &mut Operation) {
    operation.body = Some(json!({ "required": false, "content": { "application/octet-stream": {} } }));
}

impl Input for Raw {
    fn describe(operation: &mut Operation) {
        bytes(operation);
    }
}

impl Input for Request {
    fn describe(operation: &mut Operation) {
        bytes(operation);
    }
}

impl Input for LastEvent {
    fn describe(operation: &mut Operation) {
        let schema = operation.schema::<u64>();
        let description = "The last event that was seen, where the query names none";
        operation.parameters.push(json!({
            "name": LastEvent::HEADER, "in": "header", "required": false, "schema": schema, "description": description,
        }));
    }
}

impl<T: Output> Output for Result<T, Refusal> {
    fn describe(operation: &mut Operation) {
        T::describe(operation);
    }
}

impl<T: JsonSchema> Output for Json<T> {
    fn describe(operation: &mut Operation) {
        operation.answer_json::<T>("200", "What was asked for");
    }
}

impl<T: JsonSchema> Output for Created<T> {
    fn describe(operation: &mut Operation) {
        operation.answer_json::<T>("201", "What was made");
    }
}

impl Output for NoContent {
    fn describe(operation: &mut Operation) {
        operation.answer("204", "It was done", None);
    }
}

impl<K: Kind> Output for Content<K> {
    fn describe(operation: &mut Operation) {
        let media = K::line(operation.schemas).map_or_else(|| json!({}), |schema| json!({ "schema": schema }));
        operation.answer("200", K::ABOUT, Some((K::TYPE, media)));
    }
}

impl Output for Piece {
    fn describe(operation: &mut Operation) {
        let description = "A piece of a stream, and where it lies";
        operation.answer("200", description, Some(("application/octet-stream", json!({}))));
        let headers = Piece::HEADERS
            .map(|(name, kind)| (name.to_owned(), json!({ "required": true, "schema": { "type": kind } })));
        operation.responses["200"]["headers"] = Map::from_iter(headers).into();
    }
}

impl<S: Stream<Item = Result<axum::response::sse::Event, Infallible>>> Output for Sse<S> {
    fn describe(operation: &mut Operation) {
        let schema = operation.schema::<Event>();
        let description = "Server-sent events; the data of each is one of these, and its id its position";
        operation.answer("200", description, Some(("text/event-stream", json!({ "schema": schema }))));
    }
}

impl<F: JsonSchema> Output for Upgraded<F> {
    fn describe(operation: &mut Operation) {
        let (client, server) = (operation.schema::<FromClient>(), operation.schema::<FromServer>());
        let mut messages = json!({ "client": client, "server": server });
        if size_of::<F>() > 0 {
            messages["first"] = operation.schema::<F>().into();
        }
        operation.more.insert("x-websocket".to_owned(), messages);
        operation.answer("101", "A WebSocket: text messages are these in JSON, binary ones bytes of a stream", None);
    }
}
