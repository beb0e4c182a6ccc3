//! The API's description (OpenAPI 3.1), made of the handlers themselves: what one takes and gives is read off its signature, so the
//! description can say nothing else than the code does, and a path cannot be served without being in it.

mod describe;

use std::any::type_name;

use axum::Router;
use axum::extract::Request;
use axum::handler::Handler;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use hearth_api::ErrorBody;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use describe::{Described, Operation};

use crate::input::{Asked, Nothing};
use crate::{App, audit};

/// Where schemas are in the document.
const SCHEMAS: &str = "/components/schemas";

/// A method of a path, what handles it, and what that takes and gives.
pub(crate) struct Endpoint {
    method: &'static str,
    summary: &'static str,
    /// The handler's path in this crate.
    handler: &'static str,
    describe: fn(&mut Operation),
    router: MethodRouter<App>,
}

macro_rules! methods {
    ($($name:ident $filter:ident),*) => {$(
        pub(crate) fn $name<H, T, A>(handler: H, summary: &'static str) -> Endpoint
        where
            H: Handler<T, App> + Described<A>,
            T: 'static,
        {
            let router = on(MethodFilter::$filter, handler);
            Endpoint { method: stringify!($name), summary, handler: type_name::<H>(), describe: H::describe, router }
        }
    )*};
}

methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE);

/// A router whose paths are all described.
#[derive(Default)]
pub(crate) struct Api {
    paths: Vec<(&'static str, Vec<Endpoint>)>,
}

impl Api {
    /// Adds a path.
    pub(crate) fn at(mut self, path: &'static str, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        self.paths.push((path, endpoints.into_iter().collect()));
        self
    }

    /// A router for all of them, which notes each operation in the app's audit log.
    pub(crate) fn into_router(self, app: &App) -> Router<App> {
        let mut router = Router::new();
        for (path, endpoints) in self.paths {
            for endpoint in endpoints {
                let noted = from_fn_with_state((app.clone(), endpoint.id().into()), audit::note);
                let takes_query = endpoint.takes_query();
                let handled = endpoint.router;
                let handled = if takes_query { handled } else { handled.route_layer(from_fn(without_query)) };
                router = router.route(path, handled.route_layer(noted));
            }
        }
        router
    }

    /// The document.
    pub(crate) fn document(&self, version: &str) -> Value {
        let settings = SchemaSettings::draft2020_12().with(|settings| {
            settings.definitions_path = SCHEMAS.into();
            settings.meta_schema = None;
        });
        let mut schemas = settings.into_generator();
        let error = schemas.subschema_for::<ErrorBody>();
        let mut paths = Map::new();
        for (path, endpoints) in &self.paths {
            let mut item = Map::new();
            for endpoint in endpoints {
                let mut operation = Operation::new(&mut schemas);
                (endpoint.describe)(&mut operation);
                item.insert(endpoint.method.to_owned(), endpoint.told(path, operation));
            }
            paths.insert((*path).to_owned(), item.into());
        }
        let mut document = json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Hearth",
                "version": version,
                "description": "Disposable computers for code that nobody trusts. Served on a Unix socket to its owner, and on TCP to whoever has a key.",
                "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            },
            "servers": [{ "url": "/" }],
            "security": [{}, { "key": [] }],
            "paths": paths,
            "components": {
                "schemas": schemas.take_definitions(true),
                "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": "Over TCP: a key that hearth key create has made." } },
                "responses": {
                    "Refused": {
                        "description": "Why it was not done",
                        "content": { "application/json": { "schema": error } },
                    },
                },
            },
        });
        unlink(&mut document);
        document
    }
}

/// Refuses a query where none is read: what somebody asked by it would be passed over.
async fn without_query(_: Asked<Nothing>, request: Request, next: Next) -> Response {
    next.run(request).await
}

/// Takes the marks of links out of descriptions: what they link to is in Rust.
fn unlink(value: &mut Value) {
    match value {
        Value::String(text) if text.contains("[`") => *text = text.replace("[`", "`").replace("`]", "`"),
        Value::Array(values) => values.iter_mut().for_each(unlink),
        Value::Object(fields) => fields.values_mut().for_each(unlink),
        _ => {}
    }
}

impl Endpoint {
    fn takes_query(&self) -> bool {
        let mut schemas = SchemaGenerator::default();
        let mut operation = Operation::new(&mut schemas);
        (self.describe)(&mut operation);
        operation.parameters.iter().any(|parameter| parameter["in"] == "query")
    }

    fn told(&self, path: &str, operation: Operation) -> Value {
        let refused = json!({ "$ref": "#/components/responses/Refused" });
        let Operation { mut parameters, body, mut responses, more, .. } = operation;
        parameters.splice(0..0, path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).map(in_path));
        responses.insert("4XX".to_owned(), refused.clone());
        responses.insert("5XX".to_owned(), refused);
        let mut told = json!({
            "operationId": self.id(),
            "summary": self.summary,
            "tags": [self.module()],
            "responses": responses,
        });
        if !parameters.is_empty() {
            told["parameters"] = parameters.into();
        }
        if let Some(body) = body {
            told["requestBody"] = body;
        }
        told.as_object_mut().into_iter().for_each(|told| told.extend(more.clone()));
        told
    }

    /// The module of the crate that the handler is in, or that its own is in.
    fn module(&self) -> &'static str {
        self.handler.split("::").nth(1).unwrap_or_default()
    }

    fn id(&self) -> String {
        format!("{}_{}", self.module(), self.handler.rsplit("::").next().unwrap_or_default())
    }
}

/// A part of a path.
fn in_path(name: &str) -> Value {
    let (schema, description) = match name {
        "sandbox" => {
            (json!({ "type": "string", "minLength": 1 }), "An id, a name, or the beginning of an id that only one has")
        }
        "process" => (json!({ "type": "string", "minLength": 1 }), "An id or a tag"),
        "port" => (json!({ "type": "integer", "minimum": 1, "maximum": 65535 }), "The port of this host's"),
        "template" => {
            (json!({ "type": "string", "minLength": 1 }), "A name, or the beginning of one that only one has")
        }
        "image" => (json!({ "type": "string", "minLength": 1 }), "A name, or at least six digits of a digest"),
        _ => (json!({ "type": "string", "minLength": 1 }), "A name"),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema, "description": description })
}
