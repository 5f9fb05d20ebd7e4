//! Owns what is judged where everything known about one offset of one queue comes together: records and queue entries of every
//! store, ended transactions, what a client was told.

use crate::findings::{Findings, State};
use crate::lineage::Lineages;
use crate::progress::{Wanted, Watches};
use crate::rows::{self, AtPlace, HALF_TOPIC, OfId};
use crate::scan::Wrong;
use crate::spill::Sorter;
use crate::store::{Store, put_id};
use std::io;

/// Rows of one place that are looked at; a place of a healthy store has a record and an entry of each store.
const ROWS_MAX: usize = 1_024;

struct Place<'a> {
    topic: &'a [u8],
    queue: u32,
    offset: u64,
    rows: &'a [(u8, AtPlace)],
}

impl Place<'_> {
    fn records(&self, store: u8) -> impl Iterator<Item = (u64, &[u8])> {
        self.rows.iter().filter_map(move |(of, row)| match row {
            AtPlace::Record { position, id, .. } if *of == store => Some((*position, id.as_slice())),
            _ => None,
        })
    }

    fn unit(&self, store: u8) -> Option<(u64, bool)> {
        self.rows.iter().find_map(|(of, row)| match row {
            AtPlace::Unit { position, is_plausible } if *of == store => Some((*position, *is_plausible)),
            _ => None,
        })
    }

    fn sent(&self) -> impl Iterator<Item = &[u8]> {
        self.rows.iter().filter_map(|(_, row)| match row {
            AtPlace::Sent { id } => Some(id.as_slice()),
            _ => None,
        })
    }

    fn at(&self) -> Option<(u32, u64)> {
        Some((self.queue, self.offset))
    }

    fn topic(&self) -> String {
        String::from_utf8_lossy(self.topic).into_owned()
    }
}

/// Judges every place, and adds to `ids` what must be judged with the rest of an id's story.
#[derive(Debug)]
pub struct Judge<'a> {
    pub stores: &'a [Store],
    pub lineages: &'a Lineages,
    pub watches: &'a Watches,
    pub findings: &'a mut Findings,
    pub ids: &'a mut Sorter,
    pub row: Vec<u8>,
}

