//! The queues against a plain map, and power cuts against the promise "exactly what is below the checkpoint".

use super::*;
use crate::disk::OpenMode;
use crate::disk_sim::{SimDisk, SimFaults, SimRng};
use proptest::prelude::*;

fn config() -> ConsumeQueueConfig {
    let dir = PathBuf::from("/cq");
    ConsumeQueueConfig { dir, units_per_file: 16, open_files_max: 3, write_out_bytes: 100 }
}

fn open(disk: &SimDisk, synced: u64) -> ConsumeQueues {
    let (queues, missing) = ConsumeQueues::open(Arc::new(disk.clone()), config(), synced).unwrap();
    assert_eq!(missing, []);
    queues
}

fn unit(commitlog_offset: u64) -> Unit {
    Unit { commitlog_offset, size: 10, tag_hash: -5 }
}

fn offsets(queues: &mut ConsumeQueues, index: QueueIndex) -> Vec<u64> {
    let mut units = Vec::new();
    let (min, max) = (queues.min_offset(index), queues.max_offset(index));
    queues.read(index, min, max - min + 5, &mut units).unwrap();
    units.into_iter().map(|unit| unit.commitlog_offset).collect()
}

#[test]
fn units_are_as_drawn() {
    let unit = Unit { commitlog_offset: 258, size: 3, tag_hash: -1 };
    let bytes = unit.encode();
    assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3, 255, 255, 255, 255, 255, 255, 255, 255]);
    assert_eq!(Unit::decode(&bytes), Some(unit));
    assert_eq!(Unit::decode(&[0; UNIT_BYTES]), None);
    assert_eq!(file_path(Path::new("/cq"), "T", 3, 16), Path::new("/cq/T/3-00000000000000000016"));
    assert_eq!(parse_file_name("3-00000000000000000016"), Some((3, 16)));
    assert_eq!(parse_file_name("3-16"), None);
}

#[test]
fn appends_are_in_order_idempotent_and_repairing() {
    let disk = SimDisk::new();
    let mut queues = open(&disk, 0);
    let index = queues.create("T", 0).unwrap();
    for offset in 0..40 {
        assert_eq!(queues.append(index, offset, unit(offset * 10)).unwrap(), Appended::New);
    }
    assert_eq!(
        queues.append(index, 41, unit(1)).unwrap_err().kind,
        ErrorKind::Corrupt("gap in a consume queue")
    );
    assert_eq!(queues.append(index, 7, unit(70)).unwrap(), Appended::Known);
    assert_eq!(queues.append(index, 7, unit(71)).unwrap(), Appended::Repaired);
    assert_eq!(queues.append(index, 39, unit(391)).unwrap(), Appended::Repaired);
    assert_eq!(queues.get(index, 7).unwrap(), Some(unit(71)));
    assert_eq!(queues.get(index, 39).unwrap(), Some(unit(391)));
    assert_eq!(queues.get(index, 40).unwrap(), None);
    assert_eq!(offsets(&mut queues, index).len(), 40);
    assert_eq!(queues.first_at_or_above(index, 71).unwrap(), 7);
    assert_eq!(queues.first_at_or_above(index, 72).unwrap(), 8);
    assert_eq!(queues.first_at_or_above(index, 9999).unwrap(), 40);
}

