//! Owns the injector's ledger: what was sent, what was destroyed and how. Kept in memory, and never shown to the agent.

use super::remoting::Place;
use std::collections::{BTreeMap, BTreeSet};

/// What a verdict must be about. Equal keys of the agent and of the injector are compared id by id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) class: String,
    pub(super) broker: String,
    pub(super) topic: String,
    /// Empty when no group is concerned.
    pub(super) group: String,
}

impl Key {
    pub(super) fn new(class: &str, broker: &str, topic: &str, group: &str) -> Key {
        let [class, broker, topic, group] = [class, broker, topic, group].map(str::to_owned);
        Key { class, broker, topic, group }
    }
}

/// One thing that was destroyed, and what the agent must say about it.
#[derive(Debug, Clone)]
pub(super) struct Loss {
    /// In the demo's words.
    pub(super) what: String,
    pub(super) key: Key,
    /// By name.
    pub(super) ids: BTreeSet<String>,
    /// Part of the cause that must be named: a setting, an actor or an event.
    pub(super) cause: String,
    /// Whether it is over when the demo ends, because worse came after it.
    pub(super) superseded: bool,
}

/// A topic and group of which nothing may be said.
#[derive(Debug, Clone)]
pub(super) struct Healthy {
    pub(super) broker: String,
    pub(super) topic: String,
    pub(super) group: String,
    /// All that was sent, consumed and committed.
    pub(super) ids: BTreeSet<String>,
    /// What the group owed too, and will never get: the store has lost it, as another verdict says.
    pub(super) lost_in_store: u64,
}

/// One answered send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) id: String,
    pub(super) broker: String,
    pub(super) topic: String,
    pub(super) place: Place,
}

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Truth {
    pub(super) sent: Vec<Sent>,
    pub(super) losses: Vec<Loss>,
    pub(super) healthy: Vec<Healthy>,
    /// Done, in topics where others were destroyed: id and group.
    pub(super) settled: Vec<(String, String)>,
    /// What a broker did not do although it should: a difference of its own.
    pub(super) complaints: Vec<String>,
    /// Destroyed, but neither heard of by the agent nor reported by a producer: only a bound can be asked for.
    pub(super) nameless: Vec<Sent>,
}

impl Truth {
    /// Everything that was answered with this place, oldest first: after a power cut an offset is used again.
    pub(super) fn at(&self, broker: &str, topic: &str, place: &Place) -> Vec<&Sent> {
        let here = |sent: &&Sent| sent.broker == broker && sent.topic == topic && sent.place == *place;
        self.sent.iter().filter(here).collect()
    }

    pub(super) fn loss(&mut self, what: impl Into<String>, key: Key, ids: BTreeSet<String>, cause: &str) {
        assert!(!ids.is_empty(), "a loss of nothing proves nothing");
        let cause = cause.to_owned();
        self.losses.push(Loss { what: what.into(), key, ids, cause, superseded: false });
    }

    /// What the agent must say, by key.
    pub(super) fn expected(&self) -> BTreeMap<&Key, &Loss> {
        self.losses.iter().map(|loss| (&loss.key, loss)).collect()
    }
}

/// The ids of some sends.
pub(super) fn ids<'a>(sent: impl IntoIterator<Item = &'a Sent>) -> BTreeSet<String> {
    sent.into_iter().map(|sent| sent.id.clone()).collect()
}

/// Ids of the records in a commit log, found by their bytes alone: the broker's own recovery is not asked.
pub(super) fn ids_in(log: &[u8]) -> BTreeSet<String> {
    const MARK: &[u8] = b"UNIQ_KEY\x01";
    let after_mark = log.windows(MARK.len()).enumerate().filter(|(_, window)| *window == MARK);
    let text = |(at, _): (usize, &[u8])| {
        let rest = log.get(at + MARK.len()..).unwrap_or_default();
        let end = rest.iter().position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(rest.len());
        String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned()
    };
    after_mark.map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_by_their_bytes() {
        let log = b"\x00UNIQ_KEY\x01A1\x02WAIT\x01true\x00\x00UNIQ_KEY\x01B2\x00UNIQ_KEY=C3UNIQ_KEY\x01D4";
        assert_eq!(ids_in(log), ["A1", "B2", "D4"].map(str::to_owned).into());
        assert_eq!(ids_in(b""), BTreeSet::new());
    }
}
