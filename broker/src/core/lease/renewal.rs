//! How long a lease may be renewed. A push consumer's lease lasts while the consumer lives, but not for ever: an answer its
//! process never got, or a listener that hangs, must not hide a message until the process ends. RocketMQ's proxy stops renewing
//! after three hours; so do we. Lives in memory only: such leases are over after a restart.

use crate::core::Core;
use lifecycle::clock::Now;
use lifecycle::identity::{Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;

/// How long a lease is renewed at most, ms (RocketMQ's proxy: 3 h).
pub(crate) const RENEW_MAX_MS: u64 = 3 * 3_600_000;
/// How often leases are looked at, ms: how much longer one may last.
const LOOK_INTERVAL_MS: u64 = 60_000;

/// A lease that was out at the last look: offset, attempt, and when it was first seen.
type Seen = (u64, u32, u64);

#[derive(Default)]
pub(super) struct Renewals {
    /// Queues with leases bound to a member's life, and those leases in the order of their offsets.
    watched: BTreeMap<(Name, QueueKey), Vec<Seen>>,
    /// Wall time.
    next_look_ms: u64,
}

impl Renewals {
    /// Such a lease was given in a queue.
    pub(super) fn watch(&mut self, group: &Name, queue: QueueKey, now: Now) {
        if self.watched.is_empty() {
            self.next_look_ms = now.wall_ms + LOOK_INTERVAL_MS;
        }
        self.watched.entry((group.clone(), queue)).or_default();
    }

    pub(super) fn next_look_ms(&self) -> Option<u64> {
        (!self.watched.is_empty()).then_some(self.next_look_ms)
    }
}

impl Core {
    /// Ends leases that were renewed for long enough.
    pub(super) fn renewals_due(&mut self, now: Now) {
        if self.leases.renewals.next_look_ms().is_none_or(|at| now.wall_ms < at) {
            return;
        }
        self.leases.renewals.next_look_ms = now.wall_ms + LOOK_INTERVAL_MS;
        for ((group, queue), before) in std::mem::take(&mut self.leases.renewals.watched) {
            let (seen, over) = self.look(&group, queue, &before, now.wall_ms);
            if !seen.is_empty() {
                self.leases.renewals.watched.insert((group.clone(), queue), seen);
            }
            if !over.is_empty() {
                tracing::warn!(%group, count = over.len(), "leases were renewed for three hours: the messages are visible again");
                self.end_leases(now, &group, queue, over);
            }
        }
    }

    /// What is out now, and what of it is over. Both lists are in the order of offsets.
    fn look(&self, group: &Name, queue: QueueKey, before: &[Seen], now_ms: u64) -> (Vec<Seen>, Ranges) {
        let (mut seen, mut over) = (Vec::new(), Ranges::new());
        let Some(at) = self.group_queue(group, queue) else { return (seen, over) };
        let mut before = before.iter().peekable();
        let renewed = at.leases.iter().filter(|(_, lease)| lease.held && lease.until_ms == u64::MAX);
        for (offset, lease) in renewed {
            while before.next_if(|(earlier, ..)| earlier < offset).is_some() {}
            let known = before.peek().filter(|(o, attempt, _)| (o, attempt) == (offset, &lease.attempt));
            let since = known.map_or(now_ms, |(_, _, since)| *since);
            match now_ms.saturating_sub(since) >= RENEW_MAX_MS {
                true => over.insert(*offset, offset + 1),
                false => seen.push((*offset, lease.attempt, since)),
            }
        }
        (seen, over)
    }
}
