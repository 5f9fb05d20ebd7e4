//! Opening a folder: makes log and journal agree, and states a fact for each step. What the journal says above the recovered end
//! of the log is void; below it the log wins, and stored facts the journal lacks are stated again.
//!
//! Order, so that a crash at any point only means doing it again: lock the folder; read the snapshot; open the journal's new run;
//! fold the older runs; scan the log from the snapshot on, dispatching every record; write one frame (records stated again,
//! `Recovered`, `EpochStarted`); sync log and journal; only then is the epoch's first append possible.

mod dispatch;
mod replay;

use dispatch::Again;
pub(super) use dispatch::{Found, due_of};
pub(super) use replay::{Fold, Replayed};

use super::scrub::ScrubState;
use super::slave::newer_table;
use super::snapshot::{self, SnapshotState};
use super::topics::{PERM_READ_WRITE, is_system_topic, topic_dir};
use super::{Core, CoreParts, Counters};
use super::{flush::FlushState, lease, retention::RetentionState, sessions::Sessions};
use crate::config::{BrokerRole, Config, ReplicaAck};
use crate::replication::copy::ReplicaCopy;
use crate::replication::followers::{AckKind, Followers};
use crate::state::{DEAD_LETTER_PREFIX, RETRY_PREFIX, SCHEDULE_TOPIC, State};
use crate::trace::{StoredMessageFact, Trace};
use lifecycle::clock::Now;
use lifecycle::fact::{ExpiryReason, Fact, LeaveReason, MoveReason, Recovered, StoredKind, TopicConfigured};
use lifecycle::identity::{CopyReason, Epoch, LogPosition, Name, QueueKey, TopicIncarnation};
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;
use store::checkpoint::Checkpoint;
use store::commit_log::{CommitLog, ScanReport};
use store::consume_queue::{ConsumeQueueConfig, ConsumeQueues};
use store::error::Result as StoreResult;
use store::folder::Folder;
use store::index::{IndexConfig, KeyIndex};
use store::journal::{Journal, JournalConfig};
use wire::message::StoredMessage;
use wire::properties;

/// What opening found, for the log and the operator.
#[derive(Debug, Clone, Default)]
pub struct RecoveryReport {
    /// The last run stopped cleanly.
    pub clean: bool,
    /// Records found in the log that the journal lacked.
    pub stated_again: u64,
    /// Messages the journal knew of that did not survive.
    pub lost: u64,
    /// What the scan of the log met.
    pub scan: ScanReport,
    /// Journal bytes cut as torn.
    pub journal_cut_bytes: u64,
}

/// Per queue, what the log holds.
pub(super) type Ends = BTreeMap<QueueKey, u64>;

impl Core {
    /// Opens or creates a broker's folder.
    ///
    /// Errors: folder in use, folder of another version, damaged snapshot, or the disk.
    pub fn open(parts: CoreParts, now: Now) -> StoreResult<(Core, RecoveryReport)> {
        Self::check_role(&parts)?;
        if parts.config.broker_role == BrokerRole::Slave {
            return Self::open_slave(parts, now);
        }
        let disk = parts.disk.clone();
        let folder = Folder::open(disk.as_ref(), &parts.dir, "broker")?;
        let (checkpoint, saved, damaged) = Checkpoint::open(disk.as_ref(), &parts.dir, "snapshot")?;
        if !damaged.damaged.is_empty() {
            tracing::warn!(slots = ?damaged.damaged, "a snapshot slot is damaged: the other one is used");
        }
        // Only a crash of the machine can take what was written but not flushed. A killed process lost nothing.
        let boot = parts.boot.clone();
        let (mut last_boot, booted, _) = Checkpoint::open(disk.as_ref(), &parts.dir, "boot")?;
        let same_boot = boot.is_some()
            && booted.map(|saved| saved.payload) == boot.as_ref().map(|b| b.clone().into_bytes());
        let snapshot = snapshot::read(saved.as_ref(), &parts.dir)?;
        let config = JournalConfig::new(parts.dir.join("journal"));
        let (journal, journal_report) = Journal::open(disk.clone(), config, parts.incarnation, now.wall_ms)?;
        let mut replayed = replay::replay(&journal.view(), snapshot.as_ref(), parts.incarnation)?;
        let accepted = ReplicaCopy::accepted(disk.as_ref(), &parts.dir)?;
        replayed.epochs = newer_table(accepted, &replayed.epochs);
        // what a replica was not sent, nobody here can have noticed
        let was_replica = parts.mandate.is_some_and(|mandate| !mandate.wrote_last);
        let same_boot = same_boot && !was_replica;
        let queue_config = ConsumeQueueConfig::new(parts.dir.join("consumequeue"));
        let mut core = Self::assemble(parts, folder, checkpoint, journal, &replayed, now)?;
        if core.lacks_what_was_synced(&replayed) {
            tracing::warn!(
                "log or consume queues end before the last snapshot does: the queues are made again from the log"
            );
            core.queues = ConsumeQueues::open(disk.clone(), queue_config, 0)?.0;
            (replayed.base, replayed.log_end) = (Ends::new(), LogPosition(0));
        }
        let mut report = core.recover(now, replayed, (same_boot, was_replica))?;
        if let Some(boot) = boot {
            last_boot.save(boot.as_bytes())?;
        }
        report.journal_cut_bytes = journal_report.cut.iter().map(|cut| cut.bytes).sum();
        Ok((core, report))
    }

