//! Owns one store folder under inspection: what its log, its queues and its configuration say, and the rows they make.

use crate::config::{self, GroupOffsets};
use crate::files::{self, NumberedFiles};
use crate::findings::{Findings, Key, State};
use crate::queue::{self, Unit};
use crate::record::Record;
use crate::rows::{self, AtPlace, HALF_TOPIC, OP_TOPIC, OfId, Role, SCHEDULE_TOPIC, Stored};
use crate::scan::{self, LogSummary, Wrong};
use crate::spill::Sorter;
use crate::trace::{self, TRACE_TOPIC};
use crate::window::Window;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// Groups the broker itself reads with.
const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
/// Groups remembered as traced.
const TRACED_GROUPS_MAX: usize = 100_000;
/// The smallest record there is, in bytes; an entry that says less is damaged.
const SIZE_MIN: u32 = 91;
const SIZE_MAX: u32 = crate::record::RECORD_LEN_MAX as u32;

/// Both sorters that rows go to, and the room they are made in.
#[derive(Debug)]
pub struct Rows {
    pub places: Sorter,
    pub ids: Sorter,
    row: Vec<u8>,
}

impl Rows {
    /// Sorters writing into this folder.
    pub fn new(scratch: &Path) -> Rows {
        Rows { places: Sorter::new(scratch), ids: Sorter::new(scratch), row: Vec::new() }
    }

    pub fn place(&mut self, at: (&[u8], u32, u64), store: u8, what: &AtPlace) -> io::Result<()> {
        rows::put_place(&mut self.row, at, store, what);
        self.places.push(&self.row)
    }

    pub fn id(&mut self, id: &[u8], store: u8, what: &OfId) -> io::Result<()> {
        put_id(&mut self.ids, &mut self.row, id, store, what)
    }
}

/// Adds a row of an id, made in `row`.
pub fn put_id(ids: &mut Sorter, row: &mut Vec<u8>, id: &[u8], store: u8, what: &OfId) -> io::Result<()> {
    rows::put_id(row, id, store, what);
    ids.push(row)
}

/// What can be read of one queue, by its offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueRange {
    /// The first offset whose record the log may still hold.
    pub min: u64,
    /// After the last offset whose record is below the log's end.
    pub max: u64,
    /// After the last offset with an entry, wherever it points.
    pub written: u64,
}

/// One store folder.
#[derive(Debug)]
pub struct Store {
    pub index: u8,
    pub name: String,
    pub path: PathBuf,
    pub log: NumberedFiles,
    pub summary: LogSummary,
    /// The broker was running, or had died, when this was copied.
    pub has_abort: bool,
    /// The user says it serves now.
    pub is_promoted: bool,
    pub offsets: GroupOffsets,
    delays: BTreeMap<u32, u64>,
    topics: Option<BTreeSet<String>>,
    pub has_queues: bool,
    pub queues: BTreeMap<(Vec<u8>, u32), QueueRange>,
    pub traced_groups: BTreeSet<Vec<u8>>,
    /// Stores with the same number hold copies of one log.
    pub lineage: usize,
}

