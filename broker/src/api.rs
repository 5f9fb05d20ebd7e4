//! Owns what can be asked of the broker, in our own types: both protocol edges convert to these and back. Never touches a
//! socket, a disk or a clock. The core answers each request exactly once through its [`ReplyFn`].

pub mod consume;
pub mod lease;
pub mod query;
pub mod refusal;
pub mod reinject;
pub mod replica;
pub mod send;

pub use consume::*;
pub use lease::*;
pub use query::*;
pub use refusal::*;
pub use reinject::*;
pub use replica::*;
pub use send::*;

/// Where one answer goes. Called once, on the core's thread, after every fact of its turn is in the journal; must not block.
pub type ReplyFn<T> = Box<dyn FnOnce(T) + Send>;

/// The outcome of a request that can be refused.
pub type Answer<T> = Result<T, Refusal>;

/// Looks at the core between two turns.
pub type LookFn = Box<dyn FnOnce(&mut crate::core::Core, lifecycle::clock::Now) + Send>;

/// One request to the core.
pub enum Request {
    /// Store messages.
    Send(SendMessages, ReplyFn<Answer<Vec<StoredAt>>>),
    /// Read by offset, perhaps waiting for more.
    Pull(PullMessages, ReplyFn<Answer<Pulled>>),
    /// Take messages under a lease, perhaps waiting for more.
    Receive(ReceiveMessages, ReplyFn<Answer<Vec<LeasedMessage>>>),
    /// Settle leased messages.
    Ack(AckMessages, ReplyFn<Vec<Answer<()>>>),
    /// Change when a leased message becomes visible again (a nack, or more time).
    ChangeInvisible(ChangeInvisible, ReplyFn<Answer<String>>),
    /// Put a leased message into the group's dead-letter queue and settle it.
    ForwardToDeadLetter(ForwardToDeadLetter, ReplyFn<Answer<()>>),
    /// A client says what it produces and consumes.
    Heartbeat(Heartbeat, ReplyFn<Answer<()>>),
    /// A client says good-bye to a group, or to all (`group` empty).
    Unregister(Unregister, ReplyFn<()>),
    /// A connection closed: its clients are gone, its waiting requests are dropped.
    Disconnected(ConnectionId),
    /// Committed offset of a group in a queue.
    QueryOffset(QueueOfGroup, ReplyFn<Answer<u64>>),
    /// Commit an offset.
    UpdateOffset(UpdateOffset, ReplyFn<Answer<()>>),
    /// Lowest or highest offset of a queue, or by time.
    FindOffset(FindOffset, ReplyFn<Answer<u64>>),
    /// Send a consumed message back for a later retry.
    SendBack(SendBack, ReplyFn<Answer<()>>),
    /// Store again what a fail-over took.
    Reinject(ReinjectMessages, ReplyFn<Answer<Vec<Reinjected>>>),
    /// Lock queues for ordered consumption; answers the queues held.
    LockQueues(LockQueues, ReplyFn<Vec<LockedQueue>>),
    /// Give locks up.
    UnlockQueues(LockQueues, ReplyFn<()>),
    /// Everything read-only or administrative, see [`Query`].
    Query(Query, ReplyFn<Answer<QueryAnswer>>),
    /// Create or change a topic.
    ConfigureTopic(ConfigureTopic, ReplyFn<Answer<()>>),
    /// What the stream to a replica hears of it.
    Replica(ReplicaEvent),
    /// What a replica gets from its master, in order; what follows one that is not taken is not looked at.
    FromMaster(Vec<FromMaster>, ReplyFn<Answer<()>>),
    /// Look at the core between two turns, when every fact is in the journal (feed, metrics).
    Look(LookFn),
}
