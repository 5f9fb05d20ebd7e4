//! Appends within a turn: records are laid into the log's buffer, written at once, and only then become state and facts. When
//! the disk is full the whole batch is given up and everybody who asked is told; nothing of it ever existed.

use super::Core;
use crate::api::{Answer, Refusal};
use crate::trace::StoredMessageFact;
use lifecycle::clock::Now;
use lifecycle::fact::StoredKind;
use lifecycle::hash::OwnKeyMap;
use lifecycle::identity::{Lineage, LogPosition, MessageIdentity, Name, QueueKey};
use std::net::SocketAddr;
use std::ops::Range;
use store::consume_queue::Unit;
use store::error::{ErrorKind, StoreError};
use wire::message::{RecordVersion, StoredMessage, body_crc, tag_code};
use wire::properties::{Known, Properties};
use wire::sys_flag::SysFlag;

/// Largest property text of a new message: copies add their own (RocketMQ's limit is 32,767).
pub(crate) const PROPERTIES_LEN_MAX: usize = 31 * 1024;

/// A message on its way into the log.
pub(super) struct NewRecord<'a> {
    pub(super) topic: Name,
    pub(super) queue: QueueKey,
    pub(super) body: &'a [u8],
    pub(super) properties: &'a str,
    /// What `properties` say.
    pub(super) known: Known<'a>,
    pub(super) flag: i32,
    pub(super) sys_flag: SysFlag,
    pub(super) born_timestamp_ms: u64,
    pub(super) born_host: SocketAddr,
    pub(super) reconsume_times: i32,
    pub(super) kind: StoredKind,
    /// The queue the client hears of.
    pub(super) told_queue_id: u32,
    /// Consume-queue tag column: hash of the tag, or the due time of a waiting message.
    pub(super) tag_hash: i64,
}

/// A record in the log's buffer.
pub(super) struct Appended {
    pub(super) queue: QueueKey,
    pub(super) queue_offset: u64,
    pub(super) commitlog_offset: LogPosition,
    pub(super) told_queue_id: u32,
    size: u32,
    tag_hash: i64,
    kind: StoredKind,
    /// Its client id, in the turn's `ids`.
    id: Range<usize>,
    /// What it is found by, in the turn's `keys`.
    keys: Range<usize>,
    log_end: LogPosition,
    store_wall_ms: u64,
    /// Known once it is a fact.
    pub(super) ordinal: u64,
}

type Then = Box<dyn FnOnce(&mut Core, Now, Result<&[Appended], &Refusal>) + Send>;

/// What this turn has laid down, and who waits for it.
#[derive(Default)]
pub(super) struct PendingAppends {
    records: Vec<Appended>,
    ids: Vec<u8>,
    keys: Vec<u64>,
    then: Vec<(Range<usize>, Then)>,
    next_offsets: OwnKeyMap<QueueKey, u64>,
    start: Option<LogPosition>,
}

impl PendingAppends {
    pub(super) fn is_empty(&self) -> bool {
        self.then.is_empty()
    }

    /// Forgets everything but the memory it took.
    fn clear(&mut self) {
        self.records.clear();
        self.ids.clear();
        self.keys.clear();
        self.then.clear();
        self.next_offsets.clear();
        self.start = None;
    }
}

