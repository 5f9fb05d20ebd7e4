//! The journal against a list of frames: round trips, live readers, damage, retention, and a death at every effect.

use super::frame::{HEADER_BYTES, SegmentHeader};
use super::*;
use crate::disk_sim::{SimDisk, SimFaults, SimRng};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Item {
    Frame(u8, u64, bool, Vec<u8>),
    Hole(u8, u64, u64),
    Closed(u8, u64, bool),
}

fn incarnation(number: u8) -> Incarnation {
    Incarnation([number; 16])
}

fn at(number: u8, sequence: u64) -> Position {
    Position { incarnation: incarnation(number), sequence }
}

fn config(segment_size_bytes: u64) -> JournalConfig {
    JournalConfig { dir: PathBuf::from("/j"), segment_size_bytes, reset_interval_bytes: 64 }
}

fn open(disk: &SimDisk, number: u8) -> (Journal, JournalReport) {
    Journal::open(Arc::new(disk.clone()), config(300), incarnation(number), 7).unwrap()
}

fn drain(reader: &mut JournalReader) -> Vec<Item> {
    let mut items = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        items.push(match item {
            JournalItem::Frame { position, is_reset_point, payload } => {
                Item::Frame(position.incarnation.0[0], position.sequence, is_reset_point, payload.to_vec())
            }
            JournalItem::Hole { incarnation, from, to } => Item::Hole(incarnation.0[0], from, to),
            JournalItem::Closed { incarnation, last_sequence, is_complete } => {
                Item::Closed(incarnation.0[0], last_sequence, is_complete)
            }
        });
    }
    items
}

#[test]
fn room_is_kept_for_a_full_disk_and_its_end_is_told() {
    let disk = SimDisk::new();
    let opened = Journal::open(Arc::new(disk.clone()), config(SEGMENT_BYTES), incarnation(1), 7);
    let (mut journal, _) = opened.unwrap();
    assert_eq!(journal.reserve(), Ok(true));
    journal.append(&vec![1; RESERVE_BYTES as usize * 3 / 4], true).unwrap();
    journal.write().unwrap();
    disk.set_faults(SimFaults { no_space_after_bytes: Some(1000), ..SimFaults::default() });
    assert_eq!(journal.reserve(), Ok(false), "less than half is left, and there is no more");
    disk.set_faults(SimFaults::default());
    assert_eq!(journal.reserve(), Ok(true));
    assert_eq!(journal.reserved_to, journal.written_len + RESERVE_BYTES);
}

/// Appends a frame, as a reset point where needed, and gives back what a reader must see.
fn append(journal: &mut Journal, payload: &[u8]) -> Item {
    let reset = journal.needs_reset();
    let position = journal.append(payload, reset).unwrap();
    Item::Frame(position.incarnation.0[0], position.sequence, reset, payload.to_vec())
}

fn fill(journal: &mut Journal, count: usize, len: usize) -> Vec<Item> {
    (0..count).map(|index| append(journal, &vec![u8::try_from(index % 250).unwrap() + 1; len])).collect()
}

#[test]
fn a_live_reader_sees_what_is_written_across_segments() {
    let (mut journal, report) = open(&SimDisk::new(), 1);
    assert_eq!(report, JournalReport::default());
    let mut reader = journal.view().read_all().unwrap();
    let mut expected = Vec::new();
    for round in 0..30 {
        expected.extend(fill(&mut journal, 3, 10 + round));
        let seen = drain(&mut reader);
        assert!(!seen.iter().any(|item| *item == expected[expected.len() - 1]), "not written yet");
        journal.write().unwrap();
        let mut all = seen;
        all.extend(drain(&mut reader));
        assert_eq!(all, expected);
        expected.clear();
    }
    assert!(journal.view().incarnations()[0].bytes > 2000);
    assert!(journal.view().segments().len() > 5);
}

