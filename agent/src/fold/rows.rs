//! Owns the shape in which the books lie in the ledger: rows of at most [`ROW_LEN_MAX`] bytes, only those that changed.
//! Never stores them: the ledger adds a checksum, keeps rows and positions in one batch, and hands all rows back at start.
//!
//! ```text
//! key   = kind u8, source (length u8 ×2, text), what it is about (big-endian), chunk u16
//! value = version u8, then a piece of the object's bytes; the first piece starts with the varint length of the whole
//! ```
//! An object is a source's head, a topic, 64 queues of a topic, a group, 64 queues of a group in a topic, the slots of
//! time of a topic or queue, a window of marks,
//! of ended debts, of timers or of dead letters, or one turn's unflushed messages. Marks lie with their queue while they are few.

pub mod codec;
mod objects;
mod waiting;

use crate::fold::Books;
use crate::fold::broker::{BrokerBooks, Stale};
use codec::Row;
use lifecycle::frame::DecodeError;
use lifecycle::identity::Name;
use lifecycle::varint::{Reader, put_varint};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// Longest value of a row.
pub const ROW_LEN_MAX: usize = 4_096;
/// The version this code writes; rows of another one are built again from the sources.
pub const ROW_VERSION: u8 = 7;
/// First kind of rows that are not the books'.
pub const FOREIGN_KIND: u8 = 64;
const PIECE_LEN: usize = ROW_LEN_MAX - 96;

/// Why rows are not books.
#[derive(Debug, Error, PartialEq, Eq, Clone)]
pub enum RowError {
    /// Bytes that do not decode.
    #[error("row does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// A value no version of this code writes.
    #[error("malformed row: {0}")]
    Malformed(&'static str),
    /// Written by a newer version.
    #[error("row version {0} is not known")]
    Version(u8),
    /// A chunk of an object is not there.
    #[error("a row is missing")]
    Missing,
    /// Rows that are whole, and do not belong together.
    #[error("rows contradict each other: {0}")]
    Contradiction(&'static str),
}

/// Objects by key.
pub type Objects = BTreeMap<Vec<u8>, Vec<u8>>;

/// A row to write, or to delete.
pub type RowChange = (Vec<u8>, Option<Vec<u8>>);

/// A row as it was read back, and still belongs to the ledger.
pub type StoredRow<'a> = (&'a [u8], &'a [u8]);

/// What was last handed out: a hash per chunk of every object, so that only what changed is written again.
#[derive(Clone, Default)]
pub struct Saved {
    objects: BTreeMap<Vec<u8>, Vec<u64>>,
}

impl Saved {
    /// Adds the rows of one object that differ from what was handed out before; `None`: the object is gone.
    pub fn save(&mut self, key: Vec<u8>, object: Option<&[u8]>, out: &mut Vec<RowChange>) {
        let chunks = object.map(chunks).unwrap_or_default();
        let hashes: Vec<u64> = chunks.iter().map(|chunk| hash(chunk)).collect();
        let before = self.objects.remove(&key).unwrap_or_default();
        for (index, chunk) in chunks.into_iter().enumerate() {
            if before.get(index) != hashes.get(index) {
                out.push((chunk_key(&key, index), Some(chunk)));
            }
        }
        for index in hashes.len()..before.len() {
            out.push((chunk_key(&key, index), None));
        }
        if !hashes.is_empty() {
            self.objects.insert(key, hashes);
        }
    }

    /// Keys of saved objects that start with `prefix`.
    pub fn with_prefix(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let from = prefix.to_vec();
        self.objects
            .range(from..)
            .map(|(key, _)| key)
            .take_while(|key| key.starts_with(prefix))
            .cloned()
            .collect()
    }

    /// Whether any saved object's key starts with `prefix`.
    pub fn has_prefix(&self, prefix: &[u8]) -> bool {
        let next = self.objects.range(prefix.to_vec()..).next();
        next.is_some_and(|(key, _)| key.starts_with(prefix))
    }

    /// How many rows the ledger holds.
    pub fn row_count(&self) -> usize {
        self.objects.values().map(Vec::len).sum()
    }
}

fn chunk_key(key: &[u8], index: usize) -> Vec<u8> {
    let mut key = key.to_vec();
    key.extend_from_slice(&(index as u16).to_be_bytes());
    key
}

fn chunks(object: &[u8]) -> Vec<Vec<u8>> {
    let mut whole = Vec::with_capacity(object.len() + 5);
    put_varint(&mut whole, object.len() as u64);
    whole.extend_from_slice(object);
    let piece = |bytes: &[u8]| {
        let mut value = Vec::with_capacity(bytes.len() + 1);
        value.push(ROW_VERSION);
        value.extend_from_slice(bytes);
        value
    };
    assert!(whole.len() / PIECE_LEN < usize::from(u16::MAX), "an object stays below 256 MiB");
    whole.chunks(PIECE_LEN).map(piece).collect()
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, |h, byte| (h ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3))
}

/// Puts rows back together: object key → its bytes.
pub fn assemble<'a>(rows: impl IntoIterator<Item = StoredRow<'a>>) -> Result<(Objects, Saved), RowError> {
    let rows: BTreeMap<&[u8], &[u8]> = rows.into_iter().collect();
    let mut objects = Objects::new();
    let mut saved = Saved::default();
    for (key, value) in rows {
        let (object, chunk) = key.split_last_chunk::<2>().ok_or(RowError::Malformed("key"))?;
        let (version, piece) = value.split_first().ok_or(RowError::Malformed("empty row"))?;
        if *version != ROW_VERSION {
            return Err(RowError::Version(*version));
        }
        let hashes = saved.objects.entry(object.to_vec()).or_default();
        if hashes.len() != usize::from(u16::from_be_bytes(*chunk)) {
            return Err(RowError::Missing);
        }
        hashes.push(hash(value));
        objects.entry(object.to_vec()).or_default().extend_from_slice(piece);
    }
    for whole in objects.values_mut() {
        let mut reader = Reader::new(whole);
        let len = reader.varint()?;
        if len != reader.remaining() as u64 {
            return Err(RowError::Missing);
        }
        let start = whole.len() - len as usize;
        whole.drain(..start);
    }
    Ok((objects, saved))
}

