//! Owns the truth, from two sides the agent never sees: what clients sent, were answered and were handed (history), and what was
//! destroyed (a scan of the commit log's bytes before and after each fault). Never asks broker or agent anything.

use agent::fold::class::Class;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use store::commit_log::HEADER_LEN;
use store::disk::{Disk, OpenMode};
use store::disk_sim::SimDisk;
use wire::message::{MAGIC_V1, StoredMessage};

/// A stored message, by the place and the epoch that first stored it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unit {
    pub(crate) topic: String,
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    pub(crate) epoch: u64,
}

impl Display for Unit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}@{}", self.topic, self.queue, self.offset, self.epoch)
    }
}

/// What one client knows of one send.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    pub(crate) topic: String,
    pub(crate) attempts: u32,
    /// Queue and offset of an OK, and whether it promised the disk.
    pub(crate) answered: Option<(u32, u64, bool)>,
    pub(crate) refused: bool,
}

/// What fate something has: a group (empty: the store's own copy), and a unit or `id:…`.
pub(crate) type Fate = (String, String);

/// See the module text.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) sent: BTreeMap<String, Sent>,
    /// Per group, what its members were handed.
    pub(crate) handed: BTreeMap<String, BTreeSet<Unit>>,
    present: BTreeMap<(String, u32, u64), (u64, String)>,
    /// Everything ever seen in the log, with its client id.
    pub(crate) ever: BTreeMap<Unit, String>,
    /// What a fault destroyed.
    pub(crate) destroyed: BTreeSet<Unit>,
    /// What retention deleted.
    pub(crate) expired: BTreeSet<Unit>,
    /// The verdicts that must be there at the end.
    pub(crate) expected: BTreeMap<Fate, Class>,
    /// How often each fault and control was injected.
    pub(crate) injected: BTreeMap<&'static str, u64>,
    next_id: u64,
    /// Where each present record is.
    pub(crate) records: BTreeMap<(String, u32, u64), Record>,
    /// Every record ever seen before a fault, with its header, as a hash of its bytes.
    whole: BTreeSet<u64>,
    /// What a fault made of others.
    torn: BTreeSet<u64>,
}

/// A record in a file of the log.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) path: PathBuf,
    /// Where it begins, our header included.
    pub(crate) at: u64,
    /// Where its body begins, and how long that is.
    pub(crate) body_at: u64,
    pub(crate) body_len: u64,
    /// Where the record ends.
    pub(crate) end: u64,
}

/// Whether clients name the topic themselves (the others hold the broker's own copies).
pub(crate) fn is_users(topic: &str) -> bool {
    !topic.starts_with('%') && topic != "SCHEDULE_TOPIC_XXXX"
}

impl Oracle {
    pub(crate) fn new_id(&mut self) -> String {
        self.next_id += 1;
        format!("id-{:06}", self.next_id)
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.injected.entry(what).or_default() += 1;
    }

    pub(crate) fn expect(&mut self, group: &str, what: impl Display, class: Class) {
        self.expected.insert((group.to_owned(), what.to_string()), class);
    }

    /// The unit now at a place.
    pub(crate) fn unit(&self, topic: &str, queue: u32, offset: u64) -> Option<Unit> {
        let (epoch, _) = self.present.get(&(topic.to_owned(), queue, offset))?;
        Some(Unit { topic: topic.to_owned(), queue, offset, epoch: *epoch })
    }

    /// Whether a fault destroyed what was at a place, and nothing is there now.
    pub(crate) fn is_hole(&self, topic: &str, queue: u32, offset: u64) -> bool {
        let was = |unit: &Unit| unit.topic == topic && unit.queue == queue && unit.offset == offset;
        self.unit(topic, queue, offset).is_none() && self.destroyed.iter().any(was)
    }

    /// Units of a topic that are in the log now.
    pub(crate) fn present_in(&self, topic: &str) -> Vec<Unit> {
        let here = self.present.iter().filter(|((of, _, _), _)| of == topic);
        here.map(|((topic, queue, offset), (epoch, _))| Unit {
            topic: topic.clone(),
            queue: *queue,
            offset: *offset,
            epoch: *epoch,
        })
        .collect()
    }

    /// Reads the log's bytes while nothing was destroyed: what is missing was deleted by retention. Returns that.
    pub(crate) fn scan(&mut self, disk: &SimDisk, run: u64) -> Vec<Unit> {
        let gone = self.look(disk, run, false);
        self.expired.extend(gone.iter().cloned());
        gone
    }

    /// Reads the log's bytes after a fault: what is missing was destroyed, and must be told as this class.
    pub(crate) fn destroyed_by(&mut self, class: Class, disk: &SimDisk, run: u64) -> Vec<Unit> {
        let gone = self.look(disk, run, true);
        for unit in gone.iter().filter(|unit| is_users(&unit.topic)) {
            self.expect("", unit, class);
        }
        self.destroyed.extend(gone.iter().cloned());
        gone
    }

