//! Owns what replicas are known to have of one source's log, and what hangs on that: the names of what a fail-over could take, and
//! the answers given before enough replicas had the messages. Positions are of the commit log, which all members share; they
//! count within one epoch, since a later master may cut it.

use crate::fold::event::Span;
use crate::fold::unflushed::{Limits, Unflushed, UnflushedQueue};
use lifecycle::fact::EpochStarted;
use lifecycle::identity::{LogPosition, Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, VecDeque};

/// Replicas of one source; a broker takes no more.
pub const REPLICAS_MAX: usize = 16;
/// Of what is on the master's disk and not with enough replicas: a replica may be away for days.
const WAITING: Limits = Limits { id_bytes: 16 << 20, runs: 1 << 16, copies: 1 << 16 };
/// Risks kept apart; beyond it neighbours join, and end together.
pub const RISKS_MAX: usize = 64;
/// Ranges of all risks; beyond it those of a queue become one, with what lies between them.
const RISK_RANGES_MAX: usize = 4_096;

/// How far a replica said it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replica {
    /// It has everything below.
    pub received: LogPosition,
    /// It has everything below on its disk.
    pub durable: LogPosition,
}

/// Answered without enough replicas.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Risk {
    /// Over when the log is safe up to here.
    pub log_end: LogPosition,
    /// Which messages, by queue.
    pub ranges: BTreeMap<QueueKey, Ranges>,
    /// The epoch that stored them.
    pub epoch: u64,
}

/// Replicas of one source, and what waits for them.
#[derive(Clone, Debug)]
pub struct Replication {
    /// Those that have spoken in this epoch.
    pub replicas: BTreeMap<Name, Replica>,
    /// On the master's disk, and not known to be with enough replicas.
    pub waiting: UnflushedQueue,
    /// Oldest first.
    pub risks: VecDeque<Risk>,
    /// The master's log is on disk up to here.
    pub flushed: LogPosition,
    /// What was stored below, before anything waited for replicas, is with them once they have all of it.
    pub before: LogPosition,
    /// Other members that must have a message; 0: nothing is promised.
    others: usize,
    /// Whether they must have it on disk.
    on_disk: bool,
}

impl Default for Replication {
    fn default() -> Self {
        Replication {
            waiting: UnflushedQueue::new(WAITING),
            replicas: BTreeMap::new(),
            risks: VecDeque::new(),
            flushed: LogPosition::default(),
            before: LogPosition::default(),
            others: 0,
            on_disk: false,
        }
    }
}

impl Replication {
    /// A term of mastership began: what its promises are; its replicas have not spoken yet.
    pub fn begin_epoch(&mut self, started: &EpochStarted) {
        self.replicas.clear();
        self.take_promises(started);
    }

    /// Reads the promises of the present epoch again.
    pub fn take_promises(&mut self, started: &EpochStarted) {
        let members: usize = match started.setting("brokerRole") {
            "SYNC_MASTER" => started.setting("inSyncReplicas").parse().unwrap_or(1),
            _ => 1,
        };
        self.others = members.saturating_sub(1);
        self.on_disk = started.setting("replicaAck") == "flushed";
    }

    /// Replicas that a send needs before it is answered OK.
    pub fn others(&self) -> usize {
        self.others
    }

    /// Whether messages wait for replicas at all.
    pub fn is_expected(&self) -> bool {
        self.others > 0 || !self.replicas.is_empty()
    }

    /// A replica said how far it is.
    pub fn replicated(&mut self, replica: &Name, position: LogPosition, durable: bool) {
        if self.replicas.len() >= REPLICAS_MAX && !self.replicas.contains_key(replica) {
            return;
        }
        if !self.is_expected() {
            self.before = self.flushed;
        }
        let known = self.replicas.entry(replica.clone()).or_default();
        known.received = known.received.max(position);
        if durable {
            known.durable = known.durable.max(position);
        }
    }

    /// Up to where enough replicas have the log; where nothing is promised, one is enough.
    pub fn confirmed(&self) -> LogPosition {
        let on_disk = self.on_disk && self.others > 0;
        let mark = |replica: &Replica| if on_disk { replica.durable } else { replica.received };
        let mut marks: Vec<LogPosition> = self.replicas.values().map(mark).collect();
        marks.sort_unstable_by(|a, b| b.cmp(a));
        marks.get(self.others.max(1) - 1).copied().unwrap_or_default()
    }

