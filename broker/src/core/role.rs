//! A core's part in its replica group: what other members see of it, what it has promised them, and what it refuses when it is not,
//! or no longer, the one that takes writes.

use super::{Core, CoreParts};
use crate::api::{Refusal, Request};
use crate::config::BrokerRole;
use crate::replication::copy::{ReplicaCopy, last_frames};
use crate::replication::epochs::LogView;
use crate::replication::frame::Standing;
use crate::replication::mastership::Part;
use crate::replication::{Head, Progress};
use lifecycle::identity::{Incarnation, LogPosition, Name, QueueKey};
use lifecycle::position::Position;
use store::error::{ErrorKind, Result as StoreResult, StoreError};
use store::journal::JournalView;

impl Core {
    /// Whether this member follows, or has to.
    pub(super) fn is_passive(&self) -> bool {
        self.following.is_some() || self.is_fenced()
    }

    /// Another member opens, or has opened, a later epoch: nothing more is taken or confirmed.
    fn is_fenced(&self) -> bool {
        self.promised > self.state.epoch.number && self.following.is_none()
    }

    /// How this member stands.
    pub fn standing(&self) -> Standing {
        Standing {
            is_master: !self.is_passive(),
            promised: self.promised,
            log: self.log_view(),
            journal: self
                .replicated_journal()
                .map_or(Position { incarnation: Incarnation::NONE, sequence: 0 }, |view| {
                    last_frames(&view).into_iter().rfind(|at| at.sequence > 0).unwrap_or_default()
                }),
        }
    }

    /// Promises to follow no master whose epoch is below `number`; false when that, or more, was promised before. The caller keeps the
    /// promise on disk before anybody hears it.
    pub fn promise(&mut self, number: u64) -> bool {
        let newest = self.log.epochs().last().map_or(0, |(epoch, _)| epoch.number);
        if number <= self.promised || number <= newest {
            return false;
        }
        self.promised = number;
        true
    }

    /// The journal that replicas copy; `None` while a replica has none.
    pub fn replicated_journal(&self) -> Option<JournalView> {
        match &self.following {
            Some(following) => following.copy.journal_view(),
            None => Some(self.trace.view()),
        }
    }

    /// Whether this core follows a master, or waits for one.
    pub fn is_slave(&self) -> bool {
        self.following.is_some()
    }

    /// The last epoch in force here.
    pub fn epoch_number(&self) -> u64 {
        self.state.epoch.number
    }

    /// The log as other members see it.
    pub fn log_view(&self) -> LogView {
        LogView { epochs: self.log.epochs().to_vec(), end: self.log.end() }
    }

    /// First byte of the log.
    pub fn log_start(&self) -> LogPosition {
        self.log.start()
    }

    /// Where the log's files are.
    pub fn log_segments(&self) -> &store::segment::SegmentConfig {
        self.log.segment_config()
    }

    /// What a master's streams may send; `None` while the journal cannot be written, since the log is then ahead of it.
    pub fn replication_head(&self) -> Option<Head> {
        let end = self.log.end();
        let journal = match &self.following {
            Some(following) => following.copy.journal_position(),
            None => self.trace.position(),
        };
        let readable = self.durable_to().min(end);
        (!self.flush.journal_blocked).then_some(Head { start: self.log.start(), end, readable, journal })
    }

    /// How far this replica is.
    pub fn replica_progress(&self) -> Progress {
        Progress { received: self.log.end(), flushed: self.flush.log_flushed_to().min(self.log.end()) }
    }

    /// Where a group goes on that speaks of `offset`, when it can know that only from a master whose epoch lost: it was given nothing
    /// so high here. Without this it would pass over what is stored now at offsets that it has read there. Holds as long as this
    /// process plays its part; of whoever comes later the agent tells (offset-reused).
    pub(super) fn stale_offset(&self, group: &Name, queue: QueueKey, offset: u64) -> Option<u64> {
        let common_end = *self.common_ends.get(&queue)?;
        let at = self.state.group(group)?.queues.get(&queue)?;
        (offset > common_end && offset > at.next && at.position <= common_end).then_some(common_end)
    }

    /// A SLAVE refuses what only a master may do; answers what is left to be done.
    pub(super) fn refuse_on_slave(&mut self, request: Request) -> Option<Request> {
        let refusal = || Refusal::NotAvailable("this broker is a SLAVE: ask its master".into());
        match request {
            Request::Receive(_, reply) => self.answer(reply, Err(refusal())),
            Request::Ack(acks, reply) => {
                let answers = acks.handles.iter().map(|_| Err(refusal())).collect();
                self.answer(reply, answers);
            }
            Request::ChangeInvisible(_, reply) => self.answer(reply, Err(refusal())),
            Request::ForwardToDeadLetter(_, reply) => self.answer(reply, Err(refusal())),
            Request::SendBack(_, reply) => self.answer(reply, Err(refusal())),
            Request::Reinject(_, reply) => self.answer(reply, Err(refusal())),
            Request::UpdateOffset(_, reply) => self.answer(reply, Err(refusal())),
            Request::ConfigureTopic(_, reply) => self.answer(reply, Err(refusal())),
            Request::LockQueues(_, reply) => self.answer(reply, Vec::new()),
            // membership is the master's to know: members say the same to it
            Request::Heartbeat(_, reply) => self.answer(reply, Ok(())),
            other => return Some(other),
        }
        None
    }

    /// A replica's folder becomes a master's by a promotion, not by another role in the settings.
    pub(super) fn check_role(parts: &CoreParts) -> StoreResult<()> {
        parts.disk.create_dir_all(&parts.dir)?;
        let was_replica = ReplicaCopy::is_in(parts.disk.as_ref(), &parts.dir)?;
        let promoted = parts.mandate.is_some_and(|mandate| mandate.part == Part::Master);
        if was_replica && !promoted && parts.config.broker_role != BrokerRole::Slave {
            let kind = ErrorKind::Corrupt("a replica's folder: `losstrace promote` makes it a master's");
            return Err(StoreError::new(store::error::Op::Open, &parts.dir, 0, kind));
        }
        Ok(())
    }
}