    pub(super) fn assemble(
        parts: CoreParts,
        folder: Folder,
        checkpoint: Checkpoint,
        journal: Journal,
        replayed: &Replayed,
        now: Now,
    ) -> StoreResult<Core> {
        let disk = parts.disk;
        let epochs = replayed.epochs.clone();
        let log =
            CommitLog::open(disk.clone(), &parts.dir.join("commitlog"), parts.config.segment_bytes, epochs)?;
        let queue_config = ConsumeQueueConfig::new(parts.dir.join("consumequeue"));
        let (queues, _) = ConsumeQueues::open(disk.clone(), queue_config, replayed.log_end.0)?;
        let index_config = IndexConfig::new(parts.dir.join("index"));
        // runs that reach beyond what is certainly there are dropped and made again
        let covered = log.start().0..replayed.state.flushed.0.max(log.start().0);
        let (index, missing) = KeyIndex::open(disk.clone(), index_config, covered)?;
        let (first, more) = (missing.first().map_or(0, |range| range.start), missing.len() > 1);
        let trace = Trace::new(journal, parts.config.journal);
        let interval = parts.config.snapshot_interval_ms;
        let scrub = ScrubState::open(disk.as_ref(), &parts.dir, (parts.config.scrub_interval_ms, now))?;
        let mut core = Core {
            followers: followers(&parts.config),
            following: None,
            promised: parts.mandate.map_or(0, |mandate| mandate.promised),
            common_ends: Default::default(),
            replicated_stated_ms: now.mono_ms,
            flush: FlushState::new(replayed.state.flushed, now),
            snapshot: SnapshotState::new(checkpoint, now, replayed.log_end, interval),
            scrub,
            disk,
            folder,
            store_host: parts.store_host,
            started_ms: now.wall_ms,
            log,
            queues,
            queue_indexes: Default::default(),
            index,
            state: State::default(),
            trace,
            pending: Default::default(),
            replies: Vec::new(),
            waiting: Default::default(),
            sessions: Sessions::default(),
            leases: lease::LeaseBook::default(),
            retention: RetentionState::default(),
            next_queue: 0,
            counters: Counters::default(),
            stopped: None,
            config: parts.config,
            index_from: LogPosition(first),
        };
        // the journal may go up to what this start has read, once a newer snapshot stands behind it
        core.snapshot.saved.extend(replayed.snapshot.map(|position| (position, replayed.log_end)));
        if more {
            // a damaged run in the middle: all of it is indexed again, which is rare and simple
            core.index.remove_before(u64::MAX)?;
            core.index_from = core.log.start();
        }
        core.index.start_at(core.index_from.0);
        Ok(core)
    }

    /// Whether the log, or a consume queue, is shorter than it was when the snapshot was taken, which waited until they were synced.
    fn lacks_what_was_synced(&self, replayed: &Replayed) -> bool {
        let is_short = |(queue, end): (&QueueKey, &u64)| {
            let Some(topic) = replayed.state.topic_of(queue.topic) else { return false };
            let held = self.queues.find(&topic_dir(&topic.config.name, *queue), queue.queue_id);
            let held_to = held.map_or(0, |index| self.queues.max_offset(index));
            // of a queue that retention has emptied there need not be a file
            held_to < *end && replayed.state.bounds(*queue).min_offset < *end
        };
        self.log.end() < replayed.log_end || replayed.base.iter().any(is_short)
    }

