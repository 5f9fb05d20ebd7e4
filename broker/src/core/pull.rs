//! Pulling by offset: what is read, what the filter passes over, and pulls that wait. What is handed out, and what is passed over,
//! is stated before it leaves.

use super::Core;
use super::topics::PERM_READ;
use crate::api::{Answer, ConnectionId, PullMessages, PullStatus, Pulled, Refusal, ReplyFn, Subscription};
use crate::state::RETRY_PREFIX;
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::fact::{ConsumeModel, Fact, StartReason};
use lifecycle::identity::{LogPosition, Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet};
use store::commit_log::LoggedRecord;
use store::consume_queue::Unit;
use store::error::StoreError;
use wire::message::{StoredMessage, tag_code};
use wire::properties;

/// Most messages one pull answers (RocketMQ: 32).
pub(crate) const PULL_MESSAGES_MAX: usize = 32;
/// Most bytes one pull answers (RocketMQ: 256 KiB); one larger message is answered alone.
pub(crate) const PULL_BYTES_MAX: usize = 256 * 1024;
/// Most units a filter looks at in one pull.
pub(crate) const PULL_SCAN_MAX: u64 = 4_096;
/// Most pulls that wait at once.
pub(crate) const WAITING_MAX: usize = 50_000;
/// Longest a pull may wait, ms.
pub(crate) const SUSPEND_MAX_MS: u64 = 60_000;

/// Most runs of free messages one scan reads: settled ones between them cost a look-up each.
const RUNS_PER_SCAN_MAX: usize = 256;

/// A tag filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Tags that pass; empty: everything passes.
    tags: BTreeMap<i64, BTreeSet<String>>,
    expression: Name,
}

impl Filter {
    /// Reads a subscription. Only tag expressions are known: `*`, or tags joined by `||`.
    pub(crate) fn parse(subscription: &Subscription) -> Answer<Filter> {
        let kind = subscription.expression_type.as_ref();
        if !matches!(kind, "" | "TAG") {
            return Err(Refusal::BadExpression(format!("expression type {kind} is not supported, only TAG")));
        }
        let mut tags: BTreeMap<i64, BTreeSet<String>> = BTreeMap::new();
        let text = subscription.expression.trim();
        if !matches!(text, "" | "*") {
            for tag in text.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
                tags.entry(i64::from(tag_code(tag))).or_default().insert(tag.to_owned());
            }
            if tags.is_empty() {
                return Err(Refusal::BadExpression(text.to_owned()));
            }
        }
        Ok(Filter { tags, expression: subscription.expression.clone() })
    }

    /// Lets everything pass.
    pub(super) fn everything() -> Filter {
        Filter { tags: BTreeMap::new(), expression: "*".into() }
    }

    /// The expression as the client wrote it.
    pub(crate) fn expression(&self) -> &Name {
        &self.expression
    }

    fn may_match(&self, unit: &Unit) -> bool {
        self.tags.is_empty() || self.tags.contains_key(&unit.tag_hash)
    }

    /// Decides by the tag itself: equal hashes of different tags must not deliver what nobody asked for.
    fn matches(&self, record: &Bytes) -> bool {
        if self.tags.is_empty() {
            return true;
        }
        let Ok((message, _)) = StoredMessage::decode(record) else { return true };
        let tag = message.properties.get(properties::TAGS).unwrap_or_default();
        self.tags.get(&i64::from(tag_code(tag))).is_some_and(|tags| tags.contains(tag))
    }
}

struct WaitingPull {
    queue: QueueKey,
    deadline_ms: u64,
    connection: ConnectionId,
    pull: PullMessages,
    reply: ReplyFn<Answer<Pulled>>,
}

/// Pulls and receives that wait for messages.
#[derive(Default)]
pub(super) struct WaitingPulls {
    next: u64,
    pulls: BTreeMap<u64, WaitingPull>,
    by_queue: BTreeMap<QueueKey, BTreeSet<u64>>,
    deadlines: BTreeSet<(u64, u64)>,
    /// Receives that wait; they look at many queues.
    pub(super) receives: super::lease::WaitingReceives,
    /// Queues with something new since the last look.
    touched: BTreeSet<QueueKey>,
}

impl WaitingPulls {
    /// Something became readable in a queue.
    pub(super) fn touch(&mut self, queue: QueueKey) {
        if self.by_queue.contains_key(&queue) || self.receives.waits_for(queue) {
            self.touched.insert(queue);
        }
    }

    pub(super) fn next_deadline_ms(&self) -> Option<u64> {
        let pull = self.deadlines.first().map(|(at, _)| *at);
        let receive = self.receives.next_deadline_ms();
        if !self.touched.is_empty() {
            return Some(0);
        }
        pull.into_iter().chain(receive).min()
    }

