//! Frames that are cut off a copied journal because their run lost, kept as a file: they alone tell what became of the messages that
//! were cut off the log beside them.
//!
//! ```text
//! magic "LTK1", run 16 bytes and sequence u64 of the last frame that was not cut   big-endian
//! per frame: kind u8 (0 frame, 1 frame at a reset point, 2 hole: frames from here on are not there), run 16 bytes, sequence u64,
//!            length u32, payload
//! CRC-32 over all before it (see `kept_file`)
//! ```
//! It begins at the reset point before the cut, since payloads lean on earlier ones.
//!
//! Crash story: the file is there, on disk, before the first frame is cut.

use super::{FRAME_PAYLOAD_BYTES_MAX, JournalItem, JournalView};
use crate::disk::{Disk, DiskFile};
use crate::error::{Result, StoreError};
use crate::kept_file::{self, KeptFile};
use lifecycle::identity::Incarnation;
use lifecycle::position::Position;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 4] = b"LTK1";
const HEAD_LEN: u64 = 4 + 16 + 8;
const ITEM_HEAD_LEN: usize = 1 + 16 + 8 + 4;
/// How the names of whole files end.
pub const KEPT_SUFFIX: &str = ".frames";

const FRAME: u8 = 0;
const RESET_FRAME: u8 = 1;
const HOLE: u8 = 2;

/// One step of reading kept frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptItem {
    /// A frame.
    Frame { position: Position, is_reset_point: bool, payload: Vec<u8> },
    /// Frames from this one on could not be kept, up to the next reset point.
    Hole(Position),
}

/// See the module text.
#[derive(Debug)]
pub struct KeptFrames {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    behind: Position,
    at: u64,
    end: u64,
}

fn encode_item(kind: u8, at: Position, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(ITEM_HEAD_LEN + payload.len());
    out.push(kind);
    out.extend_from_slice(&at.incarnation.0);
    out.extend_from_slice(&at.sequence.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out
}

impl JournalView {
    /// Keeps every frame behind `keep` (sequence 0: all of them) as a file in `dir` that only its owner can read. Answers the file;
    /// `None` when there are none.
    pub fn keep_behind(&self, keep: Position, disk: &dyn Disk, dir: &Path) -> Result<Option<PathBuf>> {
        let last = self.incarnations().into_iter().rfind(|run| run.last_sequence > 0);
        let last = last.map(|run| Position { incarnation: run.incarnation, sequence: run.last_sequence });
        let Some(last) = last.filter(|last| *last != keep) else { return Ok(None) };
        // no two cuts end at the same frame, unless they are the same cut
        let name = format!("{}-{:020}", last.incarnation, last.sequence);
        let mut file = KeptFile::create(disk, dir, &name, KEPT_SUFFIX)?;
        file.push(MAGIC)?;
        file.push(&keep.incarnation.0)?;
        file.push(&keep.sequence.to_be_bytes())?;
        let mut reader = if keep.sequence == 0 { self.read_all()? } else { self.read_from(keep)? };
        while let Some(item) = reader.next()? {
            match item {
                JournalItem::Frame { position, is_reset_point, payload } => {
                    let kind = if is_reset_point { RESET_FRAME } else { FRAME };
                    file.push(&encode_item(kind, position, payload))?;
                }
                JournalItem::Hole { incarnation, from, .. } => {
                    file.push(&encode_item(HOLE, Position { incarnation, sequence: from }, &[]))?;
                }
                JournalItem::Closed { .. } => {}
            }
        }
        file.finish().map(Some)
    }
}

impl KeptFrames {
    /// Opens a file that [`JournalView::keep_behind`] made, and reads it once to check it.
    pub fn open(disk: &dyn Disk, path: &Path) -> Result<KeptFrames> {
        let (file, end) = kept_file::open(disk, path)?;
        let damaged = || StoreError::corrupt(path, 0, "kept frames header");
        let mut head = [0; HEAD_LEN as usize];
        if file.read_at(&mut head, 0)? < head.len() || end < HEAD_LEN || head.get(..4) != Some(MAGIC) {
            return Err(damaged());
        }
        let behind = head.get(4..).and_then(position_of).ok_or_else(damaged)?;
        Ok(KeptFrames { file, path: path.to_path_buf(), behind, at: HEAD_LEN, end })
    }

    /// The last frame that was not cut; frames up to it are only here to make the others readable.
    pub fn behind(&self) -> Position {
        self.behind
    }

    /// The next item; `None` after the last.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator of results would be read past its first error"
    )]
    pub fn next(&mut self) -> Result<Option<KeptItem>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let damaged = || StoreError::corrupt(&self.path, self.at, "kept frame");
        let mut head = [0; ITEM_HEAD_LEN];
        self.file.read_at(&mut head, self.at)?;
        let (kind, rest) = head.split_first().ok_or_else(damaged)?;
        let position = position_of(rest).ok_or_else(damaged)?;
        let len = rest.get(24..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b)) as usize;
        let payload_at = self.at + ITEM_HEAD_LEN as u64;
        if len > FRAME_PAYLOAD_BYTES_MAX || payload_at + len as u64 > self.end {
            return Err(damaged());
        }
        let mut payload = vec![0; len];
        self.file.read_at(&mut payload, payload_at)?;
        let item = match *kind {
            FRAME | RESET_FRAME => {
                KeptItem::Frame { position, is_reset_point: *kind == RESET_FRAME, payload }
            }
            HOLE => KeptItem::Hole(position),
            _ => return Err(damaged()),
        };
        self.at = payload_at + len as u64;
        Ok(Some(item))
    }
}

