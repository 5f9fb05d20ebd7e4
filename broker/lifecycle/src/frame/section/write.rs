//! Writes the body of each kind of fact. The reading side is section/read.rs; the tags are in section.rs.

use super::{ALL_PRODUCED, COUNTS_ALL_ONE, WITH_IDS, tag};
use crate::fact::*;
use crate::frame::{EncoderState, NAME_LEN_MAX};
use crate::identity::*;
use crate::ids::IdColumn;
use crate::ranges::Ranges;
use crate::varint::{put_varint, zigzag};

pub(in crate::frame) fn encode(fact: &Fact, state: &mut EncoderState, out: &mut Vec<u8>) -> u64 {
    let mut w = Writer { state, out };
    match fact {
        Fact::Stored(stored) => w.stored(stored),
        Fact::Flushed { log_position } => {
            // most often all that was stored, or little less
            w.out_signed(w.state.log_end.wrapping_sub(log_position.0) as i64);
            tag::FLUSHED
        }
        Fact::Answered { from_ordinal, count, class } => {
            w.out_signed(from_ordinal.wrapping_sub(w.state.answered_end) as i64);
            w.num((count << 3) | u64::from(*class as u8));
            w.state.answered_end = from_ordinal + count;
            tag::ANSWERED
        }
        Fact::Delivered { group, queue, ranges, member, attempt, lease_until_ms } => {
            w.group_ranges(group, *queue, ranges);
            w.name(member);
            w.num(u64::from(*attempt));
            w.num(*lease_until_ms);
            tag::DELIVERED
        }
        Fact::OffsetMoved { group, queue, from, to, reason, actor } => {
            w.name(group);
            w.queue(*queue);
            w.num(*from);
            w.out_signed(to.wrapping_sub(*from) as i64);
            w.out.push(*reason as u8);
            w.name(actor);
            tag::OFFSET_MOVED
        }
        Fact::Acked { group, queue, ranges, member } => {
            w.group_ranges(group, *queue, ranges);
            w.name(member);
            tag::ACKED
        }
        Fact::Filtered { group, queue, ranges, expression } => {
            w.group_ranges(group, *queue, ranges);
            w.name(expression);
            tag::FILTERED
        }
        Fact::LateAck { group, queue, offset, member } => {
            w.group_at(group, *queue, *offset);
            w.name(member);
            tag::LATE_ACK
        }
        Fact::Nacked { group, queue, offset, attempt, visible_at_ms } => {
            w.group_at(group, *queue, *offset);
            w.num(u64::from(*attempt));
            w.num(*visible_at_ms);
            tag::NACKED
        }
        Fact::LeaseExpired { group, queue, ranges } => {
            w.group_ranges(group, *queue, ranges);
            tag::LEASE_EXPIRED
        }
        _ => encode_rare(fact, w),
    }
}

fn encode_rare(fact: &Fact, mut w: Writer<'_>) -> u64 {
    match fact {
        Fact::JournalFlushed { sequence } => {
            w.num(*sequence);
            tag::JOURNAL_FLUSHED
        }
        Fact::Reserved { messages, bytes } => {
            w.num(*messages);
            w.num(*bytes);
            tag::RESERVED
        }
        Fact::Refused { topic, code, reason, one_way, ids } => {
            w.name(topic);
            w.out_signed(i64::from(*code));
            w.name(reason);
            w.out.push(u8::from(*one_way));
            w.ids(ids);
            tag::REFUSED
        }
        Fact::BrokenOff { ordinal } => {
            w.num(*ordinal);
            tag::BROKEN_OFF
        }
        Fact::CopyFailed { group, parent, reason, error } => {
            w.name(group);
            w.identity(parent);
            w.out.push(*reason as u8);
            w.name(error);
            tag::COPY_FAILED
        }
        Fact::GroupConfigured { group, retry_max, consume_enabled } => {
            w.name(group);
            w.num(u64::from(*retry_max));
            w.out.push(u8::from(*consume_enabled));
            tag::GROUP_CONFIGURED
        }
        Fact::GroupDeleted { group, actor } => {
            w.name(group);
            w.name(actor);
            tag::GROUP_DELETED
        }
        Fact::GroupStarted { group, queue, offset, reason } => {
            w.group_at(group, *queue, *offset);
            w.out.push(*reason as u8);
            tag::GROUP_STARTED
        }
        Fact::MemberJoined { group, member, model } => {
            w.name(group);
            w.name(member);
            w.out.push(*model as u8);
            tag::MEMBER_JOINED
        }
        Fact::MemberLeft { group, member, reason } => {
            w.name(group);
            w.name(member);
            w.out.push(*reason as u8);
            tag::MEMBER_LEFT
        }
        Fact::Subscribed { group, member, topic, expression, version } => {
            for name in [group, member, topic, expression] {
                w.name(name);
            }
            w.num(*version);
            tag::SUBSCRIBED
        }
        _ => encode_state(fact, w),
    }
}

