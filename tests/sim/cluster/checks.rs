//! Owns the promises of a replica group: copies are byte-equal below their common end, a survivor file holds exactly what a member
//! alone held, and what was answered at a level outlives what that level promises. Pure reading of disks and cores; what is wrong is
//! said in words. Called by acts once the group is whole again.

use super::Group;
use super::member::Member;
use broker::core::Core;
use lifecycle::identity::LogPosition;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use store::commit_log::survivor::{SURVIVOR_SUFFIX, Survivor};
use store::disk::Disk;
use store::disk_sim::SimDisk;
use store::segment::SegmentReader;
use wire::message::{MAGIC_V1, StoredMessage};

/// The client ids of the whole records in a piece of log.
pub(super) fn ids_in(bytes: &[u8]) -> Vec<String> {
    let magic = MAGIC_V1.to_be_bytes();
    let (mut at, mut ids) = (0, Vec::new());
    while at + 8 <= bytes.len() {
        let whole =
            (bytes[at + 4..at + 8] == magic).then(|| StoredMessage::decode(&bytes[at..]).ok()).flatten();
        at += match whole {
            Some((message, len)) => {
                ids.push(message.properties.get("UNIQ_KEY").unwrap_or_default().to_owned());
                len.max(1)
            }
            None => 1,
        };
    }
    ids
}

/// Log bytes of a member that runs.
pub(super) fn log_bytes(disk: &SimDisk, core: &Core, (from, to): (LogPosition, LogPosition)) -> Vec<u8> {
    let reader = SegmentReader::new(Arc::new(disk.clone()), core.log_segments().clone());
    let mut bytes = vec![0; (to.0 - from.0) as usize];
    let mut read = 0;
    while read < bytes.len() {
        match reader.read_at(&mut bytes[read..], from.0 + read as u64).expect("the disk works") {
            0 => break,
            more => read += more,
        }
    }
    bytes.truncate(read);
    bytes
}

/// What a member's survivor files hold: names, where each began, and its bytes.
pub(super) fn survivors(member: &Member) -> Vec<(String, LogPosition, Vec<u8>)> {
    let dir = Path::new(crate::world::DATA).join("survivors");
    let files = member.disk.list(&dir).unwrap_or_default();
    let files = files.into_iter().filter(|file| file.name.ends_with(SURVIVOR_SUFFIX));
    let read = files.map(|file| {
        let survivor = Survivor::open(&member.disk, &dir.join(&file.name)).expect("a survivor file is whole");
        let bytes = survivor.bytes().expect("the disk works");
        (file.name, survivor.from(), bytes)
    });
    read.collect()
}

impl Group {
    /// Every replica that runs against the acting master; the group must have come to rest.
    pub(super) fn differences(&self) -> Vec<String> {
        let acting = &self.members[self.acting];
        let Some(master) = &acting.core else { return vec!["nobody is master".into()] };
        let mut wrong = Vec::new();
        let masters = self.members.iter().filter_map(|m| m.standing()).filter(|standing| standing.is_master);
        let count = masters.count();
        if count != 1 {
            wrong.push(format!("{count} members take writes"));
        }
        for member in self.members.iter().filter(|member| member.id() != acting.id()) {
            let Some(replica) = &member.core else { continue };
            wrong.extend(differs((acting, master), (member, replica)));
        }
        wrong
    }
}

fn differs((above, master): (&Member, &Core), (below, replica): (&Member, &Core)) -> Vec<String> {
    let mut wrong = Vec::new();
    let (theirs, ours) = (master.log_view(), replica.log_view());
    if theirs != ours {
        wrong.push(format!("{} has {:?}, its master {:?}", below.id(), ours.end, theirs.end));
    }
    let end = theirs.end.min(ours.end);
    let start = master.log_start().max(replica.log_start());
    if start < end {
        let same =
            log_bytes(&above.disk, master, (start, end)) == log_bytes(&below.disk, replica, (start, end));
        if !same {
            wrong.push(format!("the log of {} has other bytes below {}", below.id(), end.0));
        }
    }
    if theirs == ours && master.state_view() != replica.state_view() {
        wrong.push(format!("the state of {} is another one than its master's", below.id()));
    }
    wrong
}

/// What a member alone held above a fork must be in one new survivor file, and nothing else.
pub(super) fn check_survivor(
    had: &BTreeSet<String>,
    alone: (LogPosition, Vec<u8>),
    member: &Member,
) -> Vec<String> {
    let (fork, bytes) = alone;
    let new: Vec<_> = survivors(member).into_iter().filter(|(name, _, _)| !had.contains(name)).collect();
    match new.as_slice() {
        [] if bytes.is_empty() => Vec::new(),
        [(_, from, kept)] if *from == fork && *kept == bytes => Vec::new(),
        [(_, from, kept)] => vec![format!(
            "{}'s survivor file holds {} bytes from {}, it alone held {} from {}",
            member.id(),
            kept.len(),
            from.0,
            bytes.len(),
            fork.0
        )],
        other => vec![format!(
            "{} has {} new survivor files, and alone held {} bytes from {}",
            member.id(),
            other.len(),
            bytes.len(),
            fork.0
        )],
    }
}
