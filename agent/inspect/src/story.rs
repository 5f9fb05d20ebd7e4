//! Owns what is judged where everything known about one message id comes together: where it is stored, on which copies it is
//! missing, whether it was sent back, ended, delivered, sent or processed.

use crate::findings::{Findings, Key, State};
use crate::lineage::Lineages;
use crate::progress::Watches;
use crate::rows::{self, OfId, Role, Stored};
use crate::schedule::Schedules;
use crate::spill::Sorter;
use crate::store::Store;
use std::io;

/// Rows of one id that are looked at. More have ids that are none (a client that gives every message the same).
const ROWS_MAX: usize = 4_096;

/// What the lists of clients can decide.
#[derive(Clone, Debug, Default)]
pub struct Lists {
    pub has_sent: bool,
    pub has_processed: bool,
    /// Topics named in the list of what was processed; empty when it names none.
    pub processed_topics: std::collections::BTreeSet<String>,
    /// Messages known to be gone whose ids are not.
    pub is_unnamed_lost: bool,
}

/// Judges every id.
#[derive(Debug)]
pub struct Judge<'a> {
    pub stores: &'a [Store],
    pub lineages: &'a Lineages,
    pub watches: &'a Watches,
    pub lists: &'a Lists,
    pub findings: &'a mut Findings,
    pub schedules: Schedules,
}

pub(crate) struct Story<'a> {
    pub(crate) id: &'a [u8],
    rows: &'a [(u8, OfId)],
}

impl<'a> Story<'a> {
    pub(crate) fn records(&self) -> impl Iterator<Item = (u8, &'a Stored)> + use<'a> {
        self.rows.iter().filter_map(|(store, row)| match row {
            OfId::Record(stored) => Some((*store, stored)),
            _ => None,
        })
    }

    pub(crate) fn of(&self, store: u8, role: Role) -> impl Iterator<Item = &'a Stored> + use<'a> {
        self.records()
            .filter(move |(of, stored)| *of == store && stored.role == role)
            .map(|(_, stored)| stored)
    }

    fn has(&self, store: u8, wanted: &OfId) -> bool {
        self.rows.iter().any(|(of, row)| *of == store && row == wanted)
    }
}

impl Judge<'_> {
    /// Takes all ids in order.
    ///
    /// # Errors
    /// When the scratch folder cannot be read.
    pub fn run(&mut self, ids: Sorter) -> io::Result<()> {
        let mut id: Vec<u8> = Vec::new();
        let mut group: Vec<(u8, OfId)> = Vec::new();
        ids.drain(&mut |row| {
            let Some((next, store, what)) = rows::id(row) else { return Ok(()) };
            if next != id.as_slice() {
                self.judge(&Story { id: &id, rows: &group });
                group.clear();
                id.clear();
                id.extend_from_slice(next);
            }
            if group.len() < ROWS_MAX {
                group.push((store, what));
            }
            Ok(())
        })?;
        self.judge(&Story { id: &id, rows: &group });
        self.finish_schedules();
        Ok(())
    }

    fn judge(&mut self, story: &Story<'_>) {
        if story.rows.len() >= ROWS_MAX {
            let Some(store) = self.stores.first() else { return };
            let cause =
                format!("{ROWS_MAX} records or more have this id: it names no message, and is not judged");
            self.findings.add(store.key("undecided", State::Undecided, false, cause), Some(story.id), None);
            return;
        }
        for store in self.stores {
            self.dead_letters(story, store);
            self.half(story, store);
            self.schedule(story, store);
        }
        self.duplicates(story);
        if self.stores.len() > 1 {
            self.copies(story);
        }
        self.passed(story);
        self.lists(story);
    }

    pub(crate) fn add(&mut self, mut key: Key, story: &Story<'_>, stored: &Stored) -> Key {
        key.topic = text(&stored.topic);
        self.findings.add(key.clone(), Some(story.id), Some((stored.queue, stored.offset)));
        key
    }

    fn dead_letters(&mut self, story: &Story<'_>, store: &Store) {
        for dead in story.of(store.index, Role::Dead) {
            let cause = "out of attempts: in the dead-letter topic".to_owned();
            let mut key = store.key("dead-lettered", State::Note, false, cause);
            key.group = text(dead.topic.get(rows::DEAD_PREFIX.len()..).unwrap_or_default());
            let key = self.add(key, story, dead);
            let origin = story.of(store.index, Role::Normal).find(|stored| stored.topic == dead.other_topic);
            let origin = origin.map_or_else(
                || format!("{} by its property, its record is not in this log", text(&dead.other_topic)),
                |stored| format!("{} queue {} offset {}", text(&stored.topic), stored.queue, stored.offset),
            );
            let (id, origin_id, times) = (text(story.id), text(&dead.origin_id), dead.reconsume_times);
            self.findings.detail(&key, format!("{id}: from {origin} ({origin_id}), {times} attempts"));
        }
    }

