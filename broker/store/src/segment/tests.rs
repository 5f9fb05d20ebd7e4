//! The chain against a plain byte vector, and under power cuts.

use super::*;
use crate::disk_sim::{SimDisk, SimFaults};
use proptest::prelude::*;

const SIZE: u64 = 100;

fn config() -> SegmentConfig {
    SegmentConfig { dir: PathBuf::from("/log"), segment_size_bytes: SIZE, open_files_max: 2, allocate: true }
}

fn open(disk: &SimDisk) -> SegmentChain {
    SegmentChain::open(Arc::new(disk.clone()), config()).unwrap()
}

fn read(chain: &SegmentChain, position: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    let count = chain.read_at(&mut buf, position).unwrap();
    buf.truncate(count);
    buf
}

#[test]
fn names_are_positions() {
    assert_eq!(segment_name(1_073_741_824), "00000000001073741824");
    assert_eq!(parse_segment_name("00000000001073741824"), Some(1_073_741_824));
    for bad in ["", "1", "0000000000107374182x", "+0000000001073741824", "99999999999999999999"] {
        assert_eq!(parse_segment_name(bad), None, "{bad}");
    }
}

#[test]
fn appends_span_segments_and_read_back() {
    let disk = SimDisk::new();
    let mut chain = open(&disk);
    let bytes: Vec<u8> = (0..=249).collect();
    assert_eq!(chain.append(&bytes).unwrap(), 0);
    assert_eq!(chain.segments().len(), 3);
    assert_eq!((chain.end_offset(), chain.remaining_in_segment()), (250, 50));
    assert_eq!(read(&chain, 95, 10), bytes[95..105]);
    assert_eq!(read(&chain, 240, 50), bytes[240..]);
    assert_eq!(chain.take_sync_batch().unwrap().files.len(), 3);
    assert!(!chain.is_dirty());
    let mut again = open(&disk);
    again.mark_dirty_from(199);
    assert_eq!(again.take_sync_batch().unwrap().files.len(), 2);
    assert_eq!((again.start_offset(), again.end_offset()), (0, 250));
    assert!(again.gaps().is_empty());
}

#[test]
fn a_full_segment_leaves_a_whole_new_one() {
    let mut chain = open(&SimDisk::new());
    assert_eq!(chain.remaining_in_segment(), SIZE);
    chain.append(&[7; 100]).unwrap();
    assert_eq!(chain.remaining_in_segment(), SIZE);
    chain.append(&[8; 10]).unwrap();
    chain.append_zeros_to_boundary(&[9; 4]).unwrap();
    assert_eq!(chain.end_offset(), 200);
    assert_eq!(read(&chain, 108, 8), [8, 8, 9, 9, 9, 9, 0, 0]);
}

#[test]
fn a_failed_append_moves_nothing_and_leaves_nothing() {
    let disk = SimDisk::new();
    let mut chain = open(&disk);
    chain.append(&[1; 150]).unwrap();
    disk.set_faults(SimFaults { no_space_after_bytes: Some(60), ..SimFaults::default() });
    assert!(chain.append(&[2; 100]).is_err());
    assert_eq!(chain.end_offset(), 150);
    assert!(read(&chain, 150, 10).is_empty());
    disk.set_faults(SimFaults::default());
    chain.append_zeros_to_boundary(&[3; 2]).unwrap();
    assert_eq!(read(&chain, 148, 52), [&[1, 1, 3, 3][..], &[0; 48]].concat());
    chain.append(&[4; 5]).unwrap();
    assert_eq!(open(&disk).end_offset(), 205);
}

#[test]
fn old_segments_go_and_the_last_one_stays() {
    let disk = SimDisk::new();
    let mut chain = open(&disk);
    chain.append(&[1; 350]).unwrap();
    assert_eq!(chain.remove_before(199).unwrap(), [SegmentInfo { start: 0, end: 100 }]);
    assert_eq!(chain.remove_before(10_000).unwrap().len(), 2);
    assert_eq!((chain.start_offset(), chain.end_offset()), (300, 350));
    assert!(chain.read_at(&mut [0; 1], 299).unwrap_err().is_not_found());
    assert_eq!(open(&disk).start_offset(), 300);
    chain.reset_to(512).unwrap();
    assert_eq!((chain.start_offset(), chain.end_offset()), (500, 512));
    chain.append(&[5]).unwrap();
    assert_eq!(read(&open(&disk), 511, 9), [0, 5]);
}

