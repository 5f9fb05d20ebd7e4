use super::*;
use crate::disk_sim::{SimDisk, SimFaults};
use lifecycle::identity::{Incarnation, TopicIncarnation};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use wire::message::{RecordVersion, body_crc};
use wire::properties::Properties;
use wire::sys_flag::SysFlag;

const SEGMENT: u64 = 8192;

struct Log {
    disk: SimDisk,
    log: CommitLog,
    /// First byte, header included, and end of each record.
    records: Vec<(u64, u64)>,
}

fn record(body: &[u8], crc: u32) -> Vec<u8> {
    let message = StoredMessage {
        version: RecordVersion::V1,
        body_crc: crc,
        queue_id: 0,
        flag: 0,
        queue_offset: 0,
        commitlog_offset: 0,
        sys_flag: SysFlag(0),
        born_timestamp_ms: 1,
        born_host: "127.0.0.1:1".parse().unwrap(),
        store_timestamp_ms: 2,
        store_host: "127.0.0.1:2".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body,
        topic: "t",
        properties: Properties(""),
    };
    let mut out = Vec::new();
    message.encode(&mut out).unwrap();
    out
}

impl Log {
    fn of(bodies: &[Vec<u8>]) -> Log {
        let disk = SimDisk::new();
        let mut log =
            CommitLog::open(Arc::new(disk.clone()), Path::new("/log"), SEGMENT, Vec::new()).unwrap();
        log.begin_epoch(Epoch { number: 1, incarnation: Incarnation([7; 16]) });
        let mut log = Log { disk, log, records: Vec::new() };
        bodies.iter().for_each(|body| log.put(record(body, body_crc(body))));
        log.log.write().unwrap();
        log
    }

    fn put(&mut self, bytes: Vec<u8>) {
        let at = self.log.place(bytes.len(), false).unwrap().0 - HEADER_LEN as u64;
        self.log.push(TopicIncarnation(1), None, |out| out.extend_from_slice(&bytes));
        self.records.push((at, self.log.end().0));
        self.log.write().unwrap();
    }

    fn flip(&self, at: u64, bit: u8) {
        let path = PathBuf::from("/log").join(segment_name(at - at % SEGMENT));
        assert!(self.disk.flip_bit(&path, at % SEGMENT, bit));
    }

    fn overwrite(&self, at: u64, bytes: &[u8]) {
        let path = PathBuf::from("/log").join(segment_name(at - at % SEGMENT));
        let file = self.disk.open(&path, OpenMode::Existing).unwrap();
        file.write_all_at(bytes, at % SEGMENT).unwrap();
    }

    fn order(&self, from: Place, to: u64, bytes: u64) -> Readback {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        self.log.read_back(&disk, from, (LogPosition(to), bytes))
    }

    /// Everything, in orders of so many bytes.
    fn all(&self, bytes: u64) -> Vec<Damage> {
        let mut place = Place { at: self.log.start(), damaged_from: None };
        let (end, mut damaged) = (self.log.end().0, Vec::new());
        for _ in 0..100_000 {
            if place.at.0 >= end {
                assert_eq!(place.damaged_from, None);
                return damaged;
            }
            let found = self.order(place, end, bytes).run();
            assert!(found.place.at > place.at, "each order goes on");
            damaged.extend(found.damaged);
            place = found.place;
        }
        panic!("never came to the end")
    }

    fn places(&self, bytes: u64) -> Vec<(u64, u64)> {
        self.all(bytes).iter().filter(|d| !d.is_padding).map(|d| (d.from.0, d.to.0)).collect()
    }
}

fn bodies(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| vec![n as u8 + 1; 100 + (n * 61) % 700]).collect()
}

const CHUNKS: [u64; 4] = [1, 700, 5000, 1 << 20];

#[test]
fn a_good_log_is_good_in_pieces_of_any_size() {
    let log = Log::of(&bodies(60));
    assert!(log.log.segments().count() > 2);
    for chunk in CHUNKS {
        assert_eq!(log.all(chunk), vec![], "{chunk}");
    }
    let whole = log.order(Place::default(), log.log.end().0, 1 << 20).run();
    assert_eq!((whole.bytes, whole.unreadable_bytes), (log.log.end().0, 0));
}

