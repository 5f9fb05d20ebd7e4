//! Owns the remoting edge: RocketMQ 4.x and 5.x clients of the old protocol and the admin tool talk to the broker through it,
//! and its built-in name server is the same edge on another port. Turns each request into one of [`crate::api`] and the answer
//! back. Never stores, counts or decides anything about messages. Called by whoever wires the broker, on the core's own
//! current-thread runtime.
//!
//! ```text
//! listener ── accepts ──> session: one task per connection
//!    read a chunk ─ cut all its frames ─ dispatch: code -> request of the api ─> core's inbox
//!    write all that waits  <── outbox: answers, encoded in place by the core's turn
//! ```
//!
//! Bounds: a connection is not read while its outbox, or what it has in flight, is above its limit; it is closed when it takes
//! nothing for a while, is silent for too long, or sends what is no frame.

mod admin;
mod ask;
mod client;
mod consume;
mod dispatch;
mod listener;
mod message;
mod offset;
mod outbox;
mod route;
mod send;
mod session;
mod stats;

#[cfg(test)]
mod tests;

use crate::replication::follow::MasterAddress;
pub use listener::{Serving, serve};
pub use stats::RemotingStats;

use crate::api::Advertised;
use lifecycle::clock::Now;
use lifecycle::identity::Name;
use std::sync::Arc;
use std::time::Duration;

/// First connection number of the broker's port.
pub const BROKER_CONNECTION_ID_FIRST: u64 = 1;
/// First connection number of the name server's port; the gRPC edge counts above.
pub const NAME_SERVER_CONNECTION_ID_FIRST: u64 = 1 << 62;

/// Reads the clocks; handed in because only the binary may read them.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// Which of a stock installation's two servers a port stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Routes, cluster and topic lists only.
    NameServer,
    /// Everything.
    Broker,
}

/// What the remoting edge is told.
#[derive(Debug, Clone)]
pub struct RemotingConfig {
    /// Names and address that routes and offset ids carry.
    pub advertised: Advertised,
    /// `MSG_REGION` of every answer to a send.
    pub region: Name,
    /// `TRACE_ON` of every answer to a send: whether clients may send trace records.
    pub trace_on: bool,
    /// Topics are created at their first send: `TBW102` has a route.
    pub auto_create_topic: bool,
    /// Most queues of a topic created so (RocketMQ: defaultTopicQueueNums).
    pub default_queue_nums: u32,
    /// Bounds.
    pub limits: Limits,
    /// On a SLAVE: where clients reach the master, once that is known.
    pub master: MasterAddress,
}

/// Bounds of the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Largest frame read.
    pub max_frame_bytes: usize,
    /// Most connections at a time; more are closed at once.
    pub max_connections: usize,
    /// A connection with more unsent bytes is not read.
    pub outbox_high_bytes: usize,
    /// A connection with more unsent bytes is closed, and what it had not read is dropped at once.
    pub outbox_max_bytes: usize,
    /// A connection with more bytes of unanswered requests is not read.
    pub in_flight_max_bytes: usize,
    /// A connection silent in both directions for so long is closed.
    pub idle_timeout: Duration,
    /// A connection that takes none of the bytes waiting for it for so long is closed.
    pub write_stall_timeout: Duration,
    /// How long answers still owed are waited for when the client stopped sending, or the broker stops.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Limits {
            max_frame_bytes: wire::frame::MAX_FRAME_LEN,
            max_connections: 20_000,
            outbox_high_bytes: 4 * MIB,
            // one core turn may answer many pulls of 256 KiB each that were read before the outbox was high
            outbox_max_bytes: 256 * MIB,
            in_flight_max_bytes: 32 * MIB,
            // RocketMQ: serverChannelMaxIdleTimeSeconds
            idle_timeout: Duration::from_secs(120),
            write_stall_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(5),
        }
    }
}