impl Store {
    /// Finds what is in a folder; reads only its configuration.
    ///
    /// # Errors
    /// When it is no store folder, or cannot be listed.
    pub fn open(path: &Path, index: u8, name: String, findings: &mut Findings) -> io::Result<Store> {
        let log = NumberedFiles::list(&path.join("commitlog"))?;
        if log.is_empty() {
            let what = "no commit log here: a store folder holds `commitlog` with at least one file";
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        let mut store = Store {
            index,
            name,
            path: path.to_owned(),
            log,
            summary: LogSummary::default(),
            has_abort: path.join("abort").exists(),
            is_promoted: false,
            offsets: GroupOffsets::new(),
            delays: BTreeMap::new(),
            topics: None,
            has_queues: false,
            queues: BTreeMap::new(),
            traced_groups: BTreeSet::new(),
            lineage: usize::from(index),
        };
        for stranger in &store.log.strangers {
            let cause = format!("{} is not named by an offset: not read", stranger.display());
            findings.add_damage(store.key("unreadable", State::Note, false, cause), (0, 0));
        }
        if let Some(offsets) = store.setting("consumerOffset.json", config::group_offsets, findings) {
            store.offsets = offsets;
        }
        if let Some(delays) = store.setting("delayOffset.json", config::delay_offsets, findings) {
            store.delays = delays;
        }
        store.topics = store.setting("topics.json", config::topics, findings);
        store.offsets.retain(|(_, group), _| !group.starts_with(SYSTEM_GROUP_PREFIX));
        Ok(store)
    }

    /// A file that cannot be understood is a finding, and its backup is tried.
    fn setting<T>(
        &self,
        file: &str,
        parse: fn(&str) -> Result<T, serde_json::Error>,
        findings: &mut Findings,
    ) -> Option<T> {
        for name in [file.to_owned(), format!("{file}.bak")] {
            let read = files::text(&self.path.join("config").join(&name));
            let problem = match read.map(|text| text.map(|text| parse(&text))) {
                Ok(None) => continue,
                Ok(Some(Ok(value))) => return Some(value),
                Ok(Some(Err(error))) => error.to_string(),
                Err(error) => error.to_string(),
            };
            let cause = format!("config/{name}: {problem}");
            findings.add_damage(self.key("unreadable", State::Confirmed, false, cause), (0, 0));
        }
        None
    }

    /// A finding about this store.
    pub fn key(&self, class: &'static str, state: State, loss: bool, cause: String) -> Key {
        let (other, topic, group) = (String::new(), String::new(), String::new());
        Key { class, state, loss, store: self.name.clone(), other, topic, group, cause }
    }

    /// Whether the broker knows the topic; without `topics.json`, it does.
    pub fn has_topic(&self, topic: &[u8]) -> bool {
        self.topics
            .as_ref()
            .is_none_or(|topics| str::from_utf8(topic).is_ok_and(|topic| topics.contains(topic)))
    }

    /// Walks the commit log and makes its rows.
    ///
    /// # Errors
    /// When the scratch folder cannot be written.
    pub fn scan(
        &mut self,
        rows: &mut Rows,
        findings: &mut Findings,
        progress: &mut dyn FnMut(u64),
    ) -> io::Result<()> {
        let mut scanning = Scanning {
            key: self.key(
                "corrupted-at-rest",
                State::Confirmed,
                true,
                "the body does not have its checksum".to_owned(),
            ),
            store: self.index,
            delays: &self.delays,
            traced: &mut self.traced_groups,
            rows,
            findings,
            id: Vec::new(),
            unpacked: Vec::new(),
        };
        let summary = scan::scan(&self.log, &mut |record, intact| scanning.record(record, intact), progress)?;
        self.summary = summary;
        self.tell_damage(findings);
        Ok(())
    }

    fn tell_damage(&self, findings: &mut Findings) {
        for damage in &self.summary.damages {
            let (class, loss, cause) = match damage.wrong {
                Wrong::Torn => ("torn", false, "the last record was begun and never finished on this disk"),
                Wrong::Corrupt => {
                    ("corrupted-at-rest", true, "no record can be read here, and records follow")
                }
                Wrong::Zeroed => ("corrupted-at-rest", true, "zeros, and records follow"),
                Wrong::Missing => ("truncated", true, "a file of the log is missing or cut short"),
                Wrong::Overlap => ("overlapping", false, "two files of the log claim this range"),
                Wrong::Unreadable => ("unreadable", true, "the system refuses to read this range"),
                Wrong::Leftover => (
                    "leftover",
                    false,
                    "behind the end lie records of an older time, as recovery leaves them",
                ),
            };
            let place =
                damage.place.map(|(queue, offset)| format!("; its head says queue {queue}, offset {offset}"));
            let cause = format!("{cause}{}", place.unwrap_or_default());
            let state = if damage.wrong == Wrong::Leftover { State::Note } else { State::Confirmed };
            findings.add_damage(self.key(class, state, loss, cause), (damage.from, damage.to));
        }
        if self.summary.damages_merged {
            let cause =
                "more damaged ranges than are kept one by one: the last one spans the rest".to_owned();
            findings.add_damage(self.key("unreadable", State::Note, false, cause), (0, 0));
        }
    }

    /// Walks every consume queue and makes its rows; the log was scanned before.
    ///
    /// # Errors
    /// When the scratch folder cannot be written.
    pub fn read_queues(&mut self, rows: &mut Rows, findings: &mut Findings) -> io::Result<()> {
        let folders = match files::queue_folders(&self.path) {
            Ok(Some((folders, strangers))) => {
                for stranger in strangers {
                    let cause = format!("{} is no queue's folder: not read", stranger.display());
                    findings.add_damage(self.key("unreadable", State::Note, false, cause), (0, 0));
                }
                folders
            }
            Ok(None) => return Ok(()),
            Err(error) => {
                let cause = format!("consumequeue: {error}");
                findings.add_damage(self.key("unreadable", State::Confirmed, false, cause), (0, 0));
                return Ok(());
            }
        };
        self.has_queues = true;
        let mut window = Window::default();
        for folder in folders {
            let mut range = Reading::default();
            let (min, end, index) = (self.summary.min, self.summary.end, self.index);
            let walked = NumberedFiles::list(&folder.path).map_err(Refusal::Queue).and_then(|files| {
                let mut refused = None;
                let walked = queue::walk(&files, &mut window, &mut |unit| {
                    let is_plausible = range.take(unit, min, end);
                    let what = AtPlace::Unit { position: unit.position, is_plausible };
                    let at = (folder.topic.as_slice(), folder.queue, unit.index);
                    rows.place(at, index, &what).inspect_err(|error| {
                        refused = Some(error.kind());
                    })
                });
                walked.map_err(|error| {
                    if refused.is_some() { Refusal::Scratch(error) } else { Refusal::Queue(error) }
                })
            });
            match walked {
                Ok(()) => {}
                Err(Refusal::Scratch(error)) => return Err(error),
                Err(Refusal::Queue(error)) => {
                    let cause = format!("{}: {error}", folder.path.display());
                    findings.add_damage(self.key("unreadable", State::Confirmed, false, cause), (0, 0));
                }
            }
            self.queues.insert((folder.topic, folder.queue), range.done());
        }
        Ok(())
    }
}

enum Refusal {
    Scratch(io::Error),
    Queue(io::Error),
}

#[derive(Default)]
struct Reading {
    range: QueueRange,
    has_min: bool,
    last_position: Option<u64>,
}

impl Reading {
    /// Takes an entry in; whether it can be believed: positions of a queue only rise.
    fn take(&mut self, unit: Unit, min: u64, end: u64) -> bool {
        let rises = self.last_position.is_none_or(|last| last < unit.position);
        let plausible = rises && (SIZE_MIN..=SIZE_MAX).contains(&unit.size);
        if plausible {
            self.last_position = Some(unit.position);
        }
        self.range.written = unit.index.saturating_add(1);
        if plausible && unit.position >= min && !self.has_min {
            (self.range.min, self.has_min) = (unit.index, true);
        }
        if plausible && (min..end).contains(&unit.position) {
            self.range.max = unit.index.saturating_add(1);
        }
        plausible
    }

