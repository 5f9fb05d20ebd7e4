//! Owns the broker's turn: take what has arrived, append it, state the facts, write one frame, only then let anybody see the
//! effects. One thread, one writer. Disk and clock are handed in, so the same code runs in production and in simulation;
//! flushing is an effect carried out by someone else, whose completion is an input of a later turn.
//!
//! Killed between the log's write and the journal's: recovery finds records the journal lacks and states them again. Killed
//! between the journal's write and the answers: facts say "answered" though nobody heard; the agent knows that an
//! incarnation's last answers may not have arrived.

mod append;
mod flush;
mod groups;
mod lease;
mod offsets;
mod pull;
mod queries;
mod recovery;
mod reinject;
mod replicas;
mod retention;
mod role;
mod scrub;
mod send;
mod sendback;
mod sessions;
mod slave;
mod snapshot;
mod timers;
mod topics;
#[doc(hidden)]
pub mod untrusted;

pub use flush::{FlushDone, FlushOrders};
pub use queries::Found;
pub use recovery::RecoveryReport;
pub use snapshot::{Job, JobDone};

use crate::api::{ReplyFn, Request};
use crate::config::Config;
use crate::replication::followers::Followers;
use crate::replication::mastership::Mandate;
use crate::state::State;
use crate::trace::Trace;
use append::PendingAppends;
use flush::FlushState;
use lifecycle::clock::Now;
use lifecycle::fact::Fact;
use lifecycle::hash::OwnKeyMap;
use lifecycle::identity::{Incarnation, QueueKey};
use pull::WaitingPulls;
use retention::RetentionState;
use sessions::Sessions;
use snapshot::SnapshotState;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use store::commit_log::CommitLog;
use store::consume_queue::{ConsumeQueues, QueueIndex};
use store::disk::Disk;
use store::error::{ErrorKind, StoreError};
use store::folder::Folder;
use store::index::KeyIndex;

/// What a core is made of.
pub struct CoreParts {
    /// The only door to files.
    pub disk: Arc<dyn Disk>,
    /// The broker's folder.
    pub dir: PathBuf,
    /// Checked settings.
    pub config: Config,
    /// This run.
    pub incarnation: Incarnation,
    /// Where clients reach the broker; written into records as store host.
    pub store_host: std::net::SocketAddr,
    /// Names the machine's present boot: after a crash in the same one, everything written is still there. `None`: not known.
    pub boot: Option<String>,
    /// This member's part and promise, where somebody has said anything.
    pub mandate: Option<Mandate>,
}

/// Numbers for operators, counted since this run started.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counters {
    /// Messages stored for clients.
    pub put_total: u64,
    /// Bytes of their bodies.
    pub put_bytes: u64,
    /// Messages handed out.
    pub get_total: u64,
    /// Sends refused.
    pub refused_total: u64,
    /// Turns that wrote a frame.
    pub frames_total: u64,
    /// Copies put into dead-letter queues.
    pub dead_letters_total: u64,
    /// Flushes of the commit log.
    pub log_flushes_total: u64,
    /// Flushes of the journal.
    pub journal_flushes_total: u64,
    /// Bytes of the journal given up because it was over its share of the disk, whether or not agents had them.
    pub journal_dropped_bytes: u64,
    /// Bytes of the log read back from the disk.
    pub scrubbed_bytes_total: u64,
    /// Messages whose records were found unreadable.
    pub scrub_bad_records_total: u64,
    /// Rounds over the whole log that ended.
    pub scrub_rounds_total: u64,
}

/// The broker's core.
pub struct Core {
    config: Config,
    disk: Arc<dyn Disk>,
    folder: Folder,
    store_host: std::net::SocketAddr,
    started_ms: u64,
    log: CommitLog,
    queues: ConsumeQueues,
    /// Consume queues found so far; at most as many as there are queues.
    queue_indexes: OwnKeyMap<QueueKey, QueueIndex>,
    index: KeyIndex,
    state: State,
    trace: Trace,
    pending: PendingAppends,
    replies: Vec<Box<dyn FnOnce() + Send>>,
    flush: FlushState,
    followers: Followers,
    /// As a SLAVE.
    following: Option<slave::Following>,
    /// No master whose epoch number is below this one is followed; as a master: above our own epoch, another one is to come.
    promised: u64,
    /// Where queues ended when this member was promoted: what clients read above that was of an epoch that lost.
    common_ends: BTreeMap<QueueKey, u64>,
    /// When a position that a replica has received was last stated.
    replicated_stated_ms: u64,
    waiting: WaitingPulls,
    sessions: Sessions,
    leases: lease::LeaseBook,
    retention: RetentionState,
    snapshot: SnapshotState,
    scrub: scrub::ScrubState,
    next_queue: u32,
    /// The key index lacks what the log holds from here on (only while opening).
    index_from: lifecycle::identity::LogPosition,
    counters: Counters,
    stopped: Option<StoreError>,
}

