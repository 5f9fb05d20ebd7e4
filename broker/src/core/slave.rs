//! A SLAVE's core: takes what its master sends, keeps log, journal and state the same as the master's, and serves reads. What it does
//! itself (hands out, refuses, flushes) it states in a journal of its own and never folds: its state is the master's facts alone.

use super::append::{index_keys, tag_hash};
use super::flush::FlushState;
use super::recovery::{Fold, Found, RecoveryReport, Replayed, due_of};
use super::snapshot::{self, Snapshot};
use super::{Core, CoreParts};
use crate::api::{Answer, FromMaster, Refusal, ReplyFn};
use crate::replication::copy::{ReplicaCopy, SnapshotPlace, WelcomeError};
use crate::replication::epochs::EpochRow;
use crate::replication::frame::{Hello, JournalFrame, Welcome};
use crate::state::SCHEDULE_TOPIC;
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::fact::Fact;
use lifecycle::frame::FrameDecoder;
use lifecycle::identity::{Incarnation, LogPosition, QueueKey};
use store::checkpoint::Checkpoint;
use store::commit_log::LoggedRecord;
use store::commit_log::copy::CopyError;
use store::consume_queue::Unit;
use store::error::{Result as StoreResult, StoreError};
use store::folder::Folder;
use store::index::{IndexConfig, KeyIndex};
use store::journal::{Journal, JournalConfig, JournalItem, JournalView};
use wire::message::StoredMessage;

/// Log bytes dispatched at once: bounds what is held in memory.
const DISPATCH_BYTES: u64 = 4 * 1024 * 1024;

/// What a core has as a SLAVE.
pub(super) struct Following {
    pub(super) copy: ReplicaCopy,
    decoder: FrameDecoder,
    run: Incarnation,
    /// Below this, consume queues and index have every record.
    dispatched: LogPosition,
    /// Consumers may read below.
    readable: LogPosition,
    /// The master waits for our disk.
    pub(super) flush_at_once: bool,
    /// The epoch of the master it follows, and whether it only takes a copy from somebody.
    master_epoch: u64,
    copies: bool,
    /// Journal frames wait for a sync since then.
    pub(super) unsynced_since_ms: Option<u64>,
}

impl Following {
    /// The copied journal's files that wait for a sync.
    pub(super) fn take_copy_sync(&mut self) -> Vec<std::sync::Arc<dyn store::disk::DiskFile>> {
        self.unsynced_since_ms = None;
        self.copy.take_sync_batch().map(|batch| batch.files).unwrap_or_default()
    }
}

impl Core {
    /// Opens or creates a replica's folder.
    pub(super) fn open_slave(parts: CoreParts, now: Now) -> StoreResult<(Core, RecoveryReport)> {
        let disk = parts.disk.clone();
        let folder = Folder::open(disk.as_ref(), &parts.dir, "broker")?;
        let (checkpoint, saved, _) = Checkpoint::open(disk.as_ref(), &parts.dir, "snapshot")?;
        let snapshot = snapshot::read(saved.as_ref(), &parts.dir)?;
        let was_master = match parts.mandate {
            Some(mandate) => mandate.wrote_last,
            None => !ReplicaCopy::is_in(disk.as_ref(), &parts.dir)?,
        };
        let (copy, accepted) = ReplicaCopy::open(disk.clone(), &parts.dir)?;
        let own = JournalConfig::new(parts.dir.join("replica-journal"));
        let (own, _) = Journal::open(disk, own, parts.incarnation, now.wall_ms)?;
        let Fold { state, decoder, holes } = fold_copy(&copy, snapshot.as_ref())?;
        // a master says in its journal what it flushed, a replica in the one of its own
        let flushed = if was_master { state.flushed } else { flushed_before(&own.view())? };
        let epochs = newer_table(accepted, &state.epochs);
        let replayed = Replayed { state, epochs, holes, ..Default::default() };
        let mut core = Self::assemble(parts, folder, checkpoint, own, &replayed, now)?;
        let report = core.recover_copy(now, replayed, (copy, decoder), flushed)?;
        Ok((core, report))
    }

    fn recover_copy(
        &mut self,
        now: Now,
        replayed: Replayed,
        (copy, decoder): (ReplicaCopy, FrameDecoder),
        flushed: LogPosition,
    ) -> StoreResult<RecoveryReport> {
        let readable = replayed.state.flushed;
        self.state = replayed.state;
        let known = self.state.log_end;
        let Found { scan, bad, .. } = self.scan_copied(known, flushed)?;
        let run = copy.journal_position().incarnation;
        let dispatched = known.min(self.log.end());
        self.flush = FlushState::new(LogPosition(0), now);
        self.scrub.cut(scan.end);
        let (flush_at_once, unsynced_since_ms) = (false, None);
        self.following = Some(Following {
            copy,
            decoder,
            run,
            dispatched,
            readable,
            flush_at_once,
            master_epoch: 0,
            copies: false,
            unsynced_since_ms,
        });
        self.damaged_at_start(&scan.damaged, bad.into_iter().collect());
        // what the last process wrote counts as received: it is made durable before it is said
        self.log.mark_dirty_from(LogPosition(0));
        self.flush.unflushed_messages = 1;
        self.flush_everything()?;
        self.trace.end_turn(now)?;
        // the next start knows by this what is on this disk
        self.flush_everything()?;
        Ok(RecoveryReport { clean: scan.torn_bytes == 0, scan, ..Default::default() })
    }

