//! A replica's side of the disk: its copy of the master's journal, the epochs it has accepted, and the agreement with a master.
//! Disk handed in, no sockets, no clock. The log itself belongs to the caller, which reads from it too. Called by the core.
//!
//! ```text
//! epochs.0, epochs.1   two slots (see `store::checkpoint`): version u8 (1), count u32,
//!                      per epoch: number u64, incarnation 16 bytes, first byte u64   big-endian
//! journal/             the master's frames, under the runs that wrote them
//! survivors/           what was cut off because its epoch lost; never deleted by us
//! ```
//! Crash story: accepted epochs are on disk before the first byte of theirs is taken, so a record that was confirmed can always be
//! checked again. What has to be cut is kept, on disk, before it is cut, and cut before the epochs that replace it are accepted.

use super::epochs::{EPOCHS_MAX, EpochRow, LogView, NoAgreement, common_position};
use super::frame::{JournalFrame, Welcome};
use lifecycle::identity::{Epoch, Incarnation, LogPosition};
use lifecycle::position::Position;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::checkpoint::Checkpoint;
use store::commit_log::CommitLog;
use store::disk::Disk;
use store::error::{Result as StoreResult, StoreError};
use store::journal::{Journal, JournalConfig, JournalSync, JournalView};

const EPOCHS_FILE: &str = "epochs";
const VERSION: u8 = 1;
const ROW_LEN: usize = 32;

/// Why a replica does not follow the master that answered it.
#[derive(Debug, thiserror::Error)]
pub enum WelcomeError {
    /// The logs.
    #[error(transparent)]
    NoAgreement(#[from] NoAgreement),
    /// The master would send from another place than the logs say.
    #[error("the master starts at {master}, the logs part at {here}")]
    OtherStart {
        /// Its word.
        master: u64,
        /// Ours.
        here: u64,
    },
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// See the module text.
pub struct ReplicaCopy {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    journal: Option<Journal>,
    epochs_file: Checkpoint,
}

impl ReplicaCopy {
    /// Opens what a replica keeps in its folder; answers also the epochs its log belongs to.
    pub fn open(disk: Arc<dyn Disk>, dir: &Path) -> StoreResult<(ReplicaCopy, Vec<EpochRow>)> {
        let (epochs_file, saved, report) = Checkpoint::open(disk.as_ref(), dir, EPOCHS_FILE)?;
        if !report.damaged.is_empty() {
            tracing::warn!(slots = ?report.damaged, "a slot of the accepted epochs is damaged: the other one is used");
        }
        if saved.is_none() && Self::is_in(disk.as_ref(), dir)? {
            return Err(StoreError::corrupt(&dir.join(EPOCHS_FILE), 0, "accepted epochs"));
        }
        let epochs = saved.map(|saved| decode(&saved.payload, dir)).transpose()?.unwrap_or_default();
        let config = JournalConfig::new(dir.join("journal"));
        let (journal, report) = Journal::resume_copy(disk.clone(), config)?;
        for cut in &report.cut {
            tracing::warn!(run = %cut.after.incarnation, after = cut.after.sequence, bytes = cut.bytes,
                "torn journal frames: they come again");
        }
        Ok((ReplicaCopy { disk, dir: dir.to_path_buf(), journal, epochs_file }, epochs))
    }

    /// Whether a folder was a replica's. Changes nothing.
    pub fn is_in(disk: &dyn Disk, dir: &Path) -> StoreResult<bool> {
        let slots = [format!("{EPOCHS_FILE}.0"), format!("{EPOCHS_FILE}.1")];
        Ok(disk.list(dir)?.iter().any(|entry| entry.len > 0 && slots.contains(&entry.name)))
    }

    /// The copied journal, once it has a frame.
    pub fn journal_view(&self) -> Option<JournalView> {
        self.journal.as_ref().map(Journal::view)
    }

    /// The last frame here; sequence 0: none.
    pub fn journal_position(&self) -> Position {
        self.journal
            .as_ref()
            .map_or(Position { incarnation: Incarnation::NONE, sequence: 0 }, Journal::last_position)
    }

    /// Agrees with a master: refuses one of an older epoch or of another history, keeps and cuts what lost, accepts its epochs.
    /// Answers the file with what was cut.
    pub fn welcome(
        &mut self,
        log: &mut CommitLog,
        welcome: &Welcome,
    ) -> std::result::Result<Option<PathBuf>, WelcomeError> {
        let mine = LogView { epochs: log.epochs().to_vec(), end: log.end() };
        let common = common_position(&welcome.log, &mine)?;
        if common != welcome.start {
            return Err(WelcomeError::OtherStart { master: welcome.start.0, here: common.0 });
        }
        let kept = log.cut_with_survivor(self.disk.as_ref(), &self.dir.join("survivors"), common)?;
        if mine.epochs != welcome.log.epochs {
            self.epochs_file.save(&encode(&welcome.log.epochs))?;
            log.accept_epochs(welcome.log.epochs.clone());
        }
        Ok(kept)
    }

    /// Appends journal frames of one run; the operating system has them on return.
    pub fn append_frames(&mut self, run: Incarnation, frames: &[JournalFrame]) -> StoreResult<()> {
        for frame in frames {
            let position = Position { incarnation: run, sequence: frame.sequence };
            let journal = match &mut self.journal {
                Some(journal) => journal,
                empty => {
                    let config = JournalConfig::new(self.dir.join("journal"));
                    empty.insert(Journal::begin_copy(self.disk.clone(), config, position)?)
                }
            };
            journal.append_copied(position, &frame.payload, frame.is_reset_point)?;
        }
        self.journal.as_mut().map_or(Ok(()), |journal| journal.write().map(drop))
    }

    /// The journal's files that wait for a sync.
    pub fn take_sync_batch(&mut self) -> Option<JournalSync> {
        let batch = self.journal.as_mut()?.take_sync_batch();
        (!batch.files.is_empty()).then_some(batch)
    }
}

fn encode(epochs: &[EpochRow]) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&(epochs.len() as u32).to_be_bytes());
    for (epoch, start) in epochs {
        out.extend_from_slice(&epoch.number.to_be_bytes());
        out.extend_from_slice(&epoch.incarnation.0);
        out.extend_from_slice(&start.0.to_be_bytes());
    }
    out
}

fn decode(payload: &[u8], dir: &Path) -> StoreResult<Vec<EpochRow>> {
    let damaged = || StoreError::corrupt(&dir.join(EPOCHS_FILE), 0, "accepted epochs");
    let (version, rest) = payload.split_first().ok_or_else(damaged)?;
    let (count, rows) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let count = u32::from_be_bytes(*count) as usize;
    if *version != VERSION || count > EPOCHS_MAX || rows.len() != count * ROW_LEN {
        return Err(damaged());
    }
    let row = |row: &[u8]| {
        let (number, rest) = row.split_first_chunk::<8>()?;
        let (incarnation, rest) = rest.split_first_chunk::<16>()?;
        let epoch = Epoch { number: u64::from_be_bytes(*number), incarnation: Incarnation(*incarnation) };
        Some((epoch, LogPosition(u64::from_be_bytes(*rest.first_chunk::<8>()?))))
    };
    rows.chunks_exact(ROW_LEN).map(|bytes| row(bytes).ok_or_else(damaged)).collect()
}

#[cfg(test)]
mod tests;
