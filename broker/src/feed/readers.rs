//! Owns what is known of each reader: its newest stream, and how far it has confirmed. Never removes a reader: one that went away
//! may come back, and wants the journal then.

use super::FeedError;
use lifecycle::position::Position;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio_util::sync::CancellationToken;

/// Most readers; one agent is one reader.
pub(super) const READERS_MAX: usize = 64;
/// Longest name of a reader, in bytes.
const NAME_LEN_MAX: usize = 127;
/// The reader that says no name.
const DEFAULT_NAME: &str = "agent";

#[derive(Default)]
struct Reader {
    stream: CancellationToken,
    confirmed: Option<Position>,
}

#[derive(Default)]
pub(super) struct Readers {
    readers: Mutex<BTreeMap<String, Reader>>,
}

impl Readers {
    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Reader) -> T) -> Result<T, FeedError> {
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        if name.len() > NAME_LEN_MAX {
            return Err(FeedError::Invalid("name of the reader is too long"));
        }
        let mut readers = self.locked();
        if !readers.contains_key(name) && readers.len() >= READERS_MAX {
            return Err(FeedError::TooManyReaders(READERS_MAX));
        }
        Ok(change(readers.entry(name.to_owned()).or_default()))
    }

    /// From now on the journal is kept for this reader.
    pub(super) fn meet(&self, name: &str) -> Result<(), FeedError> {
        self.with(name, |_| ())
    }

    /// A new stream, which ends the older one. A reader that starts further back than it had confirmed wants that again.
    pub(super) fn attach(
        &self,
        name: &str,
        after: Position,
        stream: CancellationToken,
    ) -> Result<(), FeedError> {
        self.with(name, |reader| {
            std::mem::replace(&mut reader.stream, stream).cancel();
            let steps_back = reader.confirmed.is_some_and(|confirmed| {
                confirmed.incarnation != after.incarnation || confirmed.sequence > after.sequence
            });
            if steps_back {
                reader.confirmed = Some(after);
            }
        })
    }

    /// The reader's latest word counts, also when it is an earlier position: it may have been restored from a copy.
    pub(super) fn confirm(&self, name: &str, position: Position) -> Result<(), FeedError> {
        self.with(name, |reader| reader.confirmed = Some(position))
    }

    pub(super) fn min_confirmed<K: Ord>(&self, order: impl Fn(&Position) -> K) -> Option<Position> {
        let readers = self.locked();
        let confirmed: Option<Vec<Position>> = readers.values().map(|reader| reader.confirmed).collect();
        confirmed?.into_iter().min_by_key(order)
    }
}