    fn recover(
        &mut self,
        now: Now,
        replayed: Replayed,
        (same_boot, was_replica): (bool, bool),
    ) -> StoreResult<RecoveryReport> {
        let Replayed { state, base, log_end: queues_from, clean, closed, holes, epochs, .. } = replayed;
        let flushed = state.flushed;
        self.state = state;
        let whole = LogPosition(u64::MAX);
        let Found { ends, bad, topics, again, scan } = self.scan_log(base, (queues_from, whole), flushed)?;
        let bad: Vec<(QueueKey, Ranges)> = bad.into_iter().collect();
        // below, the consume queues are whole, and say what stood there: it is named as what reading back finds is
        let (rotten, spoilt) = split_at(&scan.damaged, queues_from.0.min(scan.end.0));
        let clean = clean && scan.torn_bytes == 0 && spoilt.is_empty() && again.is_empty();
        let stated_again = again.len() as u64;
        for (topic, (name, queues)) in topics {
            self.topic_again(topic, name, queues);
        }
        for record in again {
            self.state_its_epoch(&record, &epochs);
            self.state_again(record);
        }
        if scan.end < flushed && !was_replica {
            tracing::error!(
                end = scan.end.0,
                flushed = flushed.0,
                "the log ends before what the disk had said it had flushed"
            );
        }
        self.flush.cut(scan.end);
        self.scrub.cut(scan.end);
        self.scrub.knows(&spoilt);
        // the master this copy was of may have had more on its disk
        let flushed = if was_replica { flushed.min(scan.end) } else { flushed };
        let mut queues = Vec::new();
        let mut lost = 0;
        for (queue, bounds) in self.state.queues().collect::<Vec<_>>() {
            // neither the snapshot nor the log knows of a message: none survived
            let end = ends.get(&queue).copied().unwrap_or(bounds.min_offset);
            lost += bounds.max_offset.saturating_sub(end);
            queues.push((queue, bounds.min_offset.min(end), end));
        }
        if was_replica {
            self.common_ends = queues.iter().map(|(queue, _, end)| (*queue, *end)).collect();
        }
        let nothing_lost = clean || (same_boot && !holes && lost == 0 && spoilt.is_empty());
        let unnamed_max =
            if nothing_lost { 0 } else { self.state.reserved_messages.max(super::flush::RESERVATION_MIN) };
        let recovered = Recovered { clean, log_end: scan.end, flushed, queues, bad, closed, unnamed_max };
        let beyond = self.positions_beyond(&recovered.queues);
        self.trace.state(&mut self.state, Fact::Recovered(recovered));
        for moved in beyond {
            self.state(moved);
        }
        self.name_rotten(&rotten)?;
        self.begin_epoch(now, scan.end)?;
        Ok(RecoveryReport { clean, stated_again, lost, scan, journal_cut_bytes: 0 })
    }

    /// What moves groups back that are beyond the end of a queue: new messages will have the offsets they had passed.
    fn positions_beyond(&self, ends: &[(QueueKey, u64, u64)]) -> Vec<Fact> {
        let moved = |(queue, _, end): &(QueueKey, u64, u64)| {
            let (queue, to) = (*queue, *end);
            self.state.groups().filter_map(move |(group, known)| {
                let from = known.queues.get(&queue)?.position;
                let (group, actor, reason) = (group.clone(), "".into(), MoveReason::Recovery);
                (from > to).then_some(Fact::OffsetMoved { group, queue, from, to, reason, actor })
            })
        };
        ends.iter().flat_map(moved).collect()
    }

    fn begin_epoch(&mut self, now: Now, log_end: LogPosition) -> StoreResult<()> {
        let incarnation = self.trace.position().incarnation;
        let newest = self.log.epochs().last().map_or(0, |(epoch, _)| epoch.number);
        let number = (newest.max(self.state.epoch.number) + 1).max(self.promised);
        let epoch = Epoch { number, incarnation };
        let started = lifecycle::fact::EpochStarted { epoch, log_start: log_end, ..self.epoch_started() };
        self.state(Fact::EpochStarted(started));
        self.leave_all();
        self.trace
            .state(&mut self.state, Fact::Reserved { messages: super::flush::RESERVATION_MIN, bytes: 0 });
        self.trace.end_turn(now)?;
        // everything recovered is made durable, and the epoch's row with it, before its first append
        self.log.mark_dirty_from(LogPosition(0));
        self.flush.unflushed_messages = u64::from(log_end > self.state.flushed);
        self.flush_everything()?;
        self.log.begin_epoch(epoch);
        if self.log.start() > LogPosition(0) {
            self.state_expired(self.log.start(), ExpiryReason::Age)?;
        }
        let levels = self.config.delay_levels_ms.len() as u32 + 1;
        let schedule: Name = SCHEDULE_TOPIC.into();
        // a fresh folder has room for one topic
        let made = self.own_topic(&schedule, levels, super::topics::PERM_READ_WRITE);
        assert!(made.is_ok(), "the schedule topic exists or can be made");
        self.restore_leases(now);
        self.trace.end_turn(now)?;
        self.flush_everything()
    }

