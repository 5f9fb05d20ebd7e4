//! Owns the gRPC edge: RocketMQ 5.x SDKs talk to the broker through it. Turns each call into a request of [`crate::api`] and
//! the answer back, keeps what clients said about themselves while they live, and nothing else: it stores no message and takes
//! no decision the core could take. Called by whoever wires the broker, on the core's own current-thread runtime.
//!
//! SDKs differ in what makes them fail; where an answer looks odd, the comment names the SDK it is for.

mod body;
mod caller;
mod calls;
mod clients;
mod connections;
mod edge;
mod message;
mod names;
mod receive;
mod route;
mod send;
mod settings;
mod settle;
mod status;
mod telemetry;
mod time;
#[doc(hidden)]
pub mod untrusted;

#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::handle::CoreHandle;
use edge::Edge;
use lifecycle::clock::Now;
use lifecycle::identity::Name;
use proto::messaging_service_server::MessagingServiceServer;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

/// The protocol, generated from `proto/messaging.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod proto {
    tonic::include_proto!("apache.rocketmq.v2");
}

/// Most connections at a time; more wait in the listener's backlog.
pub const CONNECTIONS_MAX: usize = 10_000;
/// Most calls in flight on one connection.
pub const CALLS_PER_CONNECTION_MAX: u32 = 1_024;
/// Largest request read, a batch of messages included.
pub const REQUEST_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Largest body taken. A little under 4 MiB: grpc-js and the Rust SDK refuse to *receive* a frame over 4 MiB, so a body of exactly
/// 4 MiB could be sent but never consumed.
pub const BODY_MAX_BYTES: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Most bytes of bodies in sends that wait for their answer, over all clients.
pub const SENDS_IN_FLIGHT_MAX_BYTES: usize = 256 * 1024 * 1024;
/// Most bytes of headers of one call.
pub const HEADERS_MAX_BYTES: u32 = 32 * 1024;
/// Flow-control windows: one body of the largest size is sent without waiting.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// A peer that vanished without a FIN is noticed after interval + timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long open calls may take to end after shutdown was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// First connection number of this edge; the other edge counts below.
pub const CONNECTION_ID_FIRST: u64 = 1 << 63;

/// Reads the clocks; handed in because only the binary may read them.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// What the gRPC edge is told.
#[derive(Debug, Clone)]
pub struct GrpcConfig {
    /// Name in routes (RocketMQ: broker name).
    pub broker_name: Name,
    /// Host and port in routes when the client does not say how it reached us.
    pub advertised: (String, u16),
    /// Queues of a topic created because a client asked for its route; `None`: unknown topics are refused.
    pub auto_create_queues: Option<u32>,
    /// Largest body, sent and told to clients.
    pub body_max_bytes: usize,
    /// A receive is held at most this long; also told to push consumers.
    pub long_polling_ms: u64,
    /// First lease of a push consumer's message; the core renews it while the client lives.
    pub push_lease_ms: u64,
    /// Shortest lease a simple consumer may ask for.
    pub invisible_min_ms: u64,
    /// Longest lease, and longest nack delay.
    pub invisible_max_ms: u64,
    /// Farthest delivery time of a delayed message.
    pub delay_max_ms: u64,
    /// Delivery attempts before a message goes to the dead-letter queue, told to consumers.
    pub attempts_max: i32,
    /// Nack delay after the first, second, … attempt, told to consumers; the last one repeats.
    pub backoff_ms: Vec<u64>,
    /// A client that has not been heard for this long is gone.
    pub client_idle_ms: u64,
    /// A client whose telemetry stream ended and did not come back for this long is gone.
    pub stream_grace_ms: u64,
}

impl GrpcConfig {
    /// What follows from the broker's settings; the rest are the values of RocketMQ's proxy.
    pub fn new(config: &Config, advertised: (String, u16)) -> Self {
        const SECOND: u64 = 1_000;
        GrpcConfig {
            broker_name: Name::from(config.broker_name.as_str()),
            advertised,
            auto_create_queues: config.auto_create_topics.then_some(config.default_queues),
            body_max_bytes: config.max_body_bytes.min(BODY_MAX_BYTES),
            long_polling_ms: 20 * SECOND,
            push_lease_ms: 60 * SECOND,
            invisible_min_ms: 10 * SECOND,
            invisible_max_ms: 12 * 3_600 * SECOND,
            delay_max_ms: config.delay_max_ms,
            attempts_max: i32::try_from(config.retry_max).unwrap_or(i32::MAX).saturating_add(1),
            backoff_ms: config.delay_levels_ms.clone(),
            client_idle_ms: config.client_timeout_ms,
            stream_grace_ms: 3 * SECOND,
        }
    }
}

impl Default for GrpcConfig {
    fn default() -> Self {
        GrpcConfig::new(&Config::default(), ("127.0.0.1".to_owned(), 8081))
    }
}

/// The edge stopped for another reason than being told to.
#[derive(Debug, thiserror::Error)]
#[error("grpc edge stopped: {0}")]
pub struct ServeError(#[from] tonic::transport::Error);

/// Serves until `shutdown`; then ends every stream and waits a few seconds for calls in flight.
pub async fn serve(
    listener: TcpListener,
    core: CoreHandle,
    config: GrpcConfig,
    clock: Clock,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let edge = Arc::new(Edge::new(core, config, clock, shutdown.clone()));
    let service = MessagingServiceServer::new(edge.clone()).max_decoding_message_size(REQUEST_MAX_BYTES);
    let server = Server::builder()
        .max_concurrent_streams(CALLS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(HEADERS_MAX_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(service)
        .serve_with_incoming_shutdown(
            connections::Connections::new(listener, CONNECTIONS_MAX),
            shutdown.clone().cancelled_owned(),
        );
    let grace = async {
        shutdown.cancelled().await;
        tokio::time::sleep(SHUTDOWN_GRACE).await;
    };
    tokio::select! {
        served = server => served?,
        () = edge.watch_clients() => {}
        () = grace => tracing::warn!("grpc calls still open at the end of the grace period are cut"),
    }
    Ok(())
}
