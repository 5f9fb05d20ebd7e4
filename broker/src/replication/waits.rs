//! Answers that wait for what was promised: the disk, enough replicas, or both. The two waits run side by side, each with its own
//! time limit; an answer is due when both are over. Pure. Called by the core's flushing side.

use lifecycle::identity::LogPosition;
use std::collections::VecDeque;

/// How one of the two waits ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Not promised, or met.
    Met,
    /// Not over yet.
    Due,
    /// Its time was up.
    TimedOut,
    /// There was nobody to wait for.
    Unavailable,
}

/// What an answer was promised, and until when each wait lasts (monotonic ms).
#[derive(Debug, Clone, Copy, Default)]
pub struct Promise {
    /// Until when the disk may take; `None`: the disk is not waited for.
    pub disk_until_ms: Option<u64>,
    /// How the replicas are waited for.
    pub replicas: ReplicaPromise,
}

/// What is promised of replicas.
#[derive(Debug, Clone, Copy, Default)]
pub enum ReplicaPromise {
    /// Nothing.
    #[default]
    None,
    /// Enough of them have it; until when.
    Until(u64),
    /// It was promised, and too few are in reach.
    Unavailable,
}

struct Waiting<T> {
    log_end: LogPosition,
    disk: Part,
    replicas: Part,
    value: T,
}

/// One wait in line: where it ends, until when, and whose it is.
struct Line {
    log_end: LogPosition,
    until_ms: u64,
    number: u64,
}

/// An answer that is due.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled<T> {
    /// What was waiting.
    pub value: T,
    /// End of the log it waited for.
    pub log_end: LogPosition,
    /// How the wait for the disk ended.
    pub disk: Part,
    /// How the wait for the replicas ended.
    pub replicas: Part,
}

/// Everything that waits, in log order.
pub struct Waits<T> {
    first: u64,
    waiting: VecDeque<Option<Waiting<T>>>,
    disk: VecDeque<Line>,
    replicas: VecDeque<Line>,
    settled: Vec<Settled<T>>,
}

impl<T> Default for Waits<T> {
    fn default() -> Self {
        Waits {
            first: 0,
            waiting: VecDeque::new(),
            disk: VecDeque::new(),
            replicas: VecDeque::new(),
            settled: Vec::new(),
        }
    }
}

impl<T> Waits<T> {
    /// `value` is answered when everything below `log_end` is as durable as promised. Called in log order.
    pub fn push(&mut self, log_end: LogPosition, promise: Promise, value: T) {
        let number = self.first + self.waiting.len() as u64;
        let part = |due: bool| if due { Part::Due } else { Part::Met };
        let (replicas, until) = match promise.replicas {
            ReplicaPromise::None => (Part::Met, None),
            ReplicaPromise::Until(until_ms) => (Part::Due, Some(until_ms)),
            ReplicaPromise::Unavailable => (Part::Unavailable, None),
        };
        self.disk.extend(promise.disk_until_ms.map(|until_ms| Line { log_end, until_ms, number }));
        self.replicas.extend(until.map(|until_ms| Line { log_end, until_ms, number }));
        let disk = part(promise.disk_until_ms.is_some());
        self.waiting.push_back(Some(Waiting { log_end, disk, replicas, value }));
        self.settle(number);
    }

    /// The disk has everything below.
    pub fn flushed(&mut self, to: LogPosition) {
        while self.disk.front().is_some_and(|line| line.log_end <= to) {
            let Some(line) = self.disk.pop_front() else { break };
            self.end(line.number, |waiting| waiting.disk = Part::Met);
        }
    }

    /// Enough replicas have everything below.
    pub fn confirmed(&mut self, to: LogPosition) {
        while self.replicas.front().is_some_and(|line| line.log_end <= to) {
            let Some(line) = self.replicas.pop_front() else { break };
            self.end(line.number, |waiting| waiting.replicas = Part::Met);
        }
    }

    /// Ends the waits whose time is up.
    pub fn time_passed(&mut self, mono_ms: u64) {
        while self.disk.front().is_some_and(|line| line.until_ms <= mono_ms) {
            let Some(line) = self.disk.pop_front() else { break };
            self.end(line.number, |waiting| waiting.disk = Part::TimedOut);
        }
        while self.replicas.front().is_some_and(|line| line.until_ms <= mono_ms) {
            let Some(line) = self.replicas.pop_front() else { break };
            self.end(line.number, |waiting| waiting.replicas = Part::TimedOut);
        }
    }

    /// The answers that have become due since the last call.
    pub fn take_settled(&mut self) -> Vec<Settled<T>> {
        std::mem::take(&mut self.settled)
    }

    /// When the next wait's time is up.
    pub fn next_due_ms(&self) -> Option<u64> {
        let fronts = [self.disk.front(), self.replicas.front()];
        fronts.into_iter().flatten().map(|line| line.until_ms).min()
    }

    /// End of the log of the first answer that waits for replicas.
    pub fn first_for_replicas(&self) -> Option<LogPosition> {
        self.replicas.front().map(|line| line.log_end)
    }

