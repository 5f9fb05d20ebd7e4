//! Delayed messages and retries whose time has come: each is copied to where it belongs; the stored copy ends the wait. A copy
//! that fails waits on.

use super::Core;
use super::append::lineage_of;
use super::sendback::Copy;
use super::topics::PERM_READ_WRITE;
use crate::api::{Answer, Refusal};
use lifecycle::clock::Now;
use lifecycle::fact::Fact;
use lifecycle::identity::{CopyReason, MessageIdentity, Name, QueueKey};
use store::commit_log::LoggedRecord;
use wire::message::StoredMessage;
use wire::properties::{self, PropertiesBuf};

/// Most messages that come due in one turn: the rest in the next.
pub(crate) const DUE_PER_TURN_MAX: usize = 256;
/// Pause after a copy failed, ms.
const COPY_RETRY_MS: u64 = 1_000;

impl Core {
    pub(super) fn timers_due(&mut self, now: Now) {
        if self.check_writable().is_err() {
            return;
        }
        let due: Vec<(QueueKey, u64)> = self
            .state
            .timers()
            .due_at(now.wall_ms)
            // a message that is not readable yet is not delivered either
            .filter(|(queue, offset)| *offset < self.flush.readable_end(*queue, u64::MAX))
            .take(DUE_PER_TURN_MAX)
            .collect();
        for (queue, offset) in due {
            self.deliver_due(now, queue, offset);
        }
    }

    fn deliver_due(&mut self, now: Now, queue: QueueKey, offset: u64) {
        let found = self.record_at(queue, offset).map_err(|error| self.read_failed(error));
        let first = self.pending_count();
        let parent = |epoch_number| MessageIdentity { queue, queue_offset: offset, epoch_number };
        let outcome = match found {
            Ok(Some(logged)) => {
                let parent = parent(logged.epoch_number);
                self.prepare_due(logged, parent).and_then(|copy| self.lay_down_copy(now, copy))
            }
            Ok(None) => Err(Refusal::MessageNotFound),
            Err(refusal) => Err(refusal),
        };
        match outcome {
            Ok(()) => self.when_stored(first, move |core, _, outcome| match outcome {
                Ok(records) => core.touch_new(records),
                Err(refusal) => tracing::warn!(%refusal, "a delayed message could not be delivered yet"),
            }),
            Err(refusal) => {
                self.take_back(first);
                // gone for good: the fact ends the wait, and the agent knows of the loss
                let error = refusal.to_string().into();
                let reason = CopyReason::Due;
                self.state(Fact::CopyFailed { group: "".into(), parent: parent(0), reason, error });
            }
        }
    }

    fn prepare_due(&mut self, logged: LoggedRecord, parent: MessageIdentity) -> Answer<Copy> {
        let (message, _) = StoredMessage::decode(&logged.record)
            .map_err(|error| Refusal::StorageFailed(error.to_string()))?;
        let broken = || Refusal::StorageFailed("delayed message does not say where it belongs".into());
        let real: Name = message.properties.get(properties::REAL_TOPIC).ok_or_else(broken)?.into();
        let queue_id =
            message.properties.get(properties::REAL_QID).and_then(|id| id.parse().ok()).unwrap_or(0);
        let group: Name = real.strip_prefix(crate::state::RETRY_PREFIX).unwrap_or_default().into();
        let topic = self.own_topic(&real, queue_id + 1, PERM_READ_WRITE)?;
        let mut properties = PropertiesBuf::new(message.properties.0);
        if message.properties.get(properties::DELAY).is_some() {
            // ours, to know when a level's delay is over; RocketMQ delivers such messages without it
            properties.remove(properties::TIMER_OUT_MS);
        }
        let lineage = lineage_of(parent, logged.lineage, CopyReason::Due);
        let reconsume_times = message.reconsume_times;
        let logged = logged.clone();
        Ok(Copy { group, lineage, logged, topic, queue_id, properties, reconsume_times, due: (0, 0) })
    }

    /// When a failed delivery is tried again; keeps a full disk from turning into a busy loop.
    pub(super) fn next_timer_ms(&self, now: Now) -> Option<u64> {
        let due = self.state.timers().next_due_ms()?;
        let wait = due.saturating_sub(now.wall_ms);
        Some(now.mono_ms + if wait == 0 && self.check_writable().is_err() { COPY_RETRY_MS } else { wait })
    }
}
