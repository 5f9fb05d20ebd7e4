//! Owns the law of the books: debts never appear or vanish. Checked after every frame in tests and simulations, and by the
//! balance report. Never repairs anything.

use crate::fold::Books;
use crate::fold::broker::BrokerBooks;

impl Books {
    /// The first book that does not balance, in words.
    pub fn imbalance(&self) -> Option<String> {
        self.brokers.values().find_map(BrokerBooks::imbalance)
    }
}

impl BrokerBooks {
    /// The first book of this source that does not balance, in words.
    pub fn imbalance(&self) -> Option<String> {
        let totals = &self.totals;
        if totals.received != totals.produced + totals.refused {
            return Some(format!("producer book of {}: {totals:?}", self.name.0));
        }
        let by_topic: u64 = self.topics.values().map(|topic| topic.produced).sum();
        if by_topic > totals.produced {
            return Some(format!("topics of {} say {by_topic} produced: {totals:?}", self.name.0));
        }
        let unflushed = self.unflushed.counted();
        if self.store.stored != self.store.flushed + unflushed + self.store.lost {
            return Some(format!("store book of {}: {:?}, unflushed {unflushed}", self.name.0, self.store));
        }
        let stored: u64 = self.queues.values().map(|queue| queue.stored).sum();
        if self.store.stored < stored {
            return Some(format!("queues of {} hold {stored} of {} stored", self.name.0, self.store.stored));
        }
        for (name, group) in &self.groups {
            for (key, books) in &group.queues {
                let max = self.queues.get(key).map_or(0, |queue| queue.max);
                let (owed, ended) = (books.owed(max), books.counts.ended());
                let open = books.in_flight_by_marks(max);
                if owed != ended + open {
                    return Some(format!(
                        "group {name}, queue {key:?}: owed {owed}, ended {ended}, open {open}: {books:?}"
                    ));
                }
                let counts = books.counts;
                let sides = [counts.settled, counts.moved, counts.dead_lettered, counts.lost];
                if sides.into_iter().chain([counts.undecided]).any(|side| side > owed) {
                    return Some(format!("group {name}, queue {key:?}: more ended than owed: {counts:?}"));
                }
                if books.counts.filtered > books.counts.settled {
                    return Some(format!("group {name}, queue {key:?}: more filtered than settled"));
                }
            }
        }
        None
    }
}
