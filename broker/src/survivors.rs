//! Owns reading what a member kept when its end of the log lost: the messages, and what the journal frames that were cut with them
//! tell of who had consumed which. Disk handed in; nothing is changed.

use crate::api::ReinjectMessages;
use lifecycle::fact::{Fact, MoveReason, StoredKind};
use lifecycle::frame::FrameDecoder;
use lifecycle::identity::{CopyReason, Incarnation, Name, QueueKey};
use lifecycle::ranges::Ranges;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use store::commit_log::survivor::{SURVIVOR_SUFFIX, Survivor};
use store::disk::Disk;
use store::error::{Result, StoreError};
use store::journal::kept::{KEPT_SUFFIX, KeptFrames, KeptItem};

/// Copies that one cut may hold; they are kept in memory while it is read.
pub const COPIES_MAX: usize = 1 << 20;
/// A copy of a copy of a copy …: retries of retries, until the maximum of attempts.
const GENERATIONS_MAX: usize = 64;

/// Where a message stood, within the history of one cut.
type Place = (QueueKey, u64);

/// What is known of who had consumed a message before it was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Consumed {
    /// Nobody; everything that could tell is there.
    No,
    /// These groups.
    By(Vec<Name>),
    /// The frames that would tell are not all there.
    NotKnown,
}

/// Files of one or more folders.
#[derive(Debug, Default)]
pub struct Files {
    /// Messages.
    pub survivors: Vec<PathBuf>,
    /// Journal frames.
    pub frames: Vec<PathBuf>,
}

impl Files {
    /// Finds the files that were kept in a folder.
    pub fn in_dir(&mut self, disk: &dyn Disk, dir: &Path) -> Result<()> {
        for entry in disk.list(dir)?.into_iter().filter(|entry| !entry.is_dir) {
            let path = dir.join(&entry.name);
            if entry.name.ends_with(SURVIVOR_SUFFIX) {
                self.survivors.push(path);
            } else if entry.name.ends_with(KEPT_SUFFIX) {
                self.frames.push(path);
            }
        }
        Ok(())
    }
}

/// What one group was given of one queue, and did with it.
#[derive(Debug, Default)]
struct Dealings {
    delivered: Ranges,
    /// Below where it moved its position.
    passed: Ranges,
    acked: Ranges,
}

impl Dealings {
    fn has_consumed(&self, offset: u64) -> bool {
        self.acked.contains(offset) || (self.delivered.contains(offset) && self.passed.contains(offset))
    }
}

/// A copy the old master had made.
#[derive(Debug)]
struct CopyMade {
    group: Name,
    at: Place,
    reason: CopyReason,
}

/// The frames of one cut.
#[derive(Debug, Default)]
struct History {
    /// What each run stored, of what was cut: a later run may have stored others at the same offsets in another history.
    stored: HashMap<(Incarnation, QueueKey), Ranges>,
    has_holes: bool,
    groups: BTreeMap<Name, HashMap<QueueKey, Dealings>>,
    copies: HashMap<Place, Vec<CopyMade>>,
    copy_count: usize,
}

/// Everything that kept frames tell.
#[derive(Debug, Default)]
pub struct Told {
    histories: Vec<History>,
}

impl Told {
    /// Reads kept frames. Fails on damage, and beyond [`COPIES_MAX`] copies in one file.
    pub fn read(disk: &dyn Disk, files: &[PathBuf]) -> Result<Told> {
        let histories = files.iter().map(|path| History::read(disk, path)).collect::<Result<_>>()?;
        Ok(Told { histories })
    }

    /// Who had consumed the message that `run` stored there. Not known where its storing is not told: then what came of it may stand in
    /// frames that were not cut, or are gone.
    pub fn consumed(&self, run: Incarnation, queue: QueueKey, offset: u64) -> Consumed {
        let stored = |history: &&History| {
            history.stored.get(&(run, queue)).is_some_and(|offsets| offsets.contains(offset))
        };
        let mut told = self.histories.iter().filter(stored).peekable();
        if told.peek().is_none() {
            return Consumed::NotKnown;
        }
        let (mut groups, mut complete) = (BTreeSet::new(), true);
        for history in told {
            history.collect((queue, offset), None, &mut groups, GENERATIONS_MAX);
            complete &= !history.has_holes;
        }
        match (groups.is_empty(), complete) {
            (false, _) => Consumed::By(groups.into_iter().collect()),
            (true, true) => Consumed::No,
            (true, false) => Consumed::NotKnown,
        }
    }
}

