//! Sending: what a producer hands in and what it is told.

use bytes::Bytes;
use lifecycle::identity::Name;
use std::net::SocketAddr;

/// One send request; its messages are stored together or not at all.
#[derive(Debug, Clone)]
pub struct SendMessages {
    /// Client id of the producer (may be empty on remoting before the first heartbeat).
    pub client: Name,
    /// The connection it came on.
    pub connection: ConnectionId,
    /// Topic as the client named it. `%RETRY%…` is accepted (a consumer's fallback when a send-back failed).
    pub topic: Name,
    /// Which queue.
    pub queue: QueueChoice,
    /// When the topic does not exist: create it with this many queues (remoting clients say so), if the broker allows it.
    pub create_with_queues: Option<u32>,
    /// The client does not wait for an answer.
    pub one_way: bool,
    /// At least one.
    pub messages: Vec<NewMessage>,
}

/// A connection of either edge; unique while the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// How the queue is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueChoice {
    /// By the client.
    Given(u32),
    /// By the broker, in turn.
    Any,
    /// By the broker, always the same one for equal keys (FIFO groups).
    ByKey(u64),
}

/// One message as a client made it.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// The body as it will be stored (compressed as the client compressed it).
    pub body: Bytes,
    /// RocketMQ property text, `name 0x01 value 0x02 …`.
    pub properties: Bytes,
    /// User flag.
    pub flag: i32,
    /// RocketMQ sysFlag.
    pub sys_flag: i32,
    /// When the client made it, ms.
    pub born_timestamp_ms: u64,
    /// Where it was made.
    pub born_host: SocketAddr,
    /// How often it was sent back before.
    pub reconsume_times: i32,
    /// After how many a message sent to a retry topic is dead; `None`: the group's own maximum.
    pub max_reconsume_times: Option<i32>,
    /// A delivery time of the gRPC protocol, wall ms. (Delay levels are read from the properties.)
    pub deliver_at_ms: Option<u64>,
    /// What the client calls it; checked against the topic's type when given.
    pub message_type: Option<MessageType>,
}

/// Message types of the 5.x protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageType {
    /// No order, no delay.
    Normal,
    /// Ordered within its message group.
    Fifo,
    /// Delivered later.
    Delay,
    /// First half of a transaction.
    Transaction,
}

/// Where a message was stored, and how durably when this was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAt {
    /// Queue in the topic the client named (the real topic for a delayed message).
    pub queue_id: u32,
    /// Logical offset (for a delayed message: in the schedule queue).
    pub queue_offset: u64,
    /// First byte of the record in the commit log: half of the offset message id.
    pub commitlog_offset: u64,
    /// What was reached.
    pub status: SendStatus,
}

/// RocketMQ's four send statuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SendStatus {
    /// As durable as promised.
    Ok,
    /// Stored, not on disk within syncFlushTimeout.
    FlushDiskTimeout,
    /// Stored, not with the replicas in time.
    FlushSlaveTimeout,
    /// Stored, no replica in reach.
    SlaveNotAvailable,
}

impl SendStatus {
    /// The remoting response code.
    pub fn remoting_code(self) -> i32 {
        match self {
            SendStatus::Ok => 0,
            SendStatus::FlushDiskTimeout => 10,
            SendStatus::SlaveNotAvailable => 11,
            SendStatus::FlushSlaveTimeout => 12,
        }
    }

    /// The gRPC status code.
    pub fn grpc_code(self) -> i32 {
        match self {
            SendStatus::Ok => 20000,
            SendStatus::FlushDiskTimeout => 50401,
            SendStatus::FlushSlaveTimeout => 50402,
            SendStatus::SlaveNotAvailable => 50002,
        }
    }
}
