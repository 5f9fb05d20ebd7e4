//! A journal that is a copy of another one: frames are appended under the incarnation and the sequence they were written with, and
//! the copy goes on where it ended. Where its segments begin is its own affair; the frames are the same.

use super::frame::{HEADER_BYTES, Scanned, SegmentScan, encode_frame};
use super::{
    BUFFER_BYTES_MAX, CutTail, FRAME_PAYLOAD_BYTES_MAX, Journal, JournalConfig, JournalReport, JournalView,
    close_incarnations, load_segments,
};
use crate::disk::{Disk, OpenMode};
use crate::error::{ErrorKind, Op, Result, StoreError};
use crate::segment::segment_name;
use lifecycle::position::Position;
use std::sync::{Arc, Mutex};

impl Journal {
    /// Opens a copy to go on with it; `None` while it has no frame. Everything found is durable on return.
    pub fn resume_copy(
        disk: Arc<dyn Disk>,
        config: JournalConfig,
    ) -> Result<(Option<Journal>, JournalReport)> {
        disk.create_dir_all(&config.dir)?;
        let mut report = JournalReport::default();
        let mut segments = Vec::new();
        load_segments(disk.as_ref(), &config.dir, &mut segments, &mut report)?;
        close_incarnations(disk.as_ref(), &config.dir, &mut segments, &mut report)?;
        let Some(last) = segments.last_mut() else { return Ok((None, report)) };
        let file = disk.open(&config.dir.join(segment_name(last.number)), OpenMode::Existing)?;
        // only the last segment can be torn; what comes after the first bad frame comes again
        let header = (last.incarnation, last.first_sequence);
        let mut scan = SegmentScan::new(file.clone(), header, last.len);
        let (mut len, mut next_sequence) = (HEADER_BYTES as u64, last.first_sequence);
        while let Scanned::Frame { sequence, .. } = scan.step()? {
            (len, next_sequence) = (scan.at, sequence + 1);
        }
        if len < last.len {
            let after = Position { incarnation: last.incarnation, sequence: next_sequence - 1 };
            report.cut = vec![CutTail { after, bytes: last.len - len }];
        }
        file.truncate(len)?;
        file.sync()?;
        (last.len, last.next_sequence, last.is_damaged) = (len, next_sequence, false);
        let incarnation = last.incarnation;
        let dir = config.dir.clone();
        let journal = Journal {
            view: JournalView { disk, dir, segments: Arc::new(Mutex::new(segments)) },
            config,
            incarnation,
            file,
            written_len: len,
            buffer: Vec::new(),
            next_sequence,
            written_sequence: next_sequence - 1,
            since_reset: Some(0),
            dirty: Vec::new(),
            wall_ms: 0,
            reserved_to: 0,
        };
        Ok((Some(journal), report))
    }

    /// Cuts every frame behind `keep` (sequence 0: all of them) from the journal in `config.dir`, which nobody has open. Newest first,
    /// each step on disk before the next: a crash in between leaves a shorter journal, never one with a hole.
    pub fn cut_behind(disk: &dyn Disk, config: &JournalConfig, keep: Position) -> Result<()> {
        disk.create_dir_all(&config.dir)?;
        let mut report = JournalReport::default();
        let mut segments = Vec::new();
        load_segments(disk, &config.dir, &mut segments, &mut report)?;
        let holds = |segment: &super::Segment| {
            keep.sequence > 0
                && segment.incarnation == keep.incarnation
                && segment.first_sequence <= keep.sequence
        };
        let last = segments.iter().rposition(holds);
        if keep.sequence > 0 && last.is_none() {
            return Err(StoreError::new(Op::Remove, &config.dir, 0, ErrorKind::NotFound));
        }
        let first_gone = last.map_or(0, |last| last + 1);
        for gone in segments.drain(first_gone..).rev() {
            disk.remove(&config.dir.join(segment_name(gone.number)))?;
            disk.sync_dir(&config.dir)?;
        }
        let Some(last) = segments.last() else { return Ok(()) };
        let file = disk.open(&config.dir.join(segment_name(last.number)), OpenMode::Existing)?;
        let mut scan = SegmentScan::new(file.clone(), (last.incarnation, last.first_sequence), last.len);
        let mut len = HEADER_BYTES as u64;
        while let Scanned::Frame { sequence, .. } = scan.step()? {
            if sequence > keep.sequence {
                break;
            }
            len = scan.at;
        }
        file.truncate(len)?;
        file.sync()
    }

    /// Starts a copy with the place of its first frame, which must be a run's first.
    pub fn begin_copy(disk: Arc<dyn Disk>, config: JournalConfig, first: Position) -> Result<Journal> {
        if first.sequence != 1 {
            return Err(StoreError::new(
                Op::Append,
                &config.dir,
                0,
                ErrorKind::Limit("first frame of a copy"),
            ));
        }
        let (journal, _) = Journal::open(disk, config, first.incarnation, 0)?;
        Ok(journal)
    }