/// What an object is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(in crate::fold) enum Kind {
    Head = 1,
    Topic = 2,
    Queues = 3,
    Group = 4,
    GroupQueues = 5,
    Marks = 6,
    Unflushed = 7,
    Timers = 8,
    DeadLetters = 9,
    Ended = 10,
    Slots = 11,
    Replication = 12,
    Unreplicated = 13,
}

/// Builds an object's key.
#[derive(Clone)]
pub(in crate::fold) struct Key(Vec<u8>);

impl Key {
    fn new(kind: Kind, source: &str) -> Self {
        Key(vec![kind as u8]).text(source)
    }
    fn text(mut self, text: &str) -> Self {
        self.0.extend_from_slice(&(text.len() as u16).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self
    }
    fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
    fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }
}

struct KeyReader<'a>(Reader<'a>);

impl KeyReader<'_> {
    fn text(&mut self) -> Result<Name, RowError> {
        let len = (usize::from(self.0.u8()?) << 8) | usize::from(self.0.u8()?);
        let text = std::str::from_utf8(self.0.bytes(len)?).map_err(|_| RowError::Malformed("key text"))?;
        Ok(text.into())
    }
    fn u64(&mut self) -> Result<u64, RowError> {
        Ok(self.0.u64()?)
    }
    fn u32(&mut self) -> Result<u32, RowError> {
        let bytes = self.0.bytes(4)?;
        Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| RowError::Malformed("key"))?))
    }
}

impl Books {
    /// Rows that changed since the last call (or since [`Books::from_rows`]). Call it right after judging: events are not in
    /// rows.
    pub fn rows_changed_since_last(&mut self) -> Vec<RowChange> {
        assert!(!self.has_events(), "events are judged before the books are saved");
        let mut out = Vec::new();
        for (name, books) in &mut self.brokers {
            books.save(name, &mut self.saved, &mut out);
        }
        out
    }

    /// All rows, as after a first save.
    pub fn all_rows(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut books = self.clone();
        books.saved = Saved::default();
        for broker in books.brokers.values_mut() {
            broker.events.clear();
            broker.mark_all_stale();
        }
        let rows = books.rows_changed_since_last();
        rows.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
    }

    /// Books from all rows the ledger holds.
    pub fn from_rows<'a>(rows: impl IntoIterator<Item = StoredRow<'a>>) -> Result<Books, RowError> {
        // the judge's own rows lie in the same ledger, from this kind on
        let own = rows.into_iter().filter(|(key, _)| key.first().is_none_or(|kind| *kind < FOREIGN_KIND));
        let (objects, saved) = assemble(own)?;
        let mut books = Books { saved, ..Books::default() };
        for (key, bytes) in objects {
            let mut key = KeyReader(Reader::new(&key));
            let kind = key.0.u8()?;
            let source = key.text()?;
            let idle_after_ms = books.idle_after_ms;
            let entry = books.brokers.entry(source.clone());
            let broker = entry.or_insert_with(|| BrokerBooks::new(&source, idle_after_ms));
            let mut row = Reader::new(&bytes);
            broker.restore(kind, &mut key, &mut row)?;
            if !row.is_empty() {
                return Err(RowError::Malformed("object longer than its content"));
            }
        }
        for broker in books.brokers.values_mut() {
            broker.restored()?;
        }
        Ok(books)
    }

    /// As [`Books::from_rows`], with another idle time than the default.
    pub fn with_idle_after(mut self, idle_after_ms: u64) -> Self {
        self.idle_after_ms = idle_after_ms;
        for broker in self.brokers.values_mut() {
            broker.idle_after_ms = idle_after_ms;
        }
        self
    }

    /// How many rows the ledger holds once everything handed out is stored.
    pub fn row_count(&self) -> usize {
        self.saved.row_count()
    }
}

fn encode(rows: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    rows(&mut out);
    out
}

fn list<T: Row>(items: impl Iterator<Item = T>) -> Vec<u8> {
    encode(|out| items.collect::<Vec<T>>().put(out))
}

fn stale_set(books: &mut BrokerBooks) -> BTreeSet<Stale> {
    std::mem::take(&mut books.stale)
}