    /// What is on the master's disk now waits for the replicas, if any are expected and do not have it yet; else it is given back.
    pub fn wait(&mut self, entry: Unflushed) -> Option<Unflushed> {
        if !self.is_expected() || entry.log_end <= self.confirmed() {
            return Some(entry);
        }
        self.waiting.put(entry);
        None
    }

    /// Whether enough replicas have a message that is on the master's disk; `None`: nothing tells.
    pub fn has(&self, queue: QueueKey, offset: u64) -> Option<bool> {
        if self.waiting.contains(queue, offset) {
            return Some(false);
        }
        (self.confirmed() >= self.before).then_some(true)
    }

    /// Notes that this was answered without enough replicas; false when they have it by now.
    pub fn at_risk(&mut self, log_end: LogPosition, spans: &[Span], epoch: u64) -> bool {
        if log_end <= self.safe_to() {
            return false;
        }
        if self.risks.len() >= RISKS_MAX {
            self.join_risks();
        }
        let mut risk = Risk { log_end, epoch, ..Risk::default() };
        for span in spans {
            risk.ranges.entry(span.queue).or_default().insert(span.from, span.to);
        }
        match self.risks.back_mut() {
            // answers come in the order of the log; two of one turn are one
            Some(last) if last.log_end >= log_end && last.epoch == epoch => last.join(risk),
            _ => self.risks.push_back(risk),
        }
        if self.risk_ranges().map(Ranges::run_count).sum::<usize>() > RISK_RANGES_MAX {
            self.risks.iter_mut().for_each(Risk::fill);
        }
        true
    }

    fn risk_ranges(&self) -> impl Iterator<Item = &Ranges> {
        self.risks.iter().flat_map(|risk| risk.ranges.values())
    }

    /// Half as many, each as long as the longer of two.
    fn join_risks(&mut self) {
        let mut joined: VecDeque<Risk> = VecDeque::new();
        for (index, risk) in std::mem::take(&mut self.risks).into_iter().enumerate() {
            match joined.back_mut() {
                Some(last) if index % 2 == 1 && last.epoch == risk.epoch => last.join(risk),
                _ => joined.push_back(risk),
            }
        }
        self.risks = joined;
    }

    /// Up to where the log is on the master's disk and with enough replicas.
    fn safe_to(&self) -> LogPosition {
        self.confirmed().min(self.flushed)
    }

    /// Takes what is no longer at risk.
    pub fn take_safe(&mut self) -> Vec<Span> {
        let mut safe = Vec::new();
        if self.risks.is_empty() {
            return safe;
        }
        let safe_to = self.safe_to();
        while let Some(risk) = self.risks.pop_front_if(|risk| risk.log_end <= safe_to) {
            safe.extend(risk.spans());
        }
        safe
    }

    /// Messages answered without enough replicas; when there are very many ranges of them, at most so many.
    pub fn at_risk_count(&self) -> u64 {
        self.risk_ranges().map(Ranges::len).sum()
    }

    /// A recovery kept the log up to `log_end`, without what is `lost`: what survived is as much at risk as before. What waited must
    /// have been taken.
    pub fn cut(&mut self, log_end: LogPosition, lost: &BTreeMap<QueueKey, Ranges>) {
        for risk in &mut self.risks {
            risk.log_end = risk.log_end.min(log_end);
            for (queue, ranges) in &mut risk.ranges {
                for (from, to) in lost.get(queue).into_iter().flat_map(Ranges::iter) {
                    ranges.remove(from, to);
                }
            }
            risk.ranges.retain(|_, ranges| !ranges.is_empty());
        }
        self.risks.retain(|risk| !risk.ranges.is_empty());
        self.flushed = log_end;
        self.before = log_end;
    }

    /// The replicas that have all of what no longer waits.
    pub fn with_the_rest(&self) -> impl Iterator<Item = &Name> {
        let confirmed = self.confirmed();
        let has = move |replica: &Replica| confirmed >= self.before && replica.received >= confirmed;
        self.replicas.iter().filter(move |(_, replica)| has(replica)).map(|(name, _)| name)
    }