    fn done(mut self) -> QueueRange {
        if !self.has_min {
            self.range.min = self.range.written;
        }
        self.range.max = self.range.max.max(self.range.min);
        self.range
    }
}

/// A scan of one log, and what it makes of each record.
struct Scanning<'a> {
    key: Key,
    store: u8,
    delays: &'a BTreeMap<u32, u64>,
    traced: &'a mut BTreeSet<Vec<u8>>,
    rows: &'a mut Rows,
    findings: &'a mut Findings,
    id: Vec<u8>,
    unpacked: Vec<u8>,
}

impl Scanning<'_> {
    fn record(&mut self, record: &Record<'_>, intact: bool) -> io::Result<()> {
        let named = record.named();
        self.id.clear();
        match named.unique_key {
            Some(key) => self.id.extend_from_slice(key),
            None => record.put_offset_id(&mut self.id),
        }
        if !intact {
            let mut key = self.key.clone();
            key.topic = String::from_utf8_lossy(record.topic).into_owned();
            self.findings.add(key, Some(&self.id), Some((record.queue, record.queue_offset)));
        }
        if record.has_place() {
            let id = std::mem::take(&mut self.id);
            let what = AtPlace::Record { position: record.position, store_ms: record.store_ms, id };
            self.rows.place((record.topic, record.queue, record.queue_offset), self.store, &what)?;
            if let AtPlace::Record { id, .. } = what {
                self.id = id;
            }
        }
        match record.topic {
            OP_TOPIC => return self.ended(record),
            TRACE_TOPIC => return self.trace(record),
            _ => {}
        }
        let role = Role::of(record.topic);
        let is_schedule = record.topic == SCHEDULE_TOPIC;
        let stored = Stored {
            role,
            is_passed: is_schedule
                && self.delays.get(&record.queue).is_some_and(|at| *at > record.queue_offset),
            is_committed: record.sys_flag & 0b1100 == 0b1000,
            has_unique_key: named.unique_key.is_some(),
            queue: record.queue,
            offset: record.queue_offset,
            position: record.position,
            born_ms: record.born_ms,
            body_crc: record.body_crc,
            reconsume_times: record.reconsume_times.max(0) as u32,
            topic: record.topic.to_vec(),
            other_topic: match role {
                Role::Schedule | Role::Normal => named.real_topic.unwrap_or_default().to_vec(),
                Role::Dead => named.retry_topic.unwrap_or_default().to_vec(),
                _ => Vec::new(),
            },
            origin_id: if role == Role::Dead {
                named.origin_id.unwrap_or_default().to_vec()
            } else {
                Vec::new()
            },
        };
        self.rows.id(&self.id, self.store, &OfId::Record(stored))
    }

    /// The body of an operation names the half messages that were ended, by their queue offsets.
    fn ended(&mut self, record: &Record<'_>) -> io::Result<()> {
        for offset in record.body.split(|byte| *byte == b',') {
            let offset = str::from_utf8(offset).ok().and_then(|text| text.trim().parse().ok());
            if let Some(offset) = offset {
                self.rows.place((HALF_TOPIC, record.queue, offset), self.store, &AtPlace::Ended)?;
            }
        }
        Ok(())
    }

    fn trace(&mut self, record: &Record<'_>) -> io::Result<()> {
        let (rows, traced, store) = (&mut *self.rows, &mut *self.traced, self.store);
        trace::deliveries(record.body, record.sys_flag, &mut self.unpacked, &mut |group, id| {
            if group.contains(&0) || id.contains(&0) {
                return Ok(());
            }
            if traced.len() < TRACED_GROUPS_MAX && !traced.contains(group) {
                traced.insert(group.to_vec());
            }
            rows.id(id, store, &OfId::Delivered { group: group.to_vec() })
        })
        .map(|_| ())
    }
}
