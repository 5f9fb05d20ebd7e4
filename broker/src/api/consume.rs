//! Consuming by offsets: heartbeats, pulls, commits, send-backs, queue locks.

use super::send::ConnectionId;
use bytes::Bytes;
use lifecycle::identity::Name;
use std::sync::Arc;

/// Told the group whose members changed; called on the core's thread, must not block.
pub type NotifyFn = Arc<dyn Fn(&Name) + Send + Sync>;

/// What a client produces and consumes, all of it, each time.
pub struct Heartbeat {
    /// The client's id.
    pub client: Name,
    /// The connection it lives on.
    pub connection: ConnectionId,
    /// Language and version for operators (`JAVA`, 409).
    pub language: Name,
    /// Protocol version number of the client.
    pub version: i32,
    /// Producer groups.
    pub producer_groups: Vec<Name>,
    /// Consumer groups.
    pub consumers: Vec<ConsumerDeclaration>,
    /// Called when the members of a group of this client change; must not block.
    pub notify: Option<NotifyFn>,
}

/// One consumer group as a client declares it.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumerDeclaration {
    /// The group.
    pub group: Name,
    /// Offsets shared, offsets in the client, or leases.
    pub model: lifecycle::fact::ConsumeModel,
    /// Push (true) or pull: only told to operators.
    pub push: bool,
    /// Where a new group starts.
    pub start: StartPolicy,
    /// What it subscribes to.
    pub subscriptions: Vec<Subscription>,
}

/// Where a new group starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPolicy {
    /// CONSUME_FROM_LAST_OFFSET, the default.
    Last,
    /// CONSUME_FROM_FIRST_OFFSET.
    First,
    /// By time, or not known: the first offset pulled decides.
    FirstPull,
}

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The topic.
    pub topic: Name,
    /// Tag expression: `*`, or tags joined by `||`.
    pub expression: Name,
    /// The client's version of it (ms).
    pub version: u64,
    /// `TAG`; anything else is refused.
    pub expression_type: Name,
}

/// A client leaves.
#[derive(Debug, Clone)]
pub struct Unregister {
    /// The client's id.
    pub client: Name,
    /// Producer group it leaves; empty: none.
    pub producer_group: Name,
    /// Consumer group it leaves; empty: none. Both empty: all of the client's.
    pub consumer_group: Name,
}

/// A group in a queue.
#[derive(Debug, Clone)]
pub struct QueueOfGroup {
    /// The group.
    pub group: Name,
    /// The topic.
    pub topic: Name,
    /// The queue.
    pub queue_id: u32,
}

/// A commit.
#[derive(Debug, Clone)]
pub struct UpdateOffset {
    /// Group and queue.
    pub queue: QueueOfGroup,
    /// Everything below is done.
    pub offset: u64,
    /// Who says so (client id, or the connection's address).
    pub client: Name,
    /// The connection it came on.
    pub connection: ConnectionId,
}

/// A read by offset.
pub struct PullMessages {
    /// Group and queue.
    pub queue: QueueOfGroup,
    /// Who pulls.
    pub client: Name,
    /// Dropped when this closes.
    pub connection: ConnectionId,
    /// From here.
    pub offset: i64,
    /// At most this many (the broker caps it).
    pub max_messages: u32,
    /// At most this many bytes; 0: the broker's limit.
    pub max_bytes: u32,
    /// Commit this first.
    pub commit_offset: Option<u64>,
    /// The subscription in the request itself; else the one of the heartbeat.
    pub subscription: Option<Subscription>,
    /// Version of the heartbeat's subscription the client expects (0: do not check).
    pub subscription_version: u64,
    /// Wait at most this long for messages; 0: answer at once.
    pub suspend_ms: u64,
}

/// What a pull found.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulled {
    /// What happened.
    pub status: PullStatus,
    /// Where to go on.
    pub next_offset: u64,
    /// Lowest offset of the queue.
    pub min_offset: u64,
    /// One past the highest offset readable.
    pub max_offset: u64,
    /// Stored records, in order.
    pub records: Vec<Bytes>,
}

/// Outcome of a pull; names as RocketMQ's `GetMessageStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullStatus {
    /// Records follow.
    Found,
    /// Only messages the filter excludes were passed.
    NoMatchedMessage,
    /// Nothing at the offset yet (offset == max).
    OffsetOverflowOne,
    /// The offset is far above the highest.
    OffsetOverflowBadly,
    /// The offset is below the lowest.
    OffsetTooSmall,
    /// The queue is empty and the offset is not 0.
    NoMessageInQueue,
    /// The queue does not exist.
    NoMatchedLogicQueue,
    /// Records vanished while reading: go on at `next_offset`.
    MessageWasRemoving,
}

/// A consumer gives a message back.
#[derive(Debug, Clone)]
pub struct SendBack {
    /// Its group.
    pub group: Name,
    /// First byte of the record consumed, as told in the record.
    pub commitlog_offset: u64,
    /// -1: dead letter at once; 0: the broker's own back-off; else a delay level.
    pub delay_level: i32,
    /// The client's maximum of attempts; `None`: the group's.
    pub max_reconsume_times: Option<i32>,
    /// Who.
    pub client: Name,
}

/// Locks for ordered consumption (they last 60 s).
#[derive(Debug, Clone)]
pub struct LockQueues {
    /// The group.
    pub group: Name,
    /// Who locks.
    pub client: Name,
    /// What.
    pub queues: Vec<LockedQueue>,
}

/// One queue in a lock request or answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedQueue {
    /// The topic.
    pub topic: Name,
    /// The queue.
    pub queue_id: u32,
}

/// Which offset is wanted.
#[derive(Debug, Clone)]
pub struct FindOffset {
    /// The topic.
    pub topic: Name,
    /// The queue.
    pub queue_id: u32,
    /// Which.
    pub what: OffsetAt,
}

/// Which offset is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetAt {
    /// The lowest.
    Min,
    /// One past the highest readable.
    Max,
    /// The first stored at or after this time, ms; after all: the last one.
    Time(u64),
    /// The store time of the lowest, ms, instead of an offset (-1 as u64::MAX when empty).
    EarliestStoreTime,
}