    /// Nobody is connected yet.
    fn leave_all(&mut self) {
        let members: Vec<(Name, Name)> = self
            .state
            .groups()
            .flat_map(|(name, group)| group.members.keys().map(move |member| (name.clone(), member.clone())))
            .collect();
        for (group, member) in members {
            self.state(Fact::MemberLeft {
                group: group.clone(),
                member: member.clone(),
                reason: LeaveReason::BrokerRestart,
            });
            self.sessions.lost.push((group, member));
        }
    }

    /// Records of an epoch that a replica has accepted, and whose first frame never came.
    fn state_its_epoch(&mut self, again: &Again, epochs: &[(Epoch, LogPosition)]) {
        let number = again.logged.epoch_number;
        if number <= self.state.epoch.number {
            return;
        }
        if let Some((epoch, log_start)) = epochs.iter().find(|(epoch, _)| epoch.number == number).copied() {
            let started = lifecycle::fact::EpochStarted { epoch, log_start, ..self.epoch_started() };
            self.state(Fact::EpochStarted(started.of_another_member()));
        }
    }

    /// The journal lost that this topic was made; messages in it are in the log.
    fn topic_again(&mut self, topic: TopicIncarnation, name: Name, queues: u32) {
        let queues = match is_system_topic(&name) || name.starts_with("%") {
            true => queues,
            false => queues.max(self.config.default_queues),
        };
        tracing::warn!(%name, queues, "the journal does not know this topic: it is made again from its messages");
        self.state(Fact::TopicConfigured(TopicConfigured {
            topic,
            name,
            read_queues: queues,
            write_queues: queues,
            perm: PERM_READ_WRITE,
            message_type: "MIXED".into(),
        }));
    }

    fn state_again(&mut self, again: Again) {
        let Ok((message, len)) = StoredMessage::decode(&again.logged.record) else { return };
        let topic =
            self.state.topic_of(again.queue.topic).map(|topic| topic.config.name.clone()).unwrap_or_default();
        let waits = topic.as_ref() == SCHEDULE_TOPIC;
        let due = if waits { due_of(&message) } else { 0 };
        let real = message.properties.get(properties::REAL_TOPIC).unwrap_or_default();
        let kind = match again.logged.lineage {
            Some(lineage) => {
                let place = if waits { real } else { &topic };
                let group = place.strip_prefix(RETRY_PREFIX).or(place.strip_prefix(DEAD_LETTER_PREFIX));
                let group = group.filter(|_| lineage.reason != CopyReason::Commit).unwrap_or_default();
                StoredKind::Copy { group: group.into(), lineage, due_wall_ms: due }
            }
            None if waits => StoredKind::Delayed { due_wall_ms: due, destination: real.into() },
            None => StoredKind::Produced,
        };
        let trailer = if again.logged.lineage.is_some() { lifecycle::identity::LINEAGE_LEN } else { 0 };
        self.trace.stored(
            &mut self.state,
            StoredMessageFact {
                queue: again.queue,
                queue_offset: message.queue_offset,
                log_end: LogPosition(again.logged.commitlog_offset.0 + (len + trailer) as u64),
                store_wall_ms: message.store_timestamp_ms as u64,
                kind,
                id: message.properties.get(properties::UNIQ_KEY).unwrap_or_default().as_bytes(),
            },
        );
    }
}

/// First bytes and ends of damaged places.
type Damaged = Vec<(u64, u64)>;

/// Those below and those above a place.
fn split_at(damaged: &[(u64, u64)], place: u64) -> (Damaged, Damaged) {
    let below = damaged.iter().map(|(from, to)| (*from, (*to).min(place)));
    let above = damaged.iter().map(|(from, to)| ((*from).max(place), *to));
    let is_some = |(from, to): &(u64, u64)| from < to;
    (below.filter(is_some).collect(), above.filter(is_some).collect())
}

fn followers(config: &Config) -> Followers {
    let ack = match config.replica_ack {
        ReplicaAck::Received => AckKind::Received,
        ReplicaAck::Flushed => AckKind::Flushed,
    };
    let needed = if config.broker_role == BrokerRole::SyncMaster { config.in_sync_replicas } else { 1 };
    Followers::new(ack, needed)
}
