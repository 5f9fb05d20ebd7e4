//! Owns books and judge together, and how they become rows and records. Pure: no IO, no clock. Driven by the loop.

use super::status::SourceStatus;
use crate::config::AgentConfig;
use crate::fold::Books;
use crate::ledger::verdict_log::{Record, RecordKind};
use crate::ledger::{Change, Row};
use lifecycle::clock::Now;
use lifecycle::frame::Frame;
use lifecycle::identity::Name;
use lifecycle::position::Position;

/// Stand-in until the judge is in place.
#[derive(Default)]
pub struct Judge;

/// First byte of the keys of the books' rows.
const BOOKS_PREFIX: u8 = b'b';

/// What the agent knows and thinks.
pub struct Core {
    /// What happened.
    pub books: Books,
    /// What it means.
    pub judge: Judge,
}

impl Core {
    /// Takes the state of a checkpoint over; `None` when its rows are not understood.
    pub fn import(rows: &[Row], config: &AgentConfig) -> Option<Self> {
        let _ = (rows, BOOKS_PREFIX);
        Some(Core::new(config))
    }

    /// Knows nothing yet.
    pub fn new(config: &AgentConfig) -> Self {
        Core { books: Books::new(config.judge.idle_after_ms), judge: Judge }
    }

    /// Everything that changed since the last call.
    pub fn export(&mut self) -> Vec<Change> {
        Vec::new()
    }

    /// Folds one frame.
    pub fn apply(&mut self, source: &Name, position: Position, frame: &Frame) {
        self.books.apply(source, position, frame);
    }

    /// Learns ids of messages again that were folded before the last checkpoint.
    pub fn recall(&mut self, source: &Name, position: Position, frame: &Frame) {
        let _ = (source, position, frame);
    }

    /// Learns what was said before.
    pub fn restore(&mut self, record: &Record) {
        let _ = record;
    }

    /// Judges what happened since the last call.
    pub fn judge(&mut self, sources: &[SourceStatus], now: Now) -> Vec<Record> {
        let _ = (sources, now, RecordKind::Verdict);
        Vec::new()
    }

    /// Where reading a source goes on.
    pub fn position_of(&self, source: &str) -> Option<Position> {
        self.books.position_of(source)
    }
}