fn position_of(bytes: &[u8]) -> Option<Position> {
    let (run, rest) = bytes.split_first_chunk::<16>()?;
    let sequence = u64::from_be_bytes(*rest.first_chunk()?);
    Some(Position { incarnation: Incarnation(*run), sequence })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::OpenMode;
    use crate::disk_sim::{SimDisk, SimFaults};
    use crate::journal::{Journal, JournalConfig};

    fn journal(disk: &SimDisk) -> Journal {
        let config =
            JournalConfig { dir: "/journal".into(), segment_size_bytes: 400, reset_interval_bytes: 100 };
        let mut journal = None;
        for run in 1..=2 {
            let opened = Journal::open(Arc::new(disk.clone()), config.clone(), Incarnation([run; 16]), 1);
            let mut next: Journal = opened.unwrap().0;
            for n in 0..20u8 {
                let reset = next.needs_reset();
                next.append(&[run, n, n, n, n, n, n, n, n, n, n, n, n, n], reset).unwrap();
                next.write().unwrap();
            }
            journal = Some(next);
        }
        journal.unwrap()
    }

    fn frames(kept: &mut KeptFrames) -> Vec<(Position, bool, Vec<u8>)> {
        let mut frames = Vec::new();
        while let Some(item) = kept.next().unwrap() {
            let KeptItem::Frame { position, is_reset_point, payload } = item else { panic!("{item:?}") };
            frames.push((position, is_reset_point, payload));
        }
        frames
    }

    #[test]
    fn frames_behind_any_frame_are_kept_and_begin_at_a_reset_point() {
        let disk = SimDisk::new();
        let view = journal(&disk).view();
        let at = |run, sequence| Position { incarnation: Incarnation([run; 16]), sequence };
        assert_eq!(
            view.keep_behind(at(2, 20), &disk, Path::new("/kept")).unwrap(),
            None,
            "nothing behind it"
        );
        for (run, sequence) in [(1, 0), (1, 1), (1, 11), (1, 20), (2, 1), (2, 19)] {
            let keep = at(run, sequence);
            let path = view.keep_behind(keep, &disk, Path::new("/kept")).unwrap().unwrap();
            let mut kept = KeptFrames::open(&disk, &path).unwrap();
            assert_eq!(kept.behind(), keep);
            let frames = frames(&mut kept);
            assert!(frames[0].1, "a reset point");
            let first =
                frames.iter().position(|(position, ..)| *position == keep).map_or(0, |place| place + 1);
            let expected = (1..=2u8).flat_map(|run| (1..=20).map(move |n| (run, n)));
            let expected: Vec<_> = expected.filter(|(r, n)| (*r, *n) > (run, sequence)).collect();
            let cut: Vec<_> =
                frames[first..].iter().map(|(p, _, payload)| (payload[0], p.sequence)).collect();
            assert_eq!(cut, expected);
        }
    }

    #[test]
    fn damage_is_refused_and_a_crash_leaves_a_whole_file_or_none() {
        let disk = SimDisk::new();
        let view = journal(&disk).view();
        let keep = Position { incarnation: Incarnation([2; 16]), sequence: 15 };
        let path = view.keep_behind(keep, &disk, Path::new("/kept")).unwrap().unwrap();
        let file = disk.open(&path, OpenMode::Existing).unwrap();
        for at in 0..file.len().unwrap() {
            let mut byte = [0];
            file.read_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 4], at).unwrap();
            assert!(KeptFrames::open(&disk, &path).is_err(), "byte {at}");
            file.write_all_at(&byte, at).unwrap();
        }
        for effects in 0..8 {
            let disk = SimDisk::new();
            let view = journal(&disk).view();
            disk.set_faults(SimFaults { die_after_effects: Some(effects), ..Default::default() });
            let done = view.keep_behind(keep, &disk, Path::new("/kept"));
            disk.power_cut(effects);
            let names = disk.list(Path::new("/kept")).unwrap_or_default();
            let whole = names.iter().find(|file| file.name.ends_with(KEPT_SUFFIX));
            assert!(whole.is_some() || done.is_err(), "after {effects} effects");
            if let Some(file) = whole {
                KeptFrames::open(&disk, &Path::new("/kept").join(&file.name)).unwrap();
            }
        }
    }
}