impl History {
    fn read(disk: &dyn Disk, path: &Path) -> Result<History> {
        let mut kept = KeptFrames::open(disk, path)?;
        let behind = kept.behind();
        let mut history = History::default();
        let mut decoder = FrameDecoder::new();
        // without a common frame all of them were cut
        let mut is_cut = behind.sequence == 0;
        // after a hole, payloads can only be read from the next reset point on
        let mut reads = true;
        while let Some(item) = kept.next()? {
            match item {
                KeptItem::Hole(_) => (history.has_holes, reads) = (true, false),
                KeptItem::Frame { position, is_reset_point, payload } => {
                    if is_reset_point {
                        (decoder, reads) = (FrameDecoder::new(), true);
                    }
                    let frame = reads.then(|| decoder.decode(&payload).ok()).flatten();
                    history.has_holes |= frame.is_none();
                    reads = frame.is_some();
                    if is_cut {
                        let facts = frame.iter().flat_map(|frame| &frame.facts);
                        facts.for_each(|fact| history.apply(position.incarnation, fact));
                    }
                    is_cut |= position == behind;
                }
            }
            if history.copy_count > COPIES_MAX {
                let limit = store::error::ErrorKind::Limit("copies in kept frames");
                return Err(StoreError::new(store::error::Op::Read, path, 0, limit));
            }
        }
        Ok(history)
    }

    fn apply(&mut self, run: Incarnation, fact: &Fact) {
        match fact {
            Fact::Delivered { group, queue, ranges, .. } => {
                self.dealings(group, *queue).delivered.union(ranges);
            }
            Fact::Acked { group, queue, ranges, .. } => self.dealings(group, *queue).acked.union(ranges),
            Fact::OffsetMoved { group, queue, from, to, reason: MoveReason::Commit, .. } if from < to => {
                self.dealings(group, *queue).passed.insert(*from, *to);
            }
            Fact::Recovered(recovered) => {
                for (queue, _, end) in &recovered.queues {
                    self.forget_above(*queue, *end);
                }
            }
            Fact::Stored(stored) => {
                for row in &stored.runs {
                    let offsets = self.stored.entry((run, row.queue)).or_default();
                    offsets.insert(row.queue_offset, row.queue_offset + row.count);
                }
                let places = stored
                    .runs
                    .iter()
                    .flat_map(|run| (0..run.count).map(|n| (run.queue, run.queue_offset + n)));
                let kinds = stored.kinds.iter().flat_map(|(n, kind)| std::iter::repeat_n(kind, *n as usize));
                for (at, kind) in places.zip(kinds) {
                    let StoredKind::Copy { group, lineage, .. } = kind else { continue };
                    let parent = (lineage.parent.queue, lineage.parent.queue_offset);
                    let made = CopyMade { group: group.clone(), at, reason: lineage.reason };
                    self.copies.entry(parent).or_default().push(made);
                    self.copy_count += 1;
                }
            }
            _ => {}
        }
    }

    /// A recovery found the queue to end here: what is said of offsets above was of messages that are gone.
    fn forget_above(&mut self, queue: QueueKey, end: u64) {
        let cut = |offsets: &mut Ranges| *offsets = offsets.within(0, end);
        self.stored.iter_mut().filter(|((_, of), _)| *of == queue).for_each(|(_, offsets)| cut(offsets));
        for Dealings { delivered, passed, acked } in
            self.groups.values_mut().filter_map(|queues| queues.get_mut(&queue))
        {
            [delivered, passed, acked].into_iter().for_each(cut);
        }
        for copies in self.copies.values_mut() {
            copies.retain(|copy| copy.at.0 != queue || copy.at.1 < end);
        }
    }

    fn dealings(&mut self, group: &Name, queue: QueueKey) -> &mut Dealings {
        self.groups.entry(group.clone()).or_default().entry(queue).or_default()
    }

    /// Groups (or this one) that are done with what stands at a place, or with a copy of it.
    fn collect(&self, at: Place, only: Option<&Name>, groups: &mut BTreeSet<Name>, generations: usize) {
        let copies = self.copies.get(&at).map(Vec::as_slice).unwrap_or_default();
        let asked = self.groups.iter().filter(|(group, _)| only.is_none_or(|only| *group == only));
        for (group, queues) in asked {
            // a group that sent it back waits for the copy
            let sent_back = copies.iter().any(|copy| copy.group == *group);
            if !sent_back && queues.get(&at.0).is_some_and(|dealings| dealings.has_consumed(at.1)) {
                groups.insert(group.clone());
            }
        }
        for copy in copies.iter().filter(|_| generations > 0) {
            // a dead letter is done with when anybody has taken it
            let of_group = !copy.group.is_empty() && copy.reason != CopyReason::DeadLetter;
            let only = if of_group { Some(&copy.group) } else { only };
            self.collect(copy.at, only, groups, generations - 1);
        }
    }
}

/// What another member sent, checked: see [`Survivor::part`].
pub fn received(bytes: &bytes::Bytes, dry_run: bool) -> Result<ReinjectMessages> {
    let survivor = Survivor::of_bytes(bytes)?;
    let mut records = Vec::new();
    let unreadable = survivor.records(|record| {
        records.push(record);
        Ok(())
    })?;
    if unreadable > 0 {
        return Err(StoreError::corrupt(Path::new("survivors in a request"), 0, "records"));
    }
    Ok(ReinjectMessages { epochs: survivor.epochs().to_vec(), records, dry_run })
}

#[cfg(test)]
mod tests;
