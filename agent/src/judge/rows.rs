//! Owns how open questions lie in the ledger, beside the books' rows: producers' reports that nothing has decided yet, and
//! messages passed over in a filter conflict whose tags are not known yet.
//! Incidents are not here: the verdict log holds them.

use super::Judge;
use super::conflicts::PassedOver;
use super::questions::OpenReport;
use crate::fold::rows::codec::Row;
use crate::fold::rows::{RowChange, RowError, StoredRow, assemble};
use lifecycle::fact::{SendOutcome, SentReported};
use lifecycle::position::Position;
use lifecycle::varint::Reader;

/// First byte of the keys of open reports; the books skip them.
pub const REPORT_KIND: u8 = 64;
/// First byte of the keys of messages passed over in a filter conflict.
pub const PASSED_KIND: u8 = 65;

impl Row for PassedOver {
    fn put(&self, out: &mut Vec<u8>) {
        (self.source.clone(), (self.at.incarnation, self.at.sequence)).put(out);
        (self.wall_ms, self.epoch).put(out);
        (self.group.clone(), self.topic.clone()).put(out);
        (self.message, self.filter.clone()).put(out);
        self.others.put(out);
    }

    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (source, (incarnation, sequence)) = Row::get(row)?;
        let (wall_ms, epoch) = Row::get(row)?;
        let (group, topic) = Row::get(row)?;
        let (message, filter) = Row::get(row)?;
        let (others, at) = (Row::get(row)?, Position { incarnation, sequence });
        Ok(PassedOver { source, at, wall_ms, epoch, group, topic, message, filter, others, asked_wall_ms: 0 })
    }
}

impl Row for OpenReport {
    fn put(&self, out: &mut Vec<u8>) {
        let report = &self.report;
        (self.at.incarnation, self.at.sequence).put(out);
        self.seen_wall_ms.put(out);
        (report.id.clone(), (report.topic.clone(), report.broker.clone())).put(out);
        out.push(report.outcome as u8);
        report.queue_id.map_or(0, |id| u64::from(id) + 1).put(out);
        // an offset of 2^64-1 does not exist, so the sum fits
        report.queue_offset.map_or(0, |offset| offset.saturating_add(1)).put(out);
        (report.sent_wall_ms, report.reported_wall_ms).put(out);
    }

    fn get(row: &mut Reader<'_>) -> Result<Self, RowError> {
        let (incarnation, sequence) = Row::get(row)?;
        let seen_wall_ms = Row::get(row)?;
        let (id, (topic, broker)) = Row::get(row)?;
        let outcome = SendOutcome::from_u8(row.u8()?).ok_or(RowError::Malformed("outcome"))?;
        let queue_id = u64::get(row)?.checked_sub(1);
        let queue_id = queue_id.map(u32::try_from).transpose().map_err(|_| RowError::Malformed("queue"))?;
        let queue_offset = u64::get(row)?.checked_sub(1);
        let (sent_wall_ms, reported_wall_ms) = Row::get(row)?;
        Ok(OpenReport {
            at: Position { incarnation, sequence },
            report: SentReported {
                id,
                topic,
                outcome,
                broker,
                queue_id,
                queue_offset,
                sent_wall_ms,
                reported_wall_ms,
            },
            seen_wall_ms,
            barrier: None,
            asked_wall_ms: 0,
        })
    }
}

impl Judge {
    /// Rows of open questions that changed since the last call: to be stored in one batch with the books' rows.
    pub fn rows_changed_since_last(&mut self) -> Vec<RowChange> {
        let mut out = Vec::new();
        for number in std::mem::take(&mut self.questions.touched) {
            let report = self.questions.reports.get(&number).map(encoded);
            self.saved.save(row_key(REPORT_KIND, number), report.as_deref(), &mut out);
            let passed = self.questions.passed.get(&number).map(encoded);
            self.saved.save(row_key(PASSED_KIND, number), passed.as_deref(), &mut out);
        }
        out
    }

    /// Puts open questions back from all rows the ledger holds (the books' rows are skipped).
    pub fn restore_rows<'a>(
        &mut self,
        rows: impl IntoIterator<Item = StoredRow<'a>>,
    ) -> Result<(), RowError> {
        let own =
            rows.into_iter().filter(|(key, _)| matches!(key.first(), Some(&(REPORT_KIND | PASSED_KIND))));
        let (objects, saved) = assemble(own)?;
        for (key, bytes) in objects {
            let number = key.get(1..).and_then(|n| n.try_into().ok()).ok_or(RowError::Malformed("key"))?;
            let number = u64::from_be_bytes(number);
            self.questions.next_number = self.questions.next_number.max(number);
            let mut row = Reader::new(&bytes);
            if key.first() == Some(&PASSED_KIND) {
                self.questions.passed.insert(number, PassedOver::get(&mut row)?);
            } else {
                self.questions.reports.insert(number, OpenReport::get(&mut row)?);
            }
        }
        self.saved = saved;
        Ok(())
    }

    /// How many rows the ledger holds once everything handed out is stored.
    pub fn row_count(&self) -> usize {
        self.saved.row_count()
    }
}

fn row_key(kind: u8, number: u64) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn encoded(row: &impl Row) -> Vec<u8> {
    let mut bytes = Vec::new();
    row.put(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut row = Reader::new(&bytes);
            if let Ok(open) = OpenReport::get(&mut row) {
                let mut again = Vec::new();
                open.put(&mut again);
                prop_assert_eq!(OpenReport::get(&mut Reader::new(&again)).unwrap(), open);
            }
        }
    }
}