    /// How a replica introduces itself; `None` on a master.
    pub fn replica_hello(&self) -> Option<Hello> {
        let following = self.following.as_ref()?;
        Some(Hello {
            broker_name: self.config.broker_name.clone(),
            replica_id: self.config.replica_id.clone(),
            segment_bytes: self.config.segment_bytes,
            copies: false,
            log: self.log_view(),
            runs: following.copy.runs(),
        })
    }

    /// Whether consumers can be served: the log must have what the journal speaks of.
    pub(super) fn check_readable(&self) -> Answer<()> {
        if self.following.is_some() && self.state.log_end > self.log.end() {
            return Err(Refusal::NotAvailable("this replica is catching up".into()));
        }
        Ok(())
    }

    pub(super) fn master_sent(&mut self, now: Now, messages: Vec<FromMaster>, reply: ReplyFn<Answer<()>>) {
        let outcome = messages.into_iter().try_for_each(|message| match message {
            FromMaster::Welcome { welcome, copies } => self.welcome(&welcome, copies),
            FromMaster::Log { position, readable, bytes } => self.take_log(position, readable, &bytes),
            FromMaster::Frames { run, frames } => self.take_frames(now, run, &frames),
            FromMaster::Heartbeat { start, readable } => self.take_heartbeat(start, readable),
        });
        let answer = outcome.map_err(|error| match error {
            CopyError::Store(error) => {
                let refusal = Refusal::StorageFailed(error.to_string());
                if error.is_fatal() {
                    self.stop(error);
                }
                refusal
            }
            other => Refusal::BadParameter(other.to_string()),
        });
        self.answer(reply, answer);
    }

    fn welcome(&mut self, welcome: &Welcome, copies: bool) -> Result<(), CopyError> {
        let newest = welcome.log.epochs.last().map_or(0, |(epoch, _)| epoch.number);
        if newest < self.promised && !copies {
            let promised = self.promised;
            return Err(CopyError::Refused(format!(
                "the master's epoch is {newest}, {promised} is promised"
            )));
        }
        let (mut checkpoint, saved, _) = Checkpoint::open(self.disk.as_ref(), &self.folder.path, "snapshot")?;
        let at = snapshot::read(saved.as_ref(), &self.folder.path)?.map(|s| (s.position, s.log_end));
        let mut forget = || checkpoint.save(&[]).map(drop);
        let Some(following) = &mut self.following else { return Ok(()) };
        let place = SnapshotPlace { at, forget: &mut forget };
        let cut = match following.copy.welcome(&mut self.log, welcome, place) {
            Ok(cut) => cut,
            Err(WelcomeError::Store(error)) => {
                // cut half-way: log, journal and epochs may no longer fit each other here; a restart reads what is there
                self.stop(error.clone());
                return Err(CopyError::Store(error));
            }
            Err(other) => return Err(CopyError::Refused(other.to_string())),
        };
        // what is being read may have been cut, or the log begun elsewhere
        self.scrub.cut(welcome.start.min(self.log.end()));
        following.flush_at_once = welcome.waits_for_disk;
        (following.master_epoch, following.copies) = (newest, copies);
        if let Some(survivor) = cut.survivor {
            tracing::error!(
                from = welcome.start.0,
                survivor = %survivor.display(),
                "the end of this log belonged to an epoch that lost: it is cut, and kept as a file"
            );
            self.forget_above(welcome.start)?;
        }
        if cut.journal {
            self.fold_again()?;
        }
        Ok(())
    }

    /// Journal frames were cut: the state is folded anew from those that are left.
    fn fold_again(&mut self) -> Result<(), CopyError> {
        let (_, saved, _) = Checkpoint::open(self.disk.as_ref(), &self.folder.path, "snapshot")?;
        let snapshot = snapshot::read(saved.as_ref(), &self.folder.path)?;
        let Some(following) = &mut self.following else { return Ok(()) };
        let Fold { state, decoder, .. } = fold_copy(&following.copy, snapshot.as_ref())?;
        following.run = following.copy.journal_position().incarnation;
        (self.state, following.decoder) = (state, decoder);
        Ok(())
    }