    fn add(&mut self, waiting: WaitingPull) {
        self.next += 1;
        self.by_queue.entry(waiting.queue).or_default().insert(self.next);
        self.deadlines.insert((waiting.deadline_ms, self.next));
        self.pulls.insert(self.next, waiting);
    }

    fn take(&mut self, number: u64) -> Option<WaitingPull> {
        let waiting = self.pulls.remove(&number)?;
        self.deadlines.remove(&(waiting.deadline_ms, number));
        if let Some(numbers) = self.by_queue.get_mut(&waiting.queue) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_queue.remove(&waiting.queue);
            }
        }
        Some(waiting)
    }

    /// Nobody hears the answers any more.
    pub(super) fn drop_connection(&mut self, connection: ConnectionId) {
        let gone: Vec<u64> = self
            .pulls
            .iter()
            .filter(|(_, w)| w.connection == connection)
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            self.take(number);
        }
        self.receives.drop_connection(connection);
    }
}

/// What a scan of a queue found.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) records: Vec<(u64, Bytes)>,
    pub(super) filtered: Ranges,
    /// Deleted while it was read.
    pub(super) vanished: Ranges,
    /// Of these the log holds no readable record.
    pub(super) unreadable: Vec<(u64, Unit)>,
    pub(super) next: u64,
}

impl Core {
    pub(super) fn pull(&mut self, now: Now, pull: PullMessages, reply: ReplyFn<Answer<Pulled>>) {
        match self.try_pull(&pull, true) {
            Ok(Some(pulled)) => self.answer(reply, Ok(pulled)),
            Err(refusal) => self.answer(reply, Err(refusal)),
            Ok(None) => self.wait_for_messages(now, pull, reply),
        }
    }

    fn wait_for_messages(&mut self, now: Now, pull: PullMessages, reply: ReplyFn<Answer<Pulled>>) {
        let Ok(queue) = self.queue_of(&pull.queue.topic, pull.queue.queue_id) else {
            return self.answer(reply, Err(Refusal::TopicNotFound(pull.queue.topic.to_string())));
        };
        if self.waiting.pulls.len() >= WAITING_MAX {
            return self.answer(reply, Err(Refusal::Busy("too many waiting pulls")));
        }
        let deadline_ms = now.mono_ms + pull.suspend_ms.min(SUSPEND_MAX_MS);
        let connection = pull.connection;
        self.waiting.add(WaitingPull { queue, deadline_ms, connection, pull, reply });
    }

    /// Answers whoever waits for queues with something new, and whose time is up.
    pub(super) fn serve_waiting(&mut self, now: Now) {
        for queue in std::mem::take(&mut self.waiting.touched) {
            let numbers: Vec<u64> =
                self.waiting.by_queue.get(&queue).into_iter().flatten().copied().collect();
            for number in numbers {
                let Some(waiting) = self.waiting.take(number) else { continue };
                match self.try_pull(&waiting.pull, true) {
                    Ok(None) => self.waiting.add(waiting),
                    Ok(Some(pulled)) => self.answer(waiting.reply, Ok(pulled)),
                    Err(refusal) => self.answer(waiting.reply, Err(refusal)),
                }
            }
            self.serve_waiting_receives(now, queue);
        }
        while let Some((deadline, number)) = self.waiting.deadlines.first().copied() {
            if deadline > now.mono_ms {
                break;
            }
            let Some(waiting) = self.waiting.take(number) else { break };
            let outcome = self.try_pull(&waiting.pull, false);
            let answer = outcome.and_then(|pulled| pulled.ok_or(Refusal::MessageNotFound));
            self.answer(waiting.reply, answer);
        }
        self.end_overdue_receives(now);
    }