    /// What a replica is known to have; nothing: 0.
    pub fn received_by(&self, replica: &str) -> LogPosition {
        self.replicas.get(replica).map_or(LogPosition::default(), |replica| replica.received)
    }
}

impl Risk {
    fn join(&mut self, other: Risk) {
        self.log_end = self.log_end.max(other.log_end);
        for (queue, ranges) in other.ranges {
            self.ranges.entry(queue).or_default().union(&ranges);
        }
    }

    /// One range for each queue. What lies between is no less safe than what is behind it.
    fn fill(&mut self) {
        for ranges in self.ranges.values_mut() {
            if let (Some(from), Some(to)) = (ranges.first(), ranges.end()) {
                ranges.insert(from, to);
            }
        }
    }

    fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let epoch = self.epoch;
        self.ranges.iter().flat_map(move |(queue, ranges)| {
            ranges.iter().map(move |(from, to)| Span { queue: *queue, from, to, epoch })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::unflushed::UnflushedCopy;
    use lifecycle::fact::StoredRun;
    use lifecycle::identity::{CopyReason, MessageIdentity};

    fn waiting_for_one() -> Replication {
        Replication { others: 1, ..Replication::default() }
    }

    #[test]
    fn what_waits_for_a_replica_that_is_away_is_bounded() {
        let mut replication = waiting_for_one();
        let turns = 3 * WAITING.runs as u64;
        for turn in 0..turns {
            let at = MessageIdentity { queue_offset: turn, ..MessageIdentity::default() };
            let copy = UnflushedCopy { at, group: "g".into(), parent: at, reason: CopyReason::Retry };
            let run = StoredRun { queue: QueueKey::default(), queue_offset: turn, count: 1 };
            let (log_end, ids) = (LogPosition(turn + 1), [&[b'x'; 200][..]].into_iter().collect());
            let entry = Unflushed {
                first_ordinal: turn,
                log_end,
                counted: 1,
                runs: vec![run],
                ids,
                copies: vec![copy],
            };
            assert_eq!(replication.wait(entry), None);
        }
        let entries: Vec<&Unflushed> = replication.waiting.iter().collect();
        assert!(entries.len() <= WAITING.runs, "{} entries", entries.len());
        assert!(entries.iter().map(|entry| entry.ids.byte_len()).sum::<usize>() <= WAITING.id_bytes);
        assert_eq!(entries.iter().map(|entry| entry.copies.len()).sum::<usize>(), WAITING.copies);
        assert_eq!(replication.waiting.counted(), turns, "all of it is counted");
        assert_eq!(replication.has(QueueKey::default(), turns - 1), Some(false), "and ranged");
        replication.replicated(&"two".into(), LogPosition(turns), false);
        while replication.waiting.pop_flushed(replication.confirmed()).is_some() {}
        assert_eq!((replication.waiting.counted(), replication.waiting.iter().count()), (0, 0));
    }

    #[test]
    fn risks_in_very_many_places_are_joined_and_end_all_the_same() {
        let mut replication = waiting_for_one();
        // every second offset of one queue: what lies between was answered otherwise
        let count = 3 * RISK_RANGES_MAX as u64;
        for n in 0..count {
            let span = Span { queue: QueueKey::default(), from: 2 * n, to: 2 * n + 1, epoch: 1 };
            assert!(replication.at_risk(LogPosition(n + 1), &[span], 1));
        }
        assert!(replication.risks.len() <= RISKS_MAX);
        assert!(replication.risk_ranges().map(Ranges::run_count).sum::<usize>() <= RISK_RANGES_MAX);
        assert!((count..2 * count).contains(&replication.at_risk_count()), "never fewer than there are");
        replication.flushed = LogPosition(count);
        replication.replicated(&"two".into(), LogPosition(count - 1), false);
        replication.take_safe();
        let left: Vec<Span> = replication.risks.iter().flat_map(Risk::spans).collect();
        assert!(left.iter().any(|span| span.to == 2 * count - 1), "the last one is at risk: {left:?}");
        replication.replicated(&"two".into(), LogPosition(count), false);
        assert!(!replication.take_safe().is_empty());
        assert_eq!(replication.at_risk_count(), 0);
    }
}