/// What a turn asks its shell to do.
#[derive(Default)]
pub struct TurnEffects {
    /// Flushes to start, each on its own thread.
    pub flush: FlushOrders,
    /// Run the next turn at this monotonic time at the latest; `None`: only when something arrives.
    pub wake_at_ms: Option<u64>,
    /// The disk failed: the process must stop, and start anew.
    pub fatal: Option<StoreError>,
}

impl Core {
    /// One turn: everything in `requests` is answered now or later; `flushed` are completions of earlier orders.
    pub fn turn(
        &mut self,
        now: Now,
        requests: &mut Vec<Request>,
        flushed: &mut Vec<FlushDone>,
    ) -> TurnEffects {
        if let Some(error) = self.stopped.clone() {
            requests.clear();
            return TurnEffects { fatal: Some(error), ..Default::default() };
        }
        for done in flushed.drain(..) {
            self.flush_done(now, done);
        }
        // sends first: their records, one write, their facts; then everybody who may read them
        let mut later = Vec::new();
        let mut looks = Vec::new();
        let is_slave = self.is_passive();
        for request in requests.drain(..) {
            let request = match is_slave {
                true => self.refuse_on_slave(request),
                false => Some(request),
            };
            let Some(request) = request else { continue };
            match request {
                Request::Look(look) => looks.push(look),
                Request::Replica(event) => self.replica_event(now, event),
                Request::FromMaster(messages, reply) => self.master_sent(now, messages, reply),
                request if appends(&request) => self.handle_append(now, request),
                request => later.push(request),
            }
        }
        // copies and expiries are the master's to make
        if !is_slave {
            self.remake_lost_copies(now);
            self.timers_due(now);
            self.leases_due(now);
        }
        self.commit_appends(now);
        for request in later {
            self.handle(now, request);
        }
        // acknowledgements and leases may have asked for dead-letter copies
        self.commit_appends(now);
        self.sessions_due(now);
        self.serve_waiting(now);
        if !is_slave {
            self.retention_due(now);
        }
        self.scrub_due(now);
        let effects = self.end_turn(now);
        for look in looks {
            look(self, now);
        }
        effects
    }

    fn end_turn(&mut self, now: Now) -> TurnEffects {
        let flush_due = self.flush_before_frame(now);
        let had_facts = self.trace.has_facts();
        match self.trace.end_turn(now) {
            Ok(()) => {
                self.counters.frames_total += u64::from(had_facts);
                for reply in self.replies.drain(..) {
                    reply();
                }
            }
            Err(error) if matches!(error.kind, ErrorKind::NoSpace) => {
                tracing::warn!(%error, "journal cannot grow: answers wait, sends are refused");
                self.flush.journal_blocked = true;
                return TurnEffects { wake_at_ms: Some(now.mono_ms + 100), ..Default::default() };
            }
            Err(error) => self.stop(error),
        }
        self.flush.journal_blocked = false;
        self.snapshot_due(now);
        let flush =
            if self.stopped.is_none() { self.start_flushes(now, flush_due) } else { FlushOrders::default() };
        TurnEffects { flush, wake_at_ms: self.next_wake(now), fatal: self.stopped.clone() }
    }

    fn handle_append(&mut self, now: Now, request: Request) {
        match request {
            Request::Send(send, reply) => self.send(now, send, reply),
            Request::SendBack(back, reply) => self.send_back(now, back, reply),
            Request::ForwardToDeadLetter(forward, reply) => self.forward_to_dead_letter(now, forward, reply),
            Request::Reinject(reinject, reply) => self.reinject(now, reinject, reply),
            other => self.handle(now, other),
        }
    }

