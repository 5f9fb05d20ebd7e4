//! Owns what the broker knows of consumer groups: members, subscriptions, where each queue starts, how far it is, what is out
//! under a lease. Changes only through facts.

use super::{RETRY_PREFIX, State};
use lifecycle::fact::{ConsumeModel, Fact, MoveReason};
use lifecycle::identity::{Name, QueueKey, TopicIncarnation};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet};

/// `lease_until_ms` of a lease that lasts as long as its member lives (and is renewed, for some hours at most).
pub const WHILE_MEMBER_LIVES: u64 = 1;
/// Retries of a group nobody configured (RocketMQ: `retryMaxTimes`).
pub const RETRY_MAX_DEFAULT: u32 = 16;

/// A consumer group.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Attempts after the first before a message is dead.
    pub retry_max: u32,
    /// Whether it may consume.
    pub consume_enabled: bool,
    /// Members by client id.
    pub members: BTreeMap<Name, Member>,
    /// Queues it owes.
    pub queues: BTreeMap<QueueKey, GroupQueue>,
}

impl Default for Group {
    fn default() -> Self {
        Group {
            retry_max: RETRY_MAX_DEFAULT,
            consume_enabled: true,
            members: BTreeMap::new(),
            queues: BTreeMap::new(),
        }
    }
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// How it consumes.
    pub model: ConsumeModel,
    /// Topic → (expression, version).
    pub subscriptions: BTreeMap<Name, (Name, u64)>,
}

/// A message out under a lease, or given back and waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// Which attempt it is or was.
    pub attempt: u32,
    /// Visible again from this wall time on.
    pub until_ms: u64,
    /// Who has or had it.
    pub member: Name,
    /// Whether somebody holds it now.
    pub held: bool,
}

/// A group in one queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupQueue {
    /// It owes nothing below.
    pub start: u64,
    /// Everything below is settled (or not owed).
    pub position: u64,
    /// Settled above the position.
    pub settled: Ranges,
    /// One past the highest offset ever handed out or passed over.
    pub next: u64,
    /// Last consumed by leases: then the position is the floor of what is settled, and nobody commits it.
    pub by_leases: bool,
    /// Leases by offset.
    pub leases: BTreeMap<u64, Lease>,
    /// Leases by the time they end.
    pub lease_ends: BTreeSet<(u64, u64)>,
}

impl GroupQueue {
    pub(super) fn settle_one(&mut self, offset: u64) {
        self.settle(&Ranges::of(offset, offset + 1));
    }

    fn settle(&mut self, ranges: &Ranges) {
        for (from, to) in ranges.iter() {
            self.settled.insert(from.max(self.position), to);
            self.drop_leases(from, to);
        }
        // The position rises over what is settled; offset consumers move it by committing instead. What is settled without having
        // been handed out (somebody sent a message back that its group never saw) says nothing about what lies before it.
    }

    /// The first run of `from..end` that is not settled nor, when `leases` count too, out under a lease or waiting for its next one.
    pub fn free_run(&self, from: u64, end: u64, leases: bool) -> Option<(u64, u64)> {
        let mut at = from.max(self.position);
        while at < end {
            let (start, stop) = self.settled.first_missing(at, end)?;
            if !leases {
                return Some((start, stop));
            }
            match self.leases.range(start..stop).next().map(|(offset, _)| *offset) {
                None => return Some((start, stop)),
                Some(out) if out > start => return Some((start, out)),
                Some(out) => at = out + 1,
            }
        }
        None
    }

    /// Raises the position over settled offsets: the acknowledged floor of a lease consumer.
    pub(super) fn raise_floor(&mut self) {
        let lowest = self.settled.iter().next();
        if let Some((from, to)) = lowest
            && from <= self.position
        {
            self.position = self.position.max(to);
            self.settled.keep_from(self.position);
        }
    }

    fn end_lease(&mut self, offset: u64) {
        if let Some(lease) = self.leases.remove(&offset) {
            self.lease_ends.remove(&(lease.until_ms, offset));
        }
    }