    /// Buffers a frame at its own place: the next of the run, or the first of a later piece, which is a reset point. After an
    /// error nothing was appended.
    pub fn append_copied(&mut self, position: Position, payload: &[u8], is_reset_point: bool) -> Result<()> {
        let limit = |what| StoreError::new(Op::Append, &self.config.dir, 0, ErrorKind::Limit(what));
        if payload.is_empty() || payload.len() > FRAME_PAYLOAD_BYTES_MAX {
            return Err(limit("journal frame size"));
        }
        if self.buffer.len() + payload.len() > BUFFER_BYTES_MAX {
            return Err(limit("journal buffer"));
        }
        let same_run = position.incarnation == self.incarnation;
        let is_next = same_run && position.sequence == self.next_sequence;
        let is_later = if same_run { position.sequence > self.next_sequence } else { position.sequence > 0 };
        let fits = is_next || (is_later && is_reset_point);
        if !fits {
            return Err(limit("order of copied frames"));
        }
        if !is_next || (is_reset_point && self.must_roll()) {
            self.write()?;
            // a later segment never outlives an earlier one: rare, so it is waited for here
            self.take_sync_batch().sync()?;
            (self.incarnation, self.next_sequence) = (position.incarnation, position.sequence);
            self.roll()?;
        }
        encode_frame(&mut self.buffer, (self.incarnation, self.next_sequence), payload, is_reset_point);
        self.since_reset = Some(0);
        self.next_sequence += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::JournalItem;
    use super::*;
    use crate::disk_sim::SimDisk;
    use lifecycle::identity::Incarnation;
    use std::path::PathBuf;

    const RUN: [Incarnation; 2] = [Incarnation([1; 16]), Incarnation([2; 16])];

    fn config() -> JournalConfig {
        JournalConfig {
            segment_size_bytes: 400,
            reset_interval_bytes: 150,
            ..JournalConfig::new("/j".into())
        }
    }

    type Frames = Vec<(Position, Vec<u8>, bool)>;

    fn frames(view: &JournalView) -> Frames {
        let mut reader = view.read_all().unwrap();
        let mut out = Vec::new();
        while let Some(item) = reader.next().unwrap() {
            match item {
                JournalItem::Frame { position, is_reset_point, payload } => {
                    out.push((position, payload.to_vec(), is_reset_point));
                }
                JournalItem::Hole { .. } => panic!("a hole"),
                JournalItem::Closed { .. } => {}
            }
        }
        out
    }

    fn original() -> Frames {
        let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
        for run in RUN {
            let (mut journal, _) = Journal::open(disk.clone(), config(), run, 5).unwrap();
            for n in 0..60u8 {
                let reset = journal.needs_reset();
                journal.append(&vec![n; 1 + usize::from(n) % 30], reset).unwrap();
                journal.write().unwrap();
            }
        }
        let (journal, _) = Journal::open(disk, config(), Incarnation([3; 16]), 5).unwrap();
        frames(&journal.view())
    }

    fn append(disk: &SimDisk, journal: &mut Option<Journal>, frame: &(Position, Vec<u8>, bool)) {
        let journal = journal
            .get_or_insert_with(|| Journal::begin_copy(Arc::new(disk.clone()), config(), frame.0).unwrap());
        journal.append_copied(frame.0, &frame.1, frame.2).unwrap();
        journal.write().unwrap();
    }

    #[test]
    fn a_copy_survives_any_restart_with_the_same_frames_under_the_same_numbers() {
        let all = original();
        for restart in 0..all.len() {
            let disk = SimDisk::new();
            let mut journal = None;
            for (index, frame) in all.iter().enumerate() {
                if index == restart {
                    drop(journal.take());
                    // half of the time the power fails: what was not synced comes again
                    if index % 2 == 1 {
                        disk.power_cut(index as u64);
                    }
                    (journal, _) = Journal::resume_copy(Arc::new(disk.clone()), config()).unwrap();
                    let has = journal.as_ref().map_or(0, |j| frames(&j.view()).len());
                    assert!(has <= index);
                    if index % 2 == 0 {
                        assert_eq!(has, index);
                    }
                    for again in all.iter().take(index).skip(has) {
                        append(&disk, &mut journal, again);
                    }
                }
                append(&disk, &mut journal, frame);
            }
            assert_eq!(frames(&journal.unwrap().view()), all, "restart before frame {restart}");
        }
    }

    #[test]
    fn a_copy_is_cut_behind_any_frame_and_takes_the_rest_again() {
        let all = original();
        for keep in 0..all.len() {
            let disk = SimDisk::new();
            let mut journal = None;
            all.iter().for_each(|frame| append(&disk, &mut journal, frame));
            drop(journal.take());
            let nothing = Position { incarnation: Incarnation::NONE, sequence: 0 };
            let at = keep.checked_sub(1).map_or(nothing, |last| all[last].0);
            Journal::cut_behind(&disk, &config(), at).unwrap();
            disk.power_cut(keep as u64);
            (journal, _) = Journal::resume_copy(Arc::new(disk.clone()), config()).unwrap();
            let kept = journal.as_ref().map(|j| frames(&j.view())).unwrap_or_default();
            assert!(kept == all[..kept.len()] && kept.len() <= keep, "{} of {keep}", kept.len());
            all.iter().skip(kept.len()).for_each(|frame| append(&disk, &mut journal, frame));
            assert_eq!(frames(&journal.unwrap().view()), all);
        }
        let disk = SimDisk::new();
        let unknown = Position { incarnation: Incarnation([9; 16]), sequence: 3 };
        assert!(Journal::cut_behind(&disk, &config(), unknown).is_err(), "a run that is not here");
    }

    #[test]
    fn frames_out_of_order_are_refused() {
        let disk = SimDisk::new();
        let all = original();
        let mut journal = None;
        append(&disk, &mut journal, &all[0]);
        let mut journal = journal.unwrap();
        let (position, payload, _) = &all[5];
        assert!(journal.append_copied(*position, payload, false).is_err(), "a hole without a reset point");
        assert!(journal.append_copied(all[0].0, &all[0].1, true).is_err(), "a frame it has");
        assert!(
            Journal::begin_copy(Arc::new(disk), JournalConfig::new(PathBuf::from("/k")), *position).is_err()
        );
    }
}
