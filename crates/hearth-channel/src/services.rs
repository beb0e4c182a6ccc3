//! Services of the guest.

use std::time::Duration;

use hearth_protocol::service::{ServiceInfo, ServiceLogs, ServiceRequest, ServiceResult, ServiceStart};
use hearth_protocol::{Finished, ReplyBody, RequestBody, limits};

use crate::channel::{Channel, wrong_result};
use crate::error::ChannelError;
use crate::operation::Operation;

/// What an agent may take beyond the times that were asked for: the death of a killed tree, and its own work.
const MARGIN: Duration = Duration::from_secs(30);
/// The most that a list of services may be, in bytes.
const LIST: usize = limits::SERVICES * limits::HEADER;

impl Channel {
    /// Starts a service, and waits until it is ready, has failed, or is to be tried again.
    ///
    /// # Errors
    /// As [`Self::request`]. A service that has failed is no error: its state says so.
    pub async fn start_service(&self, start: ServiceStart) -> Result<ServiceInfo, ChannelError> {
        let ready = start.ready_timeout_ms.unwrap_or(limits::READY_TIMEOUT_MS);
        let grace = start.process.grace_ms.unwrap_or(limits::SERVICE_GRACE_MS);
        self.described(ServiceRequest::Start(Box::new(start)), Duration::from_millis(ready + grace)).await
    }

    /// Describes a service.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn service(&self, name: &str) -> Result<ServiceInfo, ChannelError> {
        self.described(ServiceRequest::Status { name: name.into() }, Duration::ZERO).await
    }

    /// Lists the services by name.
    ///
    /// # Errors
    /// As [`Self::request`].
    pub async fn services(&self) -> Result<Vec<ServiceInfo>, ChannelError> {
        let list = self.operate(RequestBody::Service(ServiceRequest::List {})).await?;
        let (_, lines) = list.collect(LIST).await?;
        let services = lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(serde_json::from_slice);
        services.collect::<Result<_, _>>().map_err(|_| wrong_result("list services"))
    }

    /// Sends for the log of a service: pieces of `stdout` and `stderr`, then [`ServiceResult::Logs`].
    ///
    /// # Errors
    /// As [`Self::operate`].
    pub async fn service_logs(&self, logs: ServiceLogs) -> Result<Operation, ChannelError> {
        self.operate(RequestBody::Service(ServiceRequest::Logs(logs))).await
    }

    /// Stops a service and waits until nothing of it is left. `grace` is the time between TERM and KILL, by default the service's own.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn stop_service(&self, name: &str, grace: Option<Duration>) -> Result<ServiceInfo, ChannelError> {
        let grace_ms = grace.map(|grace| grace.as_millis() as u64);
        self.described(ServiceRequest::Stop { name: name.into(), grace_ms }, longest(grace)).await
    }

    /// Stops a service if it runs, and starts it as it was started. Bounded by the longest grace and the longest time to be ready.
    ///
    /// # Errors
    /// As [`Self::start_service`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn restart_service(&self, name: &str) -> Result<ServiceInfo, ChannelError> {
        let bound = longest(None) + Duration::from_millis(limits::TIMEOUT_MS);
        self.described(ServiceRequest::Restart { name: name.into() }, bound).await
    }

    /// Stops a service if it runs, and forgets it.
    ///
    /// # Errors
    /// As [`Self::request`]; [`hearth_protocol::ErrorCode::UnknownName`].
    pub async fn remove_service(&self, name: &str) -> Result<(), ChannelError> {
        match self.asked(ServiceRequest::Remove { name: name.into() }, longest(None)).await? {
            ServiceResult::Done {} => Ok(()),
            _ => Err(wrong_result("remove a service")),
        }
    }

    async fn described(&self, request: ServiceRequest, within: Duration) -> Result<ServiceInfo, ChannelError> {
        match self.asked(request, within).await? {
            ServiceResult::Service(info) => Ok(*info),
            _ => Err(wrong_result("describe a service")),
        }
    }

    async fn asked(&self, request: ServiceRequest, within: Duration) -> Result<ServiceResult, ChannelError> {
        self.while_still(tokio::time::Instant::now() + within).await;
        match self.request_within(RequestBody::Service(request), within + MARGIN).await? {
            ReplyBody::Finished { result: Finished::Service(result), .. } => Ok(result),
            _ => Err(wrong_result("do something with a service")),
        }
    }
}

/// How long a stop may take: a service's own grace is not known here.
fn longest(grace: Option<Duration>) -> Duration {
    grace.unwrap_or(Duration::from_millis(limits::GRACE_MS))
}