#[test]
fn a_bit_anywhere_in_a_record_spoils_that_record_alone() {
    let count = 30;
    for victim in [0, 7, count - 1] {
        let log = Log::of(&bodies(count));
        let (from, to) = log.records[victim];
        // magic, record length, trailer length, flags, epoch, topic, checksum; the record's own length, its body
        for (at, bit) in
            [(0, 0), (5, 1), (7, 6), (9, 5), (11, 0), (13, 3), (25, 7), (30, 2), (33, 4), (120, 0)]
        {
            log.flip(from + at, bit);
            // what ends at a segment's border, or in its padding, ends there
            for chunk in CHUNKS {
                assert_eq!(log.places(chunk), vec![(from, to)], "record {victim} byte {at} chunk {chunk}");
            }
            log.flip(from + at, bit);
        }
        assert_eq!(log.all(700), vec![]);
    }
}

#[test]
fn damage_that_spans_records_and_a_border_is_one_place() {
    let log = Log::of(&bodies(60));
    let first_of_next = log.records.iter().position(|(from, _)| *from == SEGMENT).unwrap();
    let (from, _) = log.records[first_of_next - 2];
    let to = log.records[first_of_next].1;
    // the last two before the border, the padding, and the first behind it
    log.overwrite(from + 10, &vec![0xA5; (SEGMENT - from - 10) as usize]);
    log.overwrite(SEGMENT, &[0xA5; 50]);
    for chunk in CHUNKS {
        assert_eq!(log.places(chunk), vec![(from, to)], "{chunk}");
    }
}

#[test]
fn spoilt_padding_is_nobodys_record() {
    let log = Log::of(&bodies(60));
    let first_of_next = log.records.iter().position(|(from, _)| *from == SEGMENT).unwrap();
    let padding = log.records[first_of_next - 1].1;
    assert!(SEGMENT - padding > 8, "there is some");
    for at in [padding, padding + 3, padding + 6, SEGMENT - 1] {
        log.flip(at, 1);
        for chunk in CHUNKS {
            let damaged = log.all(chunk);
            let is_padding = damaged.iter().all(|d| d.is_padding && (d.from.0, d.to.0) == (padding, SEGMENT));
            assert!(is_padding && damaged.len() == 1, "{at} {chunk}: {damaged:?}");
        }
        log.flip(at, 1);
    }
}

#[test]
fn a_record_that_was_zeroed_up_to_the_border_is_no_padding() {
    // fits so that nothing is left behind it
    let mut log = Log::of(&bodies(1));
    let left = SEGMENT - log.log.end().0 - HEADER_LEN as u64;
    let body = vec![9; (left - record(&[], 0).len() as u64) as usize];
    log.put(record(&body, body_crc(&body)));
    log.put(record(&[1; 40], body_crc(&[1; 40])));
    let (from, to) = log.records[1];
    assert_eq!(to, SEGMENT);
    log.overwrite(from, &vec![0; (to - from) as usize]);
    assert_eq!(log.places(1 << 20), vec![(from, to)]);
}

#[test]
fn a_body_that_looks_like_headers_or_padding_misleads_nobody() {
    let mut body = b"LTF1".to_vec();
    body.extend_from_slice(&[0; 60]);
    body.extend_from_slice(b"LTR1\0\0\0\x20");
    let mut all = bodies(4);
    all.insert(2, body);
    let log = Log::of(&all);
    let (from, to) = log.records[2];
    log.flip(from + 1, 0);
    for chunk in CHUNKS {
        assert_eq!(log.places(chunk), vec![(from, to)], "{chunk}");
    }
}

#[test]
fn a_body_that_never_fitted_its_checksum_is_found() {
    let mut log = Log::of(&bodies(3));
    log.put(record(b"body", 1));
    log.put(record(b"body", body_crc(b"body")));
    assert_eq!(log.places(1 << 20), vec![log.records[3]]);
}

