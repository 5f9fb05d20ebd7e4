//! Owns what is known of each reader: its newest stream, and how far it has confirmed. Never removes a reader that was heard: one
//! that went away may come back, and wants the journal then.
//!
//! ```text
//! READERS:  one name per line        (text, for people too)
//! ```
//!
//! Crash story: names only are kept, in a file that is written beside its place, synced and renamed when a new reader comes. A
//! reader known from there has confirmed nothing yet, so the journal is kept for it. A file that is lost loses that protection,
//! nothing else. A reader that is gone for good holds the journal up to its share of the disk: take its line out before a start.

use super::FeedError;
use lifecycle::position::Position;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use store::disk::{Disk, OpenMode};
use store::error::StoreError;
use tokio_util::sync::CancellationToken;

/// Most readers; one agent is one reader.
pub(super) const READERS_MAX: usize = 64;
/// Longest name of a reader, in bytes.
const NAME_LEN_MAX: usize = 127;
/// The reader that says no name.
const DEFAULT_NAME: &str = "agent";
const FILE: &str = "READERS";
const FILE_NEW: &str = "READERS.new";
const FILE_BYTES_MAX: usize = READERS_MAX * (NAME_LEN_MAX + 1);

#[derive(Default)]
struct Reader {
    stream: CancellationToken,
    confirmed: Option<Position>,
    /// In this run.
    heard: bool,
}

#[derive(Default)]
pub(super) struct Readers {
    readers: Mutex<BTreeMap<String, Reader>>,
    file: Option<(Arc<dyn Disk>, PathBuf)>,
}

impl Readers {
    /// Those of earlier runs, from a file in `dir`, which is kept up to date.
    pub(super) fn kept(disk: Arc<dyn Disk>, dir: &Path) -> Result<Readers, StoreError> {
        let mut readers = BTreeMap::new();
        if disk.list(dir)?.iter().any(|entry| entry.name == FILE) {
            let mut bytes = vec![0; FILE_BYTES_MAX];
            let count = disk.open(&dir.join(FILE), OpenMode::Existing)?.read_at(&mut bytes, 0)?;
            let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
            let names = text.lines().filter(|name| check_name(name).is_ok()).take(READERS_MAX);
            readers.extend(names.map(|name| (name.to_owned(), Reader::default())));
        }
        Ok(Readers { readers: Mutex::new(readers), file: Some((disk, dir.to_path_buf())) })
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<String, Reader>> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, name: &str, change: impl FnOnce(&mut Reader) -> T) -> Result<T, FeedError> {
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        check_name(name)?;
        let mut readers = self.locked();
        let is_new = !readers.contains_key(name);
        if is_new && readers.len() >= READERS_MAX {
            // one of an earlier run that nobody goes by any more makes room
            let silent = readers.iter().find(|(_, reader)| !reader.heard).map(|(name, _)| name.clone());
            let silent = silent.ok_or(FeedError::TooManyReaders(READERS_MAX))?;
            tracing::warn!(reader = %silent, "too many readers: the journal is not kept for this one any more");
            readers.remove(&silent);
        }
        let reader = readers.entry(name.to_owned()).or_default();
        reader.heard = true;
        let changed = change(reader);
        if is_new {
            self.save(&readers);
        }
        Ok(changed)
    }

    /// A name that cannot be saved is protected in this run only.
    fn save(&self, readers: &BTreeMap<String, Reader>) {
        let Some((disk, dir)) = &self.file else { return };
        let text: String = readers.keys().flat_map(|name| [name, "\n"]).collect();
        let write = || {
            let file = disk.open(&dir.join(FILE_NEW), OpenMode::Create)?;
            file.truncate(0)?;
            file.write_all_at(text.as_bytes(), 0)?;
            file.sync()?;
            disk.rename(&dir.join(FILE_NEW), &dir.join(FILE))?;
            disk.sync_dir(dir)
        };
        if let Err(error) = write() {
            tracing::warn!(%error, "the names of the feed's readers could not be saved");
        }
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

fn check_name(name: &str) -> Result<(), FeedError> {
    match name {
        _ if name.is_empty() || name.len() > NAME_LEN_MAX => {
            Err(FeedError::Invalid("name of the reader must have 1 to 127 bytes"))
        }
        _ if name.chars().any(char::is_control) => {
            Err(FeedError::Invalid("name of the reader has control characters"))
        }
        _ => Ok(()),
    }
}
