//! The walk through a log and a queue over bytes that never were a store, and over logs that were spoilt in known places.

use inspect::config;
use inspect::queue;
use inspect::record::{self, Record};
use inspect::scan::{LogSummary, Wrong, scan};
use inspect::window::{Segment, Segments, Window};
use proptest::prelude::*;
use std::io;
use std::net::SocketAddr;
use wire::message::{RecordVersion, StoredMessage, body_crc};
use wire::properties::Properties;
use wire::sys_flag::SysFlag;

/// Files in memory.
struct Memory {
    segments: Vec<Segment>,
    files: Vec<Vec<u8>>,
}

impl Memory {
    fn of(files: &[(u64, Vec<u8>)]) -> Memory {
        let segments = files.iter().map(|(base, bytes)| Segment { base: *base, len: bytes.len() as u64 });
        Memory { segments: segments.collect(), files: files.iter().map(|(_, bytes)| bytes.clone()).collect() }
    }
}

impl Segments for Memory {
    fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn read_at(&self, segment: usize, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let rest = self.files[segment].get(at as usize..).unwrap_or_default();
        let len = rest.len().min(into.len());
        into[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

fn walk(log: &Memory) -> (LogSummary, Vec<u64>) {
    let mut positions = Vec::new();
    let summary = scan(
        log,
        &mut |record, _| {
            positions.push(record.position);
            Ok(())
        },
        &mut |_| (),
    );
    (summary.expect("memory is always readable"), positions)
}

fn put(out: &mut Vec<u8>, position: u64, store_ms: i64) -> u64 {
    let host = SocketAddr::from(([127, 0, 0, 1], 10911));
    let body = [7; 100];
    let message = StoredMessage {
        version: RecordVersion::V1,
        body_crc: body_crc(&body),
        queue_id: 1,
        flag: 0,
        queue_offset: position,
        commitlog_offset: position,
        sys_flag: SysFlag(0),
        born_timestamp_ms: 1,
        born_host: host,
        store_timestamp_ms: store_ms,
        store_host: host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: &body,
        topic: "T",
        properties: Properties("UNIQ_KEY\u{1}K\u{2}"),
    };
    message.encode(out).expect("a small record") as u64
}

/// Records one after the other, and where they are.
fn log(records: u64) -> (Vec<u8>, Vec<u64>) {
    let (mut bytes, mut positions) = (Vec::new(), Vec::new());
    for n in 0..records {
        let position = bytes.len() as u64;
        positions.push(position);
        put(&mut bytes, position, 1_000 + n as i64);
    }
    (bytes, positions)
}

#[test]
fn records_behind_damage_are_found_and_the_damage_is_told_exactly() {
    let (bytes, positions) = log(10);
    for (fill, wrong) in [(0xFFu8, Wrong::Corrupt), (0, Wrong::Zeroed)] {
        let mut spoilt = bytes.clone();
        spoilt[positions[3] as usize..positions[5] as usize].fill(fill);
        spoilt.resize(spoilt.len() + 5_000, 0);
        let (summary, found) = walk(&Memory::of(&[(0, spoilt)]));
        let left: Vec<u64> =
            positions.iter().copied().filter(|at| *at < positions[3] || *at >= positions[5]).collect();
        assert_eq!(found, left);
        let damage =
            summary.damages.iter().map(|damage| (damage.from, damage.to, damage.wrong)).collect::<Vec<_>>();
        assert_eq!(damage, [(positions[3], positions[5], wrong)]);
        assert_eq!(summary.end, bytes.len() as u64);
    }
}

#[test]
fn the_end_of_a_log_is_told_from_damage() {
    let (bytes, positions) = log(10);
    let whole = |more: &[u8]| [bytes.as_slice(), more].concat();
    let (summary, _) = walk(&Memory::of(&[(0, whole(&[0; 9_000]))]));
    assert!(summary.damages.is_empty() && summary.end == bytes.len() as u64);
    // the last record was begun only
    let mut torn = bytes.clone();
    torn.truncate(positions[9] as usize + 90);
    torn.resize(8_192, 0);
    let (summary, found) = walk(&Memory::of(&[(0, torn)]));
    assert_eq!((found.len(), summary.end, summary.is_torn()), (9, positions[9], true));
    assert_eq!(summary.damages[0].place, Some((1, positions[9])));
    // an older time's records behind half a record
    let mut old = bytes.clone();
    old.extend([0xFF; 30]);
    let position = old.len() as u64;
    put(&mut old, position, 5);
    let (summary, found) = walk(&Memory::of(&[(0, old)]));
    assert_eq!((found, summary.end), (positions, bytes.len() as u64));
    assert_eq!(summary.damages.iter().map(|damage| damage.wrong).collect::<Vec<_>>(), [Wrong::Leftover]);
}

#[test]
fn a_missing_file_is_a_gap_and_a_prepared_one_is_none() {
    let (first, _) = log(4);
    let base = first.len() as u64;
    let mut third = Vec::new();
    put(&mut third, base * 2, 9_000);
    let (summary, found) = walk(&Memory::of(&[(0, first.clone()), (base * 2, third.clone())]));
    assert_eq!((found.len(), summary.damages.len()), (5, 1));
    let damage = summary.damages[0];
    assert_eq!((damage.from, damage.to, damage.wrong), (base, base * 2, Wrong::Missing));
    assert!(summary.damage_at(base).is_some() && summary.damage_at(base * 2).is_none());
    let (summary, _) = walk(&Memory::of(&[(0, first), (base, vec![0; 500])]));
    assert!(summary.damages.is_empty());
}

proptest! {
    #[test]
    fn any_bytes_are_walked_to_their_end(
        bytes in prop::collection::vec(any::<u8>(), 0..2_000),
        base in any::<u64>(),
        records in 0..6u64,
        at in any::<prop::sample::Index>(),
    ) {
        let (mut spliced, _) = log(records);
        let at = at.index(spliced.len() + 1);
        spliced.splice(at..at, bytes.iter().copied());
        let base = base.min(u64::MAX - 10_000);
        for files in [vec![(base, bytes.clone())], vec![(0, spliced.clone())], vec![(0, spliced), (1_000, bytes.clone())]] {
            let memory = Memory::of(&files);
            let (summary, found) = walk(&memory);
            prop_assert!(found.is_sorted() && found.len() as u64 == summary.records);
            prop_assert!(summary.end >= summary.min);
            let mut window = Window::default();
            let mut last = None;
            queue::walk(&memory, &mut window, &mut |unit| {
                assert!(last < Some(unit.index) || files.len() > 1);
                last = Some(unit.index);
                Ok(())
            }).expect("memory is always readable");
        }
        prop_assert!(bytes.len() >= 8 || record::head(&bytes) == record::Head::Unknown);
        if let Ok(record) = Record::read(&bytes, base) {
            record.named();
        }
        let text = String::from_utf8_lossy(&bytes);
        drop((config::group_offsets(&text), config::delay_offsets(&text), config::topics(&text)));
    }

    #[test]
    fn one_changed_byte_costs_one_record(records in 2..20u64, at in any::<prop::sample::Index>(), change in 1..=255u8) {
        let (mut bytes, positions) = log(records);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        let (_, found) = walk(&Memory::of(&[(0, bytes)]));
        let hit = positions.partition_point(|position| *position <= at as u64) - 1;
        let others = positions.iter().enumerate().filter(|(index, _)| *index != hit).map(|(_, position)| *position);
        // the record after an older-looking one would be a leftover: times are not covered by a checksum
        let is_time = (56..64).contains(&(at as u64 - positions[hit]));
        prop_assert!(is_time || others.clone().all(|position| found.contains(&position)), "{found:?}");
    }
}
