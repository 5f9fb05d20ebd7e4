//! Consuming by leases: a message is out until it is settled, given back, or its time is over; then it is handed out again in place,
//! or, at the last attempt, copied to the group's dead-letter queue. Whether a receipt handle is valid is decided by the state alone,
//! so handles survive a restart of the broker.

mod attempts;
mod handle;
mod handout;
mod renewal;
mod waiting;

pub(super) use waiting::WaitingReceives;

use super::Core;
use crate::api::{
    AckMessages, Answer, ChangeInvisible, ForwardToDeadLetter, LeasedMessage, ReceiveMessages, Refusal,
    ReplyFn,
};
use crate::state::GroupQueue;
use attempts::Attempts;
use handle::Handle;
use lifecycle::clock::Now;
use lifecycle::fact::Fact;
use lifecycle::identity::{Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet};

/// Longest lease a client may ask for, ms (RocketMQ: 12 h).
pub(crate) const LEASE_MAX_MS: u64 = 12 * 3_600_000;
/// Most leases one group may have out in one queue: bounds memory when nobody acknowledges.
pub(crate) const LEASES_PER_QUEUE_MAX: usize = 100_000;
/// Pause before a dead-letter copy that failed is tried again, ms.
const COPY_RETRY_MS: u64 = 1_000;

/// When leases end, over all groups; and dead-letter copies under way.
#[derive(Default)]
pub(super) struct LeaseBook {
    ends: BTreeSet<(u64, Name, QueueKey)>,
    at: BTreeMap<(Name, QueueKey), u64>,
    copying: BTreeSet<(Name, QueueKey, u64)>,
    /// What clients were answered last, for whoever did not get it.
    attempts: Attempts,
    /// How long leases bound to a member's life have been out.
    renewals: renewal::Renewals,
    /// Per group and queue: below it nothing is free to be handed out. See [`Self::look_anew`].
    cursors: BTreeMap<(Name, QueueKey), u64>,
    /// Queues that were read as far as one scan goes, and nothing was found yet.
    unfinished: BTreeSet<QueueKey>,
}

impl LeaseBook {
    pub(super) fn next_end_ms(&self) -> Option<u64> {
        self.ends.first().map(|(end, _, _)| *end).into_iter().chain(self.renewals.next_look_ms()).min()
    }

    /// A consumer by offsets has been here, somebody moved the group, or it starts: what is free is looked for from its position on.
    pub(super) fn look_anew(&mut self, group: &Name, queue: QueueKey) {
        if !self.cursors.is_empty() {
            self.cursors.remove(&(group.clone(), queue));
        }
    }

    fn set(&mut self, group: &Name, queue: QueueKey, next_end: Option<u64>) {
        let key = (group.clone(), queue);
        if let Some(before) = self.at.remove(&key) {
            self.ends.remove(&(before, group.clone(), queue));
        }
        if let Some(end) = next_end {
            self.ends.insert((end, group.clone(), queue));
            self.at.insert(key, end);
        }
    }
}

/// Whether a receipt handle can be read; then it must mean the same when it is written and read again.
pub(super) fn reads_back(text: &str) -> bool {
    let Ok(handle) = text.parse::<Handle>() else { return false };
    assert_eq!(handle.to_string().parse::<Handle>(), Ok(handle), "a handle changes");
    true
}

impl Core {
    pub(super) fn receive(
        &mut self,
        now: Now,
        receive: ReceiveMessages,
        reply: ReplyFn<Answer<Vec<LeasedMessage>>>,
    ) {
        self.waiting.receives.drop_attempt(&receive);
        if let Some(messages) = self.answer_again(now, &receive) {
            return self.answer(reply, Ok(messages));
        }
        match self.try_receive(now, &receive) {
            Err(refusal) => self.answer(reply, Err(refusal)),
            Ok(messages) if messages.is_empty() && receive.wait_ms > 0 => {
                self.wait_to_receive(now, receive, reply);
            }
            Ok(messages) => self.answer(reply, Ok(messages)),
        }
    }

    pub(super) fn ack(&mut self, now: Now, acks: AckMessages) -> Vec<Answer<()>> {
        let mut answers = Vec::with_capacity(acks.handles.len());
        for text in &acks.handles {
            let answer = self.valid_handle(now, &acks.group, &acks.client, text);
            answers.push(answer.map(|handle| {
                self.trace.acked(&mut self.state, &acks.group, (handle.queue, handle.offset), &acks.client);
                self.lease_over(&acks.group, handle.queue, now);
            }));
        }
        answers
    }

