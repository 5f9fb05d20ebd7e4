//! Owns what group offsets say beside the ranges of the queues: read and expired, behind, past the end, moved between two
//! snapshots. Arithmetic only; the ids come when the places are walked.

use crate::findings::{Findings, Key, State};
use crate::lineage::Lineages;
use crate::store::Store;
use std::collections::BTreeMap;

/// Runs of queue offsets whose messages are to be named.
#[derive(Debug, Default)]
pub struct Watches {
    by_queue: BTreeMap<(Vec<u8>, u32), Vec<Watch>>,
    /// What [`Wanted::Passed`] counts up.
    pub passings: Vec<Passing>,
}

/// One run `[from, to)`.
#[derive(Debug)]
pub struct Watch {
    pub from: u64,
    pub to: u64,
    /// The store whose finding it is.
    pub store: u8,
    pub wanted: Wanted,
}

#[derive(Debug)]
pub enum Wanted {
    /// Ids of this finding, from this store's own records.
    Own(Key),
    /// Ids of this finding, from records that copies of this store hold below its log's beginning.
    Expired(Key),
    /// A group's offset passed these between two snapshots.
    Passed(u32),
}

/// A group whose offset moved between two snapshots of a topic's queues.
#[derive(Debug)]
pub struct Passing {
    pub key: Key,
    pub group: Vec<u8>,
    /// The later snapshot.
    pub store: u8,
}

impl Watches {
    /// Those of one queue.
    pub fn of(&self, topic: &[u8], queue: u32) -> &[Watch] {
        self.by_queue.get(&(topic.to_vec(), queue)).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, topic: &str, queue: u32, watch: Watch) {
        if watch.from < watch.to {
            self.by_queue.entry((topic.as_bytes().to_vec(), queue)).or_default().push(watch);
        }
    }
}

/// Judges every group of every store.
pub fn judge(stores: &[Store], lineages: &Lineages, findings: &mut Findings) -> Watches {
    let mut watches = Watches::default();
    for store in stores {
        for ((topic, group), queues) in &store.offsets {
            if !store.has_topic(topic.as_bytes()) {
                continue;
            }
            for (queue, committed) in queues {
                one(store, (topic, group), (*queue, *committed), findings, &mut watches);
            }
        }
    }
    for before in stores {
        for after in stores {
            let in_order = (before.summary.newest_store_ms, before.summary.end)
                < (after.summary.newest_store_ms, after.summary.end);
            if in_order && lineages.are_copies(before.index, after.index) {
                moved(before, after, findings, &mut watches);
            }
        }
    }
    watches
}

fn about(mut key: Key, topic: &str, group: &str) -> Key {
    (key.topic, key.group) = (topic.to_owned(), group.to_owned());
    key
}

fn one(
    store: &Store,
    (topic, group): (&str, &str),
    (queue, committed): (u32, u64),
    findings: &mut Findings,
    watches: &mut Watches,
) {
    let Some(range) = store.queues.get(&(topic.as_bytes().to_vec(), queue)) else { return };
    if committed < range.min {
        let cause = "retention deleted them before the group's offset reached them (a tag filter may have passed some over)";
        let key = store.key("expired-before-consumption", State::Confirmed, true, cause.to_owned());
        let key = about(key, topic, group);
        findings.add_range(key.clone(), queue, (committed, range.min));
        let watch =
            Watch { from: committed, to: range.min, store: store.index, wanted: Wanted::Expired(key) };
        watches.add(topic, queue, watch);
    }
    let unread = (committed.max(range.min), range.max);
    if unread.0 < unread.1 {
        let cause = "stored and readable, above the group's offset".to_owned();
        let key = about(store.key("behind", State::Note, false, cause), topic, group);
        findings.add_range(key.clone(), queue, unread);
        watches.add(
            topic,
            queue,
            Watch { from: unread.0, to: unread.1, store: store.index, wanted: Wanted::Own(key) },
        );
    }
    if committed > range.max {
        let cause = format!(
            "the group's offset is beyond the end of the queue: what is stored at these offsets next, {}",
            "the group passes over or has had under other ids"
        );
        let key = about(store.key("offset-past-max", State::Undecided, false, cause), topic, group);
        findings.add_range(key, queue, (range.max, committed));
    }
}

fn moved(before: &Store, after: &Store, findings: &mut Findings, watches: &mut Watches) {
    for ((topic, group), queues) in &after.offsets {
        let Some(earlier) = before.offsets.get(&(topic.clone(), group.clone())) else { continue };
        let mut passing = None;
        for (queue, committed) in queues {
            let Some(from) = earlier.get(queue).copied() else { continue };
            if from > *committed {
                let cause = "the group's offset went back: these are delivered again".to_owned();
                let mut key = about(after.key("offset-regression", State::Note, false, cause), topic, group);
                key.other.clone_from(&before.name);
                findings.add_range(key, *queue, (*committed, from));
                continue;
            }
            if !after.traced_groups.contains(group.as_bytes()) {
                continue;
            }
            let index = *passing.get_or_insert_with(|| {
                let cause = "the group's offset passed them, and the trace of this group, which has others, has no delivery \
                             of these: a reset, or a tag filter";
                let key = after.key("skipped-by-offset-reset", State::Suspected, true, cause.to_owned());
                let mut key = about(key, topic, group);
                key.other.clone_from(&before.name);
                watches.passings.push(Passing { key, group: group.as_bytes().to_vec(), store: after.index });
                watches.passings.len() as u32 - 1
            });
            let watch = Watch { from, to: *committed, store: after.index, wanted: Wanted::Passed(index) };
            watches.add(topic, *queue, watch);
        }
    }
}