#[test]
fn a_frame_costs_five_or_six_bytes_and_a_turn_one_write() {
    let disk = SimDisk::new();
    let mut journal = Journal::open(Arc::new(disk.clone()), config(1 << 20), incarnation(1), 0).unwrap().0;
    let before = disk.counters();
    let payloads: [usize; 4] = [1, 63, 64, 8191];
    for len in payloads {
        append(&mut journal, &vec![1; len]);
    }
    journal.write().unwrap();
    let after = disk.counters();
    assert_eq!(after.writes - before.writes, 1);
    let overhead = after.bytes_written - before.bytes_written - payloads.iter().sum::<usize>() as u64;
    assert_eq!(overhead, 5 + 5 + 6 + 6);
    assert_eq!(after.syncs, before.syncs, "only the caller syncs");
    journal.write().unwrap();
    assert_eq!(disk.counters().writes, after.writes, "nothing buffered, nothing written");
}

#[test]
fn reading_starts_at_the_reset_point_before_the_position() {
    let (mut journal, _) = open(&SimDisk::new(), 1);
    let frames = fill(&mut journal, 60, 20);
    journal.write().unwrap();
    for sequence in 0..=61u64 {
        let items = drain(&mut journal.view().read_from(at(1, sequence)).unwrap());
        let index = usize::try_from(sequence.clamp(1, 60)).unwrap() - 1;
        let start = (0..=index).rev().find(|i| matches!(frames[*i], Item::Frame(_, _, true, _))).unwrap();
        assert_eq!(items, frames[start..], "from {sequence}");
    }
    let absent = journal.view().read_from(at(9, 1)).unwrap_err();
    assert!(absent.is_not_found());
}

#[test]
fn the_caller_is_told_in_time_to_start_afresh() {
    let (mut journal, _) = open(&SimDisk::new(), 1);
    assert!(journal.needs_reset(), "the first frame");
    journal.append(&[1; 50], true).unwrap();
    assert!(!journal.needs_reset(), "55 bytes, the interval is 64");
    journal.append(&[1; 5], false).unwrap();
    assert!(journal.needs_reset());
    let (mut journal, _) = open(&SimDisk::new(), 2);
    journal.append(&[1; 300], true).unwrap();
    assert!(journal.needs_reset(), "the next frame starts a segment");
    assert!(journal.append(&[], true).is_err());
    assert!(journal.append(&vec![0; FRAME_PAYLOAD_BYTES_MAX + 1], true).is_err());
    assert_eq!(journal.last_position(), at(2, 1));
}

#[test]
fn old_incarnations_stay_readable_and_are_closed() {
    let disk = SimDisk::new();
    let mut expected = Vec::new();
    for run in 1..=3 {
        let (mut journal, report) = open(&disk, run);
        assert!(report.cut.is_empty());
        expected.extend(fill(&mut journal, 30, 20));
        journal.write().unwrap();
        if run < 3 {
            expected.push(Item::Closed(run, 30, true));
            disk.kill();
        } else {
            assert_eq!(drain(&mut journal.view().read_all().unwrap()), expected);
            let infos = journal.view().incarnations();
            assert_eq!(infos.iter().map(|info| info.last_sequence).collect::<Vec<_>>(), [30, 30, 30]);
            assert_eq!(infos.iter().map(|info| info.is_live).collect::<Vec<_>>(), [false, false, true]);
        }
    }
    let again = Journal::open(Arc::new(disk), config(300), incarnation(2), 7);
    assert_eq!(again.unwrap_err().kind, ErrorKind::AlreadyExists);
}