    /// The lease a handle names, if it is still good. A late acknowledgement is a fact of its own.
    fn valid_handle(&mut self, now: Now, group: &Name, client: &Name, text: &str) -> Answer<Handle> {
        let handle: Handle = text.parse()?;
        let Some(at) = self.group_queue(group, handle.queue) else {
            return Err(Refusal::InvalidHandle("the group does not consume this queue"));
        };
        let lease = at.leases.get(&handle.offset);
        let good = lease.is_some_and(|lease| {
            lease.attempt == handle.attempt
                && lease.until_ms == handle.until_ms
                && lease.until_ms > now.wall_ms
        });
        if good && !self.leases.copying.contains(&(group.clone(), handle.queue, handle.offset)) {
            return Ok(handle);
        }
        self.state(Fact::LateAck {
            group: group.clone(),
            queue: handle.queue,
            offset: handle.offset,
            member: client.clone(),
        });
        Err(Refusal::InvalidHandle("its lease is over"))
    }

    pub(super) fn change_invisible(
        &mut self,
        now: Now,
        change: ChangeInvisible,
        reply: ReplyFn<Answer<String>>,
    ) {
        let answer = self.valid_handle(now, &change.group, &change.client, &change.handle).map(|handle| {
            let visible_at_ms = now.wall_ms + change.invisible_ms.min(LEASE_MAX_MS);
            self.state(Fact::Nacked {
                group: change.group.clone(),
                queue: handle.queue,
                offset: handle.offset,
                attempt: handle.attempt - u32::from(change.never_left && handle.attempt > 0),
                visible_at_ms,
            });
            if visible_at_ms <= now.wall_ms {
                // visible at once: dead when that was the last attempt, else news for whoever waits
                self.leases_over(now, &change.group, handle.queue);
                self.waiting.touch(handle.queue);
            }
            self.refresh_ends(&change.group, handle.queue, now);
            Handle { until_ms: visible_at_ms, ..handle }.to_string()
        });
        self.answer(reply, answer);
    }

    pub(super) fn forward_to_dead_letter(
        &mut self,
        now: Now,
        forward: ForwardToDeadLetter,
        reply: ReplyFn<Answer<()>>,
    ) {
        match self.valid_handle(now, &forward.group, &forward.client, &forward.handle) {
            Ok(handle) => self.dead_letter(now, forward.group, handle.queue, handle.offset, Some(reply)),
            Err(refusal) => self.answer(reply, Err(refusal)),
        }
    }

    /// Looks at leases whose time is over: visible again, or dead.
    pub(super) fn leases_due(&mut self, now: Now) {
        let due: Vec<(Name, QueueKey)> = self
            .leases
            .ends
            .iter()
            .take_while(|(end, _, _)| *end <= now.wall_ms)
            .map(|(_, group, queue)| (group.clone(), *queue))
            .collect();
        for (group, queue) in due {
            self.leases_over(now, &group, queue);
            self.refresh_ends(&group, queue, now);
            self.waiting.touch(queue);
        }
        self.leases_of_lost_members(now);
        self.renewals_due(now);
    }

    fn leases_over(&mut self, now: Now, group: &Name, queue: QueueKey) {
        let attempts_max = self.attempts_max(group);
        let Some(at) = self.group_queue(group, queue) else { return };
        let over = at.lease_ends.iter().take_while(|(until, _)| *until <= now.wall_ms);
        let over: Vec<(u64, bool, u32)> = over
            .filter_map(|(_, offset)| at.leases.get(offset).map(|lease| (*offset, lease.held, lease.attempt)))
            .collect();
        let expired: Ranges = over.iter().filter(|(_, held, _)| *held).map(|(o, _, _)| (*o, o + 1)).collect();
        if !expired.is_empty() {
            self.state(Fact::LeaseExpired { group: group.clone(), queue, ranges: expired });
        }
        for (offset, _, attempt) in over {
            if attempt >= attempts_max && !self.leases.copying.contains(&(group.clone(), queue, offset)) {
                self.dead_letter(now, group.clone(), queue, offset, None);
            }
        }
    }

