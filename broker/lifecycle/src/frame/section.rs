//! Owns the body of each kind of fact in a frame. One arm to write and one to read per kind; tags are for ever.

use super::{DICTIONARY_MAX, DecodeError, DecoderState, EncoderState, FRAME_MESSAGES_MAX, NAME_LEN_MAX};
use crate::fact::*;
use crate::identity::*;
use crate::ids::IdColumn;
use crate::ranges::Ranges;
use crate::varint::{Reader, put_varint, unzigzag, zigzag};

mod tag {
    pub(super) const STORED: u64 = 1;
    pub(super) const FLUSHED: u64 = 2;
    pub(super) const ANSWERED: u64 = 3;
    pub(super) const DELIVERED: u64 = 4;
    pub(super) const OFFSET_MOVED: u64 = 5;
    pub(super) const ACKED: u64 = 6;
    pub(super) const FILTERED: u64 = 7;
    pub(super) const JOURNAL_FLUSHED: u64 = 8;
    pub(super) const RESERVED: u64 = 9;
    pub(super) const REFUSED: u64 = 10;
    pub(super) const BROKEN_OFF: u64 = 11;
    pub(super) const COPY_FAILED: u64 = 12;
    pub(super) const EPOCH_STARTED: u64 = 13;
    pub(super) const RECOVERED: u64 = 14;
    pub(super) const TOPIC_CONFIGURED: u64 = 15;
    pub(super) const TOPIC_DELETED: u64 = 16;
    pub(super) const GROUP_CONFIGURED: u64 = 17;
    pub(super) const GROUP_DELETED: u64 = 18;
    pub(super) const GROUP_STARTED: u64 = 19;
    pub(super) const MEMBER_JOINED: u64 = 20;
    pub(super) const MEMBER_LEFT: u64 = 21;
    pub(super) const SUBSCRIBED: u64 = 22;
    pub(super) const LATE_ACK: u64 = 23;
    pub(super) const NACKED: u64 = 24;
    pub(super) const LEASE_EXPIRED: u64 = 25;
    pub(super) const EXPIRED: u64 = 26;
    pub(super) const CLOCK_STEPPED: u64 = 27;
    pub(super) const QUEUE_STATE: u64 = 28;
    pub(super) const GROUP_STATE: u64 = 29;
    pub(super) const SENT_REPORTED: u64 = 30;
    pub(super) const OPERATOR_ACTED: u64 = 31;
    pub(super) const REPLICATED: u64 = 32;
}

// flags of a stored section
const COUNTS_ALL_ONE: u8 = 1;
const ALL_PRODUCED: u8 = 2;
const WITH_IDS: u8 = 4;

