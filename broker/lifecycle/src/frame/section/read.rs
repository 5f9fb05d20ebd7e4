//! Reads the body of each kind of fact. The writing side is section/write.rs; the tags are in section.rs. Never panics:
//! whatever no encoder writes is a `DecodeError`.

use super::{ALL_PRODUCED, COUNTS_ALL_ONE, WITH_IDS, tag};
use crate::fact::*;
use crate::frame::{DICTIONARY_MAX, DecodeError, DecoderState, FRAME_MESSAGES_MAX, NAME_LEN_MAX};
use crate::identity::*;
use crate::ids::IdColumn;
use crate::ranges::Ranges;
use crate::varint::{Reader, unzigzag};

pub(in crate::frame) fn decode(
    tag: u64,
    body: &mut Reader<'_>,
    state: &mut DecoderState,
) -> Result<Fact, DecodeError> {
    let mut r = SectionReader { body, state };
    Ok(match tag {
        tag::STORED => Fact::Stored(r.stored()?),
        tag::FLUSHED => {
            let behind = unzigzag(r.num()?) as u64;
            Fact::Flushed { log_position: LogPosition(r.state.log_end.wrapping_sub(behind)) }
        }
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
        tag::RE_DRIVEN => Fact::ReDriven { queue: r.queue()?, epoch_number: r.num()?, ranges: r.ranges()? },
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
        tag::SCRUBBED => Fact::Scrubbed(r.scrubbed()?),
        tag::UNREADABLE => Fact::Unreadable { group: r.name()?, queue: r.queue()?, ranges: r.ranges()? },
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

    fn scrubbed(&mut self) -> Result<Scrubbed, DecodeError> {
        let mut out = Scrubbed {
            member: self.name()?,
            from: LogPosition(self.num()?),
            to: LogPosition(self.num()?),
            round_wall_ms: self.num()?,
            ends_round: self.flag()?,
            damaged: self.ranges()?,
            ..Default::default()
        };
        for _ in 0..self.body.length(self.body.remaining())? {
            out.bad.push((self.queue()?, self.ranges()?));
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
            queue_id: self.small()?.checked_sub(1),
            queue_offset: self.num()?.checked_sub(1),
            sent_wall_ms: self.num()?,
            reported_wall_ms: self.num()?,
        })
    }
}
