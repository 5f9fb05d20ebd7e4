//! A blob that is replaced as a whole and is never half there: two files, written in turn.
//!
//! Owns `<name>.0` and `<name>.1` of one folder. Never looks into the blob. Called for the store checkpoint (flushed
//! positions, some hundred bytes) and the broker's state snapshot (some megabytes).
//!
//! ```text
//! file:  | "LTCP" 4 | version u16 | 0 u16 | generation u64 | payload bytes u32 | crc32 u32 | payload |
//! crc32: over the 20 bytes before it and the payload; integers little endian
//! ```
//!
//! Crash story: a save goes to the file that does not hold the newest blob, and is synced before it counts. A crash in
//! between damages only that file, so the newest durable blob always survives. A damaged file beside a good
//! one is therefore normal after a crash; without a crash it is bit rot, and the good one may be one generation old.

use crate::disk::{Disk, DiskFile, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"LTCP";
const FORMAT_VERSION: u16 = 1;
const HEADER_BYTES: usize = 24;
/// Largest blob.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The newest good blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// Rises by one per save.
    pub generation: u64,
    pub payload: Vec<u8>,
}

/// What opening found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Files that hold something that is not a whole blob.
    pub damaged: Vec<PathBuf>,
}

/// See the module text.
#[derive(Debug)]
pub struct Checkpoint {
    slots: [Arc<dyn DiskFile>; 2],
    /// The slot the next save goes to.
    next_slot: usize,
    generation: u64,
}

impl Checkpoint {
    /// Opens or creates both files and loads the newest good blob, if there ever was one.
    pub fn open(
        disk: &dyn Disk,
        dir: &Path,
        name: &str,
    ) -> Result<(Checkpoint, Option<Saved>, CheckpointReport)> {
        disk.create_dir_all(dir)?;
        let path = |slot: usize| dir.join(format!("{name}.{slot}"));
        let slots = [disk.open(&path(0), OpenMode::Create)?, disk.open(&path(1), OpenMode::Create)?];
        disk.sync_dir(dir)?;
        let mut report = CheckpointReport::default();
        let mut newest: Option<(usize, Saved)> = None;
        for (slot, file) in slots.iter().enumerate() {
            match load(file.as_ref()) {
                Ok(Some(saved)) => {
                    if newest.as_ref().is_none_or(|(_, best)| saved.generation > best.generation) {
                        newest = Some((slot, saved));
                    }
                }
                Ok(None) => {}
                Err(error) if matches!(error.kind, ErrorKind::Corrupt(_)) => {
                    report.damaged.push(file.path().to_path_buf());
                }
                Err(error) => return Err(error),
            }
        }
        let (next_slot, generation) =
            newest.as_ref().map_or((0, 0), |(slot, saved)| (1 - slot, saved.generation));
        let checkpoint = Checkpoint { slots, next_slot, generation };
        Ok((checkpoint, newest.map(|(_, saved)| saved), report))
    }

    /// Replaces the blob; durable on return. After "disk full" the old blob is still the newest.
    pub fn save(&mut self, payload: &[u8]) -> Result<u64> {
        let file = &self.slots[self.next_slot];
        if payload.len() > PAYLOAD_BYTES_MAX {
            let kind = ErrorKind::Limit("checkpoint size");
            return Err(StoreError::new(Op::Append, file.path(), 0, kind));
        }
        let generation = self.generation + 1;
        let bytes = encode(generation, payload);
        file.write_all_at(&bytes, 0)?;
        if file.len()? > bytes.len() as u64 {
            file.truncate(bytes.len() as u64)?;
        }
        file.sync()?;
        self.generation = generation;
        self.next_slot = 1 - self.next_slot;
        Ok(generation)
    }