#[test]
fn short_and_missing_files_in_the_middle_are_gaps_and_foreign_sizes_are_refused() {
    let disk = SimDisk::new();
    open(&disk).append(&[1; 450]).unwrap();
    disk.open(Path::new("/log/00000000000000000100"), OpenMode::Existing).unwrap().truncate(30).unwrap();
    disk.remove(Path::new("/log/00000000000000000300")).unwrap();
    let mut chain = open(&disk);
    assert_eq!(chain.gaps(), [130..200, 300..400]);
    assert_eq!(read(&chain, 120, 50).len(), 10);
    chain.truncate_at(250).unwrap();
    assert_eq!(chain.gaps().iter().collect::<Vec<_>>(), [&(130..200)]);
    chain.truncate_at(130).unwrap();
    assert!(chain.gaps().is_empty());
    let wrong = SegmentConfig { segment_size_bytes: 64, ..config() };
    assert!(SegmentChain::open(Arc::new(disk), wrong).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Fill(usize),
    Truncate(u64),
    RemoveBefore(u64),
    Sync,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..260usize).prop_map(Step::Append),
        1 => (0..5usize).prop_map(Step::Fill),
        1 => (0..100u64).prop_map(Step::Truncate),
        1 => (0..1000u64).prop_map(Step::RemoveBefore),
        2 => Just(Step::Sync),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    #[test]
    fn behaves_like_a_vector_and_keeps_what_was_synced(steps in steps(), seed: u64) {
        let disk = SimDisk::new();
        let mut chain = open(&disk);
        let (mut model, mut start): (Vec<u8>, u64) = (Vec::new(), 0);
        // Of the model, this prefix was synced and not truncated since.
        let mut synced = 0;
        let mut byte = 0u8;
        for step in steps {
            match step {
                Step::Append(len) => {
                    byte = byte.wrapping_add(1);
                    chain.append(&vec![byte; len]).unwrap();
                    model.resize(model.len() + len, byte);
                }
                Step::Fill(len) => {
                    let left = usize::try_from(chain.remaining_in_segment()).unwrap();
                    if left < 100 && len <= left {
                        chain.append_zeros_to_boundary(&vec![0xFF; len]).unwrap();
                        model.resize(model.len() + len, 0xFF);
                        model.resize(model.len() + left - len, 0);
                    }
                }
                Step::Truncate(back) => {
                    let position = chain.end_offset().saturating_sub(back).max(start);
                    chain.truncate_at(position).unwrap();
                    model.truncate(usize::try_from(position).unwrap());
                    // A truncation that is not synced may or may not have happened after a cut, so its
                    // file is dirty as a whole.
                    synced = synced.min(model.len() / 100 * 100);
                }
                Step::RemoveBefore(position) => {
                    chain.remove_before(position).unwrap();
                    start = chain.start_offset();
                    prop_assert!(start <= position.max(start) && start % SIZE == 0);
                }
                Step::Sync => {
                    let batch = chain.take_sync_batch().unwrap();
                    prop_assert_eq!(batch.sync().unwrap(), model.len() as u64);
                    synced = model.len();
                }
                Step::Reopen => {
                    // A process that dies forgets what was dirty; its successor must sync what it relies on.
                    let batch = chain.take_sync_batch().unwrap();
                    batch.sync().unwrap();
                    synced = model.len();
                    drop(chain);
                    disk.kill();
                    chain = open(&disk);
                    start = chain.start_offset();
                }
            }
            prop_assert_eq!(chain.end_offset(), model.len() as u64);
            let from = usize::try_from(start).unwrap();
            prop_assert_eq!(&read(&chain, start, model.len() + 10), &model[from.min(model.len())..]);
        }
        disk.power_cut(seed);
        let chain = open(&disk);
        let from = usize::try_from(chain.start_offset()).unwrap();
        // Untouched whole pages only: a page shared with unsynced bytes may be torn, but never below its
        // synced sectors' old content, which is the same.
        if from < synced {
            prop_assert_eq!(&read(&chain, chain.start_offset(), synced - from), &model[from..synced]);
        }
    }
}

/// Appends, syncs, truncations and removals until the disk dies; returns whether it did.
fn crash_run(effects: u64, seed: u64) -> bool {
    let disk = SimDisk::new();
    let mut rng = crate::disk_sim::SimRng(seed);
    let (mut model, mut synced): (Vec<u8>, usize) = (Vec::new(), 0);
    disk.set_faults(SimFaults { die_after_effects: Some(effects), ..SimFaults::default() });
    let result = (|| -> Result<()> {
        let mut chain = SegmentChain::open(Arc::new(disk.clone()), config())?;
        for byte in 1..=25u8 {
            let bytes = vec![byte; usize::try_from(rng.below(150)).unwrap()];
            // The bytes may be there even when the call fails.
            model.extend_from_slice(&bytes);
            chain.append(&bytes)?;
            match rng.below(6) {
                0 | 1 => synced = usize::try_from(chain.take_sync_batch()?.sync()?).unwrap(),
                2 => {
                    let position = chain.start_offset().max(model.len().saturating_sub(120) as u64);
                    synced = synced.min(usize::try_from(position).unwrap() / 100 * 100);
                    chain.truncate_at(position)?;
                    model.truncate(usize::try_from(position).unwrap());
                }
                3 => {
                    chain.remove_before(synced as u64)?;
                }
                _ => {}
            }
        }
        Ok(())
    })();
    disk.power_cut(rng.next_u64());
    let chain = open(&disk);
    let from = usize::try_from(chain.start_offset()).unwrap();
    assert!(from <= synced, "removed more than asked: {from} of {synced}");
    assert_eq!(read(&chain, chain.start_offset(), synced - from), model[from..synced], "lost after a sync");
    assert!(chain.gaps().iter().all(|gap| gap.start >= synced as u64), "a gap in what was synced");
    result.is_err()
}

#[test]
fn a_power_cut_after_any_effect_keeps_everything_synced() {
    let mut deaths = 0;
    for effects in 0..70 {
        for seed in 0..15 {
            deaths += u32::from(crash_run(effects, seed * 1000 + effects));
        }
    }
    assert!(deaths > 500, "the faults must hit: {deaths}");
}