pub(super) fn encode(fact: &Fact, state: &mut EncoderState, out: &mut Vec<u8>) -> u64 {
    let mut w = Writer { state, out };
    match fact {
        Fact::Stored(stored) => w.stored(stored),
        Fact::Flushed { log_position } => {
            w.num(log_position.0);
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
        _ => return encode_rare(fact, w),
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

pub(super) fn decode(tag: u64, body: &mut Reader<'_>, state: &mut DecoderState) -> Result<Fact, DecodeError> {
    let mut r = SectionReader { body, state };
    Ok(match tag {
        tag::STORED => Fact::Stored(r.stored()?),
        tag::FLUSHED => Fact::Flushed { log_position: LogPosition(r.num()?) },
        tag::ANSWERED => {
            let from_ordinal = r.state.answered_end.wrapping_add(unzigzag(r.num()?) as u64);
            let packed = r.num()?;
            let class =
                AnswerClass::from_u8((packed & 7) as u8).ok_or(DecodeError::Malformed("answer class"))?;
            let count = packed >> 3;
            r.state.answered_end =
                from_ordinal.checked_add(count).ok_or(DecodeError::Malformed("ordinal"))?;
            Fact::Answered { from_ordinal, count, class }
        }
        tag::DELIVERED => Fact::Delivered {
            group: r.name()?,
            queue: r.queue()?,
            ranges: r.ranges()?,
            member: r.name()?,
            attempt: r.small()?,
            lease_until_ms: r.num()?,
        },
        tag::OFFSET_MOVED => {
            let (group, queue, from) = (r.name()?, r.queue()?, r.num()?);
            let to = from.wrapping_add(unzigzag(r.num()?) as u64);
            Fact::OffsetMoved {
                group,
                queue,
                from,
                to,
                reason: r.reason(MoveReason::from_u8)?,
                actor: r.name()?,
            }
        }
        tag::ACKED => {
            Fact::Acked { group: r.name()?, queue: r.queue()?, ranges: r.ranges()?, member: r.name()? }
        }
        tag::FILTERED => {
            Fact::Filtered { group: r.name()?, queue: r.queue()?, ranges: r.ranges()?, expression: r.name()? }
        }
        tag::LATE_ACK => {
            Fact::LateAck { group: r.name()?, queue: r.queue()?, offset: r.num()?, member: r.name()? }
        }
        tag::NACKED => Fact::Nacked {
            group: r.name()?,
            queue: r.queue()?,
            offset: r.num()?,
            attempt: r.small()?,
            visible_at_ms: r.num()?,
        },
        tag::LEASE_EXPIRED => Fact::LeaseExpired { group: r.name()?, queue: r.queue()?, ranges: r.ranges()? },
        _ => return decode_rare(tag, r),
    })
}

fn decode_rare(tag: u64, mut r: SectionReader<'_, '_>) -> Result<Fact, DecodeError> {
    Ok(match tag {
        tag::JOURNAL_FLUSHED => Fact::JournalFlushed { sequence: r.num()? },
        tag::RESERVED => Fact::Reserved { messages: r.num()?, bytes: r.num()? },
        tag::REFUSED => Fact::Refused {
            topic: r.name()?,
            code: i32::try_from(unzigzag(r.num()?)).map_err(|_| DecodeError::Malformed("code"))?,
            reason: r.name()?,
            one_way: r.flag()?,
            ids: r.ids()?,
        },
        tag::BROKEN_OFF => Fact::BrokenOff { ordinal: r.num()? },
        tag::COPY_FAILED => Fact::CopyFailed {
            group: r.name()?,
            parent: r.identity()?,
            reason: r.reason(CopyReason::from_u8)?,
            error: r.name()?,
        },
        tag::EPOCH_STARTED => Fact::EpochStarted(r.epoch()?),
        tag::RECOVERED => Fact::Recovered(r.recovered()?),
        tag::TOPIC_CONFIGURED => Fact::TopicConfigured(TopicConfigured {
            topic: TopicIncarnation(r.num()?),
            name: r.name()?,
            read_queues: r.small()?,
            write_queues: r.small()?,
            perm: r.small()?,
            message_type: r.name()?,
        }),
        tag::TOPIC_DELETED => Fact::TopicDeleted { topic: TopicIncarnation(r.num()?), actor: r.name()? },
        tag::GROUP_CONFIGURED => {
            Fact::GroupConfigured { group: r.name()?, retry_max: r.small()?, consume_enabled: r.flag()? }
        }
        tag::GROUP_DELETED => Fact::GroupDeleted { group: r.name()?, actor: r.name()? },
        tag::GROUP_STARTED => Fact::GroupStarted {
            group: r.name()?,
            queue: r.queue()?,
            offset: r.num()?,
            reason: r.reason(StartReason::from_u8)?,
        },
        _ => return decode_state(tag, r),
    })
}

fn decode_state(tag: u64, mut r: SectionReader<'_, '_>) -> Result<Fact, DecodeError> {
    Ok(match tag {
        tag::MEMBER_JOINED => Fact::MemberJoined {
            group: r.name()?,
            member: r.name()?,
            model: r.reason(ConsumeModel::from_u8)?,
        },
        tag::MEMBER_LEFT => {
            Fact::MemberLeft { group: r.name()?, member: r.name()?, reason: r.reason(LeaveReason::from_u8)? }
        }
        tag::SUBSCRIBED => Fact::Subscribed {
            group: r.name()?,
            member: r.name()?,
            topic: r.name()?,
            expression: r.name()?,
            version: r.num()?,
        },
        tag::EXPIRED => Fact::Expired {
            queue: r.queue()?,
            from: r.num()?,
            to: r.num()?,
            reason: r.reason(ExpiryReason::from_u8)?,
        },
        tag::CLOCK_STEPPED => Fact::ClockStepped { delta_ms: unzigzag(r.num()?) },
        tag::QUEUE_STATE => {
            Fact::QueueState { queue: r.queue()?, min_offset: r.num()?, max_offset: r.num()? }
        }
        tag::GROUP_STATE => Fact::GroupState {
            group: r.name()?,
            queue: r.queue()?,
            position: r.num()?,
            delivered: r.ranges()?,
            settled: r.ranges()?,
        },
        tag::SENT_REPORTED => Fact::SentReported(r.sent()?),
        tag::OPERATOR_ACTED => Fact::OperatorActed {
            incident: r.incarnation()?,
            action: r.reason(OperatorAction::from_u8)?,
            actor: r.name()?,
            note: r.name()?,
            wall_ms: r.num()?,
        },
        tag::REPLICATED => {
            Fact::Replicated { replica: r.name()?, log_position: LogPosition(r.num()?), durable: r.flag()? }
        }
        unknown => return Err(DecodeError::UnknownFact(unknown)),
    })
}

struct SectionReader<'a, 'b> {
    body: &'a mut Reader<'b>,
    state: &'a mut DecoderState,
}

impl SectionReader<'_, '_> {
    fn num(&mut self) -> Result<u64, DecodeError> {
        self.body.varint()
    }

    fn small(&mut self) -> Result<u32, DecodeError> {
        u32::try_from(self.num()?).map_err(|_| DecodeError::Malformed("number beyond 32 bits"))
    }

    fn flag(&mut self) -> Result<bool, DecodeError> {
        match self.body.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Malformed("flag")),
        }
    }

    fn reason<T>(&mut self, from: fn(u8) -> Option<T>) -> Result<T, DecodeError> {
        from(self.body.u8()?).ok_or(DecodeError::Malformed("unknown reason"))
    }

    fn name(&mut self) -> Result<Name, DecodeError> {
        let number = self.num()?;
        if number > 0 {
            let index = usize::try_from(number - 1).map_err(|_| DecodeError::Malformed("name number"))?;
            return self.state.names.get(index).cloned().ok_or(DecodeError::Malformed("unknown name number"));
        }
        let len = self.body.length(NAME_LEN_MAX)?;
        let text = std::str::from_utf8(self.body.bytes(len)?)
            .map_err(|_| DecodeError::Malformed("name not UTF-8"))?;
        if self.state.names.len() >= DICTIONARY_MAX * 2 {
            return Err(DecodeError::Malformed("too many names"));
        }
        let name: Name = text.into();
        self.state.names.push(name.clone());
        Ok(name)
    }

    fn queue_number(&mut self) -> Result<usize, DecodeError> {
        let number = self.num()?;
        if number > 0 {
            return self.known_queue(number - 1);
        }
        self.new_queue()
    }

    fn known_queue(&self, number: u64) -> Result<usize, DecodeError> {
        let index = usize::try_from(number).map_err(|_| DecodeError::Malformed("queue number"))?;
        if index >= self.state.queues.len() {
            Err(DecodeError::Malformed("unknown queue number"))
        } else {
            Ok(index)
        }
    }

    fn new_queue(&mut self) -> Result<usize, DecodeError> {
        let queue = QueueKey { topic: TopicIncarnation(self.num()?), queue_id: self.small()? };
        if self.state.queues.len() >= DICTIONARY_MAX * 2 {
            return Err(DecodeError::Malformed("too many queues"));
        }
        self.state.queues.push((queue, 0));
        Ok(self.state.queues.len() - 1)
    }

    fn queue(&mut self) -> Result<QueueKey, DecodeError> {
        let index = self.queue_number()?;
        self.state.queues.get(index).map(|(queue, _)| *queue).ok_or(DecodeError::Malformed("queue number"))
    }

    fn ranges(&mut self) -> Result<Ranges, DecodeError> {
        let count = self.body.length(self.body.remaining())?;
        let mut out = Ranges::new();
        let mut at = 0u64;
        for index in 0..count {
            let (gap, len) = (self.num()?, self.num()?);
            if len == 0 || (gap == 0 && index > 0) {
                return Err(DecodeError::Malformed("empty or touching range"));
            }
            let from = at.checked_add(gap).ok_or(DecodeError::Malformed("range"))?;
            at = from.checked_add(len).ok_or(DecodeError::Malformed("range"))?;
            out.insert(from, at);
        }
        Ok(out)
    }

    fn identity(&mut self) -> Result<MessageIdentity, DecodeError> {
        Ok(MessageIdentity { queue: self.queue()?, queue_offset: self.num()?, epoch_number: self.num()? })
    }

    fn incarnation(&mut self) -> Result<Incarnation, DecodeError> {
        let bytes = self.body.bytes(16)?;
        Ok(Incarnation(bytes.try_into().map_err(|_| DecodeError::Truncated)?))
    }

    fn ids(&mut self) -> Result<IdColumn, DecodeError> {
        let count = self.body.length(self.body.remaining())?;
        self.ids_of(count)
    }

    fn ids_of(&mut self, count: usize) -> Result<IdColumn, DecodeError> {
        let mut ids = IdColumn::new();
        for _ in 0..count {
            self.state.ids.decode(self.body, &mut ids)?;
        }
        Ok(ids)
    }

    fn stored(&mut self) -> Result<Stored, DecodeError> {
        let flags = self.body.u8()?;
        let run_count = self.body.length(self.body.remaining())?;
        let mut runs = Vec::with_capacity(run_count);
        let mut count = 0u64;
        for _ in 0..run_count {
            let run = self.stored_run(flags & COUNTS_ALL_ONE != 0)?;
            count = count.checked_add(run.count).ok_or(DecodeError::Malformed("message count"))?;
            runs.push(run);
        }
        let mut kinds = vec![(count, StoredKind::Produced)];
        if flags & ALL_PRODUCED == 0 {
            kinds.clear();
            let kind_count = self.body.length(self.body.remaining())?;
            for _ in 0..kind_count {
                kinds.push((self.num()?, self.stored_kind()?));
            }
            let total = kinds.iter().try_fold(0u64, |sum, (n, _)| sum.checked_add(*n));
            if total != Some(count) {
                return Err(DecodeError::Malformed("kinds do not add up"));
            }
        }
        let ids = if flags & WITH_IDS != 0 {
            let count = usize::try_from(count).ok().filter(|n| *n <= FRAME_MESSAGES_MAX);
            self.ids_of(count.ok_or(DecodeError::Malformed("too many ids"))?)?
        } else {
            IdColumn::new()
        };
        let log_end = self.state.log_end.wrapping_add(unzigzag(self.num()?) as u64);
        let store_wall_ms = self.state.now.wall_ms.wrapping_add(unzigzag(self.num()?) as u64);
        let first_ordinal = self.state.next_ordinal;
        self.state.log_end = log_end;
        self.state.next_ordinal =
            first_ordinal.checked_add(count).ok_or(DecodeError::Malformed("ordinal"))?;
        Ok(Stored { first_ordinal, log_end: LogPosition(log_end), store_wall_ms, runs, kinds, ids })
    }

    fn stored_run(&mut self, count_is_one: bool) -> Result<StoredRun, DecodeError> {
        let head = self.num()?;
        let (index, explicit) = match head.checked_sub(1) {
            None => (self.new_queue()?, true),
            Some(packed) => (self.known_queue(packed >> 1)?, packed & 1 != 0),
        };
        let given = if explicit { Some(self.num()?) } else { None };
        let count = if count_is_one { 1 } else { self.num()? };
        let (queue, next) = self.state.queues.get_mut(index).ok_or(DecodeError::Malformed("queue number"))?;
        let queue_offset = given.unwrap_or(*next);
        *next = queue_offset.checked_add(count).ok_or(DecodeError::Malformed("queue offset"))?;
        Ok(StoredRun { queue: *queue, queue_offset, count })
    }

    fn stored_kind(&mut self) -> Result<StoredKind, DecodeError> {
        Ok(match self.body.u8()? {
            0 => StoredKind::Produced,
            1 => StoredKind::ProducedOneWay,
            2 => StoredKind::Delayed { due_wall_ms: self.num()?, destination: self.name()? },
            3 => StoredKind::Half,
            4 => {
                let group = self.name()?;
                let reason = self.reason(CopyReason::from_u8)?;
                let parent = self.identity()?;
                let root = if self.flag()? { parent } else { self.identity()? };
                StoredKind::Copy {
                    group,
                    lineage: Lineage { parent, root, reason },
                    due_wall_ms: self.num()?,
                }
            }
            _ => return Err(DecodeError::Malformed("stored kind")),
        })
    }

    fn epoch(&mut self) -> Result<EpochStarted, DecodeError> {
        let epoch = Epoch { number: self.num()?, incarnation: self.incarnation()? };
        let broker_name = self.name()?;
        let log_start = LogPosition(self.num()?);
        let mut roster = Vec::new();
        for _ in 0..self.body.length(self.body.remaining())? {
            roster.push(self.name()?);
        }
        let mut settings = Vec::new();
        for _ in 0..self.body.length(self.body.remaining())? {
            settings.push((self.name()?, self.name()?));
        }
        Ok(EpochStarted { epoch, broker_name, log_start, roster, settings })
    }

    fn recovered(&mut self) -> Result<Recovered, DecodeError> {
        let mut out = Recovered {
            clean: self.flag()?,
            log_end: LogPosition(self.num()?),
            flushed: LogPosition(self.num()?),
            ..Default::default()
        };
        for _ in 0..self.body.length(self.body.remaining())? {
            out.queues.push((self.queue()?, self.num()?, self.num()?));
        }
        for _ in 0..self.body.length(self.body.remaining())? {
            out.bad.push((self.queue()?, self.ranges()?));
        }
        for _ in 0..self.body.length(self.body.remaining())? {
            out.closed.push((self.incarnation()?, self.num()?));
        }
        out.unnamed_max = self.num()?;
        Ok(out)
    }

    fn sent(&mut self) -> Result<SentReported, DecodeError> {
        Ok(SentReported {
            id: self.name()?,
            topic: self.name()?,
            outcome: self.reason(SendOutcome::from_u8)?,
            broker: self.name()?,
            queue_id: match self.small()?.checked_sub(1) {
                None => None,
                Some(id) => Some(id),
            },
            queue_offset: self.num()?.checked_sub(1),
            sent_wall_ms: self.num()?,
            reported_wall_ms: self.num()?,
        })
    }
}
