//! Owns every way the broker says no, and what each means on either protocol.

use thiserror::Error;

/// Why a request was refused. Nothing was stored or changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The topic does not exist and may not be created.
    #[error("topic {0} does not exist")]
    TopicNotFound(String),
    /// The queue does not exist.
    #[error("queue {queue_id} of topic {topic} does not exist")]
    QueueNotFound { topic: String, queue_id: i64 },
    /// The group does not exist and may not be created.
    #[error("consumer group {0} does not exist")]
    GroupNotFound(String),
    /// The topic forbids it.
    #[error("topic {topic} does not permit {what}")]
    NoPermission { topic: String, what: &'static str },
    /// The message itself is unacceptable (size, properties, name, type, delay).
    #[error("message refused: {0}")]
    MessageIllegal(String),
    /// The body is larger than the limit.
    #[error("message body of {size} bytes is over the limit of {limit}")]
    BodyTooLarge { size: usize, limit: usize },
    /// The message type is not accepted by the topic.
    #[error("topic {topic} takes {accepts} messages, not {given}")]
    TypeMismatch { topic: String, accepts: String, given: &'static str },
    /// A parameter is unacceptable.
    #[error("bad parameter: {0}")]
    BadParameter(String),
    /// Not writable now: disk full, shutting down.
    #[error("service not available: {0}")]
    NotAvailable(String),
    /// Fewer members are in sync than the operator demands for a send.
    #[error("{in_sync} members are in sync, minInSyncReplicas is {needed}")]
    TooFewReplicas { in_sync: usize, needed: u32 },
    /// A queue of ours is at its limit: try again later.
    #[error("busy: {0}")]
    Busy(&'static str),
    /// The receipt handle is unknown, or its lease is over.
    #[error("receipt handle is not valid: {0}")]
    InvalidHandle(&'static str),
    /// No committed offset.
    #[error("no offset is known")]
    OffsetNotFound,
    /// No such message.
    #[error("no message found")]
    MessageNotFound,
    /// The subscription is unknown here, or older than the consumer's.
    #[error("subscription of group {0} is not known: heartbeat first")]
    SubscriptionNotLatest(String),
    /// The filter cannot be parsed.
    #[error("filter expression cannot be parsed: {0}")]
    BadExpression(String),
    /// The group consumes this topic the other way (leases or offsets).
    #[error("group {0} is consuming by {1}")]
    WrongConsumeModel(String, &'static str),
    /// No member of the group is connected.
    #[error("consumer group {0} is not online")]
    GroupNotOnline(String),
    /// The disk failed under us; the broker stops.
    #[error("storage failed: {0}")]
    StorageFailed(String),
    /// The broker is shutting down: the request was not looked at.
    #[error("the broker is stopping")]
    Stopping,
}

impl Refusal {
    /// The remoting response code (numbers: RocketMQ `ResponseCode.java`).
    pub fn remoting_code(&self) -> i32 {
        match self {
            Refusal::TopicNotFound(_) => 17,
            Refusal::QueueNotFound { .. } | Refusal::BadParameter(_) => 29,
            Refusal::GroupNotFound(_) => 26,
            Refusal::NoPermission { .. } => 16,
            Refusal::MessageIllegal(_) | Refusal::BodyTooLarge { .. } | Refusal::TypeMismatch { .. } => 13,
            Refusal::NotAvailable(_) | Refusal::Stopping => 14,
            Refusal::Busy(_) => 2,
            Refusal::OffsetNotFound | Refusal::MessageNotFound => 22,
            Refusal::SubscriptionNotLatest(_) => 25,
            Refusal::BadExpression(_) => 23,
            Refusal::GroupNotOnline(_) => 206,
            Refusal::InvalidHandle(_)
            | Refusal::WrongConsumeModel(..)
            | Refusal::StorageFailed(_)
            | Refusal::TooFewReplicas { .. } => 1,
        }
    }

    /// The gRPC status code (numbers: `apache.rocketmq.v2.Code`).
    pub fn grpc_code(&self) -> i32 {
        match self {
            Refusal::TopicNotFound(_) => 40402,
            Refusal::QueueNotFound { .. } | Refusal::BadParameter(_) => 40000,
            Refusal::GroupNotFound(_) => 40403,
            Refusal::NoPermission { .. } => 40300,
            Refusal::MessageIllegal(_) => 40000,
            Refusal::BodyTooLarge { .. } => 41301,
            Refusal::TypeMismatch { .. } => 40014,
            Refusal::NotAvailable(_) | Refusal::Stopping => 50001,
            Refusal::Busy(_) => 42900,
            // not OFFSET_NOT_FOUND 40404: the Rust SDK does not know it
            Refusal::OffsetNotFound | Refusal::MessageNotFound => 40401,
            Refusal::SubscriptionNotLatest(_) | Refusal::WrongConsumeModel(..) => 42800,
            Refusal::BadExpression(_) => 40010,
            Refusal::GroupNotOnline(_) => 40403,
            Refusal::InvalidHandle(_) => 40013,
            Refusal::StorageFailed(_) | Refusal::TooFewReplicas { .. } => 50001,
        }
    }
}