    fn end(&mut self, number: u64, ends: impl FnOnce(&mut Waiting<T>)) {
        let waiting = number.checked_sub(self.first).and_then(|at| self.waiting.get_mut(at as usize));
        if let Some(Some(waiting)) = waiting {
            ends(waiting);
        }
        self.settle(number);
    }

    fn settle(&mut self, number: u64) {
        let slot = number.checked_sub(self.first).and_then(|at| self.waiting.get_mut(at as usize));
        let Some(slot) = slot else { return };
        let over = slot.as_ref().is_some_and(|w| w.disk != Part::Due && w.replicas != Part::Due);
        if over && let Some(Waiting { log_end, disk, replicas, value }) = slot.take() {
            self.settled.push(Settled { value, log_end, disk, replicas });
        }
        while let Some(None) = self.waiting.front() {
            self.waiting.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AT: fn(u64) -> LogPosition = LogPosition;

    fn both(now: u64) -> Promise {
        Promise { disk_until_ms: Some(now + 5000), replicas: ReplicaPromise::Until(now + 3000) }
    }

    #[test]
    fn both_waits_run_side_by_side_and_each_can_fail() {
        let mut waits = Waits::default();
        waits.push(AT(10), both(0), "a");
        waits.push(AT(20), both(0), "b");
        waits.push(AT(30), Promise { replicas: ReplicaPromise::Unavailable, ..both(0) }, "c");
        waits.flushed(AT(10));
        assert_eq!(waits.take_settled(), vec![], "the replicas have not spoken");
        waits.confirmed(AT(20));
        let ok = |value, end| Settled { value, log_end: AT(end), disk: Part::Met, replicas: Part::Met };
        assert_eq!(waits.take_settled(), vec![ok("a", 10)]);
        waits.flushed(AT(30));
        let unavailable = Settled { replicas: Part::Unavailable, ..ok("c", 30) };
        assert_eq!(waits.take_settled(), vec![ok("b", 20), unavailable]);
        waits.push(AT(40), both(100), "d");
        assert_eq!(waits.next_due_ms(), Some(3100));
        waits.time_passed(3100);
        assert_eq!(waits.take_settled(), vec![], "the disk may still come");
        waits.flushed(AT(40));
        let late = Settled { replicas: Part::TimedOut, ..ok("d", 40) };
        assert_eq!(waits.take_settled(), vec![late]);
        assert_eq!((waits.next_due_ms(), waits.waiting.len()), (None, 0), "nothing is left behind");
    }

    #[test]
    fn what_waits_for_nobody_is_due_at_once() {
        let mut waits = Waits::default();
        waits.push(AT(10), Promise { replicas: ReplicaPromise::Until(9), ..Default::default() }, "waits");
        let nobody = Promise { replicas: ReplicaPromise::Unavailable, ..Default::default() };
        waits.push(AT(20), nobody, "at once");
        let due: Vec<_> = waits.take_settled().into_iter().map(|settled| settled.value).collect();
        assert_eq!(due, ["at once"], "not behind an older answer that still waits");
        assert_eq!(waits.first_for_replicas(), Some(AT(10)));
    }

    proptest! {
        /// Everything is answered exactly once; never OK before the position it waits for was reached; never later than
        /// its limits.
        #[test]
        fn nothing_is_answered_early_twice_or_never(
            steps in prop::collection::vec((0u8..5, 1u64..40, 0u64..400), 1..120),
        ) {
            let mut waits = Waits::default();
            let (mut now, mut end, mut flushed, mut confirmed) = (0u64, 0u64, 0u64, 0u64);
            let mut pushed = Vec::new();
            let mut answered = std::collections::BTreeSet::new();
            for (what, by, ms) in steps {
                match what {
                    0 | 1 => {
                        end += by;
                        let replicas = match ms % 3 {
                            0 => ReplicaPromise::None,
                            1 => ReplicaPromise::Until(now + 300),
                            _ => ReplicaPromise::Unavailable,
                        };
                        let disk_until_ms = (by % 2 == 0).then_some(now + 500);
                        pushed.push((end, now, disk_until_ms.is_some(), ms % 3));
                        waits.push(LogPosition(end), Promise { disk_until_ms, replicas }, pushed.len() - 1);
                    }
                    2 => {
                        flushed = end.min(flushed + by);
                        waits.flushed(LogPosition(flushed));
                    }
                    3 => {
                        confirmed = end.min(confirmed + by);
                        waits.confirmed(LogPosition(confirmed));
                    }
                    _ => {
                        now += ms;
                        waits.time_passed(now);
                    }
                }
                for settled in waits.take_settled() {
                    let (end, _, by_disk, by_replicas) = pushed[settled.value];
                    prop_assert!(answered.insert(settled.value), "twice");
                    prop_assert!(settled.disk != Part::Met || !by_disk || flushed >= end);
                    prop_assert!(settled.replicas != Part::Met || by_replicas == 0 || confirmed >= end);
                    prop_assert_eq!(settled.replicas == Part::Unavailable, by_replicas == 2);
                }
                for (index, (_, since, ..)) in pushed.iter().enumerate() {
                    prop_assert!(answered.contains(&index) || now < since + 500, "waits for ever");
                }
            }
        }
    }
}
