//! Owns the vocabulary between broker and agent: everything a source can state about messages. Facts are ranges and
//! positions, never one per message. Facts about storage are stated after they are true; *answered* and *delivered* are
//! decisions, stated before they act.

use crate::identity::{
    CopyReason, Epoch, Incarnation, Lineage, LogPosition, MessageIdentity, Name, QueueKey, TopicIncarnation,
};
use crate::ids::IdColumn;
use crate::ranges::Ranges;

/// One statement. The order of facts within a source is the order in which they became true.
#[derive(Clone, PartialEq, Debug)]
pub enum Fact {
    // --- the run, the log, the configuration ---
    /// A term of mastership began.
    EpochStarted(EpochStarted),
    /// What recovery found and kept; stated once by a new incarnation, before its epoch starts.
    Recovered(Recovered),
    /// A topic was created, or its configuration changed.
    TopicConfigured(TopicConfigured),
    /// A topic incarnation is gone, with its messages.
    TopicDeleted { topic: TopicIncarnation, actor: Name },
    /// A consumer group was created, or its configuration changed.
    GroupConfigured { group: Name, retry_max: u32, consume_enabled: bool },
    /// A consumer group is gone: it owes nothing any more.
    GroupDeleted { group: Name, actor: Name },

    // --- sending and storing ---
    /// Messages were appended to the commit log.
    Stored(Stored),
    /// Send requests were refused: nothing was stored.
    Refused { topic: Name, code: i32, reason: Name, one_way: bool, ids: IdColumn },
    /// The commit log of the current epoch is on disk up to here.
    Flushed { log_position: LogPosition },
    /// This journal is on disk up to and including this frame.
    JournalFlushed { sequence: u64 },
    /// Until the next [`Fact::JournalFlushed`], at most this much more will be answered: the bound of what a power cut can
    /// take without a name.
    Reserved { messages: u64, bytes: u64 },
    /// Sends with these ordinals are about to be answered with this durability.
    Answered { from_ordinal: u64, count: u64, class: AnswerClass },
    /// The answer of this send could not be written: the connection was gone.
    BrokenOff { ordinal: u64 },
    /// A copy could not be stored; its parent is still with the group.
    CopyFailed { group: Name, parent: MessageIdentity, reason: CopyReason, error: Name },

    // --- consuming ---
    /// A group owes this queue from this offset on.
    GroupStarted { group: Name, queue: QueueKey, offset: u64, reason: StartReason },
    /// A client became a member of a group.
    MemberJoined { group: Name, member: Name, model: ConsumeModel },
    /// A client is no longer a member.
    MemberLeft { group: Name, member: Name, reason: LeaveReason },
    /// What a member of a group subscribes to in one topic. `expression` `*` is everything.
    Subscribed { group: Name, member: Name, topic: Name, expression: Name, version: u64 },
    /// Messages are about to be handed to a member.
    Delivered {
        group: Name,
        queue: QueueKey,
        ranges: Ranges,
        member: Name,
        attempt: u32,
        lease_until_ms: u64,
    },
    /// Messages were passed over because the group's subscription excludes them.
    Filtered { group: Name, queue: QueueKey, ranges: Ranges, expression: Name },
    /// Messages were acknowledged one by one (leases).
    Acked { group: Name, queue: QueueKey, ranges: Ranges, member: Name },
    /// An acknowledgement came after its lease was over: it settles nothing.
    LateAck { group: Name, queue: QueueKey, offset: u64, member: Name },
    /// A member gave a leased message back; it becomes visible again at this wall time.
    Nacked { group: Name, queue: QueueKey, offset: u64, attempt: u32, visible_at_ms: u64 },
    /// Leases ran out without acknowledgement; the messages are visible again.
    LeaseExpired { group: Name, queue: QueueKey, ranges: Ranges },
    /// The group's position moved.
    OffsetMoved { group: Name, queue: QueueKey, from: u64, to: u64, reason: MoveReason, actor: Name },

    // --- the end of messages, and the clock ---
    /// The oldest messages of a queue were deleted: `from..to`, `to` is the new lowest offset.
    Expired { queue: QueueKey, from: u64, to: u64, reason: ExpiryReason },
    /// The wall clock jumped by this much against the monotonic one.
    ClockStepped { delta_ms: i64 },

    // --- a whole state, for snapshots ---
    /// A queue as it stands: lowest offset, and one past the highest.
    QueueState { queue: QueueKey, min_offset: u64, max_offset: u64 },
    /// A group's settled offsets above its position, and leases, as they stand.
    GroupState { group: Name, queue: QueueKey, position: u64, delivered: Ranges, settled: Ranges },
    /// Messages an operator had sent again, by where they stood when they were lost.
    ReDriven { queue: QueueKey, epoch_number: u64, ranges: Ranges },

    // --- what only the agent is told (its evidence log) ---
    /// A producer reported the outcome of a send.
    SentReported(SentReported),
    /// An operator acted on an incident.
    OperatorActed { incident: Incarnation, action: OperatorAction, actor: Name, note: Name, wall_ms: u64 },