#[test]
fn nothing_above_the_mark_is_looked_at() {
    let log = Log::of(&bodies(20));
    let mark = log.records[10].0;
    log.flip(log.records[10].0 + 3, 0);
    log.flip(log.records[15].0 + 60, 0);
    let found = log.order(Place::default(), mark, 1 << 20).run();
    assert_eq!((found.damaged, found.place.at.0), (vec![], mark));
    // what is damaged up to the mark ends at it
    let log = Log::of(&bodies(20));
    log.flip(log.records[9].0 + 60, 0);
    let found = log.order(Place::default(), mark, 1 << 20).run();
    let damage = Damage { from: LogPosition(log.records[9].0), to: LogPosition(mark), is_padding: false };
    assert_eq!(
        (found.damaged, found.place),
        (vec![damage], Place { at: LogPosition(mark), damaged_from: None })
    );
}

#[test]
fn what_the_disk_cannot_read_is_a_finding_to_the_page() {
    let log = Log::of(&bodies(60));
    let end = log.log.end().0;
    log.disk.set_faults(SimFaults { bad_bytes: Some((4096, 8192)), ..SimFaults::default() });
    let found = log.order(Place::default(), end, 1 << 20).run();
    log.disk.set_faults(SimFaults::default());
    let hit: Vec<_> = log
        .records
        .iter()
        .filter(|(from, to)| from % SEGMENT < 8192 && to - 1 - (from - from % SEGMENT) >= 4096)
        .collect();
    let places: Vec<_> = found.damaged.iter().filter(|d| !d.is_padding).collect();
    assert!(found.unreadable_bytes >= 4096, "{found:?}");
    for (from, to) in &log.records {
        let is_hit = hit.contains(&&(*from, *to));
        let is_told = places.iter().any(|d| d.from.0 <= *from && *to <= d.to.0);
        assert_eq!(is_hit, is_told, "{from}..{to}");
    }
}

#[test]
fn a_segment_that_is_gone_or_short_is_damaged_as_far_as_it_is_missing() {
    let log = Log::of(&bodies(60));
    let first_of_next = log.records.iter().position(|(from, _)| *from == SEGMENT).unwrap();
    let of_third = log.records.iter().find(|(from, _)| *from == 2 * SEGMENT).unwrap().0;
    log.disk.remove(&PathBuf::from("/log").join(segment_name(SEGMENT))).unwrap();
    assert_eq!(log.places(1 << 20), vec![(log.records[first_of_next].0, of_third)]);
    let log = Log::of(&bodies(60));
    let cut = log.records[3].0 + 20;
    let file = log.disk.open(&PathBuf::from("/log").join(segment_name(0)), OpenMode::Existing).unwrap();
    file.truncate(cut).unwrap();
    assert_eq!(log.places(700), vec![(log.records[3].0, SEGMENT)]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn exactly_the_records_that_changed_are_damaged(
        count in 1..40usize,
        flips in proptest::collection::vec((any::<u64>(), 0..8u8), 0..6),
        chunk in 1..10_000u64,
    ) {
        let log = Log::of(&bodies(count));
        let mut changed: Ranges = Ranges::new();
        let mut flipped = std::collections::BTreeSet::new();
        for (at, bit) in flips {
            let at = at % log.log.end().0;
            if flipped.insert((at, bit)) {
                log.flip(at, bit);
                changed.insert(at, at + 1);
            }
        }
        let places = log.places(chunk);
        for (from, to) in &log.records {
            let is_changed = !changed.within(*from, *to).is_empty();
            let is_told = places.iter().any(|(a, b)| a <= from && to <= b);
            let is_touched = places.iter().any(|(a, b)| a < to && from < b);
            prop_assert_eq!(is_changed, is_told);
            prop_assert_eq!(is_told, is_touched, "places end where records begin");
        }
        let bytes: u64 = places.iter().map(|(a, b)| b - a).sum();
        let records: u64 = log.records.iter().filter(|(a, b)| !changed.within(*a, *b).is_empty()).map(|(a, b)| b - a).sum();
        prop_assert!(bytes >= records);
    }
}

#[test]
fn what_is_no_fault_of_the_disk_is_no_finding() {
    let log = Log::of(&bodies(20));
    log.disk.set_faults(SimFaults { no_handles: true, ..SimFaults::default() });
    let found = log.order(Place::default(), log.log.end().0, 1 << 20).run();
    assert_eq!((found.place, found.damaged), (Place::default(), vec![]));
    assert!(found.failed.is_some());
    log.disk.set_faults(SimFaults::default());
    assert_eq!(log.all(700), vec![]);
}
