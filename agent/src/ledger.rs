//! Owns what the agent keeps on its own disk: the ledger (books at a position, rebuildable), the evidence log (what only the
//! agent was told), the verdict log (what it said), and the raw frames a broker may lose. Never interprets a row.
//!
//! Order of a checkpoint: raw frames, verdicts, ledger, then the sources are told. Whatever the agent dies between, it starts
//! again from the ledger's position; the verdict log tells what was said after it, so nothing is said twice, and counters
//! never step back.

pub mod checkpoint;
pub mod evidence_log;
pub mod log_files;
pub mod memory;
pub mod raw_frames;
pub mod rows;
pub mod sled;
pub mod verdict_log;

use thiserror::Error;

/// Longest key of a row, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Largest value of a row, in bytes: 17 of them (one leaf of sled's tree) stay below a quarter of its segment, beyond which
/// sled would make files of them that it neither syncs nor reclaims.
pub const VALUE_BYTES_MAX: usize = 4_096;

/// A row that changed: its new value, or `None` when it is gone.
pub type Change = (Vec<u8>, Option<Vec<u8>>);
/// A row.
pub type Row = (Vec<u8>, Vec<u8>);

/// Keeps rows; never the only copy of anything. Called on the checkpoint thread only.
pub trait Ledger: Send {
    /// Makes all changes durable, or none. After an error only a new process (a new open) may use it.
    fn commit(&mut self, changes: &[Change]) -> Result<(), LedgerError>;
    /// How many rows there are.
    fn row_count(&self) -> u64;
}

/// A ledger, and what it held.
pub struct OpenedLedger {
    /// Takes changes from now on.
    pub ledger: Box<dyn Ledger>,
    /// All rows; none when it is new or had to be given up.
    pub rows: Vec<Row>,
    /// Why what was there could not be used (it was set aside); `None`: all is well.
    pub rebuilt: Option<String>,
}

/// Why the ledger failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LedgerError {
    /// Another agent uses the folder.
    #[error("ledger folder is in use: {0}")]
    InUse(String),
    /// The disk failed; what is in the ledger is no longer known.
    #[error("ledger: {0}")]
    Io(String),
    /// What is in it is not what was put in.
    #[error("ledger damaged: {0}")]
    Damaged(String),
    /// The library under it gave up.
    #[error("ledger panicked: {0}")]
    Panicked(String),
    /// An earlier commit failed.
    #[error("ledger failed before")]
    Poisoned,
}