    /// `None`: nothing there, and the client is ready to wait.
    fn try_pull(&mut self, pull: &PullMessages, may_wait: bool) -> Answer<Option<Pulled>> {
        let group = &pull.queue.group;
        let queue = self.check_pull(pull)?;
        if let Some(offset) = pull.commit_offset
            && may_wait
            && self.following.is_none()
        {
            // a commit that rides on a pull never fails the pull
            if let Err(refusal) = self.commit(group, queue, offset, &pull.client) {
                tracing::debug!(%refusal, %group, "commit riding on a pull refused");
            }
        }
        let filter = self.filter_of(pull)?;
        let bounds = self.state.bounds(queue);
        let end = self.flush.readable_end(queue, bounds.max_offset);
        let answer = |status, next_offset| Pulled {
            status,
            next_offset,
            min_offset: bounds.min_offset,
            max_offset: end,
            records: Vec::new(),
        };
        let offset = u64::try_from(pull.offset).unwrap_or(0);
        let stale = self.stale_offset(group, queue, offset).filter(|common_end| {
            // once it was given something here, it may skip what it likes
            let at = self.state.group(group).and_then(|group| group.queues.get(&queue));
            at.is_some_and(|at| at.next <= *common_end)
        });
        let outside = match offset {
            _ if pull.offset < 0 || offset < bounds.min_offset => {
                Some((PullStatus::OffsetTooSmall, bounds.min_offset))
            }
            _ if end == bounds.min_offset && end == 0 && offset > 0 => {
                Some((PullStatus::NoMessageInQueue, 0))
            }
            _ if stale.is_some() => stale.map(|common_end| (PullStatus::OffsetOverflowBadly, common_end)),
            _ if offset > end => Some((PullStatus::OffsetOverflowBadly, end)),
            _ => None,
        };
        if let Some((status, next)) = outside {
            return Ok(Some(answer(status, next)));
        }
        self.owes_from_first_pull(group, queue, offset);
        if offset == end {
            let waits = may_wait && pull.suspend_ms > 0;
            return Ok((!waits).then(|| answer(PullStatus::OffsetOverflowOne, offset)));
        }
        let limits = ScanLimits::of(pull);
        // what was settled one by one, under a lease or by a copy, is not handed out again
        let scan = Scan { filter: &filter, limits, leases: false };
        let found = self.scan_for(group, queue, (offset, end), &scan).map_err(|e| self.read_failed(e))?;
        self.state_scanned(group, queue, &pull.client, &filter, &found);
        let status = match (found.records.is_empty(), found.filtered.is_empty()) {
            (false, _) => PullStatus::Found,
            (true, false) => PullStatus::NoMatchedMessage,
            (true, true) => PullStatus::MessageWasRemoving,
        };
        let records = found.records.into_iter().map(|(_, record)| record).collect();
        Ok(Some(Pulled { records, ..answer(status, found.next) }))
    }

    fn check_pull(&mut self, pull: &PullMessages) -> Answer<QueueKey> {
        self.check_readable()?;
        let queue = self.queue_of(&pull.queue.topic, pull.queue.queue_id)?;
        if self.following.is_none() {
            self.ensure_group(&pull.queue.group)?;
        }
        if self.state.topic(&pull.queue.topic).is_some_and(|topic| topic.config.perm & PERM_READ == 0) {
            return Err(Refusal::NoPermission { topic: pull.queue.topic.to_string(), what: "reading" });
        }
        let group = self.state.group(&pull.queue.group);
        if group.is_some_and(|group| !group.consume_enabled) {
            return Err(Refusal::NoPermission {
                topic: pull.queue.topic.to_string(),
                what: "reading by this group",
            });
        }
        if group.and_then(|group| group.model_of(&pull.queue.topic)) == Some(ConsumeModel::Lease) {
            return Err(Refusal::WrongConsumeModel(pull.queue.group.to_string(), "leases"));
        }
        Ok(queue)
    }

    /// The filter in the request, or the one of the group's newest subscription.
    fn filter_of(&self, pull: &PullMessages) -> Answer<Filter> {
        if let Some(subscription) = &pull.subscription {
            return Filter::parse(subscription);
        }
        if pull.queue.topic.starts_with(RETRY_PREFIX) {
            return Ok(Filter::everything());
        }
        let group = self.state.group(&pull.queue.group);
        let Some((expression, version)) = group.and_then(|group| group.expression(&pull.queue.topic)) else {
            return Err(Refusal::SubscriptionNotLatest(pull.queue.group.to_string()));
        };
        if version < pull.subscription_version {
            return Err(Refusal::SubscriptionNotLatest(pull.queue.group.to_string()));
        }
        Filter::parse(&Subscription {
            topic: pull.queue.topic.clone(),
            expression: expression.clone(),
            version,
            expression_type: "TAG".into(),
        })
    }

    /// A group nobody pinned owes a queue from the first offset it pulls.
    fn owes_from_first_pull(&mut self, group: &Name, queue: QueueKey, offset: u64) {
        let topic = self.state.topic_of(queue.topic).map(|topic| &*topic.config.name);
        let model = topic.and_then(|topic| self.state.group(group)?.model_of(topic));
        if model != Some(ConsumeModel::Broadcasting) && self.following.is_none() {
            self.start_group(group, queue, offset, StartReason::FirstPull);
        }
    }