    fn half(&mut self, story: &Story<'_>, store: &Store) {
        let Some(half) = story.of(store.index, Role::Half).last() else { return };
        let is_ended = story.has(store.index, &OfId::Ended)
            || story.of(store.index, Role::Normal).any(|stored| stored.is_committed);
        if !is_ended {
            let cause = "neither committed nor rolled back: nobody can read it until it is".to_owned();
            self.add(store.key("half-unresolved", State::Note, false, cause), story, half);
        }
    }

    /// Stored more than once under its own topic: in one log, or in logs of different brokers.
    fn duplicates(&mut self, story: &Story<'_>) {
        let lineage = |store: u8| self.stores.get(usize::from(store)).map_or(0, |store| store.lineage);
        let mut places: Vec<(usize, u64, u8, &Stored)> = Vec::new();
        for (store, stored) in story.records() {
            let is_message =
                stored.role == Role::Normal && stored.has_unique_key && stored.reconsume_times == 0;
            let is_new = |other: &(usize, u64, u8, &Stored)| {
                let same_log = other.0 == lineage(store);
                // what only one copy of a log has was sent again after the other had lost it
                !same_log || other.2 == store && other.1 != stored.position
            };
            if is_message && places.iter().all(is_new) {
                places.push((lineage(store), stored.position, store, stored));
            }
        }
        places.sort_by_key(|(lineage, position, ..)| (*lineage, *position));
        let Some(((.., store, first), rest)) = places.split_first().filter(|(_, rest)| !rest.is_empty())
        else {
            return;
        };
        let is_other_body = rest.iter().any(|other| other.3.body_crc != first.body_crc);
        let is_same_birth = rest.iter().any(|other| other.3.born_ms == first.born_ms);
        let cause = match (is_other_body, is_same_birth) {
            (true, _) => "one id on different bodies: its producer gives ids twice",
            (false, true) => {
                "stored twice with one time of birth: made by the broker, or sent twice within a millisecond"
            }
            (false, false) => "sent again by its producer, which had no answer to the first",
        };
        let Some(store) = self.stores.get(usize::from(*store)) else { return };
        let mut key = store.key("duplicate", State::Confirmed, false, cause.to_owned());
        key.topic = text(&first.topic);
        let list: Vec<String> = places
            .iter()
            .map(|(.., stored)| {
                format!("{} queue {} offset {}", text(&stored.topic), stored.queue, stored.offset)
            })
            .collect();
        self.findings.add(key.clone(), Some(story.id), None);
        self.findings.detail(&key, format!("{}: {}", text(story.id), list.join("; ")));
    }

    /// Present on one copy of a log and missing on another.
    fn copies(&mut self, story: &Story<'_>) {
        for (on, stored) in story.records().filter(|(_, stored)| stored.has_unique_key) {
            for other in self.stores {
                if !self.lineages.are_copies(on, other.index) || story.has(other.index, &OfId::Gone) {
                    continue;
                }
                let mut there =
                    story.records().filter(|(store, _)| *store == other.index).map(|(_, stored)| stored);
                if there.any(|theirs| {
                    theirs.position == stored.position
                        || theirs.role == stored.role && theirs.role == Role::Normal
                }) {
                    continue;
                }
                if let Some(key) = self.missing(on, stored, other) {
                    self.add(key, story, stored);
                }
            }
        }
    }

    fn missing(&self, on: u8, stored: &Stored, other: &Store) -> Option<Key> {
        let store = self.stores.get(usize::from(on))?;
        let summary = &other.summary;
        let is_apart = self.lineages.apart_at(on, other.index).is_some_and(|at| stored.position >= at);
        let is_newer = summary.newest_store_ms > store.summary.newest_store_ms;
        let (class, state, cause) = if stored.position < summary.min {
            return None; // retention: judged by the groups' offsets
        } else if is_apart && other.is_promoted {
            (
                "not-replicated-at-failover",
                State::Confirmed,
                "the promoted copy wrote other records in their place",
            )
        } else if is_apart && is_newer {
            let cause =
                "the other copy went its own way before them, and wrote later: it was made the master";
            ("not-replicated-at-failover", State::Suspected, cause)
        } else if is_apart {
            return None; // the older side of a parting: told from the other side
        } else if stored.position < summary.end {
            summary.damage_at(stored.position).filter(|_| !other.has_queues)?;
            ("corrupted-at-rest", State::Confirmed, "in a damaged range of the other copy")
        } else if other.is_promoted {
            ("not-replicated-at-failover", State::Confirmed, "the promoted copy's log ends before them")
        } else {
            let cause = "the other copy's log ends before them: an earlier snapshot or a replica that was behind; lost only if \
                         that copy was made the master (say so with --promoted)";
            ("undecided", State::Undecided, cause)
        };
        let mut key = other.key(class, state, state != State::Undecided, cause.to_owned());
        key.other.clone_from(&store.name);
        Some(key)
    }

