//! Owns what the agent ever said: an append-only log in which each record names the hash of the one before it. Never
//! interprets a verdict. Written on the checkpoint thread, before the ledger; read once, at open.
//!
//! ```text
//! record = kind u8, SHA-256 of the record before it (32 B, zeros for the first), body      (one journal frame)
//! ```
//! Crash story: records are synced before the ledger's batch that rests on them, and before anybody is told. The ledger keeps
//! count and hash of the last record as a witness: what is cut off, changed or taken out later is noticed at open. Damage is
//! told and never repaired; the log goes on behind it.

use super::log_files::prepare;
use lifecycle::identity::Incarnation;
use sha2::{Digest as _, Sha256};
use std::path::PathBuf;
use std::sync::Arc;
use store::disk::Disk;
use store::error::{ErrorKind, Op, StoreError};
use store::journal::{Journal, JournalConfig, JournalItem};

const HASH_BYTES: usize = 32;

/// What a record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A verdict changed its state.
    Verdict = 1,
    /// The ledger could not be used and was built again.
    LedgerRebuilt = 2,
}

/// One record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// What it is.
    pub kind: RecordKind,
    /// Its bytes.
    pub body: Vec<u8>,
}

/// The log's end, kept elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Witness {
    /// How many records.
    pub count: u64,
    /// Hash of the last one.
    pub hash: [u8; HASH_BYTES],
}

impl Witness {
    /// Count u64 BE, hash.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.count.to_be_bytes().to_vec();
        out.extend_from_slice(&self.hash);
        out
    }

    /// The inverse of [`Self::encode`].
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, hash) = bytes.split_first_chunk::<8>()?;
        Some(Witness { count: u64::from_be_bytes(*count), hash: hash.try_into().ok()? })
    }
}

/// Where the log is, and what its end was last known to be.
pub struct Opening {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// The log's folder.
    pub dir: PathBuf,
    /// This run of the agent.
    pub incarnation: Incarnation,
    /// The end as the ledger has it.
    pub witness: Option<Witness>,
}

/// The log's one writer.
pub struct VerdictLog {
    journal: Journal,
    end: Witness,
    poisoned: bool,
}

impl VerdictLog {
    /// Opens the log, hands every record to `take`, and compares with the witness. Returns what is wrong with the log, for
    /// people; nothing when it is whole.
    pub fn open(opening: Opening, take: impl FnMut(Record)) -> Result<(Self, Vec<String>), StoreError> {
        let Opening { disk, dir, incarnation, witness } = opening;
        prepare(disk.as_ref(), &dir)?;
        let (journal, report) = Journal::open(disk, JournalConfig::new(dir), incarnation, 0)?;
        let mut reading = Reading { take, damage: Vec::new(), end: Witness::default(), witness };
        let mut reader = journal.view().read_all()?;
        while let Some(item) = reader.next()? {
            reading.take(item);
        }
        for path in report.unreadable {
            reading.damage.push(format!("verdict log: {} cannot be read", path.display()));
        }
        if let Some(witness) = witness
            && witness.count > reading.end.count
        {
            let Witness { count, .. } = reading.end;
            let missing = witness.count - count;
            reading.damage.push(format!("verdict log: {missing} records are missing at its end"));
        }
        Ok((VerdictLog { journal, end: reading.end, poisoned: false }, reading.damage))
    }

    /// Appends records; all are durable at return. Any error is fatal for the log.
    pub fn append(&mut self, records: &[Record]) -> Result<(), StoreError> {
        if self.poisoned {
            return Err(StoreError::new(Op::Append, std::path::Path::new("verdicts"), 0, ErrorKind::Io(0)));
        }
        if records.is_empty() {
            return Ok(());
        }
        self.poisoned = true;
        for record in records {
            let payload = encode(record, &self.end.hash);
            self.journal.append(&payload, true)?;
            self.end = Witness { count: self.end.count + 1, hash: Sha256::digest(&payload).into() };
        }
        self.journal.write()?;
        self.journal.take_sync_batch().sync()?;
        self.poisoned = false;
        Ok(())
    }

    /// Count and hash of what is durable.
    pub fn end(&self) -> Witness {
        self.end
    }
}

struct Reading<T> {
    take: T,
    damage: Vec<String>,
    end: Witness,
    witness: Option<Witness>,
}

impl<T: FnMut(Record)> Reading<T> {
    fn take(&mut self, item: JournalItem<'_>) {
        match item {
            JournalItem::Frame { payload, .. } => self.take_record(payload),
            JournalItem::Hole { from, to, .. } => {
                self.damaged(&format!("{} records cannot be read", to.saturating_sub(from) + 1));
            }
            JournalItem::Closed { .. } => {}
        }
    }

    fn take_record(&mut self, payload: &[u8]) {
        match decode(payload) {
            Some((record, before)) => {
                if before != self.end.hash {
                    self.damaged("does not follow from the record before it");
                }
                (self.take)(record);
            }
            None => self.damaged("is not a record of this version"),
        }
        self.end = Witness { count: self.end.count + 1, hash: Sha256::digest(payload).into() };
        if let Some(witness) = self.witness
            && witness.count == self.end.count
            && witness.hash != self.end.hash
        {
            self.damaged("is not the one the ledger rests on");
        }
    }

    fn damaged(&mut self, what: &str) {
        self.damage.push(format!("verdict log, near record {}: {what}", self.end.count + 1));
    }
}

fn encode(record: &Record, before: &[u8; HASH_BYTES]) -> Vec<u8> {
    let mut payload = vec![record.kind as u8];
    payload.extend_from_slice(before);
    payload.extend_from_slice(&record.body);
    payload
}

fn decode(payload: &[u8]) -> Option<(Record, [u8; HASH_BYTES])> {
    let (kind, rest) = payload.split_first()?;
    let (before, body) = rest.split_first_chunk::<HASH_BYTES>()?;
    let kind = [RecordKind::Verdict, RecordKind::LedgerRebuilt].into_iter().find(|k| *k as u8 == *kind)?;
    Some((Record { kind, body: body.to_vec() }, *before))
}

#[cfg(test)]
mod tests;
