//! Owns what a finding is, and the collecting of messages under one finding: counted all, named up to a limit. Pure.

use serde::Serialize;
use std::collections::BTreeMap;

/// Ids named in one finding unless the caller says otherwise; the count is always of all.
pub const IDS_MAX_DEFAULT: usize = 10_000;
/// Runs of queue offsets kept in one finding.
const RUNS_MAX: usize = 1_000;

/// Every class that can be a loss. Those that verdicts on a running broker have too are called as there.
pub const LOSS_CLASSES: [&str; 13] = [
    "corrupted-at-rest",
    "expired-before-consumption",
    "never-stored",
    "not-replicated-at-failover",
    "offset-reused",
    "send-back-failed-then-passed",
    "skipped-by-offset-reset",
    "stored-not-flushed-lost",
    "never-processed",
    "timer-lost",
    "truncated",
    "unindexed",
    "unreadable",
];

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The bytes prove it.
    Confirmed,
    /// The bytes fit nothing likelier, and do not prove it.
    Suspected,
    /// Cannot be known from what was given: at most this many.
    Undecided,
    /// No loss: said for completeness.
    Note,
}

/// What is found, by whom, and where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// A class of verdict where one fits, else the name of the condition.
    pub class: &'static str,
    pub state: State,
    /// Messages are lost, or surely unreadable for whom they were meant.
    pub loss: bool,
    /// The store it is about.
    pub store: String,
    /// The store it was compared with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub other: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub topic: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Why, and by which evidence.
    pub cause: String,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    pub key: Key,
    /// Messages.
    pub count: u64,
    /// Their ids, as far as they are known and within the limit.
    pub ids: Vec<String>,
    /// Fewer ids than messages because of the limit.
    pub ids_cut: bool,
    /// Runs of queue offsets `[from, to)` by queue.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub offsets: BTreeMap<u32, Vec<(u64, u64)>>,
    /// More runs than are kept.
    #[serde(skip_serializing_if = "is_false")]
    pub offsets_cut: bool,
    /// Range `[from, to)` of the commit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub positions: Option<(u64, u64)>,
    /// What is to be said of single messages, within the limit of ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// All findings so far.
#[derive(Debug)]
pub struct Findings {
    ids_max: usize,
    found: BTreeMap<(Key, u64), Finding>,
}

impl Findings {
    /// None yet; each will name at most `ids_max` ids.
    pub fn new(ids_max: usize) -> Findings {
        Findings { ids_max, found: BTreeMap::new() }
    }

    fn finding(&mut self, key: Key, at: u64) -> &mut Finding {
        self.found.entry((key.clone(), at)).or_insert_with(|| Finding {
            key,
            count: 0,
            ids: Vec::new(),
            ids_cut: false,
            offsets: BTreeMap::new(),
            offsets_cut: false,
            positions: None,
            details: Vec::new(),
        })
    }

    /// Adds one message.
    pub fn add(&mut self, key: Key, id: Option<&[u8]>, place: Option<(u32, u64)>) {
        self.finding(key.clone(), 0).count += 1;
        if let Some((queue, offset)) = place {
            self.add_run(&key, queue, (offset, offset + 1));
        }
        if let Some(id) = id {
            self.name(&key, id);
        }
    }

    /// Adds messages known by their place only.
    pub fn add_range(&mut self, key: Key, queue: u32, (from, to): (u64, u64)) {
        let finding = self.finding(key.clone(), 0);
        finding.count = finding.count.saturating_add(to.saturating_sub(from));
        self.add_run(&key, queue, (from, to));
    }

    /// Names a message that is counted already.
    pub fn name(&mut self, key: &Key, id: &[u8]) {
        let ids_max = self.ids_max;
        let finding = self.finding(key.clone(), 0);
        if finding.ids.len() < ids_max {
            finding.ids.push(String::from_utf8_lossy(id).into_owned());
        } else {
            finding.ids_cut = true;
        }
    }

    /// Says something about one message of a finding.
    pub fn detail(&mut self, key: &Key, text: String) {
        let ids_max = self.ids_max;
        let finding = self.finding(key.clone(), 0);
        if finding.details.len() < ids_max {
            finding.details.push(text);
        }
    }

    /// Adds a range of the log; each is a finding of its own.
    pub fn add_damage(&mut self, key: Key, positions: (u64, u64)) {
        self.finding(key, positions.0.saturating_add(1)).positions = Some(positions);
    }

    fn add_run(&mut self, key: &Key, queue: u32, (from, to): (u64, u64)) {
        let finding = self.finding(key.clone(), 0);
        let kept: usize = finding.offsets.values().map(Vec::len).sum();
        let runs = finding.offsets.entry(queue).or_default();
        let index = runs.partition_point(|run| run.1 < from);
        match runs.get_mut(index) {
            Some(run) if run.0 <= to => {
                run.0 = run.0.min(from);
                run.1 = run.1.max(to);
                let (end, next) = (run.1, runs.get(index + 1).copied());
                if let Some(next) = next.filter(|next| next.0 <= end) {
                    runs.remove(index + 1);
                    if let Some(run) = runs.get_mut(index) {
                        run.1 = run.1.max(next.1);
                    }
                }
            }
            _ if kept >= RUNS_MAX => finding.offsets_cut = true,
            _ => runs.insert(index, (from, to)),
        }
    }

    /// Everything found: losses first, ids sorted.
    pub fn into_vec(self) -> Vec<Finding> {
        let mut all: Vec<Finding> = self.found.into_values().collect();
        for finding in &mut all {
            finding.ids.sort();
            finding.ids.dedup();
        }
        all.sort_by(|a, b| (!a.key.loss, a.key.state, &a.key).cmp(&(!b.key.loss, b.key.state, &b.key)));
        all
    }
}

impl Findings {
    /// Whether messages are known to be gone whose ids are not.
    pub fn has_unnamed_loss(&self) -> bool {
        self.found
            .values()
            .any(|finding| finding.key.loss && !finding.ids_cut && (finding.ids.len() as u64) < finding.count)
            || self.found.values().any(|finding| finding.key.loss && finding.positions.is_some())
    }
}
