//! Owns what a run says at its end: each store, each finding, and the sums that decide the exit code. Pure.

use crate::findings::{Finding, Findings, State};
use crate::store::Store;
use serde::Serialize;

/// One store as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoreLine {
    pub name: String,
    /// Position of the first byte of its log.
    pub log_min: u64,
    /// Position after its last whole record.
    pub log_end: u64,
    pub records: u64,
    pub damaged_ranges: u64,
    /// The broker was running, or had died, when this was copied.
    pub abort: bool,
    /// Milliseconds since 1970, by the broker's clock; 0 without records.
    pub newest_store_ms: i64,
    pub queues: u64,
    /// Stores with the same number hold copies of one log.
    pub copy_of: u64,
    /// What cannot be seen in this store.
    pub blind: Vec<String>,
}

/// The result of an inspection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub stores: Vec<StoreLine>,
    /// Losses first.
    pub findings: Vec<Finding>,
    /// Messages in findings that are confirmed losses. One that was lost in two ways counts twice.
    pub lost: u64,
    pub suspected: u64,
    /// At most this many more.
    pub undecided: u64,
    /// Findings of loss without a number: ranges of a log that nobody can read.
    pub damaged_ranges: u64,
    /// Bytes written to the scratch folder.
    pub scratch_bytes: u64,
}

impl Report {
    /// Sums up.
    pub fn new(stores: &[Store], findings: Findings, scratch_bytes: u64) -> Report {
        let findings = findings.into_vec();
        let sum = |wanted: fn(&Finding) -> bool| {
            findings
                .iter()
                .filter(|finding| wanted(finding))
                .fold(0u64, |sum, finding| sum.saturating_add(finding.count))
        };
        let (lost, suspected, undecided) = (
            sum(|finding| finding.key.loss && finding.key.state == State::Confirmed),
            sum(|finding| finding.key.loss && finding.key.state == State::Suspected),
            sum(|finding| finding.key.state == State::Undecided),
        );
        let damaged = findings.iter().filter(|finding| finding.key.loss && finding.positions.is_some());
        let damaged_ranges = damaged.count() as u64;
        let stores = stores.iter().map(line).collect();
        Report { stores, findings, lost, suspected, undecided, damaged_ranges, scratch_bytes }
    }

    /// Whether anything is lost, for sure or by all signs.
    pub fn has_losses(&self) -> bool {
        self.lost > 0 || self.suspected > 0 || self.damaged_ranges > 0
    }
}

fn line(store: &Store) -> StoreLine {
    let mut blind = Vec::new();
    if !store.has_queues {
        blind
            .push("no consume queues: lost messages, holes and progress of groups cannot be seen".to_owned());
    }
    if store.offsets.is_empty() {
        blind.push("no offsets of groups: expired, skipped and unread messages cannot be seen".to_owned());
    }
    let untraced =
        store.offsets.keys().filter(|(_, group)| !store.traced_groups.contains(group.as_bytes())).count();
    if untraced > 0 {
        blind.push(format!("{untraced} (topic, group) pairs without a trace: messages skipped by a reset cannot be told from read ones"));
    }
    StoreLine {
        name: store.name.clone(),
        log_min: store.summary.min,
        log_end: store.summary.end,
        records: store.summary.records,
        damaged_ranges: store.summary.damages.len() as u64,
        abort: store.has_abort,
        newest_store_ms: store.summary.newest_store_ms,
        queues: store.queues.len() as u64,
        copy_of: store.lineage as u64,
        blind,
    }
}
