use super::*;
use crate::commit_log::testing::{SEGMENT, epoch, open, put};
use crate::disk::OpenMode;
use crate::disk_sim::{SimDisk, SimFaults};

/// Two epochs over several segments, with fillers between them.
fn filled(disk: &SimDisk) -> CommitLog {
    let mut log = open(disk, vec![]);
    for (number, records) in [(1, 10), (2, 40)] {
        log.begin_epoch(epoch(number, number as u8));
        for n in 0..records {
            put(&mut log, 20 + n * 13, n % 3 == 0);
        }
        log.write().unwrap();
    }
    log
}

fn all_records(survivor: &Survivor) -> (Vec<SurvivingRecord>, u64) {
    let mut records = Vec::new();
    let unreadable = survivor.records(|record| {
        records.push(record);
        Ok(())
    });
    (records, unreadable.unwrap())
}

#[test]
fn what_is_cut_is_kept_and_can_be_read_again() {
    let disk = SimDisk::new();
    let mut log = filled(&disk);
    let (_, second) = log.epochs()[1];
    let end = log.end();
    let dir = Path::new("/survivors");
    assert_eq!(log.cut_with_survivor(&disk, dir, end).unwrap(), None, "nothing above the end");
    let mut expected = Vec::new();
    log.walk(second, end, |record| {
        expected.push(record);
        Ok(())
    })
    .unwrap();
    let path = log.cut_with_survivor(&disk, dir, second).unwrap().unwrap();
    assert_eq!(log.end(), second);
    let survivor = Survivor::open(&disk, &path).unwrap();
    assert_eq!((survivor.from(), survivor.end()), (second, end));
    let (records, unreadable) = all_records(&survivor);
    assert_eq!(unreadable, 0, "fillers are not damage");
    assert_eq!(records.len(), expected.len());
    for (kept, was) in records.iter().zip(&expected) {
        assert_eq!(kept.record.record, was.record);
        assert_eq!((kept.record.lineage, kept.record.topic), (was.lineage, was.topic));
        assert_eq!(kept.record.commitlog_offset, was.commitlog_offset);
    }
    // a part of it travels, and is checked again where it arrives
    let part = survivor.part(&records[3..5]);
    let arrived = Survivor::of_bytes(&part).unwrap();
    assert_eq!(arrived.epochs(), survivor.epochs());
    let (two, unreadable) = all_records(&arrived);
    assert_eq!((two.len(), unreadable), (2, 0));
    assert_eq!(two[1].bytes, records[4].bytes);
    for at in 0..part.len() {
        let mut damaged = part.to_vec();
        damaged[at] ^= 0x20;
        assert!(Survivor::of_bytes(&damaged.into()).is_err(), "byte {at}");
    }
    for len in 0..part.len() {
        assert!(Survivor::of_bytes(&part.slice(..len)).is_err(), "{len} bytes");
    }
}

#[test]
fn a_survivor_file_that_was_damaged_is_refused_and_damage_from_before_is_told() {
    let disk = SimDisk::new();
    let mut log = filled(&disk);
    let (_, second) = log.epochs()[1];
    let end = log.end();
    // a record that was spoilt while it was still in the log
    let mut starts = Vec::new();
    log.walk(second, end, |record| {
        starts.push(record.commitlog_offset.0);
        Ok(())
    })
    .unwrap();
    let spoilt = starts[7];
    let segment = format!("/log/{:020}", spoilt / SEGMENT * SEGMENT);
    let file = disk.open(Path::new(&segment), OpenMode::Existing).unwrap();
    file.write_all_at(b"?", spoilt % SEGMENT + 3).unwrap();
    let path = log.cut_with_survivor(&disk, Path::new("/survivors"), second).unwrap().unwrap();
    let (records, unreadable) = all_records(&Survivor::open(&disk, &path).unwrap());
    assert_eq!(records.len(), starts.len() - 1);
    assert!(records.iter().all(|record| record.record.commitlog_offset.0 != spoilt));
    assert!(unreadable >= 20, "{unreadable} bytes");
    let file = disk.open(&path, OpenMode::Existing).unwrap();
    let len = file.len().unwrap();
    for at in [0, 9, 50, len / 2, len - 1] {
        let mut byte = [0];
        file.read_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        assert!(Survivor::open(&disk, &path).is_err(), "byte {at}");
        file.write_all_at(&byte, at).unwrap();
    }
    Survivor::open(&disk, &path).unwrap();
    for len in [0, 3, 11, len - 1] {
        file.truncate(len).unwrap();
        assert!(Survivor::open(&disk, &path).is_err(), "{len} bytes");
    }
}

#[test]
fn whatever_effect_the_power_fails_after_nothing_is_cut_that_is_not_kept() {
    let dir = Path::new("/survivors");
    for effects in 0..12 {
        let disk = SimDisk::new();
        let mut log = filled(&disk);
        let (_, second) = log.epochs()[1];
        let end = log.end();
        log.mark_dirty_from(LogPosition(0));
        log.take_sync_batch().unwrap().sync().unwrap();
        disk.set_faults(SimFaults { die_after_effects: Some(effects), ..Default::default() });
        let outcome = log.cut_with_survivor(&disk, dir, second);
        drop(log);
        disk.power_cut(effects);
        let log = open(&disk, vec![(epoch(1, 1), LogPosition(0)), (epoch(2, 2), second)]);
        if log.end() < end {
            let files = disk.list(dir).unwrap();
            let kept = files.iter().find(|file| file.name.ends_with(SURVIVOR_SUFFIX)).expect("kept");
            assert_eq!(Survivor::open(&disk, &dir.join(&kept.name)).unwrap().from(), second);
        } else {
            assert!(outcome.is_err(), "after {effects} effects");
        }
    }
}
