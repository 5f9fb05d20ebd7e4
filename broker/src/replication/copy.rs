//! A replica's side of the disk: its copy of the master's journal, the epochs it has accepted, and the agreement with a master.
//! Disk handed in, no sockets, no clock. The log itself belongs to the caller, which reads from it too. Called by the core. A folder
//! that was a master's is taken as it is: its journal goes on with the frames of the next master.
//!
//! ```text
//! epochs.0, epochs.1   two slots (see `store::checkpoint`): version u8 (1), count u32,
//!                      per epoch: number u64, incarnation 16 bytes, first byte u64   big-endian
//! journal/             the master's frames, under the runs that wrote them
//! survivors/           what was cut off log and journal because its epoch lost; never deleted by us
//! ```
//! Crash story: accepted epochs are on disk before the first byte of theirs is taken, so a record that was confirmed can always be
//! checked again. What has to be cut of the log is kept, on disk, before it is cut; the same with the journal; then the epochs that
//! replace both are accepted. Each step can be done again.

use super::epochs::{EPOCHS_MAX, EpochRow, LogView, NoAgreement, common_position};
use super::frame::{JournalFrame, RUNS_MAX, Welcome};
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
/// The folder of what lost.
pub const SURVIVORS: &str = "survivors";
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
    /// The master names a journal frame that is not here.
    #[error("the master says that frame {0:?} is common, and it is not here")]
    OtherFrame(Position),
    /// What has to be cut is needed to know the rest: the journal's first frames are gone.
    #[error(
        "the fork lies below the last snapshot, and the journal no longer has its first frames: copy the folder"
    )]
    BelowSnapshot,
    /// The disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a welcome made void.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// The file that keeps what was cut off the log.
    pub survivor: Option<PathBuf>,
    /// Journal frames were cut: what was folded from them is void.
    pub journal: bool,
}

/// Where the newest snapshot of a folder stands, and how to forget it.
pub struct SnapshotPlace<'a> {
    /// Its journal position and the log's end then; `None`: there is none.
    pub at: Option<(Position, LogPosition)>,
    /// Makes it void, on disk.
    pub forget: &'a mut dyn FnMut() -> StoreResult<()>,
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
        if saved.is_none() && report.damaged.len() == 2 {
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

    /// The epochs a folder has accepted as a replica; none where it never was one.
    pub fn accepted(disk: &dyn Disk, dir: &Path) -> StoreResult<Vec<EpochRow>> {
        if !Self::is_in(disk, dir)? {
            return Ok(Vec::new());
        }
        let (_, saved, _) = Checkpoint::open(disk, dir, EPOCHS_FILE)?;
        Ok(saved.map(|saved| decode(&saved.payload, dir)).transpose()?.unwrap_or_default())
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

    /// The last frame of each run, oldest first; the newest [`RUNS_MAX`].
    pub fn runs(&self) -> Vec<Position> {
        self.journal_view().map(|view| last_frames(&view)).unwrap_or_default()
    }

    /// Agrees with a master: refuses one of an older epoch or of another history, keeps and cuts what lost, accepts its epochs.
    pub fn welcome(
        &mut self,
        log: &mut CommitLog,
        welcome: &Welcome,
        snapshot: SnapshotPlace<'_>,
    ) -> std::result::Result<Cut, WelcomeError> {
        let mine = LogView { epochs: log.epochs().to_vec(), end: log.end() };
        let common = common_position(&welcome.log, &mine)?;
        if common != welcome.start {
            return Err(WelcomeError::OtherStart { master: welcome.start.0, here: common.0 });
        }
        let keep = welcome.journal;
        let runs = self.runs();
        let rank = |at: Position| runs.iter().position(|run| run.incarnation == at.incarnation);
        let here =
            rank(keep).and_then(|rank| runs.get(rank)).is_some_and(|run| run.sequence >= keep.sequence);
        if keep.sequence > 0 && !here {
            return Err(WelcomeError::OtherFrame(keep));
        }
        let cuts_journal = !runs.is_empty() && keep != self.journal_position();
        let void = snapshot.at.is_some_and(|(position, log_end)| {
            let behind = keep.sequence == 0
                || match rank(position).cmp(&rank(keep)) {
                    std::cmp::Ordering::Less => false,
                    std::cmp::Ordering::Equal => position.sequence > keep.sequence,
                    std::cmp::Ordering::Greater => true,
                };
            common < log_end || behind
        });
        if void {
            if keep.sequence > 0 && !self.is_whole(&mine) {
                return Err(WelcomeError::BelowSnapshot);
            }
            (snapshot.forget)()?;
        }
        let survivor = log.cut_with_survivor(self.disk.as_ref(), &self.dir.join(SURVIVORS), common)?;
        if cuts_journal {
            if let Some(view) = self.journal_view() {
                view.keep_behind(keep, self.disk.as_ref(), &self.dir.join(SURVIVORS))?;
            }
            self.cut_journal(keep)?;
        }
        if mine.epochs != welcome.log.epochs {
            self.epochs_file.save(&encode(&welcome.log.epochs))?;
            log.accept_epochs(welcome.log.epochs.clone());
        }
        Ok(Cut { survivor, journal: cuts_journal })
    }

    /// Whether the journal goes back to the log's first epoch.
    fn is_whole(&self, log: &LogView) -> bool {
        let first = log.epochs.first().map(|(epoch, _)| epoch.incarnation);
        let runs = self.journal_view().map(|view| view.incarnations()).unwrap_or_default();
        runs.first().is_some_and(|run| Some(run.incarnation) == first && run.first_sequence == 1)
    }

    fn cut_journal(&mut self, keep: Position) -> StoreResult<()> {
        let config = JournalConfig::new(self.dir.join("journal"));
        self.journal = None;
        Journal::cut_behind(self.disk.as_ref(), &config, keep)?;
        (self.journal, _) = Journal::resume_copy(self.disk.clone(), config)?;
        tracing::warn!(run = %keep.incarnation, after = keep.sequence, "journal frames of a run that lost are cut");
        Ok(())
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

/// The last frame of each run of a journal, oldest first; the newest [`RUNS_MAX`].
pub fn last_frames(view: &JournalView) -> Vec<Position> {
    let runs = view.incarnations();
    let named = runs.iter().skip(runs.len().saturating_sub(RUNS_MAX));
    named.map(|run| Position { incarnation: run.incarnation, sequence: run.last_sequence }).collect()
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
