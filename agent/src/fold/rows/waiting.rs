//! Owns the rows of what waits for the disk or for replicas.

use super::RowError;
use super::codec::{LIST_MAX, Row};
use crate::fold::replication::{REPLICAS_MAX, RISKS_MAX, Replica, Replication, Risk};
use crate::fold::unflushed::{Unflushed, UnflushedCopy};
use lifecycle::fact::StoredRun;
use lifecycle::identity::{CopyReason, LogPosition, QueueKey};
use lifecycle::ids::ID_LEN_MAX;
use lifecycle::varint::{Reader, put_varint};

impl Row for Unflushed {
    fn put(&self, out: &mut Vec<u8>) {
        (self.first_ordinal, (self.log_end.0, self.counted)).put(out);
        put_varint(out, self.runs.len() as u64);
        for run in &self.runs {
            (run.queue, (run.queue_offset, run.count)).put(out);
        }
        put_varint(out, self.ids.len() as u64);
        for id in self.ids.iter() {
            put_varint(out, id.len() as u64);
            out.extend_from_slice(id);
        }
        self.copies.put(out);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (first_ordinal, (log_end, counted)) = Row::get(row)?;
        let mut entry =
            Unflushed { first_ordinal, log_end: LogPosition(log_end), counted, ..Default::default() };
        for _ in 0..row.length(LIST_MAX)? {
            let (queue, (queue_offset, count)) = Row::get(row)?;
            entry.runs.push(StoredRun { queue, queue_offset, count });
        }
        for _ in 0..row.length(LIST_MAX)? {
            let len = row.length(ID_LEN_MAX)?;
            entry.ids.push(row.bytes(len)?);
        }
        entry.copies = Row::get(row)?;
        // sums of counts must not overflow when they are used
        let total = entry.runs.iter().try_fold(0u64, |sum, run| sum.checked_add(run.count));
        let ends = entry.runs.iter().all(|run| run.queue_offset.checked_add(run.count).is_some());
        total.filter(|_| ends).ok_or(RowError::Malformed("run"))?;
        Ok(entry)
    }
}

impl Row for UnflushedCopy {
    fn put(&self, out: &mut Vec<u8>) {
        (self.at, (self.group.clone(), self.parent)).put(out);
        out.push(self.reason as u8);
    }
    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (at, (group, parent)) = Row::get(row)?;
        let reason = CopyReason::from_u8(row.u8()?).ok_or(RowError::Malformed("copy reason"))?;
        Ok(UnflushedCopy { at, group, parent, reason })
    }
}

impl Replication {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        (self.waiting.unnamed, self.waiting.first_number).put(out);
        (self.flushed.0, self.before.0).put(out);
        put_varint(out, self.replicas.len() as u64);
        for (name, replica) in &self.replicas {
            (name.clone(), (replica.received.0, replica.durable.0)).put(out);
        }
        put_varint(out, self.risks.len() as u64);
        for risk in &self.risks {
            (risk.log_end.0, risk.epoch).put(out);
            let ranges: Vec<_> = risk.ranges.iter().map(|(queue, ranges)| (*queue, ranges.clone())).collect();
            ranges.put(out);
        }
    }

    /// The promises are the epoch's, which is in another row.
    pub(super) fn restore(&mut self, row: &mut Reader<'_>) -> Result<(), RowError> {
        (self.waiting.unnamed, self.waiting.first_number) = Row::get(row)?;
        let (flushed, before) = Row::get(row)?;
        (self.flushed, self.before) = (LogPosition(flushed), LogPosition(before));
        for _ in 0..row.length(REPLICAS_MAX)? {
            let (name, (received, durable)) = Row::get(row)?;
            let replica = Replica { received: LogPosition(received), durable: LogPosition(durable) };
            self.replicas.insert(name, replica);
        }
        for _ in 0..row.length(RISKS_MAX)? {
            let (log_end, epoch) = Row::get(row)?;
            let ranges = Vec::<(QueueKey, _)>::get(row)?.into_iter().collect();
            self.risks.push_back(Risk { log_end: LogPosition(log_end), ranges, epoch });
        }
        Ok(())
    }
}