    fn set_lease(&mut self, offset: u64, lease: Lease) {
        self.end_lease(offset);
        self.lease_ends.insert((lease.until_ms, offset));
        self.leases.insert(offset, lease);
    }

    /// Nobody holds these any more; a lease bound to its member's life is over at once.
    fn expire(&mut self, ranges: &Ranges) {
        for (from, to) in ranges.iter() {
            let leases: Vec<(u64, Lease)> =
                self.leases.range(from..to).map(|(o, l)| (*o, l.clone())).collect();
            for (offset, lease) in leases {
                let until_ms = if lease.until_ms == u64::MAX { 0 } else { lease.until_ms };
                self.set_lease(offset, Lease { held: false, until_ms, ..lease });
            }
        }
    }

    fn move_to(&mut self, to: u64, reason: MoveReason) {
        let backward = to < self.position;
        self.position = to;
        if backward {
            // what was settled above is owed again
            self.settled = Ranges::new();
            self.next = to;
            self.drop_leases(to, u64::MAX);
        } else {
            self.settled.keep_from(to);
            self.next = self.next.max(to);
            self.drop_leases(0, to);
        }
        if matches!(reason, MoveReason::Recovery) {
            self.next = self.next.min(to);
        }
    }

    fn drop_leases(&mut self, from: u64, to: u64) {
        let over: Vec<u64> = self.leases.range(from..to).map(|(offset, _)| *offset).collect();
        over.into_iter().for_each(|offset| self.end_lease(offset));
    }

    /// Nothing at or above `end` survived.
    pub(super) fn truncate(&mut self, end: u64) {
        self.settled.remove(end, u64::MAX);
        self.drop_leases(end, u64::MAX);
        self.next = self.next.min(end);
        self.position = self.position.min(end);
        self.start = self.start.min(end);
    }
}

impl Group {
    pub(super) fn expired(&mut self, queue: QueueKey, to: u64) {
        if let Some(queue) = self.queues.get_mut(&queue)
            && queue.position < to
        {
            queue.move_to(to, MoveReason::Retention);
        }
    }

    pub(super) fn topic_deleted(&mut self, topic: TopicIncarnation) {
        self.queues.retain(|queue, _| queue.topic != topic);
    }

    /// The expression in force for a topic: of the newest subscription among the members, as RocketMQ does it.
    pub fn expression(&self, topic: &str) -> Option<(&Name, u64)> {
        self.members
            .values()
            .filter_map(|member| member.subscriptions.get(topic))
            .max_by_key(|(_, version)| *version)
            .map(|(expression, version)| (expression, *version))
    }

    /// How its present members consume a topic: by leases or by offsets, never both. `None` while no member subscribes to it. The
    /// retry topic belongs to those that consume by offsets, who send back, and without them to those that lease.
    pub fn model_of(&self, topic: &str) -> Option<ConsumeModel> {
        let members = self.members.values();
        if topic.starts_with(RETRY_PREFIX) {
            return members.map(|member| member.model).min_by_key(|model| *model == ConsumeModel::Lease);
        }
        members.filter(|member| member.subscriptions.contains_key(topic)).map(|member| member.model).next()
    }
}

impl State {
    pub(super) fn apply_to_group(&mut self, fact: &Fact) {
        match fact {
            Fact::GroupConfigured { group, retry_max, consume_enabled } => {
                let group = self.groups.entry(group.clone()).or_default();
                group.retry_max = *retry_max;
                group.consume_enabled = *consume_enabled;
            }
            Fact::GroupStarted { group, queue, offset, .. } => {
                let group = self.groups.entry(group.clone()).or_default();
                group.queues.entry(*queue).or_insert_with(|| GroupQueue {
                    start: *offset,
                    position: *offset,
                    next: *offset,
                    ..Default::default()
                });
            }
            Fact::MemberJoined { group, member, model } => {
                let group = self.groups.entry(group.clone()).or_default();
                group
                    .members
                    .insert(member.clone(), Member { model: *model, subscriptions: BTreeMap::new() });
            }
            Fact::MemberLeft { group, member, .. } => {
                if let Some(group) = self.groups.get_mut(group) {
                    group.members.remove(member);
                }
            }
            Fact::Subscribed { group, member, topic, expression, version } => {
                let member = self.groups.get_mut(group).and_then(|group| group.members.get_mut(member));
                if let Some(member) = member {
                    member.subscriptions.insert(topic.clone(), (expression.clone(), *version));
                }
            }
            _ => self.apply_progress(fact),
        }
    }

