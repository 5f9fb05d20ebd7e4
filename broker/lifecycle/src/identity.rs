//! Owns the names of things: which run of which process, which term of a replica group, which queue, which message.
//! Never does IO. Used by every crate; the wire and disk shapes of these types last for ever.

use std::fmt;
use std::sync::Arc;

/// A name shared by many facts: topic, group, member, broker. Cloning costs one counter.
pub type Name = Arc<str>;

/// One run of one process: a uuid v7, so it also tells roughly when. It numbers that run's journal frames and cumulative
/// counts. Incarnations are compared for equality only; uuids never order anything.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Incarnation(pub [u8; 16]);

impl Incarnation {
    /// The value no run ever has.
    pub const NONE: Incarnation = Incarnation([0; 16]);

    /// Makes an incarnation from a uuid v7 handed in by the binary.
    pub fn from_uuid(uuid: uuid::Uuid) -> Self {
        Incarnation(*uuid.as_bytes())
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Incarnation {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        Ok(Incarnation(*uuid::Uuid::parse_str(text)?.as_bytes()))
    }
}

/// A term of mastership in one replica group, opened at every master start and every promotion. Equal numbers with
/// different incarnations are a fork, never one epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Epoch {
    /// Rises by one at each opening within a replica group; the first is 1.
    pub number: u64,
    /// The run that opened it.
    pub incarnation: Incarnation,
}

/// A physical position in the commit log, in bytes from the log's very beginning (RocketMQ: `commitLogOffset`).
/// A type of its own, so that it cannot be mistaken for a queue offset.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct LogPosition(pub u64);

/// One creation of a topic: deleting and recreating a topic of the same name makes a new incarnation. The upper 32 bits are
/// the number of the epoch that created it, the lower a serial within that epoch, so that two masters of different epochs
/// can never hand out the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct TopicIncarnation(pub u64);

impl TopicIncarnation {
    /// Composes an incarnation. Limits: 2^32 topic creations per epoch, 2^32 epochs.
    pub fn new(epoch_number: u64, serial: u32) -> Self {
        TopicIncarnation((epoch_number << 32) | u64::from(serial))
    }
}

/// One queue of one topic incarnation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct QueueKey {
    /// The topic's incarnation.
    pub topic: TopicIncarnation,
    /// The queue's number within the topic, from 0.
    pub queue_id: u32,
}

/// One stored message: within a replica group, nothing else ever has this identity. Any (queue, offset) seen under a later
/// epoch maps to it through the epoch table.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct MessageIdentity {
    /// Where it is queued.
    pub queue: QueueKey,
    /// Its logical offset in the queue.
    pub queue_offset: u64,
    /// The number of the epoch that first stored it (0: not known).
    pub epoch_number: u64,
}

/// Where a copy comes from: its direct parent, and the message the first producer sent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Lineage {
    /// The record this copy was made of.
    pub parent: MessageIdentity,
    /// The record no broker copied: equal to `parent` for a first copy.
    pub root: MessageIdentity,
    /// Why the copy was made.
    pub reason: CopyReason,
}

/// Why a broker stored a copy of a stored message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
#[repr(u8)]
pub enum CopyReason {
    /// A consumer sent it back; the copy waits for its delay or in the retry topic.
    #[default]
    Retry = 1,
    /// Attempts exhausted, or asked for: the copy is in the dead-letter topic.
    DeadLetter = 2,
    /// A delayed message came due; the copy is in the topic it was sent to.
    Due = 3,
    /// A half message was committed.
    Commit = 4,
    /// An operator sent it again.
    ReDrive = 5,
}

impl CopyReason {
    /// The reason with this number on disk.
    pub fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => CopyReason::Retry,
            2 => CopyReason::DeadLetter,
            3 => CopyReason::Due,
            4 => CopyReason::Commit,
            5 => CopyReason::ReDrive,
            _ => return None,
        })
    }
}

/// Length of an encoded lineage, see [`Lineage::encode`].
pub const LINEAGE_LEN: usize = 1 + 2 * 28;

impl Lineage {
    /// The trailer of a stored copy: reason u8, then parent and root as topic incarnation u64, queue u32, offset u64,
    /// epoch u64, all big-endian.
    pub fn encode(&self) -> [u8; LINEAGE_LEN] {
        let mut out = [0u8; LINEAGE_LEN];
        let (reason, rest) = out.split_at_mut(1);
        reason.copy_from_slice(&[self.reason as u8]);
        for (identity, chunk) in [self.parent, self.root].iter().zip(rest.chunks_exact_mut(28)) {
            let (topic, tail) = chunk.split_at_mut(8);
            let (queue, tail) = tail.split_at_mut(4);
            let (offset, epoch) = tail.split_at_mut(8);
            topic.copy_from_slice(&identity.queue.topic.0.to_be_bytes());
            queue.copy_from_slice(&identity.queue.queue_id.to_be_bytes());
            offset.copy_from_slice(&identity.queue_offset.to_be_bytes());
            epoch.copy_from_slice(&identity.epoch_number.to_be_bytes());
        }
        out
    }

    /// Reads a trailer; `None` when it is not exactly one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != LINEAGE_LEN {
            return None;
        }
        let (reason, rest) = bytes.split_first()?;
        let mut identities = rest.chunks_exact(28).map(decode_identity);
        Some(Lineage {
            reason: CopyReason::from_u8(*reason)?,
            parent: identities.next()??,
            root: identities.next()??,
        })
    }
}

fn decode_identity(bytes: &[u8]) -> Option<MessageIdentity> {
    let (topic, rest) = bytes.split_first_chunk::<8>()?;
    let (queue, rest) = rest.split_first_chunk::<4>()?;
    let (offset, rest) = rest.split_first_chunk::<8>()?;
    let (epoch, _) = rest.split_first_chunk::<8>()?;
    Some(MessageIdentity {
        queue: QueueKey {
            topic: TopicIncarnation(u64::from_be_bytes(*topic)),
            queue_id: u32::from_be_bytes(*queue),
        },
        queue_offset: u64::from_be_bytes(*offset),
        epoch_number: u64::from_be_bytes(*epoch),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lineage_survives_its_bytes_and_refuses_others() {
        let id = |n| MessageIdentity {
            queue: QueueKey { topic: TopicIncarnation::new(3, 7), queue_id: n },
            queue_offset: 99 + u64::from(n),
            epoch_number: 3,
        };
        let lineage = Lineage { parent: id(1), root: id(2), reason: CopyReason::DeadLetter };
        assert_eq!(Lineage::decode(&lineage.encode()), Some(lineage));
        assert_eq!(Lineage::decode(&lineage.encode()[1..]), None);
        let mut bad = lineage.encode();
        bad[0] = 77;
        assert_eq!(Lineage::decode(&bad), None);
    }
}
