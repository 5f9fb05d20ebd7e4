//! When bytes go to the disk, and what waits for it, or for replicas. Flushing itself happens elsewhere: a turn gives orders, later
//! turns hear that they are done. One order of each kind is under way at a time, so one flush covers everything that gathered
//! meanwhile.

use super::Core;
use super::snapshot::{Job, JobDone};
use crate::api::{Answer, ReplyFn, SendStatus, StoredAt};
use crate::config::{BrokerRole, FlushDiskType};
use crate::replication::waits::{Part, Promise, ReplicaPromise, Settled, Waits};
use lifecycle::clock::Now;
use lifecycle::fact::{AnswerClass, Fact};
use lifecycle::identity::{LogPosition, QueueKey};
use lifecycle::position::Position;
use std::collections::{BTreeMap, VecDeque};
use store::error::Result as StoreResult;
use store::journal::JournalSync;
use store::segment::SyncBatch;

/// Fewest messages a reservation covers.
pub(crate) const RESERVATION_MIN: u64 = 256;

/// Flushes to start.
#[derive(Default)]
pub struct FlushOrders {
    /// The commit log up to the batch's end.
    pub log: Option<SyncBatch>,
    /// The journal up to the batch's position.
    pub journal: Option<JournalSync>,
    /// Slow work for another thread.
    pub jobs: Vec<Job>,
}

/// A flush is over.
pub enum FlushDone {
    /// The commit log is on disk up to here.
    Log(StoreResult<u64>),
    /// The journal is on disk up to here.
    Journal(StoreResult<Position>),
    /// Slow work.
    Job(JobDone),
}

/// A send whose answer waits for the disk, or for replicas.
struct Awaiting {
    first_ordinal: u64,
    stored: Vec<StoredAt>,
    reply: ReplyFn<Answer<Vec<StoredAt>>>,
}

/// Answers that wait for room in the reservation.
struct Held {
    first_ordinal: u64,
    stored: Vec<StoredAt>,
    reply: ReplyFn<Answer<Vec<StoredAt>>>,
    class: AnswerClass,
}

/// The flushing side of the core.
#[derive(Default)]
pub(super) struct FlushState {
    pub(super) journal_blocked: bool,
    pub(super) unflushed_messages: u64,
    log_under_way: bool,
    /// The log was cut here while its flush was under way: what that flush says of bytes above is of those that are gone.
    cut_under_way: Option<LogPosition>,
    journal_under_way: bool,
    log_flushed: LogPosition,
    last_log_flush_ms: u64,
    last_journal_flush_ms: u64,
    journal_flush_stated_ms: u64,
    awaiting: Waits<Awaiting>,
    /// Up to here answers went out although the disk, or the replicas, had not spoken in time.
    disk_given_up: LogPosition,
    replicas_given_up: LogPosition,
    /// Other answers that wait for the same durability.
    promised: VecDeque<(LogPosition, Box<dyn FnOnce() + Send>)>,
    held: VecDeque<Held>,
    /// Readable end of queues whose newest messages are not as durable as promised yet.
    hidden: BTreeMap<QueueKey, u64>,
    /// What becomes readable when the log is durable up to a position.
    showing: VecDeque<(LogPosition, QueueKey, u64)>,
    /// Messages answered since the cut of the last finished journal flush, and since the cut of the one under way.
    answered_since_flush: u64,
    answered_since_cut: u64,
    /// The reservation that is on disk, and the one last stated.
    allowed: u64,
    stated: u64,
    /// The last frame that is on disk.
    journal_flushed: u64,
    /// The last frame covered by an ordered flush.
    journal_cut: u64,
}

impl FlushState {
    pub(super) fn new(flushed: LogPosition, now: Now) -> Self {
        FlushState {
            log_flushed: flushed,
            last_log_flush_ms: now.mono_ms,
            last_journal_flush_ms: now.mono_ms,
            allowed: RESERVATION_MIN,
            stated: RESERVATION_MIN,
            ..Default::default()
        }
    }

    /// When a turn must run because of flushing. What is under way ends with a turn of its own.
    pub(super) fn next_due_ms(
        &self,
        config: &crate::config::Config,
        log_end: LogPosition,
        frames: u64,
    ) -> Option<u64> {
        let deadline = self.awaiting.next_due_ms();
        let log = (log_end > self.log_flushed && !self.log_under_way)
            .then_some(self.last_log_flush_ms + config.flush_interval_ms);
        let journal = (frames > self.journal_cut && !self.journal_under_way)
            .then_some(self.last_journal_flush_ms + config.journal_flush_interval_ms);
        [deadline, log, journal].into_iter().flatten().min()
    }

