//! Reading the broker's state: routes, lists, statistics, messages by id and key. Answers are values; edges shape them.

use bytes::Bytes;
use lifecycle::identity::{MessageIdentity, Name};
use std::net::SocketAddr;

/// A read-only question.
#[derive(Debug, Clone)]
pub enum Query {
    /// Configuration of one topic. For a producer's unknown topic the edge asks for `TBW102` as its client did.
    Topic(Name),
    /// All topics, system topics included.
    Topics,
    /// Members of a consumer group.
    Members(Name),
    /// Per queue of a topic: min, max, last store time.
    TopicStats(Name),
    /// Per queue a group consumes (all topics, or one): positions.
    ConsumeStats { group: Name, topic: Option<Name> },
    /// Messages of a topic by key or unique id, newest first.
    ByKey { topic: Option<Name>, key: String, unique: bool, max: u32, begin_ms: u64, end_ms: u64 },
    /// The record at this commit-log offset.
    ByOffset(u64),
    /// Numbers for operators.
    Runtime,
}

/// The answers, one variant per question.
#[derive(Debug, Clone)]
pub enum QueryAnswer {
    /// A topic.
    Topic(TopicInfo),
    /// Topics by name.
    Topics(Vec<TopicInfo>),
    /// Members of a group.
    Members(GroupInfo),
    /// Queues of a topic.
    TopicStats(Vec<QueueStats>),
    /// Queues of a group.
    ConsumeStats(Vec<ConsumeStats>),
    /// Messages.
    Messages(Vec<FoundMessage>),
    /// One record.
    Record(Bytes),
    /// Numbers for operators.
    Runtime(RuntimeInfo),
}

/// A topic as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicInfo {
    /// Its name.
    pub name: Name,
    /// Queues consumers see.
    pub read_queues: u32,
    /// Queues producers see.
    pub write_queues: u32,
    /// Permission bits: 4 read, 2 write, 1 inherit.
    pub perm: u32,
    /// `NORMAL`, `FIFO`, `DELAY`, `TRANSACTION`, `MIXED`.
    pub message_type: Name,
    /// Ours or RocketMQ's own, not a user's.
    pub system: bool,
}

/// A consumer group with its members.
#[derive(Debug, Clone, Default)]
pub struct GroupInfo {
    /// Members by client id.
    pub members: Vec<MemberInfo>,
    /// Subscriptions in force.
    pub subscriptions: Vec<super::consume::Subscription>,
    /// Of the last declaration.
    pub declaration: Option<super::consume::ConsumerDeclaration>,
}

/// A member of a group.
#[derive(Debug, Clone)]
pub struct MemberInfo {
    /// Client id.
    pub client: Name,
    /// Language and protocol version.
    pub language: Name,
    /// Protocol version number.
    pub version: i32,
    /// Its connection.
    pub connection: super::send::ConnectionId,
    /// Whether it consumes by leases, and has no part in how the others share queues.
    pub leases: bool,
}

/// A queue of a topic.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueStats {
    /// The queue.
    pub queue_id: u32,
    /// Lowest offset.
    pub min_offset: u64,
    /// One past the highest.
    pub max_offset: u64,
    /// Store time of the last message, ms; 0: none.
    pub last_store_ms: u64,
}

/// A queue a group consumes.
#[derive(Debug, Clone, PartialEq)]
pub struct ConsumeStats {
    /// The topic.
    pub topic: Name,
    /// The queue.
    pub queue_id: u32,
    /// One past the highest offset.
    pub broker_offset: u64,
    /// The group's position (lease groups: the ack floor).
    pub consumer_offset: u64,
    /// Store time of the last consumed message, ms; 0: none.
    pub last_ms: u64,
}

/// A message found by key or id.
#[derive(Debug, Clone)]
pub struct FoundMessage {
    /// Topic it is stored in.
    pub topic: Name,
    /// Its identity.
    pub identity: MessageIdentity,
    /// First byte in the commit log.
    pub commitlog_offset: u64,
    /// The record.
    pub record: Bytes,
    /// Where the copy came from.
    pub lineage: Option<lifecycle::identity::Lineage>,
}

/// Numbers for operators (code 28, /metrics).
#[derive(Debug, Clone, Default)]
pub struct RuntimeInfo {
    /// When this run started, wall ms.
    pub started_ms: u64,
    /// Messages stored since.
    pub put_total: u64,
    /// Messages handed out since.
    pub get_total: u64,
    /// Share of the store's disk in use, 0 to 1.
    pub disk_ratio: f64,
    /// First and last byte of the commit log.
    pub commitlog_min: u64,
    /// One past the last byte of the commit log.
    pub commitlog_max: u64,
}

/// Create or change a topic.
#[derive(Debug, Clone)]
pub struct ConfigureTopic {
    /// The topic.
    pub name: Name,
    /// Queues consumers see, 1 to 1,024 (limit of the configuration).
    pub read_queues: u32,
    /// Queues producers see.
    pub write_queues: u32,
    /// Permission bits.
    pub perm: u32,
    /// `NORMAL` when not said.
    pub message_type: Name,
    /// Leave an existing topic as it is: made at its first use, while an operator may be configuring it.
    pub only_if_absent: bool,
    /// Who asks.
    pub actor: Name,
}

/// Where this broker can be reached, for routes.
#[derive(Debug, Clone)]
pub struct Advertised {
    /// Replica group (RocketMQ: broker name).
    pub broker_name: Name,
    /// Cluster name.
    pub cluster: Name,
    /// Remoting address.
    pub remoting: SocketAddr,
    /// RocketMQ's broker id: 0 for a master.
    pub broker_id: u64,
}
