//! Owns books and judge together, and how they become rows and records. Does no IO. Driven by the loop.

use crate::config::AgentConfig;
use crate::fold::Books;
use crate::fold::rows::StoredRow;
use crate::ingest::intake::Gap;
use crate::judge::deadlines::Deadlines;
use crate::judge::questions::Question;
use crate::judge::verdict::VerdictEvent;
use crate::judge::{Answer, Heads, Judge, StepInput};
use crate::ledger::verdict_log::{Record, RecordKind};
use crate::ledger::{Change, Row};
use lifecycle::clock::Now;
use lifecycle::frame::Frame;
use lifecycle::identity::Name;
use lifecycle::position::Position;
use uuid::Uuid;

/// First byte of the keys of the books' and the judge's rows.
const STATE_PREFIX: u8 = b'b';
/// Largest record of the verdict log; an incident with more ids than fit names fewer of them.
const RECORD_BYTES_MAX: usize = 7 << 20;

/// What the agent knows and thinks.
pub struct Core {
    /// What happened.
    pub books: Books,
    /// What it means.
    pub judge: Judge,
}

/// What the judge hears beside the books.
pub struct Hearing<'a> {
    /// The agent's clocks.
    pub now: Now,
    /// Where each source's newest frame is.
    pub heads: &'a Heads,
    /// Answers to its questions.
    pub answers: Vec<Answer>,
}

impl Core {
    /// Knows nothing yet.
    pub fn new(config: &AgentConfig) -> Self {
        let judge = Judge::new(deadlines(config), Box::new(Uuid::now_v7));
        Core { books: Books::new(config.judge.idle_after_ms), judge }
    }

    /// Takes the state of a checkpoint over; an error when its rows are not understood.
    pub fn import(rows: &[Row], config: &AgentConfig) -> Result<Self, String> {
        fn own(row: &Row) -> Option<StoredRow<'_>> {
            let (prefix, key) = row.0.split_first()?;
            (*prefix == STATE_PREFIX).then_some((key, &row.1))
        }
        let books = Books::from_rows(rows.iter().filter_map(own)).map_err(|error| error.to_string())?;
        let mut core = Core::new(config);
        core.books = books.with_idle_after(config.judge.idle_after_ms);
        core.judge.restore_rows(rows.iter().filter_map(own)).map_err(|error| error.to_string())?;
        Ok(core)
    }

    /// Everything that changed since the last call. Only right after [`Self::judge`].
    pub fn export(&mut self) -> Vec<Change> {
        let mut changes = self.books.rows_changed_since_last();
        changes.extend(self.judge.rows_changed_since_last());
        for (key, _) in &mut changes {
            key.insert(0, STATE_PREFIX);
        }
        changes
    }

    /// Folds one frame.
    pub fn apply(&mut self, source: &Name, position: Position, frame: &Frame) {
        self.books.apply(source, position, frame);
    }

    /// Evidence will never come.
    pub fn lose(&mut self, source: &Name, gap: &Gap) {
        self.books.note_gap(source, gap.incarnation, gap.from, gap.to);
    }

    /// Gaps in a source's evidence, ever.
    pub fn gaps(&self, source: &str) -> u64 {
        self.books.brokers.get(source).map_or(0, |books| books.gap_count)
    }

    /// Learns what was said before.
    pub fn restore(&mut self, record: &Record) -> Result<(), String> {
        match record.kind {
            RecordKind::Verdict => {
                let event: VerdictEvent =
                    serde_json::from_slice(&record.body).map_err(|error| error.to_string())?;
                self.judge.restore(event);
            }
            RecordKind::LedgerRebuilt => {}
        }
        Ok(())
    }

    /// Judges what happened since the last call. Returns what was said, and how long after the event each confirmed one.
    pub fn judge(&mut self, hearing: Hearing<'_>) -> (Vec<Record>, Vec<u64>) {
        let Hearing { now, heads, answers } = hearing;
        let events = self.books.take_events();
        let told = self.judge.step(&self.books, StepInput { events, now, heads, answers });
        let delays = told.iter().filter_map(|event| event.detection_delay_ms).collect();
        (told.into_iter().map(record).collect(), delays)
    }

    /// What the judge wants to ask the sources.
    pub fn questions(&mut self, limit: usize) -> Vec<Question> {
        self.judge.take_questions(limit)
    }

    /// Where reading a source goes on.
    pub fn position_of(&self, source: &str) -> Option<Position> {
        self.books.position_of(source)
    }
}

fn record(mut event: VerdictEvent) -> Record {
    loop {
        let body = serde_json::to_vec(&event).expect("plain values always have a JSON form");
        if body.len() <= RECORD_BYTES_MAX || event.verdict.ids.is_empty() {
            return Record { kind: RecordKind::Verdict, body };
        }
        event.verdict.ids.truncate(event.verdict.ids.len() / 2);
    }
}

fn deadlines(config: &AgentConfig) -> Deadlines {
    Deadlines {
        timer_slack_ms: config.judge.timer_slack_ms,
        send_unknown_ms: config.judge.send_unknown_ms,
        copy_remade_ms: config.judge.copy_remade_ms,
        retry_unread_ms: config.judge.retry_unread_ms,
        near_expiry_ms: config.judge.near_expiry_ms,
        ..Deadlines::default()
    }
}