#[test]
fn a_frame_that_is_damaged_is_a_hole_up_to_the_next_reset_point() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let frames = fill(&mut journal, 12, 20);
    journal.write().unwrap();
    // Frames are 25 bytes: 1, 4, 7 and 10 are reset points. Damage a payload of the fifth.
    assert!(disk.flip_bit(Path::new("/j/00000000000000000000"), 44 + 4 * 25 + 10, 3));
    let mut expected = frames[..4].to_vec();
    expected.push(Item::Hole(1, 5, 6));
    expected.extend_from_slice(&frames[6..]);
    assert_eq!(drain(&mut journal.view().read_all().unwrap()), expected);
    disk.kill();
    let (journal, report) = open(&disk, 2);
    assert!(report.cut.is_empty());
    expected.push(Item::Closed(1, 12, true));
    assert_eq!(drain(&mut journal.view().read_all().unwrap()), expected);
}

#[test]
fn a_damaged_length_hides_the_rest_of_its_segment_only() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let frames = fill(&mut journal, 30, 20);
    journal.write().unwrap();
    let second = journal.view().segments()[1].first_sequence;
    assert_eq!(second, 12);
    assert!(disk.flip_bit(Path::new("/j/00000000000000000000"), 44 + 6 * 25, 6));
    let mut expected = frames[..6].to_vec();
    expected.push(Item::Hole(1, 7, 11));
    expected.extend_from_slice(&frames[11..]);
    assert_eq!(drain(&mut journal.view().read_all().unwrap()), expected);
}

#[test]
fn a_torn_tail_is_reported_and_a_frame_of_another_place_is_not_believed() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let frames = fill(&mut journal, 5, 20);
    journal.write().unwrap();
    let file = disk.open(Path::new("/j/00000000000000000000"), OpenMode::Existing).unwrap();
    let mut copy = [0; 25];
    file.read_at(&mut copy, 44).unwrap();
    file.write_all_at(&copy, 44 + 5 * 25).unwrap();
    disk.kill();
    let (journal, report) = open(&disk, 2);
    assert_eq!(report.cut, [CutTail { after: at(1, 5), bytes: 25 }]);
    let mut expected = frames;
    expected.push(Item::Closed(1, 5, false));
    assert_eq!(drain(&mut journal.view().read_all().unwrap()), expected);
}

#[test]
fn a_frame_of_another_incarnation_is_not_believed() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 2, 20);
    journal.write().unwrap();
    let file = disk.open(Path::new("/j/00000000000000000000"), OpenMode::Existing).unwrap();
    let other = SegmentHeader { incarnation: incarnation(5), first_sequence: 1, created_wall_ms: 7 };
    file.write_all_at(&other.encode(), 0).unwrap();
    disk.kill();
    let (journal, report) = open(&disk, 2);
    assert_eq!(report.cut, [CutTail { after: at(5, 0), bytes: 50 }]);
    assert_eq!(drain(&mut journal.view().read_all().unwrap()), [Item::Closed(5, 0, false)]);
}

#[test]
fn segments_with_unreadable_headers_are_kept_and_reported() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let frames = fill(&mut journal, 36, 20);
    journal.write().unwrap();
    let path = PathBuf::from("/j/00000000000000000001");
    assert!(disk.flip_bit(&path, 10, 0));
    disk.kill();
    let (journal, report) = open(&disk, 2);
    assert_eq!(report.unreadable, [path]);
    let (second, third) = (12, 23);
    let mut expected = frames[..second - 1].to_vec();
    expected.push(Item::Hole(1, 12, 22));
    expected.extend_from_slice(&frames[third - 1..]);
    expected.push(Item::Closed(1, 36, true));
    assert_eq!(drain(&mut journal.view().read_all().unwrap()), expected);
}

