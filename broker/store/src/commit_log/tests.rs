use super::*;
use crate::disk_sim::SimDisk;
use lifecycle::identity::{CopyReason, Incarnation, MessageIdentity};
use proptest::prelude::*;

const SEGMENT: u64 = 4096;

fn epoch(number: u64) -> Epoch {
    Epoch { number, incarnation: Incarnation([number as u8; 16]) }
}

fn open(disk: &SimDisk, epochs: &[(Epoch, LogPosition)]) -> CommitLog {
    CommitLog::open(Arc::new(disk.clone()), Path::new("/log"), SEGMENT, epochs.to_vec()).unwrap()
}

fn append(log: &mut CommitLog, body: &[u8], lineage: Option<&Lineage>) -> LogPosition {
    let at = log.place(body.len(), lineage.is_some()).unwrap();
    log.push(TopicIncarnation(5), lineage, |out| out.extend_from_slice(body));
    at
}

fn body(n: usize) -> Vec<u8> {
    (0..(n * 37) % 700 + 10).map(|i| (i + n) as u8).collect()
}

fn lineage() -> Lineage {
    let identity = MessageIdentity { queue_offset: 7, ..Default::default() };
    Lineage { parent: identity, root: identity, reason: CopyReason::Retry }
}

fn scan(log: &mut CommitLog, flushed: u64) -> (ScanReport, Vec<LoggedRecord>) {
    let mut records = Vec::new();
    let report = log.scan(LogPosition(0), LogPosition(flushed), |r| records.push(r)).unwrap();
    (report, records)
}

#[test]
fn records_come_back_across_segments_with_their_lineage() {
    let disk = SimDisk::new();
    let mut log = open(&disk, &[]);
    log.begin_epoch(epoch(1));
    let mut placed = Vec::new();
    for n in 0..40 {
        let lineage = lineage();
        let at = append(&mut log, &body(n), (n % 3 == 0).then_some(&lineage));
        placed.push(at);
        if n % 5 == 4 {
            log.write().unwrap();
        }
    }
    for (n, at) in placed.iter().enumerate() {
        let record = log.read(*at).unwrap().unwrap();
        assert_eq!(record.record.as_ref(), body(n));
        assert_eq!(record.lineage, (n % 3 == 0).then(lineage));
        assert_eq!((record.topic, record.epoch_number), (TopicIncarnation(5), 1));
        assert!(log.read(LogPosition(at.0 + 1)).unwrap().is_none(), "only a record's first byte names it");
    }
    let mut again = open(&disk, log.epochs());
    let (report, records) = scan(&mut again, 0);
    assert_eq!(report, ScanReport { end: log.end(), torn_bytes: 0, damaged: vec![] });
    assert_eq!(records.iter().map(|r| r.commitlog_offset).collect::<Vec<_>>(), placed);
}

#[test]
fn a_segment_that_was_not_closed_in_time_is_closed_before_anything_follows() {
    for next_exists in [false, true] {
        let disk = SimDisk::new();
        let mut log = open(&disk, &[]);
        log.begin_epoch(epoch(1));
        append(&mut log, &[1; 3000], None);
        let filler = log.end().0;
        append(&mut log, &[2; 2000], None);
        log.write().unwrap();
        if !next_exists {
            log.discard_from(LogPosition(SEGMENT)).unwrap();
        }
        // killed, or the power cut: the filler's magic is there and its zeros are not
        let path = Path::new("/log").join(crate::segment::segment_name(0));
        disk.open(&path, crate::disk::OpenMode::Existing).unwrap().truncate(filler + 4).unwrap();
        let mut again = open(&disk, log.epochs());
        let (report, records) = scan(&mut again, 0);
        assert_eq!(records.len(), 1 + usize::from(next_exists));
        assert_eq!((report.end.0 >= SEGMENT, report.torn_bytes), (true, 0));
        // this one would have fitted behind the magic
        append(&mut again, &[3; 50], None);
        again.write().unwrap();
        let mut last = open(&disk, log.epochs());
        assert_eq!(scan(&mut last, 0).1.len(), 2 + usize::from(next_exists), "an append is found again");
        assert_eq!(disk.open(&path, crate::disk::OpenMode::Existing).unwrap().len().unwrap(), SEGMENT);
    }
}

#[test]
fn a_record_of_an_epoch_that_does_not_own_its_position_is_no_record() {
    let disk = SimDisk::new();
    let mut log = open(&disk, &[]);
    log.begin_epoch(epoch(1));
    append(&mut log, &body(1), None);
    log.write().unwrap();
    let fork = Epoch { number: 1, incarnation: Incarnation([9; 16]) };
    let (report, records) = scan(&mut open(&disk, &[(fork, LogPosition(0))]), 0);
    assert!(records.is_empty(), "same number, other incarnation: a fork");
    assert_eq!(report.end, LogPosition(0));
}