fn encode_state(fact: &Fact, mut w: Writer<'_>) -> u64 {
    match fact {
        Fact::EpochStarted(epoch) => w.epoch(epoch),
        Fact::Recovered(recovered) => w.recovered(recovered),
        Fact::TopicConfigured(topic) => {
            w.num(topic.topic.0);
            w.name(&topic.name);
            for value in [topic.read_queues, topic.write_queues, topic.perm] {
                w.num(u64::from(value));
            }
            w.name(&topic.message_type);
            tag::TOPIC_CONFIGURED
        }
        Fact::TopicDeleted { topic, actor } => {
            w.num(topic.0);
            w.name(actor);
            tag::TOPIC_DELETED
        }
        Fact::Expired { queue, from, to, reason } => {
            w.queue(*queue);
            w.num(*from);
            w.num(*to);
            w.out.push(*reason as u8);
            tag::EXPIRED
        }
        Fact::ClockStepped { delta_ms } => {
            w.out_signed(*delta_ms);
            tag::CLOCK_STEPPED
        }
        Fact::QueueState { queue, min_offset, max_offset } => {
            w.queue(*queue);
            w.num(*min_offset);
            w.num(*max_offset);
            tag::QUEUE_STATE
        }
        Fact::GroupState { group, queue, position, delivered, settled } => {
            w.group_at(group, *queue, *position);
            w.ranges(delivered);
            w.ranges(settled);
            tag::GROUP_STATE
        }
        Fact::ReDriven { queue, epoch_number, ranges } => {
            w.queue(*queue);
            w.num(*epoch_number);
            w.ranges(ranges);
            tag::RE_DRIVEN
        }
        Fact::SentReported(report) => w.sent(report),
        Fact::OperatorActed { incident, action, actor, note, wall_ms } => {
            w.out.extend_from_slice(&incident.0);
            w.out.push(*action as u8);
            w.name(actor);
            w.name(note);
            w.num(*wall_ms);
            tag::OPERATOR_ACTED
        }
        Fact::Replicated { replica, log_position, durable } => {
            w.name(replica);
            w.num(log_position.0);
            w.out.push(u8::from(*durable));
            tag::REPLICATED
        }
        Fact::Scrubbed(scrubbed) => w.scrubbed(scrubbed),
        Fact::Unreadable { group, queue, ranges } => {
            w.group_ranges(group, *queue, ranges);
            tag::UNREADABLE
        }
        // every other kind has its arm in `encode` or `encode_rare`; the round-trip test holds one of each kind
        other => unreachable!("fact without an encoding: {other:?}"),
    }
}

struct Writer<'a> {
    state: &'a mut EncoderState,
    out: &'a mut Vec<u8>,
}