#[test]
fn retention_removes_whole_segments_and_readers_are_told() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    fill(&mut journal, 30, 20);
    journal.write().unwrap();
    drop(journal);
    let (mut journal, _) = open(&disk, 2);
    let frames = fill(&mut journal, 40, 20);
    journal.write().unwrap();
    let mut reader = journal.view().read_from(at(2, 5)).unwrap();
    assert_eq!(journal.remove_before(at(9, 1)).unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(journal.remove_before(at(1, 0)).unwrap(), 0);
    assert!(journal.remove_before(at(1, 12)).unwrap() > 300);
    let items = drain(&mut journal.view().read_from(at(1, 3)).unwrap());
    assert_eq!(items[0], Item::Hole(1, 3, 11));
    assert!(matches!(items[1], Item::Frame(1, 12, true, _)));
    journal.remove_before(at(2, 39)).unwrap();
    let first = journal.view().incarnations()[0].first_sequence;
    assert_eq!((journal.view().incarnations().len(), first), (1, 34));
    // The open reader still has its file, then sees the hole.
    let items = drain(&mut reader);
    let mut expected = frames[3..11].to_vec();
    expected.push(Item::Hole(2, 12, 33));
    expected.extend_from_slice(&frames[33..]);
    assert_eq!(items, expected);
    journal.remove_before(at(2, 10_000)).unwrap();
    assert_eq!(journal.view().segments().len(), 1, "the live segment stays");
}

#[test]
fn a_full_disk_keeps_the_buffer_for_another_try() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk, 1);
    let frames = fill(&mut journal, 3, 20);
    disk.set_faults(SimFaults { no_space_after_bytes: Some(30), ..SimFaults::default() });
    assert_eq!(journal.write().unwrap_err().kind, ErrorKind::NoSpace);
    assert!(drain(&mut journal.view().read_all().unwrap()).is_empty());
    disk.set_faults(SimFaults::default());
    assert_eq!(journal.write().unwrap(), at(1, 3));
    assert_eq!(drain(&mut journal.view().read_all().unwrap()), frames);
}

/// Three runs with power cuts, the process dying after `effects` changes to the disk; returns whether it died.
fn crash_run(effects: u64, seed: u64) -> bool {
    let disk = SimDisk::new();
    let mut rng = SimRng(seed);
    let mut appended: Vec<Vec<Item>> = vec![Vec::new(); 3];
    let mut durable = [0u64; 3];
    let mut died = false;
    disk.set_faults(SimFaults { die_after_effects: Some(effects), ..SimFaults::default() });
    for run in 0..3u8 {
        let result = (|| -> Result<()> {
            let (mut journal, _) =
                Journal::open(Arc::new(disk.clone()), config(300), incarnation(run + 1), 0)?;
            for _ in 0..14 {
                let payload =
                    vec![u8::try_from(rng.below(255)).unwrap(); 1 + usize::try_from(rng.below(70)).unwrap()];
                let reset = journal.needs_reset();
                let position = Position { incarnation: incarnation(run + 1), ..journal.last_position() };
                appended[usize::from(run)].push(Item::Frame(
                    run + 1,
                    position.sequence + 1,
                    reset,
                    payload.clone(),
                ));
                journal.append(&payload, reset)?;
                if rng.below(2) == 0 {
                    journal.write()?;
                }
                if rng.below(3) == 0 {
                    durable[usize::from(run)] = journal.take_sync_batch().sync()?.sequence;
                }
            }
            journal.write()?;
            Ok(())
        })();
        died |= result.is_err();
        disk.power_cut(rng.next_u64());
    }
    let (journal, _) = open(&disk, 9);
    let mut seen: Vec<Vec<Item>> = vec![Vec::new(); 3];
    for item in drain(&mut journal.view().read_all().unwrap()) {
        match &item {
            Item::Frame(run, sequence, ..) => {
                let run = usize::from(*run) - 1;
                let index = usize::try_from(*sequence).unwrap() - 1;
                assert_eq!(appended[run][index], item, "invented");
                seen[run].push(item);
            }
            Item::Hole(run, from, _) => {
                assert!(*from > durable[usize::from(*run) - 1], "a hole in what was synced: {item:?}");
            }
            Item::Closed(run, last, _) if *run < 4 => {
                assert!(*last >= durable[usize::from(*run) - 1], "closed below what was synced: {item:?}");
            }
            Item::Closed(..) => {}
        }
    }
    for run in 0..3 {
        let kept = usize::try_from(durable[run]).unwrap();
        assert_eq!(seen[run][..kept], appended[run][..kept], "lost after a sync");
    }
    died
}

