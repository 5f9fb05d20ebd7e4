use super::*;
use crate::disk_sim::SimDisk;
use lifecycle::identity::{Incarnation, Lineage, TopicIncarnation};
use std::sync::Arc;

const SEGMENT: u64 = 4096;

fn epoch(number: u64, run: u8) -> Epoch {
    Epoch { number, incarnation: Incarnation([run; 16]) }
}

fn open(disk: &SimDisk, epochs: Vec<(Epoch, LogPosition)>) -> CommitLog {
    CommitLog::open(Arc::new(disk.clone()), Path::new("/log"), SEGMENT, epochs).unwrap()
}

fn put(log: &mut CommitLog, len: usize, lineage: bool) {
    log.place(len, lineage).unwrap();
    let lineage = lineage.then(Lineage::default);
    log.push(TopicIncarnation(7), lineage.as_ref(), |out| out.resize(out.len() + len, len as u8));
}

fn filled(disk: &SimDisk) -> CommitLog {
    let mut log = open(disk, vec![]);
    log.begin_epoch(epoch(1, 1));
    for n in 0..40usize {
        put(&mut log, 20 + n * 13, n % 3 == 0);
    }
    log.write().unwrap();
    log.begin_epoch(epoch(2, 2));
    put(&mut log, 700, false);
    log.write().unwrap();
    log
}

fn bytes_of(log: &CommitLog, from: u64, len: usize) -> Bytes {
    let mut buf = vec![0; len];
    let got = log.chain.read_at(&mut buf, from).unwrap();
    buf.truncate(got);
    buf.into()
}

/// Copies in chunks of at most `chunk` bytes, cut where records end.
fn copy_all(master: &CommitLog, copy: &mut CommitLog, chunk: usize) {
    while copy.end() < master.end() {
        let bytes = bytes_of(master, copy.end().0, chunk.max(PIECE_LEN_MAX.min(SEGMENT as usize)));
        let len = whole_len(&bytes, copy.end(), SEGMENT).min(bytes.len());
        assert!(len > 0, "a chunk holds at least one piece");
        copy.append_copied(copy.end(), &bytes.slice(..len)).unwrap();
    }
}

#[test]
fn a_copy_is_the_same_bytes_and_the_same_records() {
    let (one, other) = (SimDisk::new(), SimDisk::new());
    let master = filled(&one);
    let mut copy = open(&other, vec![]);
    copy.accept_epochs(master.epochs().to_vec());
    copy_all(&master, &mut copy, 1000);
    assert!(master.end().0 > 2 * SEGMENT, "several segments, with fillers between them");
    let all = master.end().0 as usize;
    assert_eq!(bytes_of(&master, 0, all), bytes_of(&copy, 0, all));
    let mut count = 0;
    let count_one = |_| {
        count += 1;
        Ok(())
    };
    copy.walk(LogPosition(0), copy.end(), count_one).unwrap();
    assert_eq!(count, 41);
}

#[test]
fn what_is_not_whole_good_and_in_place_is_not_appended() {
    let (one, other) = (SimDisk::new(), SimDisk::new());
    let master = filled(&one);
    let mut copy = open(&other, vec![]);
    copy.accept_epochs(vec![(epoch(1, 1), LogPosition(0))]);
    let bytes = bytes_of(&master, 0, 600);
    let len = whole_len(&bytes, LogPosition(0), SEGMENT);
    assert!(len > 0 && len < 600);
    let good = bytes.slice(..len);
    assert!(matches!(
        copy.append_copied(LogPosition(1), &good),
        Err(CopyError::Misplaced { given: 1, end: 0 })
    ));
    assert!(
        matches!(copy.append_copied(LogPosition(0), &bytes), Err(CopyError::Damaged(_))),
        "a torn record"
    );
    for at in 0..len {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1;
        let outcome = copy.append_copied(LogPosition(0), &flipped.into());
        assert!(matches!(outcome, Err(CopyError::Damaged(_))), "byte {at}");
        assert_eq!(copy.end(), LogPosition(0));
    }
    // the same bytes under a fork's epoch
    let mut fork = open(&SimDisk::new(), vec![]);
    fork.accept_epochs(vec![(epoch(1, 9), LogPosition(0))]);
    assert!(matches!(fork.append_copied(LogPosition(0), &good), Err(CopyError::Damaged(0))));
    copy.append_copied(LogPosition(0), &good).unwrap();
    assert_eq!(copy.end(), LogPosition(len as u64));
}

#[test]
fn what_is_cut_is_kept_and_can_be_read_again() {
    let disk = SimDisk::new();
    let mut log = filled(&disk);
    let (_, second) = log.epochs()[1];
    let end = log.end();
    let tail = bytes_of(&log, second.0, (end.0 - second.0) as usize);
    let dir = Path::new("/survivors");
    assert_eq!(log.cut_with_survivor(&disk, dir, end).unwrap(), None, "nothing above the end");
    let path = log.cut_with_survivor(&disk, dir, second).unwrap().unwrap();
    assert_eq!(log.end(), second);
    assert_eq!(read_survivor(&disk, &path).unwrap(), (second, tail));
    // for every effect after which the power fails: nothing is cut that is not kept
    for effects in 0..12 {
        let disk = SimDisk::new();
        let mut log = filled(&disk);
        log.mark_dirty_from(LogPosition(0));
        log.take_sync_batch().unwrap().sync().unwrap();
        let faults = crate::disk_sim::SimFaults { die_after_effects: Some(effects), ..Default::default() };
        disk.set_faults(faults);
        let outcome = log.cut_with_survivor(&disk, dir, second);
        drop(log);
        disk.power_cut(effects);
        let log = open(&disk, vec![(epoch(1, 1), LogPosition(0)), (epoch(2, 2), second)]);
        if log.end() < end {
            let files = disk.list(dir).unwrap();
            let kept = files.iter().find(|file| file.name.ends_with(".log")).expect("kept");
            assert_eq!(read_survivor(&disk, &dir.join(&kept.name)).unwrap().0, second);
        } else {
            assert!(outcome.is_err(), "after {effects} effects");
        }
    }
}
