//! Consuming by leases (gRPC): a message is handed out for a time, and is visible again unless it is settled.

use super::consume::Subscription;
use super::send::ConnectionId;
use bytes::Bytes;
use lifecycle::identity::Name;

/// Ask for messages under a lease.
pub struct ReceiveMessages {
    /// The group.
    pub group: Name,
    /// The topic (the group's retry topic is served with it).
    pub topic: Name,
    /// One queue, or any.
    pub queue_id: Option<u32>,
    /// Who asks.
    pub client: Name,
    /// Dropped when this closes.
    pub connection: ConnectionId,
    /// At most this many (capped at 32).
    pub max_messages: u32,
    /// How long the lease lasts, ms.
    pub invisible_ms: u64,
    /// The broker renews the lease while the client lives.
    pub auto_renew: bool,
    /// What it wants of the topic.
    pub subscription: Subscription,
    /// Wait at most this long; 0: answer at once.
    pub wait_ms: u64,
    /// The same id again: the former answer was not received, the same messages may be handed out again.
    pub attempt_id: Name,
}

/// A message under a lease.
#[derive(Debug, Clone)]
pub struct LeasedMessage {
    /// The stored record.
    pub record: Bytes,
    /// The topic to name to the client (the original one for a retry copy).
    pub topic: Name,
    /// Settles it.
    pub handle: String,
    /// Which attempt this is, from 1.
    pub attempt: u32,
}

/// Settle messages.
pub struct AckMessages {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Who.
    pub client: Name,
    /// One answer each, in order.
    pub handles: Vec<String>,
}

/// Change when a message becomes visible again; a new handle is the answer.
pub struct ChangeInvisible {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Who.
    pub client: Name,
    /// The present handle.
    pub handle: String,
    /// From now, ms; 0: at once.
    pub invisible_ms: u64,
    /// The message never left the broker, since whoever was to get it had hung up: the attempt does not count.
    pub never_left: bool,
}

/// Put a message into the dead-letter queue.
pub struct ForwardToDeadLetter {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// Who.
    pub client: Name,
    /// The present handle.
    pub handle: String,
}