    /// The generation of the last good save, 0 for none.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

fn encode(generation: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&generation.to_le_bytes());
    let len = u32::try_from(payload.len()).expect("payloads are limited to 256 MiB");
    bytes.extend_from_slice(&len.to_le_bytes());
    let crc = checksum(&bytes, payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

/// The blob of one file; `None` when it was never written.
fn load(file: &dyn DiskFile) -> Result<Option<Saved>> {
    let len = file.len()?;
    if len == 0 {
        return Ok(None);
    }
    let limit = (HEADER_BYTES + PAYLOAD_BYTES_MAX) as u64;
    let damaged = |what| Err(StoreError::corrupt(file.path(), 0, what));
    if len > limit {
        return damaged("checkpoint is too long");
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
    let count = file.read_at(&mut bytes, 0)?;
    bytes.truncate(count);
    let Some((head, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return damaged("checkpoint header is cut short");
    };
    if head[0..4] != MAGIC {
        return damaged("not a checkpoint");
    }
    let field = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let Some(payload) = usize::try_from(field(16)).ok().and_then(|len| rest.get(..len)) else {
        return damaged("checkpoint is cut short");
    };
    if checksum(&head[..20], payload) != field(20) {
        return damaged("checkpoint checksum");
    }
    let version = u16::from_le_bytes([head[4], head[5]]);
    if version != FORMAT_VERSION {
        let kind = ErrorKind::VersionMismatch { found: version.into(), supported: FORMAT_VERSION.into() };
        return Err(StoreError::new(Op::Decode, file.path(), 4, kind));
    }
    let generation = u64::from(field(8)) | u64::from(field(12)) << 32;
    if generation > u64::MAX / 2 {
        return damaged("checkpoint generation out of range");
    }
    Ok(Some(Saved { generation, payload: payload.to_vec() }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk_sim::{SimDisk, SimFaults, SimRng};
    use proptest::prelude::*;

    const DIR: &str = "/d";

    fn open(disk: &SimDisk) -> (Checkpoint, Option<Saved>, CheckpointReport) {
        Checkpoint::open(disk, Path::new(DIR), "state").unwrap()
    }

    #[test]
    fn the_newest_blob_is_loaded_and_slots_alternate() {
        let disk = SimDisk::new();
        let (mut checkpoint, saved, report) = open(&disk);
        assert_eq!((saved, report), (None, CheckpointReport::default()));
        for round in 1..=5u8 {
            let payload = vec![round; usize::from(round % 3) * 40];
            assert_eq!(checkpoint.save(&payload).unwrap(), u64::from(round));
            let (_, saved, report) = open(&disk);
            assert_eq!(saved.unwrap(), Saved { generation: u64::from(round), payload });
            assert!(report.damaged.is_empty());
        }
        let files: Vec<_> = disk.files();
        assert_eq!(files.len(), 2);
        assert_eq!(checkpoint.generation(), 5);
    }

    #[test]
    fn the_bytes_are_as_drawn() {
        let bytes = encode(258, b"xy");
        assert_eq!(&bytes[..20], b"LTCP\x01\0\0\0\x02\x01\0\0\0\0\0\0\x02\0\0\0");
        assert_eq!(&bytes[24..], b"xy");
        assert_eq!(bytes[20..24], checksum(&bytes[..20], b"xy").to_le_bytes());
    }

    #[test]
    fn a_damaged_newest_blob_falls_back_and_is_overwritten_next() {
        let disk = SimDisk::new();
        let (mut checkpoint, ..) = open(&disk);
        checkpoint.save(b"one").unwrap();
        checkpoint.save(b"two").unwrap();
        assert!(disk.flip_bit(Path::new("/d/state.1"), 25, 0));
        let (mut checkpoint, saved, report) = open(&disk);
        assert_eq!(saved.unwrap().payload, b"one");
        assert_eq!(report.damaged, [PathBuf::from("/d/state.1")]);
        checkpoint.save(b"three").unwrap();
        let (_, saved, report) = open(&disk);
        assert_eq!((saved.unwrap().payload, report.damaged.len()), (b"three".to_vec(), 0));
    }

    #[test]
    fn a_full_disk_keeps_the_old_blob() {
        let disk = SimDisk::new();
        let (mut checkpoint, ..) = open(&disk);
        checkpoint.save(b"one").unwrap();
        disk.set_faults(SimFaults { no_space_after_bytes: Some(25), ..SimFaults::default() });
        assert_eq!(checkpoint.save(b"two").unwrap_err().kind, ErrorKind::NoSpace);
        disk.set_faults(SimFaults::default());
        assert_eq!(open(&disk).1.unwrap().payload, b"one");
        assert_eq!(checkpoint.save(b"two").unwrap(), 2);
        assert_eq!(open(&disk).1.unwrap().payload, b"two");
    }

    #[test]
    fn a_newer_format_is_refused_not_taken_for_damage() {
        let disk = SimDisk::new();
        let (mut checkpoint, ..) = open(&disk);
        checkpoint.save(b"one").unwrap();
        let mut bytes = encode(1, b"one");
        bytes[4] = 9;
        let crc = checksum(&bytes[..20], b"one");
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        disk.open(Path::new("/d/state.1"), OpenMode::Existing).unwrap().write_all_at(&bytes, 0).unwrap();
        let error = Checkpoint::open(&disk, Path::new(DIR), "state").unwrap_err();
        assert_eq!(error.kind, ErrorKind::VersionMismatch { found: 9, supported: 1 });
    }

    #[test]
    fn a_power_cut_after_any_effect_keeps_the_last_finished_save_or_the_one_under_way() {
        for effects in 0..40 {
            for seed in 0..20 {
                let disk = SimDisk::new();
                let mut rng = SimRng(seed * 100 + effects);
                disk.set_faults(SimFaults { die_after_effects: Some(effects), ..SimFaults::default() });
                let (mut done, mut tried) = (0u8, 0u8);
                let result = (|| -> Result<()> {
                    let (mut checkpoint, ..) = Checkpoint::open(&disk, Path::new(DIR), "state")?;
                    for round in 1..=8 {
                        tried = round;
                        let len = 1 + usize::try_from(rng.below(9000)).unwrap();
                        checkpoint.save(&vec![round; len])?;
                        done = round;
                    }
                    Ok(())
                })();
                assert_eq!(result.is_err(), done < 8);
                disk.power_cut(rng.next_u64());
                let loaded = open(&disk).1.map_or(0, |saved| {
                    assert!(saved.payload.iter().all(|byte| *byte == saved.payload[0]));
                    saved.payload[0]
                });
                assert!(loaded == done || loaded == tried, "{loaded} of {done}..{tried}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic_and_never_load(bytes in proptest::collection::vec(any::<u8>(), 0..80), valid_magic: bool) {
            let disk = SimDisk::new();
            disk.create_dir_all(Path::new(DIR)).unwrap();
            let mut bytes = bytes;
            if valid_magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(&MAGIC);
            }
            disk.open(Path::new("/d/state.0"), OpenMode::Create).unwrap().write_all_at(&bytes, 0).unwrap();
            let (_, saved, report) = open(&disk);
            prop_assert_eq!(saved, None);
            prop_assert_eq!(report.damaged.len(), usize::from(!bytes.is_empty()));
        }
    }
}