    /// The same after a disk had lied about its flushes. Where the log is shorter than what had been flushed, a flush was not kept;
    /// what is unreadable within a log of full length, or before a later message of its queue, looks like any spoilt record.
    pub(crate) fn destroyed_by_lies(&mut self, disk: &SimDisk, run: u64) -> Vec<Unit> {
        let before = self.records.clone();
        let gone = self.destroyed_by(Class::FlushLied, disk, run);
        let lens: BTreeMap<_, _> = disk.files().into_iter().collect();
        let is_short = gone.iter().any(|unit| {
            let record = &before[&(unit.topic.clone(), unit.queue, unit.offset)];
            lens.get(&record.path).is_none_or(|len| record.end > *len)
        });
        for unit in gone.iter().filter(|unit| is_users(&unit.topic)) {
            let later =
                (unit.topic.clone(), unit.queue, unit.offset)..(unit.topic.clone(), unit.queue, u64::MAX);
            if !is_short || self.present.range(later).next().is_some() {
                self.expect("", unit, Class::CorruptedAtRest);
            }
        }
        gone
    }

    fn look(&mut self, disk: &SimDisk, run: u64, is_after_fault: bool) -> Vec<Unit> {
        let mut found = BTreeMap::new();
        self.records.clear();
        for (path, len) in disk.files() {
            if path.starts_with(Path::new(crate::world::DATA).join("commitlog")) {
                self.read_file(disk, (&path, len), is_after_fault, &mut found);
            }
        }
        let mut gone = Vec::new();
        self.present.retain(|key, (epoch, _)| {
            let stays = found.contains_key(key);
            if !stays {
                let (topic, queue, offset) = key.clone();
                gone.push(Unit { topic, queue, offset, epoch: *epoch });
            }
            stays
        });
        for (key, id) in found {
            let entry = self.present.entry(key.clone()).or_insert((run, id.clone()));
            assert_eq!(entry.1, id, "an offset names one message for as long as it exists: {key:?}");
            let (topic, queue, offset) = key;
            self.ever.insert(Unit { topic, queue, offset, epoch: entry.0 }, id);
        }
        gone
    }

    /// A fault makes no records: what was not seen before it is what is left of one.
    fn is_whole(&mut self, bytes: &[u8], is_after_fault: bool) -> bool {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        if is_after_fault && !self.whole.contains(&hash) {
            self.torn.insert(hash);
        }
        let is_whole = !self.torn.contains(&hash);
        if is_whole {
            self.whole.insert(hash);
        }
        is_whole
    }

    fn read_file(
        &mut self,
        disk: &SimDisk,
        (path, len): (&Path, u64),
        is_after_fault: bool,
        found: &mut BTreeMap<(String, u32, u64), String>,
    ) {
        let file = disk.open(path, OpenMode::Existing).expect("it was listed");
        let mut bytes = vec![0; len as usize];
        let read = file.read_at(&mut bytes, 0).expect("the disk works");
        bytes.truncate(read);
        let magic = MAGIC_V1.to_be_bytes();
        let mut at = 0;
        while at + 8 <= bytes.len() {
            if bytes[at + 4..at + 8] != magic {
                at += 1;
                continue;
            }
            let Ok((message, size)) = StoredMessage::decode(&bytes[at..]) else {
                at += 1;
                continue;
            };
            let before = at.saturating_sub(HEADER_LEN);
            if message.body_is_intact() && self.is_whole(&bytes[before..at + size], is_after_fault) {
                let id = message.properties.get("UNIQ_KEY").unwrap_or_default().to_owned();
                let key = (message.topic.to_owned(), message.queue_id as u32, message.queue_offset);
                let body_at = (message.body.as_ptr() as usize - bytes.as_ptr() as usize) as u64;
                let (path, body_len, end) = (path.to_owned(), message.body.len() as u64, (at + size) as u64);
                let at = before as u64;
                self.records.insert(key.clone(), Record { path, at, body_at, body_len, end });
                found.insert(key, id);
            }
            at += size.max(1);
        }
    }

    /// Answered sends among what was destroyed although their promise covers the fault.
    pub(crate) fn lost_writes(&self, destroyed: &[Unit], survives: impl Fn(bool) -> bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for unit in destroyed {
            let Some(sent) = self.ever.get(unit).and_then(|id| self.sent.get(id)) else { continue };
            let Some((queue, offset, durable)) = sent.answered else { continue };
            if (queue, offset) == (unit.queue, unit.offset) && sent.topic == unit.topic && survives(durable) {
                wrong.push(format!("lost write: {unit} was answered OK (durable: {durable}) and is gone"));
            }
        }
        wrong
    }
}
