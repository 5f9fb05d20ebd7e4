//! Owns sending again what a fail-over took: a record that was cut off the old master's log is stored here under its own id, once. Its
//! lineage says what it replaces, so the journal, every replica and every later master know that it was done.

use super::Core;
use super::append::lineage_of;
use super::sendback::Copy;
use crate::api::{Answer, REINJECT_MAX, Refusal, ReinjectMessages, Reinjected, ReplyFn};
use crate::replication::epochs::{EpochRow, LogView, common_position};
use crate::state::{SCHEDULE_TOPIC, Topic};
use lifecycle::clock::Now;
use lifecycle::identity::{CopyReason, MessageIdentity, Name, QueueKey};
use store::commit_log::epoch_at;
use store::commit_log::survivor::SurvivingRecord;
use wire::message::StoredMessage;
use wire::properties::{self, PropertiesBuf};

/// Pieces in which the state may keep what was sent again, before the last request; neighbours in a queue are one.
const RE_DRIVEN_RUNS_MAX: usize = 65_536;

/// One record's way.
enum Step {
    /// Laid down, for this topic.
    Laid(Name),
    Over(Reinjected),
}

impl Core {
    /// Stores what was lost and is not here yet. Answers one outcome a record, when all that was stored is as durable as promised; a
    /// request that cannot be kept whole is refused whole.
    pub(super) fn reinject(
        &mut self,
        now: Now,
        request: ReinjectMessages,
        reply: ReplyFn<Answer<Vec<Reinjected>>>,
    ) {
        // what an earlier request of this turn has laid down must count
        self.commit_appends(now);
        let first = self.pending_count();
        let steps = match self.reinject_all(now, &request) {
            Ok(steps) => steps,
            Err(refusal) => {
                self.take_back(first);
                return self.answer(reply, Err(refusal));
            }
        };
        if self.pending_count() == first {
            return self.answer(reply, Ok(steps.into_iter().filter_map(Step::said).collect()));
        }
        self.when_stored(first, move |core, _, outcome| match outcome {
            Ok(records) => {
                core.touch_new(records);
                let mut stored = records.iter();
                let outcomes = steps.into_iter().filter_map(|step| match step {
                    Step::Laid(topic) => stored.next().map(|record| Reinjected::Stored {
                        topic: topic.to_string(),
                        queue: record.told_queue_id,
                        offset: record.queue_offset,
                    }),
                    Step::Over(outcome) => Some(outcome),
                });
                let outcomes = outcomes.collect();
                let log_end = records.last().map(|record| record.log_end()).unwrap_or_default();
                core.answer_when_durable(log_end, reply, Ok(outcomes));
            }
            Err(refusal) => core.answer(reply, Err(refusal.clone())),
        });
    }

    fn reinject_all(&mut self, now: Now, request: &ReinjectMessages) -> Answer<Vec<Step>> {
        if request.records.len() > REINJECT_MAX {
            return Err(Refusal::BadParameter(format!("a request carries at most {REINJECT_MAX} messages")));
        }
        self.check_writable()?;
        if self.state.re_driven_runs() >= RE_DRIVEN_RUNS_MAX {
            return Err(Refusal::NotAvailable(format!(
                "{RE_DRIVEN_RUNS_MAX} pieces of queues were sent again: no more can be remembered"
            )));
        }
        let rising = |pair: &[SurvivingRecord]| matches!(pair, [a, b] if a.position < b.position);
        if !request.records.windows(2).all(rising) {
            return Err(Refusal::BadParameter("messages are not in the order of their log".into()));
        }
        let end = request.records.last().map(|record| record.record.commitlog_offset).unwrap_or_default();
        let theirs = LogView { epochs: request.epochs.clone(), end };
        let mine = LogView { epochs: self.log.epochs().to_vec(), end: self.log.end() };
        // a master of an older epoch, or of another group, is not the one to give them to
        common_position(&mine, &theirs).map_err(|error| Refusal::BadParameter(error.to_string()))?;
        let each = request.records.iter();
        each.map(|record| self.reinject_one(now, (record, &request.epochs), request.dry_run)).collect()
    }

    fn reinject_one(
        &mut self,
        now: Now,
        (lost, epochs): (&SurvivingRecord, &[EpochRow]),
        dry_run: bool,
    ) -> Answer<Step> {
        let over = |outcome| Ok(Step::Over(outcome));
        let same_epoch = epoch_at(self.log.epochs(), lost.position) == epoch_at(epochs, lost.position);
        if same_epoch && lost.position < self.log.end() {
            return over(Reinjected::NotLost);
        }
        if lost.record.lineage.is_some() {
            return over(Reinjected::Copy);
        }
        let Ok((message, _)) = StoredMessage::decode(&lost.record.record) else {
            return over(Reinjected::Refused { why: "the record cannot be read".into() });
        };
        let queue = QueueKey { topic: lost.record.topic, queue_id: message.queue_id as u32 };
        let parent = MessageIdentity {
            queue,
            queue_offset: message.queue_offset,
            epoch_number: lost.record.epoch_number,
        };
        if self.state.is_re_driven(parent) {
            return over(Reinjected::AlreadyStored);
        }
        let waits = message.topic == SCHEDULE_TOPIC;
        let name = if waits { message.properties.get(properties::REAL_TOPIC) } else { Some(message.topic) };
        let name = name.unwrap_or_default();
        let Some(topic) = self.topic_of_lost(name, queue) else {
            return over(Reinjected::NoTopic { topic: name.to_owned() });
        };
        if dry_run {
            return over(Reinjected::WouldStore);
        }
        let number = |property| message.properties.get(property).and_then(|text| text.parse::<u64>().ok());
        let copy = Copy {
            group: "".into(),
            lineage: lineage_of(parent, None, CopyReason::ReDrive),
            logged: lost.record.clone(),
            queue_id: if waits { number(properties::REAL_QID).unwrap_or(0) as u32 } else { queue.queue_id },
            properties: PropertiesBuf::new(message.properties.0),
            reconsume_times: message.reconsume_times,
            due: match waits {
                // its time may be over: then it is delivered at once
                true => (
                    number(properties::TIMER_OUT_MS).unwrap_or(now.wall_ms).max(1),
                    number(properties::DELAY).unwrap_or(0) as usize,
                ),
                false => (0, 0),
            },
            topic,
        };
        let name = copy.topic.config.name.clone();
        match self.lay_down_copy(now, copy) {
            Ok(()) => Ok(Step::Laid(name)),
            Err(Refusal::MessageIllegal(why)) => over(Reinjected::Refused { why }),
            Err(refusal) => Err(refusal),
        }
    }

    /// The topic a lost message belongs to: the same one, or where the epoch that lost had made it, the one of this name.
    fn topic_of_lost(&self, name: &str, queue: QueueKey) -> Option<Topic> {
        let same = self.state.topic_of(queue.topic).filter(|topic| &*topic.config.name == name);
        same.or_else(|| self.state.topic(name)).cloned()
    }
}

impl Step {
    fn said(self) -> Option<Reinjected> {
        match self {
            Step::Over(outcome) => Some(outcome),
            Step::Laid(_) => None,
        }
    }
}