    // --- replication ---
    /// A replica has received, or holds on disk, everything up to here.
    Replicated { replica: Name, log_position: LogPosition, durable: bool },

    // --- reading back what is on disk ---
    /// A member read a part of its copy of the log back.
    Scrubbed(Scrubbed),
    /// Messages were passed over for a group because their records cannot be read here.
    Unreadable { group: Name, queue: QueueKey, ranges: Ranges },
}

/// Which epoch, where it begins, and under which promises it runs.
#[derive(Clone, PartialEq, Debug)]
pub struct EpochStarted {
    /// The epoch.
    pub epoch: Epoch,
    /// The replica group (RocketMQ: broker name).
    pub broker_name: Name,
    /// The first commit-log byte it owns.
    pub log_start: LogPosition,
    /// Members of the replica group.
    pub roster: Vec<Name>,
    /// Settings that decide what can be lost, by their RocketMQ names (`flushDiskType`, `fileReservedTime`, …).
    pub settings: Vec<(Name, Name)>,
}

impl EpochStarted {
    /// The name of the setting that says which member of the replica group is master in this epoch. Not stated by a broker without
    /// a name of its own, and of an epoch that another member began.
    pub const MEMBER: &str = "replicaId";

    /// A setting; empty when it is not stated.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.iter().find(|(key, _)| &**key == name).map_or("", |(_, value)| value)
    }

    /// The member that is master in this epoch; empty: not stated.
    pub fn member(&self) -> &str {
        self.setting(EpochStarted::MEMBER)
    }

    /// The same, as far as somebody can say who did not begin this epoch.
    pub fn of_another_member(mut self) -> Self {
        self.settings.retain(|(key, _)| &**key != EpochStarted::MEMBER);
        self
    }
}

/// What recovery kept of earlier epochs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Recovered {
    /// Whether the last run ended by a clean stop.
    pub clean: bool,
    /// End of the surviving commit log.
    pub log_end: LogPosition,
    /// Highest commit-log position known to have been flushed.
    pub flushed: LogPosition,
    /// Per queue: lowest surviving offset and one past the highest.
    pub queues: Vec<(QueueKey, u64, u64)>,
    /// Queue offsets below the end that did not survive (bad records).
    pub bad: Vec<(QueueKey, Ranges)>,
    /// Earlier runs and the last frame of theirs that is readable.
    pub closed: Vec<(Incarnation, u64)>,
    /// At most this many messages may have been answered without a readable trace in the journal.
    pub unnamed_max: u64,
}

/// A topic as configured.
#[derive(Clone, PartialEq, Debug)]
pub struct TopicConfigured {
    /// Its incarnation.
    pub topic: TopicIncarnation,
    /// Its name.
    pub name: Name,
    /// Queues consumers see.
    pub read_queues: u32,
    /// Queues producers see.
    pub write_queues: u32,
    /// RocketMQ permission bits: 4 read, 2 write, 1 inherit.
    pub perm: u32,
    /// Message types it takes, RocketMQ attribute `message.type` (`NORMAL`, `FIFO`, `DELAY`, `TRANSACTION`, `MIXED`).
    pub message_type: Name,
}

/// Messages appended in one turn, in commit-log order.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Stored {
    /// Number of the first of them within this run's stored messages, from 0.
    pub first_ordinal: u64,
    /// The commit log's end after them.
    pub log_end: LogPosition,
    /// When, in the broker's wall time.
    pub store_wall_ms: u64,
    /// Neighbours in one queue form a run.
    pub runs: Vec<StoredRun>,
    /// Run-length: how many messages, of which kind. The counts add up to the messages of `runs`.
    pub kinds: Vec<(u64, StoredKind)>,
    /// One client id per message, empty where it has none; or no ids at all (snapshots).
    pub ids: IdColumn,
}

impl Stored {
    /// How many messages.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.count).sum()
    }
}

/// Consecutive messages of one queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoredRun {
    /// The queue.
    pub queue: QueueKey,
    /// Offset of the first.
    pub queue_offset: u64,
    /// How many.
    pub count: u64,
}

/// How a message came to be stored.
#[derive(Clone, PartialEq, Debug)]
pub enum StoredKind {
    /// A client sent it and waits for the answer.
    Produced,
    /// A client sent it and will never learn the outcome.
    ProducedOneWay,
    /// A client sent it, to be delivered later; it waits in the schedule topic.
    Delayed { due_wall_ms: u64, destination: Name },
    /// The first half of a transaction.
    Half,
    /// The broker copied a stored message, for a group (empty: for all). `due_wall_ms` 0: at once.
    Copy { group: Name, lineage: Lineage, due_wall_ms: u64 },
}

/// What was true of a message when its send was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum AnswerClass {
    /// OK, and on this broker's disk.
    Flushed = 1,
    /// OK, in the operating system's memory only (ASYNC_FLUSH, or WAIT=false).
    Buffered = 2,
    /// FLUSH_DISK_TIMEOUT: stored, not on disk in time.
    FlushDiskTimeout = 3,
    /// FLUSH_SLAVE_TIMEOUT: stored, not with enough replicas in time.
    FlushSlaveTimeout = 4,
    /// SLAVE_NOT_AVAILABLE: stored, no replica in reach.
    SlaveNotAvailable = 5,
    /// OK, on this disk and with the promised replicas.
    Replicated = 6,
    /// The producer does not wait for an answer.
    OneWay = 7,
}

