//! What replication connections tell the core: a master's of its replicas, a replica's of its master.

use super::ReplyFn;
use crate::replication::followers::FollowerError;
use crate::replication::frame::{JournalFrame, Welcome};
use bytes::Bytes;
use lifecycle::identity::{Incarnation, LogPosition, Name};

/// News of one replica.
pub enum ReplicaEvent {
    /// It is connected, and shares the log up to `at`.
    Joined { id: Name, at: LogPosition, reply: ReplyFn<Result<(), FollowerError>> },
    /// Bytes up to `sent` went out to it; it says that it has received and flushed so much of them.
    Acked { id: Name, sent: LogPosition, received: LogPosition, flushed: LogPosition },
    /// Its connection is gone.
    Left { id: Name },
}

/// What a master sends to its replica.
pub enum FromMaster {
    /// The connection stands; where it starts. `copies`: to somebody who is no master, for a copy of what it has.
    Welcome { welcome: Welcome, copies: bool },
    /// A piece of the log.
    Log { position: LogPosition, readable: LogPosition, bytes: Bytes },
    /// Journal frames of one run.
    Frames { run: Incarnation, frames: Vec<JournalFrame> },
    /// It lives; its log begins at `start`, and consumers may read below `readable`.
    Heartbeat { start: LogPosition, readable: LogPosition },
}
