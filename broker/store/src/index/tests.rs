//! The index against a plain list: lookups, merges, crashes, damage, and the time a lookup takes.

use super::run::BLOCK_ENTRIES;
use super::*;
use crate::disk_sim::{SimDisk, SimFaults, SimRng};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

fn config(table_entries: usize) -> IndexConfig {
    IndexConfig { dir: PathBuf::from("/ix"), table_entries }
}

fn open(disk: &SimDisk, table_entries: usize, log: Range<u64>) -> (KeyIndex, Vec<Range<u64>>) {
    KeyIndex::open(Arc::new(disk.clone()), config(table_entries), log).unwrap()
}

/// Runs what is due, as the broker's background thread would.
fn work(index: &mut KeyIndex, flushed: u64) -> Result<()> {
    while let Some(job) = index.seal_job(flushed, false) {
        index.install(job.run()?)?;
    }
    while let Some(job) = index.merge_job() {
        index.install(job.run()?)?;
    }
    Ok(())
}

#[test]
fn the_hash_never_changes_and_spreads() {
    let known = [(&b""[..], key_hash(b"")), (b"a", key_hash(b"a")), (b"order-4711", key_hash(b"order-4711"))];
    assert_eq!(known.map(|(_, hash)| hash), HASHES);
    let mut seen: Vec<u64> = (0..200_000u32).map(|n| key_hash(format!("key-{n}").as_bytes())).collect();
    let high: u32 = seen.iter().map(|hash| u32::from(hash >> 63 == 1)).sum();
    assert!((95_000..105_000).contains(&high), "{high}");
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 200_000);
    assert_ne!(key_hash(b"a"), key_hash(b"a\0"), "the length counts");
    assert_ne!(key_hash(&[0; 8]), key_hash(&[0; 16]));
}

/// Constants of the format.
const HASHES: [u64; 3] = [6_498_071_802_484_785_607, 16_823_259_429_083_780_219, 17_407_185_389_565_888_730];

#[test]
fn candidates_come_newest_first_from_table_and_runs_through_merges() {
    let disk = SimDisk::new();
    let (mut index, missing) = open(&disk, 4, 0..0);
    assert_eq!(missing.len(), 1);
    let mut model: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for position in 0..1500u64 {
        let hash = (((position * 7) % 50) << 58) | (position % 3);
        index.insert(hash, position);
        model.entry(hash).or_default().push(position);
        index.advance(position + 1);
        work(&mut index, position + 1).unwrap();
    }
    let (runs, entries) = index.size();
    assert_eq!(entries, 1500);
    assert!(runs <= 40, "{runs}");
    assert!(index.runs.iter().any(|run| run.tier == TIER_MAX));
    for (hash, offsets) in &model {
        let newest: Vec<u64> = offsets.iter().rev().copied().collect();
        assert_eq!(index.lookup(*hash, 10_000).unwrap().offsets, newest);
        assert_eq!(index.lookup(*hash, 2).unwrap().offsets, newest[..2]);
    }
    assert_eq!(index.lookup(12345, 10).unwrap(), Lookup::default());
    assert_eq!(disk.files().len(), runs, "merged runs and temporary files are gone");
}

#[test]
fn one_key_on_very_many_messages_is_found_newest_first() {
    let disk = SimDisk::new();
    let (mut index, _) = open(&disk, TABLE_ENTRIES, 0..0);
    for position in 0..5000u64 {
        index.insert(if position % 5 == 0 { position << 32 } else { 1 << 40 }, position);
    }
    index.advance(5000);
    seal(&mut index);
    let before = disk.counters().reads;
    assert_eq!(index.lookup(1 << 40, 3).unwrap().offsets, [4999, 4998, 4997]);
    assert_eq!(disk.counters().reads - before, 1, "one block is enough");
    assert_eq!(index.lookup(1 << 40, 10_000).unwrap().offsets.len(), 4000);
}

fn seal(index: &mut KeyIndex) {
    let job = index.seal_job(u64::MAX, true).unwrap();
    index.install(job.run().unwrap()).unwrap();
}

