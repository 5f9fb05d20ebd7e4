//! The master's side of replication within the core: who follows, how far they are, and what that lets out. What a replica says
//! becomes a fact before anybody is answered because of it.

use super::Core;
use crate::api::{Answer, Refusal, ReplicaEvent};
use crate::config::{BrokerRole, ReplicaAck};
use crate::replication::followers::{Follower, FollowerError};
use lifecycle::clock::Now;
use lifecycle::fact::Fact;
use lifecycle::identity::{LogPosition, Name};

impl Core {
    pub(super) fn replica_event(&mut self, now: Now, event: ReplicaEvent) {
        match event {
            ReplicaEvent::Joined { reply, .. } if self.is_passive() => {
                self.answer(reply, Err(FollowerError::NoMaster))
            }
            ReplicaEvent::Joined { id, at, reply } => {
                let joined = self.followers.joined(&id, at);
                tracing::info!(replica = %id, at = at.0, ?joined, "a replica is connected");
                self.answer(reply, joined);
            }
            ReplicaEvent::Acked { id, sent, received, flushed } => {
                if let Err(error) = self.replica_acked(now, &id, sent, (received, flushed)) {
                    tracing::warn!(replica = %id, %error, "a replica's word is not taken");
                }
            }
            ReplicaEvent::Left { id } => {
                tracing::warn!(replica = %id, "a replica is gone");
                self.followers.left(&id);
            }
        }
    }

    fn replica_acked(
        &mut self,
        now: Now,
        id: &Name,
        sent: LogPosition,
        (received, flushed): (LogPosition, LogPosition),
    ) -> Result<(), FollowerError> {
        let before: Follower = self.followers.acked(id, sent, (received, flushed))?;
        if self.is_passive() {
            return Ok(()); // another epoch is to come: whether it will have these is not ours to say
        }
        // "received" is said by each chunk: where nobody waits for it, now and then is enough
        let waited_for = self.config.broker_role == BrokerRole::SyncMaster
            && self.config.replica_ack == ReplicaAck::Received;
        let aged = now.mono_ms >= self.replicated_stated_ms + self.config.journal_flush_interval_ms;
        if received > before.received && received > flushed && (waited_for || aged) {
            self.replicated_stated_ms = now.mono_ms;
            self.state(Fact::Replicated { replica: id.clone(), log_position: received, durable: false });
        }
        if flushed > before.flushed {
            self.state(Fact::Replicated { replica: id.clone(), log_position: flushed, durable: true });
        }
        self.replicas_confirmed();
        Ok(())
    }

    /// Whether enough members are in sync for a send to be taken at all.
    pub(super) fn check_replicas(&self) -> Answer<()> {
        let needed = self.config.min_in_sync_replicas;
        if needed <= 1 || self.config.broker_role != BrokerRole::SyncMaster {
            return Ok(());
        }
        let in_sync = self.followers.in_sync(self.log.end());
        if in_sync < needed as usize {
            return Err(Refusal::TooFewReplicas { in_sync, needed });
        }
        Ok(())
    }
}