    /// Leases that last while their member lives end with it.
    fn leases_of_lost_members(&mut self, now: Now) {
        for (group, member) in std::mem::take(&mut self.sessions.lost) {
            self.leases.attempts.forget(&member);
            let Some(known) = self.state.group(&group) else { continue };
            let lost: Vec<(QueueKey, Ranges)> = known
                .queues
                .iter()
                .map(|(queue, at)| {
                    let of_member = at
                        .leases
                        .iter()
                        .filter(|(_, l)| l.held && l.until_ms == u64::MAX && l.member == member);
                    (*queue, of_member.map(|(offset, _)| (*offset, offset + 1)).collect::<Ranges>())
                })
                .filter(|(_, ranges)| !ranges.is_empty())
                .collect();
            for (queue, ranges) in lost {
                self.end_leases(now, &group, queue, ranges);
            }
        }
    }

    /// Nobody holds these any more: visible again, or dead.
    fn end_leases(&mut self, now: Now, group: &Name, queue: QueueKey, ranges: Ranges) {
        self.state(Fact::LeaseExpired { group: group.clone(), queue, ranges });
        self.leases_over(now, group, queue);
        self.refresh_ends(group, queue, now);
        self.waiting.touch(queue);
    }

    /// Copies a message to the group's dead-letter queue; the stored copy settles it.
    pub(super) fn dead_letter(
        &mut self,
        now: Now,
        group: Name,
        queue: QueueKey,
        offset: u64,
        reply: Option<ReplyFn<Answer<()>>>,
    ) {
        self.leases.copying.insert((group.clone(), queue, offset));
        self.copy_to_dead_letters(now, group, (queue, offset), move |core, now, group, outcome| {
            core.leases.copying.remove(&(group.clone(), queue, offset));
            if outcome.is_err() {
                let attempt =
                    core.group_queue(&group, queue).and_then(|at| at.leases.get(&offset)).map(|l| l.attempt);
                if let Some(attempt) = attempt {
                    let visible_at_ms = now.wall_ms + COPY_RETRY_MS;
                    core.state(Fact::Nacked { group: group.clone(), queue, offset, attempt, visible_at_ms });
                }
            }
            core.lease_over(&group, queue, now);
            if let Some(reply) = reply {
                match outcome {
                    Ok(()) => core.answer_when_durable(core.log.end(), reply, outcome),
                    Err(_) => core.answer(reply, outcome),
                }
            }
        });
    }

    fn lease_over(&mut self, group: &Name, queue: QueueKey, now: Now) {
        self.refresh_ends(group, queue, now);
        if self.is_ordered(queue) {
            self.waiting.touch(queue);
        }
    }

    fn refresh_ends(&mut self, group: &Name, queue: QueueKey, now: Now) {
        let next = self.group_queue(group, queue).and_then(|at| {
            at.lease_ends
                .range((now.wall_ms + 1, 0)..)
                .next()
                .map(|(until, _)| *until)
                .filter(|until| *until < u64::MAX)
        });
        self.leases.set(group, queue, next);
    }

    /// After a restart: when do the leases of the last run end.
    pub(super) fn restore_leases(&mut self, now: Now) {
        let pairs: Vec<(Name, QueueKey)> = self
            .state
            .groups()
            .flat_map(|(name, group)| group.queues.keys().map(move |queue| (name.clone(), *queue)))
            .collect();
        for (group, queue) in pairs {
            // nobody is connected after a restart: leases bound to a member's life are over
            let bound = self.group_queue(&group, queue).map(|at| {
                let held = at.leases.iter().filter(|(_, lease)| lease.held && lease.until_ms == u64::MAX);
                held.map(|(offset, _)| (*offset, offset + 1)).collect::<Ranges>()
            });
            if let Some(ranges) = bound.filter(|ranges| !ranges.is_empty()) {
                self.state(Fact::LeaseExpired { group: group.clone(), queue, ranges });
            }
            self.leases_over(now, &group, queue);
            self.refresh_ends(&group, queue, now);
        }
    }

    /// Attempts after which a message is dead.
    fn attempts_max(&self, group: &str) -> u32 {
        self.state.group(group).map_or(self.config.retry_max, |group| group.retry_max) + 1
    }

    fn group_queue(&self, group: &str, queue: QueueKey) -> Option<&GroupQueue> {
        self.state.group(group)?.queues.get(&queue)
    }
}