#[test]
fn only_what_is_flushed_is_sealed_and_one_seal_runs_at_a_time() {
    let disk = SimDisk::new();
    let (mut index, _) = open(&disk, 2, 100..100);
    index.insert(5, 100);
    index.insert(5, 110);
    index.advance(120);
    assert!(index.seal_job(119, false).is_none());
    let job = index.seal_job(120, false).unwrap();
    index.insert(5, 120);
    index.advance(130);
    assert!(index.seal_job(130, true).is_none(), "another one is under way");
    assert_eq!(index.lookup(5, 9).unwrap().offsets, [120, 110, 100], "entries stay visible meanwhile");
    index.abandon(false);
    assert_eq!(index.lookup(5, 9).unwrap().offsets, [120, 110, 100]);
    drop(job);
    seal(&mut index);
    seal(&mut index);
    assert_eq!(index.lookup(5, 9).unwrap().offsets, [120, 110, 100]);
    assert_eq!((index.indexed_to(), index.size()), (130, (2, 3)));
}

#[test]
fn under_load_a_flush_that_is_always_behind_the_end_still_lets_tables_be_sealed() {
    let disk = SimDisk::new();
    let (mut index, _) = open(&disk, 10, 0..0);
    for position in 0..1000u64 {
        index.insert(position % 7, position);
        index.advance(position + 1);
        if let Some(job) = index.seal_job(position.saturating_sub(25), false) {
            index.install(job.run().unwrap()).unwrap();
        }
    }
    assert_eq!(index.size().1, 970, "all but what is not flushed, and the last steps of the test");
    let expected: Vec<u64> = (0..1000).rev().filter(|position| position % 7 == 3).collect();
    assert_eq!(index.lookup(3, 999).unwrap().offsets, expected);
}

#[test]
fn tables_that_nobody_seals_make_it_full_until_one_is_sealed() {
    let (mut index, _) = open(&SimDisk::new(), TABLE_ENTRIES, 0..0);
    for entry in 0..MEMORY_ENTRIES as u64 {
        assert!(!index.is_full());
        index.insert(entry, entry);
        index.advance(entry + 1);
    }
    assert!(index.is_full());
    seal(&mut index);
    assert!(!index.is_full());
}

fn filled(disk: &SimDisk) -> KeyIndex {
    let (mut index, _) = open(disk, 10, 0..0);
    for position in 0..100u64 {
        index.insert(position % 7, position);
        index.advance(position + 1);
        while let Some(job) = index.seal_job(position + 1, false) {
            index.install(job.run().unwrap()).unwrap();
        }
    }
    index
}

#[test]
fn damaged_runs_and_runs_beyond_the_log_are_missing_and_can_be_filled_again() {
    let disk = SimDisk::new();
    assert_eq!(filled(&disk).size(), (10, 100));
    let third = Path::new("/ix/00000000000000000020-00000000000000000030.run");
    assert!(disk.flip_bit(third, 9, 1));
    let (mut index, missing) = open(&disk, 10, 0..95);
    assert_eq!(missing, [20..30, 90..95]);
    for range in &missing {
        index.start_at(range.start);
        for position in range.clone() {
            index.insert(position % 7, position);
        }
        index.advance(range.end);
        seal(&mut index);
    }
    let expected: Vec<u64> = (0..95).rev().filter(|position| position % 7 == 3).collect();
    assert_eq!(index.lookup(3, 99).unwrap().offsets, expected);
    let (index, missing) = open(&disk, 10, 0..95);
    assert_eq!(missing.iter().collect::<Vec<_>>(), [&(95..95)]);
    assert_eq!(index.lookup(3, 99).unwrap().offsets, expected);
}

#[test]
fn a_block_damaged_later_makes_lookups_say_what_they_cannot_see() {
    let disk = SimDisk::new();
    let index = filled(&disk);
    let third = Path::new("/ix/00000000000000000020-00000000000000000030.run");
    assert!(disk.flip_bit(third, 4096 + 20, 1));
    let found = index.lookup(3, 99).unwrap();
    assert_eq!(found.unreadable.iter().collect::<Vec<_>>(), [&(20..30)]);
    let expected: Vec<u64> = (0..100).rev().filter(|p| p % 7 == 3 && !(20..30).contains(p)).collect();
    assert_eq!(found.offsets, expected);
}

