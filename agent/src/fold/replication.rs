//! Owns what replicas are known to have of one source's log, and what hangs on that: the names of what a fail-over could take, and
//! the answers given before enough replicas had the messages. Positions are of the commit log, which all members share; they
//! count within one epoch, since a later master may cut it.

use crate::fold::event::Span;
use crate::fold::unflushed::{Unflushed, UnflushedQueue};
use lifecycle::fact::EpochStarted;
use lifecycle::identity::{LogPosition, Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, VecDeque};

/// Replicas of one source; a broker takes no more.
pub const REPLICAS_MAX: usize = 16;
/// Bytes of client ids kept of messages that are on the master's disk and not with enough replicas.
const ID_BYTES_MAX: usize = 16 << 20;
/// Risks kept apart; beyond it neighbours join, and end together.
pub const RISKS_MAX: usize = 64;

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
#[derive(Clone, Debug, Default)]
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
        self.waiting.put_within(entry, ID_BYTES_MAX);
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
        true
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
        let safe_to = self.safe_to();
        let mut safe = Vec::new();
        while let Some(risk) = self.risks.pop_front_if(|risk| risk.log_end <= safe_to) {
            safe.extend(risk.spans());
        }
        safe
    }

    /// Messages answered without enough replicas.
    pub fn at_risk_count(&self) -> u64 {
        self.risks.iter().flat_map(|risk| risk.ranges.values()).map(Ranges::len).sum()
    }

    /// Whether this message was answered without enough replicas, and these do not have it yet.
    pub fn is_at_risk(&self, queue: QueueKey, offset: u64) -> bool {
        let in_risk = |risk: &Risk| risk.ranges.get(&queue).is_some_and(|ranges| ranges.contains(offset));
        self.risks.iter().any(in_risk)
    }

    /// A recovery kept the log up to `log_end`, without what is `lost`: what survived is as much at risk as before.
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
        while self.waiting.pop().is_some() {}
    }

    /// The replicas that have at least what enough of them have.
    pub fn with_all_before(&self) -> impl Iterator<Item = &Name> {
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

    fn spans(&self) -> impl Iterator<Item = Span> + '_ {
        let epoch = self.epoch;
        self.ranges.iter().flat_map(move |(queue, ranges)| {
            ranges.iter().map(move |(from, to)| Span { queue: *queue, from, to, epoch })
        })
    }
}