impl Core {
    /// Lays one record down. It exists once [`Core::commit_appends`] has run; until then only its place is known.
    pub(super) fn lay_down(&mut self, now: Now, record: NewRecord<'_>) -> Answer<usize> {
        if self.index.is_full() {
            return Err(Refusal::NotAvailable("the key index waits for the disk".into()));
        }
        let bounds = self.state.bounds(record.queue);
        let queue_offset = *self.pending.next_offsets.get(&record.queue).unwrap_or(&bounds.max_offset);
        let lineage = match &record.kind {
            StoredKind::Copy { lineage, .. } => Some(*lineage),
            _ => None,
        };
        let mut stored = StoredMessage {
            version: RecordVersion::for_topic(&record.topic),
            body_crc: body_crc(record.body),
            queue_id: record.queue.queue_id as i32,
            flag: record.flag,
            queue_offset,
            commitlog_offset: 0,
            sys_flag: record.sys_flag,
            born_timestamp_ms: record.born_timestamp_ms as i64,
            born_host: record.born_host,
            store_timestamp_ms: now.wall_ms as i64,
            store_host: self.store_host,
            reconsume_times: record.reconsume_times,
            prepared_transaction_offset: 0,
            body: record.body,
            topic: &record.topic,
            properties: Properties(record.properties),
        };
        let len = stored.encoded_len();
        self.pending.start.get_or_insert(self.log.end());
        let place = self.log.place(len, lineage.is_some()).map_err(|error| self.append_failed(error))?;
        stored.commitlog_offset = place.0;
        // every length was checked against its limit before
        let mut encoded = Ok(0);
        self.log.push(record.queue.topic, lineage.as_ref(), |out| encoded = stored.encode(out));
        if let Err(error) = encoded {
            self.give_up_from(LogPosition(place.0 - store::commit_log::HEADER_LEN as u64));
            return Err(Refusal::MessageIllegal(error.to_string()));
        }
        let PendingAppends { ids, keys, next_offsets, .. } = &mut self.pending;
        next_offsets.insert(record.queue, queue_offset + 1);
        let (id_at, keys_at) = (ids.len(), keys.len());
        ids.extend_from_slice(record.known.unique_key.unwrap_or_default().as_bytes());
        keys.extend(index_keys(&record.topic, record.known));
        let (id, keys) = (id_at..ids.len(), keys_at..keys.len());
        self.pending.records.push(Appended {
            queue: record.queue,
            queue_offset,
            commitlog_offset: place,
            told_queue_id: record.told_queue_id,
            size: len as u32,
            tag_hash: record.tag_hash,
            id,
            keys,
            kind: record.kind,
            log_end: self.log.end(),
            store_wall_ms: now.wall_ms,
            ordinal: 0,
        });
        Ok(self.pending.records.len() - 1)
    }

    /// Registers what happens when the records from index `first` on are stored, or are not.
    pub(super) fn when_stored(
        &mut self,
        first: usize,
        then: impl FnOnce(&mut Core, Now, Result<&[Appended], &Refusal>) + Send + 'static,
    ) {
        let range = first..self.pending.records.len();
        self.pending.then.push((range, Box::new(then)));
    }

    /// Index of the next record laid down.
    pub(super) fn pending_count(&self) -> usize {
        self.pending.records.len()
    }

    /// Takes records from index `first` on back: the request they belong to is refused.
    pub(super) fn take_back(&mut self, first: usize) {
        while self.pending.records.len() > first {
            let Some(record) = self.pending.records.pop() else { break };
            self.pending.next_offsets.insert(record.queue, record.queue_offset);
            let start = record.commitlog_offset.0 - store::commit_log::HEADER_LEN as u64;
            self.give_up_from(LogPosition(start));
        }
    }

    fn give_up_from(&mut self, end: LogPosition) {
        if let Err(error) = self.log.discard_from(end) {
            self.stop(error);
        }
    }

    /// Writes what was laid down, makes it state and facts, and tells who waited.
    pub(super) fn commit_appends(&mut self, now: Now) {
        while !self.pending.is_empty() {
            let mut pending = std::mem::take(&mut self.pending);
            match self.log.write() {
                Ok(()) => {
                    for record in &mut pending.records {
                        let id = pending.ids.get(record.id.clone()).unwrap_or_default();
                        let keys = pending.keys.get(record.keys.clone()).unwrap_or_default();
                        self.stored(record, id, keys);
                    }
                    for (range, then) in pending.then.drain(..) {
                        then(self, now, Ok(pending.records.get(range).unwrap_or_default()));
                    }
                }
                Err(error) => {
                    self.give_up_from(pending.start.unwrap_or_default());
                    let refusal = self.append_failed(error);
                    for (_, then) in pending.then.drain(..) {
                        then(self, now, Err(&refusal));
                    }
                }
            }
            if self.pending.is_empty() {
                pending.clear();
                self.pending = pending;
            }
        }
        self.pending.next_offsets.clear();
        self.pending.start = None;
    }