#[test]
fn tails_are_written_late_and_in_one_piece() {
    let disk = SimDisk::new();
    let mut queues = open(&disk, 0);
    let index = queues.create("T", 0).unwrap();
    for offset in 0..4 {
        queues.append(index, offset, unit(offset)).unwrap();
    }
    assert_eq!((disk.counters().writes, disk.files().len()), (0, 0));
    assert_eq!(offsets(&mut queues, index), [0, 1, 2, 3]);
    queues.append(index, 4, unit(4)).unwrap();
    assert_eq!(disk.counters().writes, 1, "100 bytes are reached");
    queues.append(index, 5, unit(5)).unwrap();
    queues.write_out().unwrap();
    queues.write_out().unwrap();
    assert_eq!(disk.counters().writes, 2);
    disk.kill();
    let mut queues = open(&disk, 1000);
    let index = queues.find("T", 0).unwrap();
    assert_eq!(offsets(&mut queues, index), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_queue_may_start_anywhere_and_comes_back_there() {
    let disk = SimDisk::new();
    let mut queues = open(&disk, 0);
    let index = queues.create("T", 9).unwrap();
    queues.reset_to(index, 37).unwrap();
    assert!(queues.append(index, 36, unit(1)).is_ok_and(|appended| appended == Appended::Known));
    queues.append(index, 37, unit(1)).unwrap();
    queues.append(index, 38, unit(2)).unwrap();
    queues.take_sync_batch().unwrap().sync().unwrap();
    disk.power_cut(1);
    let mut queues = open(&disk, 100);
    let index = queues.find("T", 9).unwrap();
    assert_eq!((queues.min_offset(index), queues.max_offset(index)), (37, 39));
    assert_eq!(offsets(&mut queues, index), [1, 2]);
    assert!(queues.read(index, 36, 1, &mut Vec::new()).unwrap_err().is_not_found());
}

#[test]
fn retention_removes_whole_files_and_keeps_the_place() {
    let disk = SimDisk::new();
    let mut queues = open(&disk, 0);
    let index = queues.create("T", 0).unwrap();
    for offset in 0..40 {
        queues.append(index, offset, unit(offset)).unwrap();
    }
    queues.write_out().unwrap();
    assert_eq!(queues.remove_below(index, 31).unwrap(), 1);
    assert_eq!(queues.min_offset(index), 31);
    assert_eq!(queues.remove_below(index, 9999).unwrap(), 1, "the last file stays");
    assert_eq!((queues.min_offset(index), queues.max_offset(index)), (40, 40));
    disk.kill();
    let queues = open(&disk, 1000);
    let index = queues.find("T", 0).unwrap();
    assert_eq!((queues.min_offset(index), queues.max_offset(index)), (32, 40));
}

#[test]
fn topics_go_as_a_whole_and_bad_names_are_refused() {
    let disk = SimDisk::new();
    let mut queues = open(&disk, 0);
    for queue_id in 0..3 {
        for topic in ["A", "B"] {
            let index = queues.create(topic, queue_id).unwrap();
            queues.append(index, 0, unit(1)).unwrap();
        }
    }
    queues.take_sync_batch().unwrap().sync().unwrap();
    queues.remove_topic("A").unwrap();
    queues.remove_topic("absent").unwrap();
    assert_eq!(queues.find("A", 0), None);
    let left: Vec<_> = queues.list().map(|(topic, id, _)| (topic.to_owned(), id)).collect();
    assert_eq!(left, [("B".to_owned(), 0), ("B".to_owned(), 1), ("B".to_owned(), 2)]);
    queues.take_sync_batch().unwrap().sync().unwrap();
    assert_eq!(open(&disk, 100).list().count(), 3);
    for bad in ["", ".", "..", "a/b", &"x".repeat(201)] {
        assert!(queues.create(bad, 0).is_err(), "{bad}");
    }
}

#[test]
fn a_full_disk_loses_no_unit() {
    let disk = SimDisk::new();
    let mut queues = open(&disk, 0);
    let index = queues.create("T", 0).unwrap();
    disk.set_faults(SimFaults { no_space_after_bytes: Some(30), ..SimFaults::default() });
    for offset in 0..4 {
        queues.append(index, offset, unit(offset)).unwrap();
    }
    assert_eq!(queues.append(index, 4, unit(4)), Ok(Appended::New), "it waits in memory, and can be read");
    assert_eq!(queues.write_out().unwrap_err().kind, ErrorKind::NoSpace);
    assert_eq!(offsets(&mut queues, index), [0, 1, 2, 3, 4]);
    disk.set_faults(SimFaults::default());
    queues.append(index, 5, unit(5)).unwrap();
    queues.write_out().unwrap();
    assert_eq!(offsets(&mut queues, index), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_missing_synced_file_is_reported() {
    let disk = SimDisk::new();
    let mut queues = open(&disk, 0);
    let index = queues.create("T", 0).unwrap();
    for offset in 0..40 {
        queues.append(index, offset, unit(offset)).unwrap();
    }
    queues.take_sync_batch().unwrap().sync().unwrap();
    let first = file_path(Path::new("/cq"), "T", 0, 0);
    disk.open(&first, OpenMode::Existing).unwrap().truncate(100).unwrap();
    let (mut queues, missing) = ConsumeQueues::open(Arc::new(disk), config(), 1000).unwrap();
    let topic_dir = "T".to_owned();
    assert_eq!(missing, [MissingUnits { topic_dir, queue_id: 0, offsets: 5..16 }]);
    let index = queues.find("T", 0).unwrap();
    assert_eq!(offsets(&mut queues, index), (16..40).collect::<Vec<_>>());
}

#[test]
fn ten_thousand_queues_share_a_few_handles() {
    let disk = SimDisk::new();
    let config = ConsumeQueueConfig { open_files_max: 8, ..ConsumeQueueConfig::new("/cq".into()) };
    let (mut queues, _) = ConsumeQueues::open(Arc::new(disk.clone()), config, 0).unwrap();
    let mut all = Vec::new();
    for queue in 0..10_000u32 {
        all.push(queues.create(&format!("T{}", queue / 8), queue % 8).unwrap());
    }
    for round in 0..3 {
        for (number, index) in all.iter().enumerate() {
            queues.append(*index, round, unit(round * 10_000 + number as u64)).unwrap();
        }
    }
    queues.write_out().unwrap();
    assert_eq!(offsets(&mut queues, all[9_999]), [9_999, 19_999, 29_999]);
    assert_eq!(disk.counters().writes, 10_000, "one write per queue, not per unit");
}

/// A log of dispatches over three queues; returns whether the process died before the end.
fn crash_run(effects: u64, seed: u64) -> bool {
    let disk = SimDisk::new();
    let mut rng = SimRng(seed);
    // The record at log position p = 10 * n belongs to queue `log[n].0` at offset `log[n].1`.
    let mut log: Vec<(u32, u64)> = Vec::new();
    let mut next = [0u64, 5, 16];
    let mut synced = 0u64;
    let mut log_start = 0u64;
    disk.set_faults(SimFaults { die_after_effects: Some(effects), ..SimFaults::default() });
    let result = (|| -> Result<()> {
        let (mut queues, _) = ConsumeQueues::open(Arc::new(disk.clone()), config(), 0)?;
        for (queue_id, start) in next.iter().enumerate() {
            let index = queues.create("T", u32::try_from(queue_id).unwrap())?;
            queues.reset_to(index, *start)?;
        }
        for _ in 0..150 {
            let queue_id = u32::try_from(rng.below(3)).unwrap();
            let index = queues.create("T", queue_id)?;
            let offset = next[queue_id as usize];
            next[queue_id as usize] += 1;
            log.push((queue_id, offset));
            queues.append(index, offset, unit((log.len() as u64 - 1) * 10))?;
            match rng.below(20) {
                0 => {
                    let end = log.len() as u64 * 10;
                    queues.take_sync_batch()?.sync()?;
                    synced = end;
                }
                1 => queues.write_out()?,
                2 if synced > 0 => {
                    log_start = log_start.max(synced / 2);
                    for index in [0, 1, 2].map(QueueIndex) {
                        let min = queues.first_at_or_above(index, log_start)?;
                        queues.remove_below(index, min)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    })();
    disk.power_cut(rng.next_u64());
    let mut queues = open(&disk, synced);
    for queue_id in 0..3u32 {
        let own = log.iter().enumerate().filter(|(_, (id, _))| *id == queue_id);
        let own: Vec<_> = own.map(|(n, (_, offset))| (*offset, n as u64 * 10)).collect();
        let below: Vec<_> = own.iter().filter(|(_, position)| *position < synced).copied().collect();
        let Some(index) = queues.find("T", queue_id) else {
            assert_eq!(below, [], "queue {queue_id} is gone");
            continue;
        };
        let min = queues.min_offset(index);
        let kept: Vec<_> = (min..).zip(offsets(&mut queues, index)).collect();
        let expected: Vec<_> = below.iter().filter(|(offset, _)| *offset >= min).copied().collect();
        assert_eq!(kept, expected, "queue {queue_id}, synced {synced}");
        let oldest = below.iter().find(|(_, position)| *position >= log_start);
        assert!(oldest.is_none_or(|(offset, _)| *offset >= min), "retained units are there");
        // Dispatching again from the checkpoint brings back everything.
        for (offset, position) in own.iter().filter(|(_, position)| *position >= synced) {
            assert_eq!(queues.append(index, *offset, unit(*position)).unwrap(), Appended::New);
        }
        assert_eq!(queues.max_offset(index), own.last().map_or(min, |(offset, _)| offset + 1));
    }
    result.is_err()
}

#[test]
fn a_power_cut_after_any_effect_leaves_exactly_what_is_below_the_checkpoint() {
    let mut deaths = 0;
    for effects in 0..90 {
        for seed in 0..12 {
            deaths += u32::from(crash_run(effects, seed * 1000 + effects));
        }
    }
    assert!(deaths > 400, "the faults must hit: {deaths}");
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64),
    Truncate(u64),
    RemoveBelow(u64),
    Reset(u64),
    WriteOut,
    Restart,
}

proptest! {
    #[test]
    fn behaves_like_a_list(steps in proptest::collection::vec(prop_oneof![
        6 => (1..30u64).prop_map(Step::Append),
        1 => (0..40u64).prop_map(Step::Truncate),
        1 => (0..120u64).prop_map(Step::RemoveBelow),
        1 => (0..60u64).prop_map(Step::Reset),
        2 => Just(Step::WriteOut),
        1 => Just(Step::Restart),
    ], 1..25)) {
        let disk = SimDisk::new();
        let mut queues = open(&disk, 0);
        let mut index = queues.create("T", 1).unwrap();
        let (mut min, mut model): (u64, Vec<u64>) = (0, Vec::new());
        let mut log = 0;
        for step in steps {
            let max = min + model.len() as u64;
            match step {
                Step::Append(count) => for offset in max..max + count {
                    log += 10;
                    prop_assert_eq!(queues.append(index, offset, unit(log)).unwrap(), Appended::New);
                    model.push(log);
                }
                Step::Truncate(back) => {
                    let offset = max.saturating_sub(back).max(min);
                    queues.truncate(index, offset).unwrap();
                    model.truncate(usize::try_from(offset - min).unwrap());
                }
                Step::RemoveBelow(offset) => {
                    queues.remove_below(index, offset).unwrap();
                    let offset = offset.clamp(min, max);
                    model.drain(..usize::try_from(offset - min).unwrap());
                    min = offset;
                }
                Step::Reset(offset) => {
                    queues.reset_to(index, offset).unwrap();
                    (min, model) = (offset, Vec::new());
                }
                Step::WriteOut => queues.write_out().unwrap(),
                Step::Restart => {
                    queues.write_out().unwrap();
                    disk.kill();
                    queues = open(&disk, u64::MAX);
                    if model.is_empty() && queues.find("T", 1).is_none_or(|index| queues.max_offset(index) != min) {
                        // An empty queue without a file is remembered by the caller.
                        index = queues.create("T", 1).unwrap();
                        queues.reset_to(index, min).unwrap();
                    }
                    index = queues.find("T", 1).unwrap();
                    prop_assert!(queues.min_offset(index) <= min);
                    queues.remove_below(index, min).unwrap();
                }
            }
            prop_assert_eq!(queues.min_offset(index), min);
            prop_assert_eq!(&offsets(&mut queues, index), &model);
            for position in [0, log / 2, log] {
                let expected = min + model.partition_point(|own| *own < position) as u64;
                prop_assert_eq!(queues.first_at_or_above(index, position).unwrap(), expected);
            }
        }
    }

    #[test]
    fn any_bytes_in_a_file_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..330), start in 0..3u64) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/cq/T")).unwrap();
        let path = file_path(Path::new("/cq"), "T", 1, start * 16);
        disk.open(&path, OpenMode::Create).unwrap().write_all_at(&bytes, 0).unwrap();
        if let Ok((mut queues, _)) = ConsumeQueues::open(Arc::new(disk), config(), 1 << 63) {
            let index = queues.find("T", 1).unwrap();
            let min = queues.min_offset(index);
            let mut units = Vec::new();
            if queues.read(index, min, 100, &mut units).is_ok() {
                prop_assert_eq!(units.len() as u64, queues.max_offset(index) - min);
            }
            if let Ok(offset) = queues.first_at_or_above(index, 5) {
                prop_assert!(offset >= min && offset <= queues.max_offset(index));
            }
            prop_assert!(queues.max_offset(index) <= start * 16 + 16);
        }
    }
}