    fn handle(&mut self, now: Now, request: Request) {
        match request {
            Request::Pull(pull, reply) => self.pull(now, pull, reply),
            Request::Receive(receive, reply) => self.receive(now, receive, reply),
            Request::Ack(acks, reply) => {
                let answers = self.ack(now, acks);
                self.answer(reply, answers);
            }
            Request::ChangeInvisible(change, reply) => self.change_invisible(now, change, reply),
            Request::Heartbeat(heartbeat, reply) => {
                let answer = self.heartbeat(now, heartbeat);
                self.answer(reply, answer);
            }
            Request::Unregister(unregister, reply) => {
                self.unregister(unregister);
                self.answer(reply, ());
            }
            Request::Disconnected(connection) => self.disconnected(connection),
            Request::QueryOffset(queue, reply) => {
                let answer = self.query_offset(queue);
                self.answer(reply, answer);
            }
            Request::UpdateOffset(update, reply) => {
                let answer = self.update_offset(update);
                self.answer(reply, answer);
            }
            Request::FindOffset(find, reply) => {
                let answer = self.find_offset(find);
                self.answer(reply, answer);
            }
            Request::LockQueues(lock, reply) => {
                let held = self.sessions.lock_queues(now, lock);
                self.answer(reply, held);
            }
            Request::UnlockQueues(lock, reply) => {
                self.sessions.unlock_queues(&lock);
                self.answer(reply, ());
            }
            Request::Query(query, reply) => {
                let answer = self.query(query);
                self.answer(reply, answer);
            }
            Request::ConfigureTopic(topic, reply) => {
                let answer = self.configure_topic(topic);
                self.answer(reply, answer);
            }
            Request::Look(look) => look(self, now),
            Request::Replica(event) => self.replica_event(now, event),
            Request::FromMaster(messages, reply) => self.master_sent(now, messages, reply),
            appending => self.handle_append(now, appending),
        }
    }

    /// The answer goes out after this turn's frame is in the journal.
    fn answer<T: Send + 'static>(&mut self, reply: ReplyFn<T>, answer: T) {
        self.replies.push(Box::new(move || reply(answer)));
    }

    /// A SLAVE's own facts change nothing of its state, which is its master's.
    fn state(&mut self, fact: Fact) {
        match self.following {
            None => self.trace.state(&mut self.state, fact),
            Some(_) => self.trace.note(fact),
        }
    }

    fn stop(&mut self, error: StoreError) {
        tracing::error!(%error, "storage failed: the broker stops");
        self.stopped.get_or_insert(error);
    }

    fn next_wake(&self, now: Now) -> Option<u64> {
        let wall_to_mono = |wall: u64| now.mono_ms + wall.saturating_sub(now.wall_ms);
        let is_slave = self.is_passive();
        [
            self.next_timer_ms(now).filter(|_| !is_slave),
            self.leases.next_end_ms().map(wall_to_mono).filter(|_| !is_slave),
            self.waiting.next_deadline_ms(),
            self.flush.next_due_ms(&self.config, self.log.end(), self.trace.position().sequence),
            self.sessions.next_due_ms(),
            Some(self.retention.next_due_ms).filter(|_| !is_slave),
            self.snapshot.next_due_ms().filter(|_| !is_slave),
            self.trace.next_due_ms().filter(|_| !is_slave),
            self.copy_sync_due_ms(),
            self.next_scrub_ms(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map(|at| at.max(now.mono_ms + 1))
    }

    /// The state, for reading.
    pub fn state_view(&self) -> &State {
        &self.state
    }

    /// Counts of this run.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Settings in force.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The whole state as a snapshot frame, and the journal position it stands for; `None` while the journal cannot be written,
    /// since the state is then ahead of it.
    pub fn snapshot(&self, now: Now) -> Option<(Vec<u8>, lifecycle::position::Position)> {
        if self.flush.journal_blocked {
            return None;
        }
        let mut frame = Vec::new();
        lifecycle::frame::FrameEncoder::new().encode_snapshot(now, true, &self.snapshot_facts(), &mut frame);
        Some((frame, self.trace.position()))
    }

    /// The last frame written, and the last one on disk.
    pub fn journal_head(&self) -> (lifecycle::position::Position, u64) {
        (self.trace.position(), self.flush.journal_flushed_to())
    }

    /// Forgets journal frames whoever still needs them: what trimming does in the end.
    #[cfg(test)]
    pub(crate) fn cut_journal(&mut self, position: lifecycle::position::Position) -> Result<u64, StoreError> {
        self.trace.remove_before(position)
    }

    /// Live frames, for the feed.
    pub fn journal_view(&self) -> store::journal::JournalView {
        self.trace.view()
    }
}

fn appends(request: &Request) -> bool {
    matches!(
        request,
        Request::Send(..) | Request::SendBack(..) | Request::ForwardToDeadLetter(..) | Request::Reinject(..)
    )
}

#[cfg(test)]
mod tests;