impl Judge<'_> {
    /// Takes all places in order.
    ///
    /// # Errors
    /// When the scratch folder cannot be read or written.
    pub fn run(&mut self, places: Sorter) -> io::Result<()> {
        let mut key: Vec<u8> = Vec::new();
        let mut group: Vec<(u8, AtPlace)> = Vec::new();
        places.drain(&mut |row| {
            let Some(((topic, ..), store, what)) = rows::place(row) else { return Ok(()) };
            let key_len = topic.len() + 1 + 4 + 8;
            if row.get(..key_len) != Some(key.as_slice()) {
                self.group(&key, &group)?;
                group.clear();
                key.clear();
                key.extend_from_slice(row.get(..key_len).unwrap_or_default());
            }
            if group.len() < ROWS_MAX {
                group.push((store, what));
            }
            Ok(())
        })?;
        self.group(&key, &group)
    }

    fn group(&mut self, key: &[u8], rows: &[(u8, AtPlace)]) -> io::Result<()> {
        let Some((topic, at)) = memchr::memchr(0, key).map(|end| key.split_at(end)) else { return Ok(()) };
        let number = |from: usize, to: usize| at.get(from..to).and_then(|bytes| bytes.try_into().ok());
        let (Some(queue), Some(offset)) =
            (number(1, 5).map(be32), at.get(5..13).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes))
        else {
            return Ok(());
        };
        let place = Place { topic, queue, offset, rows };
        if topic == HALF_TOPIC {
            self.ended(&place)?;
        }
        for store in self.stores {
            self.store(&place, store)?;
        }
        self.copies(&place);
        self.watched(&place)
    }

    /// An operation ended the half message that is here.
    fn ended(&mut self, place: &Place<'_>) -> io::Result<()> {
        for (store, row) in place.rows {
            if *row == AtPlace::Ended {
                for (_, id) in place.records(*store) {
                    put_id(self.ids, &mut self.row, id, *store, &OfId::Ended)?;
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, place: &Place<'_>, store: &Store) -> io::Result<()> {
        let mut records = place.records(store.index);
        let first = records.next();
        if let Some(first) = first
            && records.next().is_some_and(|second| second.0 != first.0)
        {
            self.reused(place, store);
        }
        match (first, place.unit(store.index)) {
            (Some((position, id)), Some((points_to, _))) if position != points_to => {
                let is_other = !place.records(store.index).any(|(position, _)| position == points_to);
                if is_other && store.has_topic(place.topic) {
                    let cause = "the queue's entry points elsewhere: nobody can read them".to_owned();
                    let mut key = store.key("unindexed", State::Confirmed, true, cause);
                    key.topic = place.topic();
                    self.findings.add(key, Some(id), place.at());
                }
            }
            (Some((_, id)), None) if store.has_queues && store.has_topic(place.topic) => {
                self.unindexed(place, store, id);
            }
            (None, Some((points_to, is_plausible))) => self.gone(place, store, points_to, is_plausible)?,
            _ => {}
        }
        Ok(())
    }

    fn reused(&mut self, place: &Place<'_>, store: &Store) {
        let unit = place.unit(store.index).map(|unit| unit.0);
        let state = if unit.is_some() { State::Confirmed } else { State::Suspected };
        let cause = "a later record took their queue offset: nobody can read them".to_owned();
        let mut key = store.key("offset-reused", state, true, cause);
        key.topic = place.topic();
        let shown = unit.or_else(|| place.records(store.index).map(|record| record.0).max());
        for (position, id) in place.records(store.index) {
            if Some(position) != shown {
                self.findings.add(key.clone(), Some(id), place.at());
            }
        }
    }

    fn unindexed(&mut self, place: &Place<'_>, store: &Store, id: &[u8]) {
        let range = store.queues.get(&(place.topic.to_vec(), place.queue));
        let is_tail = range.is_none_or(|range| place.offset >= range.written);
        let (state, loss, cause) = match (is_tail, store.has_abort) {
            (true, true) => (
                State::Note,
                false,
                "the queue was behind the log when the broker died or was copied: a start makes these entries",
            ),
            (true, false) => {
                (State::Confirmed, true, "in the log, and the queue ends before them: nobody can read them")
            }
            (false, _) => {
                (State::Confirmed, true, "in the log, and the queue has a hole there: nobody can read them")
            }
        };
        let mut key = store.key("unindexed", state, loss, cause.to_owned());
        key.topic = place.topic();
        self.findings.add(key, Some(id), place.at());
    }

    /// An entry without its record.
    fn gone(
        &mut self,
        place: &Place<'_>,
        store: &Store,
        points_to: u64,
        is_plausible: bool,
    ) -> io::Result<()> {
        let summary = &store.summary;
        if points_to < summary.min {
            return Ok(());
        }
        let damage = summary.damage_at(points_to).map(|damage| damage.wrong);
        let is_inside = damage.is_some_and(|wrong| !matches!(wrong, Wrong::Torn | Wrong::Leftover));
        let (class, state, cause) = if !is_plausible {
            (
                "stored-not-flushed-lost",
                State::Undecided,
                "a queue entry without a record, itself perhaps damaged",
            )
        } else if is_inside {
            ("corrupted-at-rest", State::Confirmed, "their records are in a damaged range of the log")
        } else if points_to < summary.end {
            (
                "stored-not-flushed-lost",
                State::Confirmed,
                "the queue's entry outlived its record: other records are there now",
            )
        } else if !store.has_abort || summary.is_torn() {
            (
                "stored-not-flushed-lost",
                State::Confirmed,
                "the queue's entry points behind the end of the log",
            )
        } else {
            let cause = "the queue's entry points behind the end of the log, and the broker had not stopped: lost, or the log \
                         was copied before the queue";
            ("stored-not-flushed-lost", State::Undecided, cause)
        };
        let survivor = self.stores.iter().find_map(|other| {
            let is_copy = self.lineages.are_copies(store.index, other.index);
            let mut records = place.records(other.index).filter(|record| is_copy && record.0 == points_to);
            records.next().map(|(_, id)| (other.name.clone(), id.to_vec()))
        });
        let (other, id) = match survivor {
            Some((other, id)) => (other, Some(id)),
            None => (String::new(), place.sent().next().map(<[u8]>::to_vec)),
        };
        let cause = if other.is_empty() {
            cause.to_owned()
        } else {
            format!("{cause}; the other copy still has them")
        };
        let mut key = store.key(class, state, state == State::Confirmed, cause);
        (key.topic, key.other) = (place.topic(), other);
        self.findings.add(key, id.as_deref(), place.at());
        match id.filter(|_| state == State::Confirmed) {
            Some(id) => put_id(self.ids, &mut self.row, &id, store.index, &OfId::Gone),
            None => Ok(()),
        }
    }

    /// Two copies of one log that say different things of one offset.
    fn copies(&mut self, place: &Place<'_>) {
        for (index, a) in self.stores.iter().enumerate() {
            for b in self.stores.iter().skip(index + 1).filter(|b| self.lineages.are_copies(a.index, b.index))
            {
                let (Some(left), Some(right)) =
                    (place.records(a.index).last(), place.records(b.index).last())
                else {
                    continue;
                };
                if left.1 == right.1 {
                    continue;
                }
                let (class, cause) = if left.0 == right.0 {
                    (
                        "copies-differ",
                        "one place in the log, two ids: one copy is damaged where no checksum covers it",
                    )
                } else {
                    ("offset-reused", "one queue offset, two messages: the copies went different ways")
                };
                let mut key = a.key(class, State::Confirmed, false, cause.to_owned());
                (key.topic, key.other) = (place.topic(), b.name.clone());
                self.findings.add(key.clone(), Some(left.1), place.at());
                self.findings.name(&key, right.1);
            }
        }
    }

    fn watched(&mut self, place: &Place<'_>) -> io::Result<()> {
        for watch in self.watches.of(place.topic, place.queue) {
            if !(watch.from..watch.to).contains(&place.offset) {
                continue;
            }
            let min = self.stores.get(usize::from(watch.store)).map_or(0, |store| store.summary.min);
            let is_copy = |store: u8| store == watch.store || self.lineages.are_copies(store, watch.store);
            let copies = self.stores.iter().filter(|store| is_copy(store.index));
            match &watch.wanted {
                Wanted::Own(key) => {
                    if let Some((_, id)) = place.records(watch.store).next() {
                        self.findings.name(key, id);
                    }
                }
                Wanted::Expired(key) => {
                    let mut held =
                        copies.flat_map(|store| place.records(store.index)).filter(|record| record.0 < min);
                    if let Some((_, id)) = held.next() {
                        self.findings.name(key, id);
                    }
                }
                Wanted::Passed(passing) => {
                    let mut held = copies.flat_map(|store| place.records(store.index));
                    if let Some((_, id)) = held.next() {
                        let (queue, offset) = (place.queue, place.offset);
                        let what = OfId::Passed { passing: *passing, queue, offset };
                        put_id(self.ids, &mut self.row, id, watch.store, &what)?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn be32(bytes: [u8; 4]) -> u32 {
    u32::from_be_bytes(bytes)
}
