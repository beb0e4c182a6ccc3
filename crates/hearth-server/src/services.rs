//! Services of a guest, ports that lead into it, and its secrets.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::response::NoContent;
use hearth_api::services::{PortList, PublishPort, ReadServiceLog, ServiceList, SetSecrets, StartService, StopService};
use hearth_api::{ErrorBody, OwnCode};
use hearth_engine::channel::{ChannelError, Operation, Sent};
use hearth_engine::fleet::{FleetError, Guest, Member, NewPort};
use hearth_engine::protocol::secrets::SecretList;
use hearth_engine::protocol::service::{ServiceInfo, ServiceLogs};
use hearth_engine::protocol::{StreamName, limits};

use crate::App;
use crate::answer::{Content, Created, Octets, Refusal};
use crate::files::{Pieces, cut_off, stream};
use crate::input::{Asked, Body, Nothing};

type Answer<T> = Result<Json<T>, Refusal>;

pub(crate) async fn list(State(app): State<App>, Path(sandbox): Path<String>) -> Answer<ServiceList> {
    Ok(Json(ServiceList { services: app.member(&sandbox)?.channel().await?.services().await? }))
}

pub(crate) async fn start(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(request): Body<StartService>,
) -> Result<Created<ServiceInfo>, Refusal> {
    let start = request.start()?;
    let info = app.member(&sandbox)?.channel().await?.start_service(start).await?;
    Ok(Created(info))
}

pub(crate) async fn inspect(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
) -> Answer<ServiceInfo> {
    Ok(Json(app.member(&sandbox)?.channel().await?.service(&name).await?))
}

/// Stops a service. Its ports close first, so that nobody connects to one that ends.
pub(crate) async fn stop(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
    Body(request): Body<StopService>,
) -> Answer<ServiceInfo> {
    if request.grace_ms.is_some_and(|grace| grace > limits::GRACE_MS) {
        let message = format!("grace_ms must be at most {}", limits::GRACE_MS);
        return Err(ErrorBody::new(OwnCode::InvalidValue, message).with_field("grace_ms").into());
    }
    let member = app.member(&sandbox)?;
    let guest = member.channel().await?;
    member.unpublish_service(&name);
    Ok(Json(guest.stop_service(&name, request.grace_ms.map(Duration::from_millis)).await?))
}

pub(crate) async fn restart(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
    Body(Nothing {}): Body<Nothing>,
) -> Answer<ServiceInfo> {
    Ok(Json(app.member(&sandbox)?.channel().await?.restart_service(&name).await?))
}

pub(crate) async fn remove(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
) -> Result<NoContent, Refusal> {
    let member = app.member(&sandbox)?;
    let guest = member.channel().await?;
    member.unpublish_service(&name);
    guest.remove_service(&name).await?;
    Ok(NoContent)
}

pub(crate) async fn logs(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
    Asked(query): Asked<ReadServiceLog>,
) -> Result<Content<Octets>, Refusal> {
    let logs =
        ServiceLogs { name, tail_lines: query.tail_lines, since: query.since(), follow: query.follow.unwrap_or(false) };
    let guest = app.member(&sandbox)?.channel().await?;
    let operation = guest.service_logs(logs).await?;
    stream(Log { operation, only: query.stream, _guest: guest }).await
}

/// The log of a service, as far as it is wanted.
struct Log {
    operation: Operation,
    only: Option<StreamName>,
    _guest: Guest,
}

impl Pieces for Log {
    async fn piece(&mut self) -> Result<Option<bytes::Bytes>, ChannelError> {
        loop {
            match self.operation.next().await? {
                Some(Sent::Piece(name, bytes)) if self.only.is_none_or(|only| only == name) => return Ok(Some(bytes)),
                Some(Sent::Piece(..) | Sent::End(_)) => {}
                Some(Sent::Finished(_)) => return Ok(None),
                None => return Err(cut_off()),
            }
        }
    }
}

pub(crate) async fn ports(State(app): State<App>, Path(sandbox): Path<String>) -> Answer<PortList> {
    Ok(Json(PortList { ports: app.member(&sandbox)?.ports().into_iter().map(told).collect() }))
}

pub(crate) async fn publish(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(request): Body<PublishPort>,
) -> Result<Created<PublishPort>, Refusal> {
    let port = publish_port(&app.member(&sandbox)?, request).await?;
    Ok(Created(port))
}

pub(crate) async fn publish_port(member: &Member, request: PublishPort) -> Result<PublishPort, FleetError> {
    let PublishPort { listen, guest_port, guest_host, service } = request;
    member.publish(NewPort { listen, guest_port, guest_host, service }).await.map(told)
}

fn told(port: NewPort) -> PublishPort {
    let NewPort { listen, guest_port, guest_host, service } = port;
    PublishPort { listen, guest_port, guest_host, service }
}

pub(crate) async fn unpublish(
    State(app): State<App>,
    Path((sandbox, port)): Path<(String, String)>,
) -> Result<NoContent, Refusal> {
    let number = port.parse().map_err(|_| {
        ErrorBody::new(OwnCode::InvalidValue, format!("a port is a number from 1 to 65535, not {port:?}"))
            .with_field("port")
    })?;
    app.member(&sandbox)?.unpublish(number)?;
    Ok(NoContent)
}

pub(crate) async fn secrets(State(app): State<App>, Path(sandbox): Path<String>) -> Answer<SecretList> {
    Ok(Json(app.member(&sandbox)?.channel().await?.list_secrets().await?))
}

pub(crate) async fn set_secrets(
    State(app): State<App>,
    Path(sandbox): Path<String>,
    Body(request): Body<SetSecrets>,
) -> Result<NoContent, Refusal> {
    app.member(&sandbox)?.channel().await?.set_secrets(request.secrets).await?;
    Ok(NoContent)
}

pub(crate) async fn remove_secret(
    State(app): State<App>,
    Path((sandbox, name)): Path<(String, String)>,
) -> Result<NoContent, Refusal> {
    app.member(&sandbox)?.channel().await?.remove_secrets(vec![name]).await?;
    Ok(NoContent)
}