    fn stored(&mut self, record: &mut Appended, id: &[u8], keys: &[u64]) {
        record.ordinal = self.trace.stored(
            &mut self.state,
            StoredMessageFact {
                queue: record.queue,
                queue_offset: record.queue_offset,
                log_end: record.log_end,
                store_wall_ms: record.store_wall_ms,
                kind: record.kind.clone(),
                id,
            },
        );
        let unit = Unit {
            commitlog_offset: record.commitlog_offset.0,
            size: record.size,
            tag_hash: record.tag_hash,
        };
        if let Err(error) = self.dispatch(record.queue, record.queue_offset, unit, keys) {
            // derived files: a full disk delays them, the log has everything
            if error.is_fatal() {
                self.stop(error);
            } else {
                tracing::warn!(%error, "a consume queue is behind the log");
            }
        }
        self.index.advance(record.log_end.0);
        self.flush.unflushed_messages += 1;
    }

    /// Puts a stored record into its consume queue and the key index.
    pub(super) fn dispatch(
        &mut self,
        queue: QueueKey,
        queue_offset: u64,
        unit: Unit,
        keys: &[u64],
    ) -> Result<(), StoreError> {
        let index = self.queue_index(queue)?;
        if self.queues.max_offset(index) == 0 && queue_offset > 0 {
            self.queues.reset_to(index, queue_offset)?;
        }
        self.queues.append(index, queue_offset, unit)?;
        for key in keys {
            self.index.insert(*key, unit.commitlog_offset);
        }
        Ok(())
    }

    fn append_failed(&mut self, error: StoreError) -> Refusal {
        match error.kind {
            ErrorKind::NoSpace => Refusal::NotAvailable("disk full".into()),
            ErrorKind::Limit(what) => Refusal::MessageIllegal(format!("over the limit of {what}")),
            _ => {
                let refusal = Refusal::StorageFailed(error.to_string());
                self.stop(error);
                refusal
            }
        }
    }
}

impl Appended {
    pub(super) fn log_end(&self) -> LogPosition {
        self.log_end
    }
}

/// Hashes a message is found by: its client id alone, and topic with each key.
pub(super) fn index_keys(topic: &str, known: Known<'_>) -> impl Iterator<Item = u64> {
    let keys = known.keys().take(KEYS_PER_MESSAGE_MAX).map(move |key| topic_key(topic, key));
    known.unique_key.map(id_key).into_iter().chain(keys)
}

/// Keys of one message that are indexed; later ones are only found by reading.
pub(crate) const KEYS_PER_MESSAGE_MAX: usize = 64;

/// Index key of a client id.
pub(super) fn id_key(id: &str) -> u64 {
    store::index::key_hash(id.as_bytes())
}

/// Index key of a message key.
pub(super) fn topic_key(topic: &str, key: &str) -> u64 {
    store::index::key_hash(format!("{topic}#{key}").as_bytes())
}

/// Consume-queue tag column of a message that is ready at once.
pub(super) fn tag_hash(known: Known<'_>) -> i64 {
    known.tags.map_or(0, |tag| i64::from(tag_code(tag)))
}

/// Lineage of a copy of `parent`, which may itself be a copy.
pub(super) fn lineage_of(
    parent: MessageIdentity,
    parent_lineage: Option<Lineage>,
    reason: lifecycle::identity::CopyReason,
) -> Lineage {
    Lineage { parent, root: parent_lineage.map_or(parent, |lineage| lineage.root), reason }
}