#[test]
fn damage_below_the_flushed_mark_is_reported_and_what_follows_is_kept() {
    let disk = SimDisk::new();
    let mut log = open(&disk, &[]);
    log.begin_epoch(epoch(1));
    let places: Vec<_> = (0..10).map(|n| append(&mut log, &body(n), None)).collect();
    log.write().unwrap();
    let hit = places[4].0 + 3;
    let file = Path::new("/log").join(crate::segment::segment_name(hit - hit % SEGMENT));
    assert!(disk.flip_bit(&file, hit % SEGMENT, 2));
    let mut again = open(&disk, log.epochs());
    let (report, records) = scan(&mut again, log.end().0);
    assert_eq!(records.len(), 9);
    let start = places[4].0 - HEADER_LEN as u64;
    assert_eq!(report.damaged, vec![(start, places[5].0 - HEADER_LEN as u64)]);
    assert_eq!((report.end, report.torn_bytes), (log.end(), 0));
}

#[test]
fn a_full_disk_keeps_the_turn_pending_and_can_be_given_up() {
    let disk = SimDisk::new();
    let mut log = open(&disk, &[]);
    log.begin_epoch(epoch(1));
    append(&mut log, &body(1), None);
    log.write().unwrap();
    let end = log.end();
    disk.set_faults(crate::disk_sim::SimFaults { no_space_after_bytes: Some(0), ..Default::default() });
    append(&mut log, &body(2), None);
    assert!(matches!(log.write().unwrap_err().kind, ErrorKind::NoSpace));
    log.discard_from(end).unwrap();
    disk.set_faults(Default::default());
    assert_eq!(log.end(), end);
    let at = append(&mut log, &body(3), None);
    log.write().unwrap();
    assert_eq!(log.read(at).unwrap().unwrap().record.as_ref(), body(3));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a power cut keeps of unsynced bytes: everything synced comes back, and nothing that was not written.
    #[test]
    fn a_power_cut_takes_only_what_was_not_synced(count in 1usize..30, synced in 0usize..30, seed: u64) {
        let disk = SimDisk::new();
        let mut log = open(&disk, &[]);
        log.begin_epoch(epoch(1));
        let mut flushed = LogPosition(0);
        for n in 0..count {
            append(&mut log, &body(n), None);
            log.write().unwrap();
            if n + 1 == synced.min(count) {
                let batch = log.take_sync_batch().unwrap();
                batch.sync().unwrap();
                flushed = log.end();
            }
        }
        let epochs = log.epochs().to_vec();
        drop(log);
        disk.power_cut(seed);
        let mut again = open(&disk, &epochs);
        let (report, records) = scan(&mut again, flushed.0);
        prop_assert!(records.len() >= synced.min(count));
        for (n, record) in records.iter().enumerate().take(synced.min(count)) {
            prop_assert_eq!(record.record.as_ref(), &body(n)[..]);
        }
        prop_assert!(report.end >= flushed);
        prop_assert!(report.damaged.is_empty() || report.end > flushed);
        again.begin_epoch(epoch(2));
        let at = append(&mut again, &body(77), None);
        again.write().unwrap();
        let record = again.read(at).unwrap().unwrap().record;
        prop_assert_eq!(record.as_ref(), &body(77)[..]);
    }
}

#[test]
fn a_spoilt_record_that_speaks_of_fillers_hides_nothing_behind_it() {
    let disk = SimDisk::new();
    let mut log = open(&disk, &[]);
    log.begin_epoch(epoch(1));
    let bodies: [&[u8]; 3] = [b"before", b"a body with LTF1 in it, and more", b"behind"];
    let placed: Vec<LogPosition> = bodies.iter().map(|body| append(&mut log, body, None)).collect();
    log.write().unwrap();
    let end = log.end();
    let path = Path::new("/log").join(crate::segment::segment_name(0));
    assert!(disk.flip_bit(&path, placed[1].0, 0));
    let walked = |log: &CommitLog| {
        let mut found = Vec::new();
        let visit = |record: LoggedRecord| {
            found.push(record.commitlog_offset);
            Ok(())
        };
        assert_eq!(log.walk(LogPosition(0), end, visit).unwrap(), end);
        found
    };
    assert_eq!(walked(&log), [placed[0], placed[2]]);
    let mut again = open(&disk, log.epochs());
    let (report, records) = scan(&mut again, end.0);
    assert_eq!(records.iter().map(|r| r.commitlog_offset).collect::<Vec<_>>(), [placed[0], placed[2]]);
    let header = HEADER_LEN as u64;
    assert_eq!(report.damaged, [(placed[1].0 - header, placed[2].0 - header)]);
    assert_eq!((report.end, report.torn_bytes), (end, 0));
}