#[test]
fn a_power_cut_after_any_effect_loses_nothing_synced_and_invents_nothing() {
    let mut deaths = 0;
    for effects in 0..45 {
        for seed in 0..15 {
            deaths += usize::from(crash_run(effects, seed * 1000 + effects));
        }
    }
    assert!(deaths > 300, "the faults must hit: {deaths}");
}

#[test]
fn the_header_is_drawn_as_it_is_written() {
    let header = SegmentHeader { incarnation: incarnation(0xAB), first_sequence: 258, created_wall_ms: 3 };
    let bytes = header.encode();
    assert_eq!(&bytes[..8], b"LTJ1\x01\0\0\0");
    assert_eq!(bytes[8..24], [0xAB; 16]);
    assert_eq!(bytes[24..40], [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(SegmentHeader::decode(&bytes, Path::new("/x")).unwrap(), header);
    for at in 0..HEADER_BYTES {
        let mut broken = bytes;
        broken[at] ^= 1;
        assert!(SegmentHeader::decode(&broken, Path::new("/x")).is_err(), "byte {at}");
    }
    let mut newer = bytes;
    newer[4] = 2;
    let crc = crc32fast::hash(&newer[..40]);
    newer[40..].copy_from_slice(&crc.to_le_bytes());
    let kind = SegmentHeader::decode(&newer, Path::new("/x")).unwrap_err().kind;
    assert_eq!(kind, ErrorKind::VersionMismatch { found: 2, supported: 1 });
}

proptest! {
    #[test]
    fn any_bytes_in_a_segment_never_panic_and_never_become_frames(
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        with_header: bool,
    ) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/j")).unwrap();
        let file = disk.open(Path::new("/j/00000000000000000000"), OpenMode::Create).unwrap();
        let header = SegmentHeader { incarnation: incarnation(1), first_sequence: 1, created_wall_ms: 0 };
        let head = if with_header { header.encode().to_vec() } else { Vec::new() };
        file.write_all_at(&[head, bytes].concat(), 0).unwrap();
        let (journal, _) = open(&disk, 2);
        let items = drain(&mut journal.view().read_all().unwrap());
        prop_assert!(!items.iter().any(|item| matches!(item, Item::Frame(..))), "{items:?}");
    }

    #[test]
    fn one_flipped_bit_never_changes_a_frame(count in 1..40usize, len in 1..90usize, place: u32, bit in 0..8u8) {
        let disk = SimDisk::new();
        let (mut journal, _) = open(&disk, 1);
        let frames = fill(&mut journal, count, len);
        journal.write().unwrap();
        drop(journal);
        let files: Vec<_> = disk.files();
        let (path, file_len) = &files[place as usize % files.len()];
        disk.flip_bit(path, u64::from(place) % file_len, bit);
        let (journal, _) = open(&disk, 2);
        let items = drain(&mut journal.view().read_all().unwrap());
        let read: Vec<_> = items.iter().filter(|item| matches!(item, Item::Frame(..))).collect();
        for item in &read {
            prop_assert!(frames.contains(item));
        }
        // Everything is accounted for: read, in a hole, or behind the end of an incomplete incarnation.
        let holes: u64 = items.iter().map(|item| match item {
            Item::Hole(_, from, to) => to - from + 1,
            _ => 0,
        }).sum();
        let end = items.iter().find_map(|item| match item {
            Item::Closed(1, last, complete) => Some((*last, *complete)),
            _ => None,
        });
        match end {
            Some((last, complete)) => {
                prop_assert_eq!(read.len() as u64 + holes, last);
                prop_assert!(!complete || last == frames.len() as u64);
            }
            // The only segment lost its header: nothing of the incarnation is left.
            None => prop_assert!(read.is_empty()),
        }
    }
}