    /// Scans what a group is not done with: `from..end` without what it settled, and for leases without what is out.
    pub(super) fn scan_for(
        &mut self,
        group: &Name,
        queue: QueueKey,
        (from, end): (u64, u64),
        scan: &Scan<'_>,
    ) -> Result<Scanned, StoreError> {
        let Scan { filter, mut limits, leases } = *scan;
        let mut all = Scanned { next: from, ..Default::default() };
        for _ in 0..RUNS_PER_SCAN_MAX {
            let at = self.state.group(group).and_then(|group| group.queues.get(&queue));
            let run = match at {
                // below its position a consumer by offsets reads what it likes
                Some(at) if leases || all.next >= at.position => at.free_run(all.next, end, leases),
                _ => (all.next < end).then_some((all.next, end)),
            };
            let Some((start, stop)) = run else {
                all.next = end.max(from);
                break;
            };
            let found = self.scan(queue, (start, stop), filter, limits)?;
            limits.messages -= found.records.len();
            limits.bytes = limits
                .bytes
                .saturating_sub(found.records.iter().map(|(_, record)| record.len()).sum::<usize>());
            all.next = found.next;
            all.records.extend(found.records);
            all.filtered.union(&found.filtered);
            all.vanished.union(&found.vanished);
            all.unreadable.extend(found.unreadable);
            if found.next < stop || limits.messages == 0 || limits.bytes == 0 {
                break;
            }
        }
        Ok(all)
    }

    fn scan(
        &mut self,
        queue: QueueKey,
        (from, end): (u64, u64),
        filter: &Filter,
        limits: ScanLimits,
    ) -> Result<Scanned, StoreError> {
        let index = self.queue_index(queue)?;
        let mut found = Scanned { next: from, ..Default::default() };
        let mut bytes = 0usize;
        let mut units = Vec::new();
        while found.next < end && found.next - from < PULL_SCAN_MAX && found.records.len() < limits.messages {
            units.clear();
            let batch = (end - found.next).min(limits.messages as u64);
            self.queues.read(index, found.next, batch, &mut units)?;
            if units.is_empty() {
                break;
            }
            for unit in &units {
                let full = found.records.len() >= limits.messages
                    || (!found.records.is_empty() && bytes + unit.size as usize > limits.bytes);
                if full {
                    return Ok(found);
                }
                let offset = found.next;
                found.next += 1;
                if !filter.may_match(unit) {
                    found.filtered.insert(offset, offset + 1);
                    continue;
                }
                match self.read_unit(unit)? {
                    None if self.is_deleted(unit) => found.vanished.insert(offset, offset + 1),
                    None => found.unreadable.push((offset, *unit)),
                    Some(logged) if !filter.matches(&logged.record) => {
                        found.filtered.insert(offset, offset + 1)
                    }
                    Some(logged) => {
                        bytes += logged.record.len();
                        found.records.push((offset, logged.record));
                    }
                }
            }
        }
        Ok(found)
    }

    /// The record of a consume-queue entry; `None`: none is there, or the disk cannot read it.
    pub(super) fn read_unit(&self, unit: &Unit) -> Result<Option<LoggedRecord>, StoreError> {
        match self.log.read_sized(LogPosition(unit.commitlog_offset), unit.size as usize) {
            Err(error) if error.is_of_medium() => {
                tracing::error!(%error, "the disk cannot read a record that a consumer asked for");
                Ok(None)
            }
            read => read,
        }
    }

    /// Whether retention took the record of this entry, and the entry is still to go.
    fn is_deleted(&self, unit: &Unit) -> bool {
        unit.commitlog_offset < self.log.start().0
    }

    fn state_scanned(
        &mut self,
        group: &Name,
        queue: QueueKey,
        member: &Name,
        filter: &Filter,
        found: &Scanned,
    ) {
        self.state_unreadable(group, queue, &found.unreadable);
        if !found.filtered.is_empty() {
            self.state(Fact::Filtered {
                group: group.clone(),
                queue,
                ranges: found.filtered.clone(),
                expression: filter.expression().clone(),
            });
        }
        if !found.records.is_empty() {
            self.counters.get_total += found.records.len() as u64;
            self.leases.look_anew(group, queue);
            self.state(Fact::Delivered {
                group: group.clone(),
                queue,
                ranges: found.records.iter().map(|(offset, _)| (*offset, offset + 1)).collect(),
                member: member.clone(),
                attempt: 0,
                lease_until_ms: 0,
            });
        }
    }

    pub(super) fn read_failed(&mut self, error: StoreError) -> Refusal {
        let refusal = Refusal::StorageFailed(error.to_string());
        if error.is_fatal() {
            self.stop(error);
        }
        refusal
    }
}

/// What a scan for a group looks for.
pub(super) struct Scan<'a> {
    pub(super) filter: &'a Filter,
    pub(super) limits: ScanLimits,
    /// For a consumer by leases: passes over what is out.
    pub(super) leases: bool,
}

/// How much one scan may find.
#[derive(Clone, Copy)]
pub(super) struct ScanLimits {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

impl ScanLimits {
    fn of(pull: &PullMessages) -> Self {
        let bytes =
            if pull.max_bytes == 0 { PULL_BYTES_MAX } else { (pull.max_bytes as usize).min(PULL_BYTES_MAX) };
        ScanLimits { messages: (pull.max_messages as usize).clamp(1, PULL_MESSAGES_MAX), bytes }
    }
}