impl AnswerClass {
    /// The class with this number on disk.
    pub fn from_u8(value: u8) -> Option<Self> {
        use AnswerClass::*;
        [Flushed, Buffered, FlushDiskTimeout, FlushSlaveTimeout, SlaveNotAvailable, Replicated, OneWay]
            .into_iter()
            .find(|class| *class as u8 == value)
    }
}

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }
        impl $name {
            /// The value with this number on disk.
            pub fn from_u8(value: u8) -> Option<Self> {
                match value { $($value => Some($name::$variant),)+ _ => None }
            }
            /// Its name for people.
            pub fn text(self) -> &'static str {
                match self { $($name::$variant => $text,)+ }
            }
        }
    };
}

reasons! {
    /// Why a group starts where it starts.
    StartReason {
        /// Policy LAST: the end, as the queue already had messages.
        Last = 1 "consume from last",
        /// Policy FIRST, or a queue that starts at 0 and never lost anything.
        First = 2 "consume from first",
        /// The group's retry topic is owed whole.
        RetryTopic = 3 "retry topic",
        /// The queue was added after the group had started.
        QueueAdded = 4 "queue added later",
        /// No policy is known: the first offset a member pulled.
        FirstPull = 5 "first pull",
    }
}

reasons! {
    /// Why a group's position moved.
    MoveReason {
        /// A member committed its progress.
        Commit = 1 "commit",
        /// A member or an operator set it elsewhere.
        Reset = 2 "reset",
        /// The broker corrected a position outside the queue.
        Correction = 3 "correction",
        /// Retention deleted what lay below.
        Retention = 4 "retention",
        /// The acknowledged floor of a lease consumer rose.
        AckFloor = 5 "ack floor",
        /// Recovery found the position above the surviving log.
        Recovery = 6 "recovery",
    }
}

reasons! {
    /// Why a member is gone.
    LeaveReason {
        /// It said good-bye.
        Unregistered = 1 "unregistered",
        /// Its connection closed.
        Disconnected = 2 "disconnected",
        /// It stopped sending heartbeats.
        HeartbeatTimeout = 3 "heartbeat timeout",
        /// The broker restarted.
        BrokerRestart = 4 "broker restart",
    }
}

reasons! {
    /// How a group's members share messages.
    ConsumeModel {
        /// By offsets, each message to one member.
        Clustering = 1 "clustering",
        /// By offsets kept in the client, every message to every member: owes nothing.
        Broadcasting = 2 "broadcasting",
        /// By leases.
        Lease = 3 "lease",
    }
}

reasons! {
    /// Why messages were deleted.
    ExpiryReason {
        /// Older than the retention time.
        Age = 1 "age",
        /// The disk was too full.
        Disk = 2 "disk",
    }
}

reasons! {
    /// What an operator decided about an incident.
    OperatorAction {
        /// Seen, being handled.
        Acknowledge = 1 "acknowledge",
        /// The loss is accepted for good.
        Accept = 2 "accept",
    }
}

reasons! {
    /// What a producer knows of its send.
    SendOutcome {
        /// The broker answered OK.
        Ok = 1 "ok",
        /// The broker refused.
        Refused = 2 "refused",
        /// No answer: time-out or broken connection.
        Unknown = 3 "unknown",
        /// Stored, but the promised durability was not reached in time.
        NotDurable = 4 "not durable",
    }
}

/// A producer's own word about one attempt.
#[derive(Clone, PartialEq, Debug)]
pub struct SentReported {
    /// The message's client id.
    pub id: Name,
    /// Its topic.
    pub topic: Name,
    /// What the producer knows.
    pub outcome: SendOutcome,
    /// Broker, queue and offset of the answer, where there was one.
    pub broker: Name,
    /// Queue of the answer; `None` when not reported.
    pub queue_id: Option<u32>,
    /// Offset of the answer; `None` when not reported.
    pub queue_offset: Option<u64>,
    /// When the producer sent it, wall ms (0: not reported).
    pub sent_wall_ms: u64,
    /// When the agent received the report, wall ms.
    pub reported_wall_ms: u64,
}

/// What reading a copy of the log back found. Damage is stated once, by its bytes; the messages are named by the consume queues.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Scrubbed {
    /// Whose copy; empty: that of the member whose journal this is.
    pub member: Name,
    /// The first byte that was read.
    pub from: LogPosition,
    /// One past the last.
    pub to: LogPosition,
    /// When the round began that this is of, wall ms; 0: a consumer's reading found it.
    pub round_wall_ms: u64,
    /// Whether the round ends here.
    pub ends_round: bool,
    /// Bytes of the log that hold no readable record, and were not stated before.
    pub damaged: Ranges,
    /// The messages whose records stood there, by their queue offsets.
    pub bad: Vec<(QueueKey, Ranges)>,
    /// At most so many more stood there: nothing names them.
    pub unnamed_max: u64,
}