    fn passed(&mut self, story: &Story<'_>) {
        for (_, row) in story.rows {
            let OfId::Passed { passing, queue, offset } = row else { continue };
            let Some(passing) = self.watches.passings.get(*passing as usize) else { continue };
            let delivered = OfId::Delivered { group: passing.group.clone() };
            let is_delivered =
                story.rows.iter().any(|(_, row)| *row == delivered || matches!(row, OfId::Processed { .. }));
            if !is_delivered {
                self.findings.add(passing.key.clone(), Some(story.id), Some((*queue, *offset)));
            }
        }
    }

    fn lists(&mut self, story: &Story<'_>) {
        let sent = story.rows.iter().find_map(|(_, row)| match row {
            OfId::Sent { line, ok } => Some((*line, *ok)),
            _ => None,
        });
        let processed = story.rows.iter().find_map(|(_, row)| match row {
            OfId::Processed { line } => Some(*line),
            _ => None,
        });
        let stored = story.records().find(|(_, stored)| stored.role == Role::Normal);
        let is_anywhere = story.records().next().is_some();
        let is_gone = story.rows.iter().any(|(_, row)| *row == OfId::Gone);
        let Some(first) = self.stores.first() else { return };
        if let Some((line, ok)) = sent {
            if is_anywhere && !ok {
                let cause = "stored, though its producer was told otherwise or nothing".to_owned();
                let mut key = first.key("stored-though-unacked", State::Note, false, cause);
                key.store = String::new();
                self.findings.add(key, Some(story.id), None);
            } else if !is_anywhere && !is_gone && processed.is_none() {
                self.never_stored(story, first, line, ok);
            }
        }
        if self.lists.has_processed && processed.is_none() {
            self.never_processed(story, stored, sent.is_some());
        }
        if let Some(line) = processed.filter(|_| !is_anywhere && !is_gone && sent.is_none()) {
            let is_complete = self.stores.iter().all(|store| store.summary.min == 0);
            let (state, cause) = if is_complete {
                (State::Confirmed, "processed, and in no log from its beginning on")
            } else {
                (State::Undecided, "processed, and in no log; they may have expired")
            };
            let mut key = first.key("unexpected-message", state, false, cause.to_owned());
            key.store = String::new();
            self.findings.add(key.clone(), Some(story.id), None);
            self.findings.detail(&key, format!("{}: line {line}", text(story.id)));
        }
    }

    fn never_stored(&mut self, story: &Story<'_>, first: &Store, line: u64, ok: bool) {
        let is_complete = self.stores.iter().all(|store| store.summary.min == 0);
        let (class, state, loss, cause) = if !ok {
            ("send-unknown", State::Note, false, "not stored, as its producer was told or could not know")
        } else if !is_complete {
            let cause = "the producer was told OK, and no log holds it; the logs do not begin at 0, so it may have expired";
            ("never-stored", State::Undecided, false, cause)
        } else if self.lists.is_unnamed_lost {
            let cause = "the producer was told OK, and no log holds it; it may be one of those that a log is known to have lost";
            ("never-stored", State::Suspected, true, cause)
        } else {
            ("never-stored", State::Confirmed, true, "the producer was told OK, and no log holds it")
        };
        let mut key = first.key(class, state, loss, cause.to_owned());
        key.store = String::new();
        self.findings.add(key.clone(), Some(story.id), None);
        self.findings.detail(&key, format!("{}: line {line}", text(story.id)));
    }

    fn never_processed(&mut self, story: &Story<'_>, stored: Option<(u8, &Stored)>, is_sent: bool) {
        let Some((store, stored)) = stored else { return };
        let Some(store) = self.stores.get(usize::from(store)) else { return };
        let topic = text(&stored.topic);
        let topics = &self.lists.processed_topics;
        let is_meant =
            if topics.is_empty() { is_sent || !self.lists.has_sent } else { topics.contains(&topic) };
        let is_elsewhere = story.records().any(|(_, stored)| stored.role == Role::Dead);
        if !is_meant || is_elsewhere {
            return;
        }
        let committed = |(of, _): &(String, String)| *of == topic;
        let groups = store.offsets.iter().filter(|(key, _)| committed(key));
        let passed_by =
            groups.filter(|(_, queues)| queues.get(&stored.queue).is_some_and(|at| *at > stored.offset));
        let mut passed_by = passed_by.map(|((_, group), _)| group.clone());
        let Some(group) = passed_by.next() else {
            let cause =
                "stored, not processed, and no group's offset has passed them: still to come".to_owned();
            self.add(store.key("unprocessed", State::Note, false, cause), story, stored);
            return;
        };
        let retried = story.records().any(|(_, stored)| matches!(stored.role, Role::Schedule | Role::Retry));
        let (state, loss, cause) = if retried {
            (State::Undecided, false, "not processed; sent back at least once, so it may still come")
        } else {
            (State::Confirmed, true, "a group's offset passed them, and the list does not name them")
        };
        let mut key = store.key("never-processed", state, loss, cause.to_owned());
        key.group = if passed_by.next().is_some() { String::new() } else { group };
        self.add(key, story, stored);
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