    /// The log was cut: whatever was derived from what lay above is void.
    fn forget_above(&mut self, cut: LogPosition) -> Result<(), CopyError> {
        let all: Vec<_> = self.queues.list().map(|(_, _, index)| index).collect();
        for index in all {
            let offset = self.queues.first_at_or_above(index, cut.0)?;
            if offset < self.queues.max_offset(index) {
                self.queues.truncate(index, offset)?;
            }
        }
        let config = IndexConfig::new(self.folder.path.join("index"));
        let (index, missing) = KeyIndex::open(self.disk.clone(), config, self.log.start().0..cut.0)?;
        self.index = index;
        let from = missing.first().map_or(cut.0, |range| range.start);
        self.index.start_at(from);
        self.flush.cut(cut);
        self.trace.note(Fact::Flushed { log_position: cut });
        if let Some(following) = &mut self.following {
            following.dispatched = following.dispatched.min(cut);
            following.readable = following.readable.min(cut);
        }
        self.index_again(LogPosition(from), cut)?;
        Ok(())
    }

    fn index_again(&mut self, from: LogPosition, to: LogPosition) -> StoreResult<()> {
        let mut at = from;
        while at < to {
            let step = to.min(LogPosition(at.0 + DISPATCH_BYTES));
            let (log, index) = (&self.log, &mut self.index);
            at = log.walk(at, step, |logged| {
                if let Ok((message, len)) = StoredMessage::decode(&logged.record) {
                    for key in index_keys(message.topic, message.properties.known()) {
                        index.insert(key, logged.commitlog_offset.0);
                    }
                    index.advance(logged.commitlog_offset.0 + len as u64);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Takes nothing more from a master that a later epoch was promised against.
    fn check_master(&self) -> Result<(), CopyError> {
        match self.following.as_ref().is_some_and(|f| f.master_epoch < self.promised && !f.copies) {
            true => Err(CopyError::Refused(format!("epoch {} is promised to another master", self.promised))),
            false => Ok(()),
        }
    }

    fn take_log(
        &mut self,
        position: LogPosition,
        readable: LogPosition,
        bytes: &Bytes,
    ) -> Result<(), CopyError> {
        self.check_master()?;
        self.log.append_copied(position, bytes)?;
        self.flush.unflushed_messages += 1;
        // the frames that speak of it follow; they may also have come before a power cut
        self.dispatch_copied()?;
        self.show_to(readable);
        Ok(())
    }

    fn take_frames(&mut self, now: Now, run: Incarnation, frames: &[JournalFrame]) -> Result<(), CopyError> {
        self.check_master()?;
        let Some(following) = &mut self.following else { return Ok(()) };
        if let Err(error) = following.copy.append_frames(run, frames) {
            // state and copy would part: a restart reads what is there, and the rest comes again
            self.stop(error.clone());
            return Err(error.into());
        }
        following.unsynced_since_ms.get_or_insert(now.mono_ms);
        if following.run != run {
            following.run = run;
            following.decoder = FrameDecoder::new();
        }
        for frame in frames {
            // a frame that the master could not read either would have ended the stream there
            let decoded = following.decoder.decode(&frame.payload);
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(error) => {
                    tracing::error!(%error, %run, sequence = frame.sequence, "a copied journal frame cannot be read");
                    let damaged = StoreError::corrupt(&self.folder.path, 0, "copied journal frame");
                    self.stop(damaged.clone());
                    return Err(damaged.into());
                }
            };
            decoded.facts.iter().for_each(|fact| self.state.apply(fact));
        }
        self.dispatch_copied()?;
        let readable = self.following.as_ref().map_or(LogPosition(0), |following| following.readable);
        self.show_to(readable);
        Ok(())
    }

    fn take_heartbeat(&mut self, start: LogPosition, readable: LogPosition) -> Result<(), CopyError> {
        self.show_to(readable);
        // whole segments that the master has let go, once its journal has said so
        let gone = self.log.segments().nth(1).is_some_and(|(second, _)| second <= start);
        if gone && self.state.log_end >= start {
            let first = self.log.remove_before(start)?;
            let bounds: Vec<_> = self.state.queues().collect();
            for (queue, bounds) in bounds {
                let index = self.queue_index(queue)?;
                let to = bounds.min_offset.min(self.queues.max_offset(index));
                self.queues.remove_below(index, to)?;
            }
            self.index.remove_before(first.0)?;
        }
        Ok(())
    }

    /// Consumers may read below `readable`, as far as it is here.
    fn show_to(&mut self, readable: LogPosition) {
        if let Some(following) = &mut self.following {
            following.readable = following.readable.max(readable);
        }
        self.show_durable();
    }

    /// Below this, a SLAVE's consume queues have every record; `None` on a master, where nothing lies between.
    pub(super) fn dispatched_to(&self) -> Option<LogPosition> {
        self.following.as_ref().map(|following| following.dispatched)
    }

    /// Up to where a SLAVE lets consumers read; `None` on a master.
    pub(super) fn followed_to(&self) -> Option<LogPosition> {
        self.following.as_ref().map(|following| following.readable)
    }

    /// Puts records into queues and index once their facts are known: before that, their topic may not be.
    fn dispatch_copied(&mut self) -> StoreResult<()> {
        let to = self.state.log_end.min(self.log.end());
        while let Some(at) = self.following.as_ref().map(|f| f.dispatched).filter(|at| *at < to) {
            let mut records = Vec::new();
            let step = to.min(LogPosition(at.0 + DISPATCH_BYTES));
            let reached = self.log.walk(at, step, |logged| {
                records.push(logged);
                Ok(())
            })?;
            for logged in records {
                self.dispatch_record(&logged)?;
            }
            if let Some(following) = &mut self.following {
                following.dispatched = reached;
            }
        }
        Ok(())
    }

    fn dispatch_record(&mut self, logged: &LoggedRecord) -> StoreResult<()> {
        let Ok((message, len)) = StoredMessage::decode(&logged.record) else { return Ok(()) };
        let queue = QueueKey { topic: logged.topic, queue_id: message.queue_id as u32 };
        let (offset, index) = (message.queue_offset, self.queue_index(queue)?);
        let end = self.queues.max_offset(index);
        if offset < end {
            return Ok(());
        }
        for damaged in end..offset {
            if end > 0 {
                // keeps its place in the queue, and names no record
                let unit = Unit { commitlog_offset: logged.commitlog_offset.0 - 1, size: 1, tag_hash: 0 };
                self.queues.append(index, damaged, unit)?;
            }
        }
        let known = message.properties.known();
        let waits =
            self.state.topic_of(queue.topic).is_some_and(|t| t.config.name.as_ref() == SCHEDULE_TOPIC);
        let tag_hash = if waits { due_of(&message) as i64 } else { tag_hash(known) };
        let unit = Unit { commitlog_offset: logged.commitlog_offset.0, size: len as u32, tag_hash };
        let record_end = LogPosition(logged.commitlog_offset.0 + len as u64);
        // after a cut the index is made again from all of the log, also where the frames that speak of it are still to come
        let is_indexed = record_end.0 <= self.index.indexed_to();
        let keys: Vec<u64> = if is_indexed { Vec::new() } else { index_keys(message.topic, known).collect() };
        self.dispatch(queue, offset, unit, &keys)?;
        if !is_indexed {
            self.index.advance(record_end.0);
        }
        if self.followed_to().is_some_and(|readable| record_end > readable) {
            self.hide(queue, offset, record_end);
        }
        self.waiting.touch(queue);
        Ok(())
    }

    /// When the copied journal must be synced.
    pub(super) fn copy_sync_due_ms(&self) -> Option<u64> {
        let since = self.following.as_ref()?.unsynced_since_ms?;
        Some(since + self.config.journal_flush_interval_ms)
    }
}

/// What a copy's frames come to, from the snapshot of a time when this folder was a master's on.
fn fold_copy(copy: &ReplicaCopy, snapshot: Option<&Snapshot>) -> StoreResult<Fold> {
    let mut fold = Fold::default();
    for fact in snapshot.iter().flat_map(|snapshot| &snapshot.facts) {
        fold.state.apply(fact);
    }
    if let Some(view) = copy.journal_view() {
        fold.read(&view, snapshot.map(|snapshot| snapshot.position), Incarnation::NONE)?;
    }
    Ok(fold)
}

/// Who owns the log: what was accepted of a master, or, where this member was master since, what its journal says.
pub(super) fn newer_table(accepted: Vec<EpochRow>, stated: &[EpochRow]) -> Vec<EpochRow> {
    let newest = |table: &[EpochRow]| table.last().map_or(0, |(epoch, _)| epoch.number);
    if newest(&accepted) >= newest(stated) { accepted } else { stated.to_vec() }
}

/// Up to where the last process knew its log to be on disk.
fn flushed_before(own: &JournalView) -> StoreResult<LogPosition> {
    let mut reader = own.read_all()?;
    let (mut decoder, mut flushed) = (FrameDecoder::new(), LogPosition(0));
    while let Some(item) = reader.next()? {
        match item {
            JournalItem::Frame { payload, .. } => {
                for fact in decoder.decode(payload).map(|frame| frame.facts).unwrap_or_default() {
                    if let Fact::Flushed { log_position } = fact {
                        flushed = log_position;
                    }
                }
            }
            JournalItem::Hole { .. } | JournalItem::Closed { .. } => decoder = FrameDecoder::new(),
        }
    }
    Ok(flushed)
}
