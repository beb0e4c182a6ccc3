//! The workspace agent's dialect: one JSON request a connection, one JSON reply, on vsock 5005 or any other socket.
//!
//! [`connection`] owns the framing, [`request`] the meaning of fields, [`texts`] what is said to mistakes. What is done is done by the
//! core: the other modules, one a group of actions, turn fields into its calls and its results and errors into fields and texts.
//!
//! What must stay true: a request that was read is done to its end, whether its client waits or not; no client is waited for by another; what a
//! client can name is inside the workspace.

mod archives;
mod connection;
mod exec;
mod files;
mod listings;
mod path;
mod reply;
mod request;
mod secrets;
mod services;
mod shells;
mod text;
mod texts;
mod transcript;
mod worker;

use std::rc::Rc;

use connection::Connection;
use reply::Object;
use request::Request;
use services::Services;
use shells::Shells;
use texts::Refusal;

use crate::agent::Agent;
use crate::listen::{self, Service};
use crate::secrets::{Hidden, redact_raw};
use crate::session::{Reader, Writer};

/// The port that its clients look for, where a machine has vsock.
pub(crate) const PORT: u32 = 5005;

/// What the dialect has beside the agent: what its clients said that the core has no place for.
struct Dialect {
    agent: Rc<Agent>,
    services: Services,
    shells: Shells,
    secrets: secrets::Link,
}

/// The dialect, as listeners serve it. All that are to know of the same shells must have the same one.
pub(crate) fn service(agent: &Rc<Agent>) -> Service {
    let (services, shells, secrets) = (Services::default(), Shells::default(), secrets::Link::default());
    let dialect = Rc::new(Dialect { agent: Rc::clone(agent), services, shells, secrets });
    listen::service(move |reader, writer| serve(Rc::clone(&dialect), reader, writer))
}

/// Serves one connection.
async fn serve(dialect: Rc<Dialect>, reader: Reader, writer: Writer) {
    let mut connection = Connection::new(reader, writer);
    let done = match connection.request().await {
        Ok(None) => return,
        Ok(Some(line)) => answer(&dialect, &line, &mut connection).await,
        Err(refusal) => Err(refusal),
    };
    match done {
        Err(Refusal(text)) if !connection.has_begun() => {
            let text = hide_secrets(&dialect.agent, text.into());
            connection.reply(Object::default().field("error", String::from_utf8_lossy(&text))).await;
        }
        _ => {}
    }
    connection.close().await;
}

/// Does what a request asks, and answers unless it is refused.
async fn answer(dialect: &Dialect, line: &[u8], connection: &mut Connection) -> Result<(), Refusal> {
    let Dialect { agent, services, shells, secrets } = dialect;
    let request = Request::parse(line)?;
    match request.text("action", "exec")?.as_str() {
        "exec" => exec::run(agent, &request, connection).await,
        "extract_archive" => archives::extract(agent, &request, connection).await,
        "export_archive" => archives::send(agent, &request, connection).await,
        "install_secrets" => secrets::install(agent, secrets, &request, connection).await,
        "read_workspace_file" => files::read(agent, &request, connection).await,
        "write_workspace_file" => files::write(agent, &request, connection).await,
        "list_workspace" => listings::list(agent, &request, connection).await,
        "delete_workspace_path" => listings::delete(agent, &request, connection).await,
        "open_shell" => shells::open(agent, shells, &request, connection).await,
        "read_shell" => shells::read(shells, &request, connection).await,
        "write_shell" => shells::write(shells, &request, connection).await,
        "signal_shell" => shells::signal(shells, &request, connection).await,
        "close_shell" => shells::close(agent, shells, &request, connection).await,
        "start_service" => services::start(agent, services, &request, connection).await,
        "status_service" => services::status(agent, services, &request, connection).await,
        "logs_service" => services::logs(agent, services, &request, connection).await,
        "stop_service" => services::stop(agent, services, &request, connection).await,
        action => Err(format!("unsupported action: {action}").into()),
    }
}

/// Hides secrets in what repeats a request.
fn hide_secrets(agent: &Agent, text: Vec<u8>) -> Vec<u8> {
    let values = agent.processes.secrets.automaton(&Hidden::default());
    redact_raw(values.as_ref(), &text.into()).as_bytes().to_vec()
}