impl Writer<'_> {
    fn num(&mut self, value: u64) {
        put_varint(self.out, value);
    }

    fn out_signed(&mut self, value: i64) {
        put_varint(self.out, zigzag(value));
    }

    fn name(&mut self, name: &Name) {
        if let Some(number) = self.state.names.get(name) {
            return put_varint(self.out, *number + 1);
        }
        let text: Name = if name.len() <= NAME_LEN_MAX {
            name.clone()
        } else {
            let mut end = NAME_LEN_MAX;
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            name.get(..end).unwrap_or_default().into()
        };
        // a cut name may already be known under its shorter form: writing it anew keeps both sides in step
        let number = self.state.names.len() as u64;
        self.num(0);
        self.num(text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
        self.state.names.insert(name.clone(), number);
    }

    fn queue(&mut self, queue: QueueKey) {
        if let Some((number, _)) = self.state.queues.get(&queue) {
            return put_varint(self.out, *number + 1);
        }
        self.num(0);
        self.num(queue.topic.0);
        self.num(u64::from(queue.queue_id));
        let number = self.state.queues.len() as u64;
        self.state.queues.insert(queue, (number, 0));
    }

    fn group_at(&mut self, group: &Name, queue: QueueKey, offset: u64) {
        self.name(group);
        self.queue(queue);
        self.num(offset);
    }

    fn group_ranges(&mut self, group: &Name, queue: QueueKey, ranges: &Ranges) {
        self.name(group);
        self.queue(queue);
        self.ranges(ranges);
    }

    fn ranges(&mut self, ranges: &Ranges) {
        self.num(ranges.run_count() as u64);
        let mut at = 0;
        for (from, to) in ranges.iter() {
            self.num(from - at);
            self.num(to - from);
            at = to;
        }
    }

    fn identity(&mut self, identity: &MessageIdentity) {
        self.queue(identity.queue);
        self.num(identity.queue_offset);
        self.num(identity.epoch_number);
    }

    fn ids(&mut self, ids: &IdColumn) {
        self.num(ids.len() as u64);
        for id in ids.iter() {
            self.state.ids.encode(id, self.out);
        }
    }

    fn stored(&mut self, stored: &Stored) -> u64 {
        let count = stored.count();
        assert!(
            stored.ids.is_empty() || stored.ids.len() as u64 == count,
            "one id per message, or none at all"
        );
        assert_eq!(stored.first_ordinal, self.state.next_ordinal, "ordinals are consecutive");
        let all_one = stored.runs.iter().all(|run| run.count == 1);
        let all_produced = matches!(stored.kinds.as_slice(), [(n, StoredKind::Produced)] if *n == count);
        let with_ids = !stored.ids.is_empty();
        self.out.push(
            if all_one { COUNTS_ALL_ONE } else { 0 }
                | if all_produced { ALL_PRODUCED } else { 0 }
                | if with_ids { WITH_IDS } else { 0 },
        );
        self.num(stored.runs.len() as u64);
        for run in &stored.runs {
            self.stored_run(run, all_one);
        }
        if !all_produced {
            self.num(stored.kinds.len() as u64);
            for (count, kind) in &stored.kinds {
                self.num(*count);
                self.stored_kind(kind);
            }
        }
        for id in stored.ids.iter() {
            self.state.ids.encode(id, self.out);
        }
        self.out_signed(stored.log_end.0.wrapping_sub(self.state.log_end) as i64);
        self.out_signed(stored.store_wall_ms.wrapping_sub(self.state.now.wall_ms) as i64);
        self.state.log_end = stored.log_end.0;
        self.state.next_ordinal += count;
        tag::STORED
    }

    // varint 0 + definition + offset, or varint 1 + (number << 1 | offset follows): the offset is implied when it continues
    fn stored_run(&mut self, run: &StoredRun, counts_all_one: bool) {
        let known = self.state.queues.get(&run.queue).copied();
        match known {
            None => {
                self.queue(run.queue);
                self.num(run.queue_offset);
            }
            Some((number, next)) => {
                let explicit = next != run.queue_offset;
                self.num(1 + ((number << 1) | u64::from(explicit)));
                if explicit {
                    self.num(run.queue_offset);
                }
            }
        }
        if !counts_all_one {
            self.num(run.count);
        }
        if let Some((_, next)) = self.state.queues.get_mut(&run.queue) {
            *next = run.queue_offset + run.count;
        }
    }

    fn stored_kind(&mut self, kind: &StoredKind) {
        match kind {
            StoredKind::Produced => self.out.push(0),
            StoredKind::ProducedOneWay => self.out.push(1),
            StoredKind::Delayed { due_wall_ms, destination } => {
                self.out.push(2);
                self.num(*due_wall_ms);
                self.name(destination);
            }
            StoredKind::Half => self.out.push(3),
            StoredKind::Copy { group, lineage, due_wall_ms } => {
                self.out.push(4);
                self.name(group);
                self.out.push(lineage.reason as u8);
                self.identity(&lineage.parent);
                let same = lineage.root == lineage.parent;
                self.out.push(u8::from(same));
                if !same {
                    self.identity(&lineage.root);
                }
                self.num(*due_wall_ms);
            }
        }
    }

    fn epoch(&mut self, epoch: &EpochStarted) -> u64 {
        self.num(epoch.epoch.number);
        self.out.extend_from_slice(&epoch.epoch.incarnation.0);
        self.name(&epoch.broker_name);
        self.num(epoch.log_start.0);
        self.num(epoch.roster.len() as u64);
        for member in &epoch.roster {
            self.name(member);
        }
        self.num(epoch.settings.len() as u64);
        for (key, value) in &epoch.settings {
            self.name(key);
            self.name(value);
        }
        tag::EPOCH_STARTED
    }

    fn recovered(&mut self, recovered: &Recovered) -> u64 {
        self.out.push(u8::from(recovered.clean));
        self.num(recovered.log_end.0);
        self.num(recovered.flushed.0);
        self.num(recovered.queues.len() as u64);
        for (queue, min, end) in &recovered.queues {
            self.queue(*queue);
            self.num(*min);
            self.num(*end);
        }
        self.num(recovered.bad.len() as u64);
        for (queue, ranges) in &recovered.bad {
            self.queue(*queue);
            self.ranges(ranges);
        }
        self.num(recovered.closed.len() as u64);
        for (incarnation, sequence) in &recovered.closed {
            self.out.extend_from_slice(&incarnation.0);
            self.num(*sequence);
        }
        self.num(recovered.unnamed_max);
        tag::RECOVERED
    }

    fn scrubbed(&mut self, scrubbed: &Scrubbed) -> u64 {
        self.name(&scrubbed.member);
        self.num(scrubbed.from.0);
        self.num(scrubbed.to.0);
        self.num(scrubbed.round_wall_ms);
        self.out.push(u8::from(scrubbed.ends_round));
        self.ranges(&scrubbed.damaged);
        self.num(scrubbed.bad.len() as u64);
        for (queue, ranges) in &scrubbed.bad {
            self.queue(*queue);
            self.ranges(ranges);
        }
        self.num(scrubbed.unnamed_max);
        tag::SCRUBBED
    }

    fn sent(&mut self, report: &SentReported) -> u64 {
        self.name(&report.id);
        self.name(&report.topic);
        self.out.push(report.outcome as u8);
        self.name(&report.broker);
        self.num(report.queue_id.map_or(0, |id| u64::from(id) + 1));
        self.num(report.queue_offset.map_or(0, |offset| offset + 1));
        self.num(report.sent_wall_ms);
        self.num(report.reported_wall_ms);
        tag::SENT_REPORTED
    }
}