    pub(super) fn log_is_flushed(&self, end: LogPosition) -> bool {
        self.log_flushed >= end
    }

    pub(super) fn log_flushed_to(&self) -> LogPosition {
        self.log_flushed
    }

    pub(super) fn journal_flushed_to(&self) -> u64 {
        self.journal_flushed
    }

    pub(super) fn journal_is_flushed(&self, sequence: u64) -> bool {
        self.journal_flushed >= sequence
    }

    /// The log was cut: nothing above is flushed, or hidden, any more.
    pub(super) fn cut(&mut self, end: LogPosition) {
        self.log_flushed = self.log_flushed.min(end);
        if self.log_under_way {
            self.cut_under_way = Some(self.cut_under_way.map_or(end, |before| before.min(end)));
        }
        self.showing.retain(|(log_end, _, _)| *log_end <= end);
        self.hidden.retain(|queue, _| self.showing.iter().any(|(_, shown, _)| shown == queue));
    }

    /// One past the highest readable offset.
    pub(super) fn readable_end(&self, queue: QueueKey, max_offset: u64) -> u64 {
        self.hidden.get(&queue).copied().unwrap_or(max_offset)
    }
}

impl Core {
    /// Answers a send whose records are stored: now, or when disk and replicas have them.
    pub(super) fn answer_send(
        &mut self,
        now: Now,
        stored: Vec<StoredAt>,
        first_ordinal: u64,
        log_end: LogPosition,
        waits: bool,
        reply: ReplyFn<Answer<Vec<StoredAt>>>,
    ) {
        if !waits || !self.promises_durability() {
            return self.answer_stored(Held { first_ordinal, stored, reply, class: AnswerClass::Buffered });
        }
        let flushes = self.config.flush_disk_type == FlushDiskType::Sync;
        let promise = Promise {
            disk_until_ms: flushes.then_some(now.mono_ms + self.config.sync_flush_timeout_ms),
            replicas: match self.waits_for_replicas() {
                false => ReplicaPromise::None,
                true if self.followers.in_reach(self.log.end()) => {
                    ReplicaPromise::Until(now.mono_ms + self.config.replication_timeout_ms)
                }
                true => ReplicaPromise::Unavailable,
            },
        };
        self.flush.awaiting.push(log_end, promise, Awaiting { first_ordinal, stored, reply });
        self.answer_settled();
    }