    fn apply_progress(&mut self, fact: &Fact) {
        match fact {
            Fact::Delivered { group, queue, ranges, member, attempt, lease_until_ms } => {
                let Some(queue) = self.group_queue(group, *queue) else { return };
                queue.next = queue.next.max(ranges.end().unwrap_or(0));
                queue.by_leases = *lease_until_ms > 0;
                if *lease_until_ms == 0 && !queue.leases.is_empty() {
                    // handed to an offset consumer: it settles them by committing, whoever had them before does not any more
                    ranges.iter().for_each(|(from, to)| queue.drop_leases(from, to));
                }
                if *lease_until_ms > 0 {
                    let until_ms =
                        if *lease_until_ms == WHILE_MEMBER_LIVES { u64::MAX } else { *lease_until_ms };
                    for offset in ranges.iter().flat_map(|(from, to)| from..to) {
                        let lease = Lease { attempt: *attempt, until_ms, member: member.clone(), held: true };
                        queue.set_lease(offset, lease);
                    }
                }
            }
            Fact::Filtered { group, queue, ranges, .. } => {
                // settled for a lease consumer at once; an offset consumer commits over it
                let topic = self.topics.get(&queue.topic).map(|topic| &*topic.config.name);
                let model = topic.and_then(|topic| self.groups.get(group)?.model_of(topic));
                let leases = model == Some(ConsumeModel::Lease);
                let Some(queue) = self.group_queue(group, *queue) else { return };
                queue.next = queue.next.max(ranges.end().unwrap_or(0));
                if leases || queue.by_leases {
                    queue.settle(ranges);
                    queue.raise_floor();
                }
            }
            Fact::Unreadable { group, queue, ranges } => {
                // nobody will be handed it: whoever asks is not led there again
                let Some(queue) = self.group_queue(group, *queue) else { return };
                queue.next = queue.next.max(ranges.end().unwrap_or(0));
                queue.settle(ranges);
                if queue.by_leases {
                    queue.raise_floor();
                }
            }
            Fact::Acked { group, queue, ranges, .. } => {
                let Some(queue) = self.group_queue(group, *queue) else { return };
                queue.settle(ranges);
                queue.raise_floor();
            }
            Fact::Nacked { group, queue, offset, attempt, visible_at_ms } => {
                let Some(queue) = self.group_queue(group, *queue) else { return };
                let member = queue.leases.get(offset).map_or_else(|| "".into(), |lease| lease.member.clone());
                queue.set_lease(
                    *offset,
                    Lease { attempt: *attempt, until_ms: *visible_at_ms, member, held: false },
                );
            }
            Fact::LeaseExpired { group, queue, ranges } => {
                let Some(queue) = self.group_queue(group, *queue) else { return };
                queue.expire(ranges);
            }
            Fact::OffsetMoved { group, queue, to, reason, .. } => {
                if let Some(queue) = self.group_queue(group, *queue) {
                    queue.move_to(*to, *reason);
                }
            }
            Fact::GroupState { group, queue, position, delivered, settled } => {
                let Some(queue) = self.group_queue(group, *queue) else { return };
                queue.position = *position;
                queue.settled = settled.clone();
                queue.next = delivered.end().unwrap_or(0).max(*position);
            }
            _ => {}
        }
    }

    fn group_queue(&mut self, group: &Name, queue: QueueKey) -> Option<&mut GroupQueue> {
        self.groups.get_mut(group)?.queues.get_mut(&queue)
    }
}