#[test]
fn retention_drops_whole_runs() {
    let disk = SimDisk::new();
    let mut index = filled(&disk);
    assert_eq!(index.remove_before(35).unwrap(), 3);
    assert!(index.lookup(3, 99).unwrap().offsets.iter().all(|position| *position >= 30));
    let (_, missing) = open(&disk, 10, 35..100);
    assert_eq!(missing.iter().collect::<Vec<_>>(), [&(100..100)]);
}

/// Returns whether the process died on the way.
fn crash_run(effects: u64, seed: u64) -> bool {
    let disk = SimDisk::new();
    let mut rng = SimRng(seed);
    let key = |position: u64| position * 31 % 11;
    disk.set_faults(SimFaults { die_after_effects: Some(effects), ..SimFaults::default() });
    let mut end = 0;
    let result = (|| -> Result<()> {
        let (mut index, _) = KeyIndex::open(Arc::new(disk.clone()), config(3), 0..0)?;
        for position in 0..120 {
            index.insert(key(position), position);
            end = position + 1;
            index.advance(end);
            work(&mut index, end)?;
        }
        Ok(())
    })();
    disk.power_cut(rng.next_u64());
    let (mut index, missing) = open(&disk, 3, 0..end);
    for range in missing {
        index.start_at(range.start);
        for position in range.clone() {
            index.insert(key(position), position);
        }
        index.advance(range.end);
        if let Some(job) = index.seal_job(end, true) {
            index.install(job.run().unwrap()).unwrap();
        }
    }
    for hash in 0..11 {
        let expected: Vec<u64> = (0..end).rev().filter(|position| key(*position) == hash).collect();
        assert_eq!(index.lookup(hash, 999).unwrap().offsets, expected);
    }
    result.is_err()
}

#[test]
fn a_power_cut_after_any_effect_leaves_an_index_that_can_be_completed() {
    let mut deaths = 0;
    for effects in 0..220 {
        for seed in 0..3 {
            deaths += u32::from(crash_run(effects, seed * 1000 + effects));
        }
    }
    assert!(deaths > 500, "the faults must hit: {deaths}");
}

#[test]
fn a_lookup_reads_one_block_per_run() {
    let disk = SimDisk::new();
    let (mut index, _) = open(&disk, TABLE_ENTRIES, 0..0);
    let entries = 20 * BLOCK_ENTRIES as u64;
    for position in 0..entries {
        index.insert(key_hash(&position.to_le_bytes()), position);
    }
    index.advance(entries);
    seal(&mut index);
    let before = disk.counters().reads;
    for position in (0..entries).step_by(17) {
        assert_eq!(index.lookup(key_hash(&position.to_le_bytes()), 10).unwrap().offsets, [position]);
    }
    let lookups = entries.div_ceil(17);
    let reads = disk.counters().reads - before;
    assert!(reads <= lookups + 25, "{reads} reads for {lookups} lookups");
}

proptest! {
    #[test]
    fn any_bytes_as_a_run_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), tail in 0..3usize, valid: bool) {
        let disk = SimDisk::new();
        disk.create_dir_all(Path::new("/ix")).unwrap();
        let mut bytes = bytes;
        if valid && bytes.len() >= 40 {
            bytes[..6].copy_from_slice(b"LTIX\x01\0");
            let crc = crc32fast::hash(&bytes[..36]);
            bytes[36..40].copy_from_slice(&crc.to_le_bytes());
        }
        bytes.resize(bytes.len() + tail * 4096, 7);
        let path = Path::new("/ix/00000000000000000020-00000000000000000030.run");
        disk.open(path, crate::disk::OpenMode::Create).unwrap().write_all_at(&bytes, 0).unwrap();
        let (index, missing) = open(&disk, 10, 0..100);
        prop_assert_eq!(index.size(), (0, 0));
        prop_assert_eq!(missing.iter().collect::<Vec<_>>(), [&(0..100)]);
    }
}