    /// Answers when everything up to `log_end` is as durable as promised: copies are no less durable than what they replace.
    pub(super) fn answer_when_durable<T: Send + 'static>(
        &mut self,
        log_end: LogPosition,
        reply: ReplyFn<T>,
        answer: T,
    ) {
        let answering = Box::new(move || reply(answer));
        if self.promises_durability() {
            self.flush.promised.push_back((log_end, answering));
        } else {
            self.replies.push(answering);
        }
    }

    /// A message that was promised to be durable is hidden from readers until it is.
    pub(super) fn hide_until_durable(&mut self, queue: QueueKey, queue_offset: u64, log_end: LogPosition) {
        if self.promises_durability() {
            self.hide(queue, queue_offset, log_end);
        }
    }

    pub(super) fn hide(&mut self, queue: QueueKey, queue_offset: u64, log_end: LogPosition) {
        self.flush.hidden.entry(queue).or_insert(queue_offset);
        self.flush.showing.push_back((log_end, queue, queue_offset + 1));
    }

    /// Whether sends wait for replicas.
    pub(super) fn waits_for_replicas(&self) -> bool {
        self.config.broker_role == BrokerRole::SyncMaster && self.config.in_sync_replicas > 1
    }

    fn promises_durability(&self) -> bool {
        self.config.flush_disk_type == FlushDiskType::Sync || self.waits_for_replicas()
    }

    /// Enough replicas have everything below.
    pub(super) fn replicas_confirmed(&mut self) {
        self.flush.awaiting.confirmed(self.followers.confirmed());
        self.answer_settled();
        self.show_durable();
    }

    /// Answers the sends whose waits are over. The word of the replicas comes before that of the disk, as in RocketMQ.
    fn answer_settled(&mut self) {
        for Settled { value, log_end, disk, replicas } in self.flush.awaiting.take_settled() {
            let Awaiting { first_ordinal, mut stored, reply } = value;
            // answered with a lesser status: readable from now on
            if disk == Part::TimedOut {
                self.flush.disk_given_up = self.flush.disk_given_up.max(log_end);
            }
            if replicas == Part::TimedOut {
                self.flush.replicas_given_up = self.flush.replicas_given_up.max(log_end);
            }
            let on_disk = self.flush.log_is_flushed(log_end);
            let (status, class) = match (replicas, disk) {
                (Part::TimedOut, _) => (SendStatus::FlushSlaveTimeout, AnswerClass::FlushSlaveTimeout),
                (Part::Unavailable, _) => (SendStatus::SlaveNotAvailable, AnswerClass::SlaveNotAvailable),
                (_, Part::TimedOut) => (SendStatus::FlushDiskTimeout, AnswerClass::FlushDiskTimeout),
                _ if !on_disk => (SendStatus::Ok, AnswerClass::Buffered),
                _ if self.waits_for_replicas() => (SendStatus::Ok, AnswerClass::Replicated),
                _ => (SendStatus::Ok, AnswerClass::Flushed),
            };
            stored.iter_mut().for_each(|stored| stored.status = status);
            self.answer_stored(Held { first_ordinal, stored, reply, class });
        }
    }

    fn answer_stored(&mut self, held: Held) {
        let count = held.stored.len() as u64;
        let used = self.flush.answered_since_flush;
        if self.config.journal && used > 0 && used + count > self.flush.allowed {
            self.flush.held.push_back(held);
            return;
        }
        self.flush.answered_since_flush += count;
        self.flush.answered_since_cut += count;
        self.trace.answered(&mut self.state, held.first_ordinal, count, held.class);
        self.answer(held.reply, Ok(held.stored));
    }

    /// Hears that a flush is over.
    pub(super) fn flush_done(&mut self, now: Now, done: FlushDone) {
        match done {
            FlushDone::Log(Ok(end)) => {
                self.flush.log_under_way = false;
                self.counters.log_flushes_total += 1;
                let counts_to = self.flush.cut_under_way.take().unwrap_or(LogPosition(end));
                self.log_flushed(LogPosition(end).min(counts_to));
            }
            FlushDone::Journal(Ok(position)) => {
                self.flush.journal_under_way = false;
                self.counters.journal_flushes_total += 1;
                self.flush.journal_flushed = position.sequence;
                self.flush.answered_since_flush = self.flush.answered_since_cut;
                self.flush.allowed = self.flush.stated;
                // the feed tells this at once; the journal need not say it at every group commit
                if now.mono_ms >= self.flush.journal_flush_stated_ms + self.config.journal_flush_interval_ms {
                    self.flush.journal_flush_stated_ms = now.mono_ms;
                    self.trace.state_later(Fact::JournalFlushed { sequence: position.sequence });
                }
                self.flush.last_journal_flush_ms = now.mono_ms;
                for held in std::mem::take(&mut self.flush.held) {
                    self.answer_stored(held);
                }
            }
            FlushDone::Job(done) => self.job_done(now, done),
            // never retried: what the failed call dropped from memory, a second one would not report
            FlushDone::Log(Err(error)) | FlushDone::Journal(Err(error)) => self.stop(error),
        }
    }

    fn log_flushed(&mut self, end: LogPosition) {
        if end <= self.flush.log_flushed {
            return;
        }
        self.flush.log_flushed = end;
        if self.flush.unflushed_messages > 0 {
            self.state(Fact::Flushed { log_position: end });
        }
        self.flush.unflushed_messages = if self.log.end() > end { self.flush.unflushed_messages } else { 0 };
        self.flush.awaiting.flushed(end);
        self.answer_settled();
        self.show_durable();
    }

    /// Up to where records are as durable as promised, or were let go with a lesser status.
    pub(super) fn durable_to(&self) -> LogPosition {
        if let Some(readable) = self.followed_to() {
            return readable;
        }
        let disk = match self.config.flush_disk_type {
            FlushDiskType::Sync => self.flush.log_flushed.max(self.flush.disk_given_up),
            FlushDiskType::Async => LogPosition(u64::MAX),
        };
        if !self.waits_for_replicas() {
            return disk;
        }
        let mut replicas = self.followers.confirmed().max(self.flush.replicas_given_up);
        if !self.followers.in_reach(self.log.end()) {
            // nobody is waited for, but for what was sent while somebody was there
            let first = self.flush.awaiting.first_for_replicas();
            replicas = replicas.max(first.map_or(self.log.end(), |end| LogPosition(end.0.saturating_sub(1))));
        }
        disk.min(replicas)
    }

    /// Lets out whatever waits for durability it has by now.
    pub(super) fn show_durable(&mut self) {
        if self.flush.showing.is_empty() && self.flush.promised.is_empty() {
            return;
        }
        let end = self.durable_to();
        while self.flush.promised.front().is_some_and(|(log_end, _)| *log_end <= end) {
            self.replies.extend(self.flush.promised.pop_front().map(|(_, answering)| answering));
        }
        self.show(end);
    }

    fn show(&mut self, end: LogPosition) {
        while let Some((log_end, queue, readable)) = self.flush.showing.front().copied() {
            if log_end > end {
                break;
            }
            self.flush.showing.pop_front();
            if readable >= self.state.bounds(queue).max_offset {
                self.flush.hidden.remove(&queue);
            } else {
                self.flush.hidden.insert(queue, readable);
            }
            self.waiting.touch(queue);
        }
    }

    /// Answers sends whose time is up, and decides which flushes this turn orders (their facts belong into its frame).
    pub(super) fn flush_before_frame(&mut self, now: Now) -> (bool, bool) {
        self.flush.awaiting.time_passed(now.mono_ms);
        self.answer_settled();
        self.show_durable();
        let waited_for = self.following.as_ref().is_some_and(|following| following.flush_at_once);
        let sync = self.config.flush_disk_type == FlushDiskType::Sync || waited_for;
        let log_age = now.mono_ms.saturating_sub(self.flush.last_log_flush_ms);
        let log_due = !self.flush.log_under_way
            && self.log.end() > self.flush.log_flushed
            && (sync || log_age >= self.config.flush_interval_ms);
        let frames = self.trace.position().sequence > self.flush.journal_cut || self.trace.has_facts();
        let journal_age = now.mono_ms.saturating_sub(self.flush.last_journal_flush_ms);
        let half_used =
            self.flush.answered_since_flush * 2 >= self.flush.allowed || !self.flush.held.is_empty();
        // not with the log, also under SYNC_FLUSH: what is on disk there is stated again from the log, and a flush of its own for
        // each group of sends costs a third of the rate (measured)
        let journal_due = self.config.journal
            && !self.flush.journal_under_way
            && frames
            && (journal_age >= self.config.journal_flush_interval_ms || half_used);
        if journal_due {
            self.reserve();
        }
        (log_due, journal_due)
    }

    /// States how much may be answered before the journal flush after this one returns: twice what the last interval saw.
    fn reserve(&mut self) {
        let wanted = (self.flush.answered_since_flush * 2).max(RESERVATION_MIN).next_power_of_two();
        // lowered only when far too high, so that it is not restated at every flush
        if wanted > self.flush.stated || wanted * 8 <= self.flush.stated {
            self.flush.stated = wanted;
            let bytes = wanted.saturating_mul(self.config.max_body_bytes as u64);
            self.state(Fact::Reserved { messages: wanted, bytes });
        }
    }

    /// Gives the orders decided before the frame was written.
    pub(super) fn start_flushes(&mut self, now: Now, (log_due, journal_due): (bool, bool)) -> FlushOrders {
        let mut orders = FlushOrders::default();
        // a replica's copy of the journal is synced with its log, or when its frames have waited long enough
        let copy_due = self.copy_sync_due_ms().is_some_and(|due| due <= now.mono_ms);
        if log_due || (copy_due && !self.flush.log_under_way) {
            match self.log.take_sync_batch() {
                Ok(mut batch) => {
                    if copy_due && let Some(following) = &mut self.following {
                        batch.files.extend(following.take_copy_sync());
                    }
                    self.flush.log_under_way = true;
                    self.flush.last_log_flush_ms = now.mono_ms;
                    orders.log = Some(batch);
                }
                Err(error) => self.stop(error),
            }
        }
        if journal_due && let Some(batch) = self.trace.take_sync_batch() {
            self.flush.journal_under_way = true;
            self.flush.journal_cut = batch.position.sequence;
            self.flush.answered_since_cut = 0;
            orders.journal = Some(batch);
        }
        self.order_jobs(&mut orders);
        orders
    }

    /// Everything on disk, at once and in this thread: at start, before a snapshot, at the end.
    pub(super) fn flush_everything(&mut self) -> StoreResult<()> {
        let mut batch = self.log.take_sync_batch()?;
        if let Some(following) = &mut self.following {
            batch.files.extend(following.take_copy_sync());
        }
        let end = batch.sync()?;
        self.log_flushed(LogPosition(end));
        if let Some(batch) = self.trace.take_sync_batch() {
            self.flush.journal_cut = batch.position.sequence;
            self.flush.journal_flushed = batch.sync()?.sequence;
        }
        Ok(())
    }

    /// Messages that a power cut could take now.
    pub fn unflushed_messages(&self) -> u64 {
        self.flush.unflushed_messages
    }
}
