//! Owns what a power cut would leave of sled's folder: a copy of it as of the last fsync, and the way back to it. sled opens its
//! own files, so the disk that notes unsynced writes does not see them. Never used in production: crash tests on real processes
//! start the agent with it, kill -9 it, and call [`cut_power`].
//!
//! Modelled: of the pages written since the last fsync none survives, all do, or any choice of them; files made, removed or renamed
//! since then are as they were. Not modelled: half-written pages, and an fsync of sled's own threads between two of ours (what it
//! made durable earlier than us is taken back all the same, which is worse than real).
//!
//! Crash story: a copy counts when it has its final name; it is made before the commit returns, so nobody rests on a commit that
//! it lacks. Killed in between, the copy before it counts, as if the power had failed just before the fsync.

use super::{io, open as open_sled};
use crate::ledger::{Change, Ledger, LedgerError, OpenedLedger};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use store::disk::Disk;

/// Written pages survive whole or not at all.
const PAGE: usize = 4096;
const COPY: &str = "synced-";
const UNFINISHED: &str = "unfinished";

/// A ledger of which every commit is copied.
struct Noted {
    ledger: Box<dyn Ledger>,
    dir: PathBuf,
    sidecar: PathBuf,
}

/// As [`super::open`]; every fsync leaves a copy in `sidecar`, which is on the same disk, outside `dir`.
pub fn open(
    disk: &dyn Disk,
    (dir, sidecar): (&Path, &Path),
    wall_ms: u64,
) -> Result<OpenedLedger, LedgerError> {
    fs::create_dir_all(sidecar).map_err(|error| io(sidecar, &error))?;
    let OpenedLedger { ledger, rows, rebuilt } = open_sled(disk, dir, wall_ms)?;
    let noted = Noted { ledger, dir: dir.to_path_buf(), sidecar: sidecar.to_path_buf() };
    noted.copy()?;
    Ok(OpenedLedger { ledger: Box::new(noted), rows, rebuilt })
}

impl Noted {
    fn copy(&self) -> Result<(), LedgerError> {
        let copies = copies(&self.sidecar)?;
        let number = copies.last().map_or(0, |(number, _)| *number) + 1;
        let unfinished = self.sidecar.join(UNFINISHED);
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(|error| io(&unfinished, &error))?;
        }
        copy_files(&self.dir, &unfinished)?;
        let copy = self.sidecar.join(format!("{COPY}{number:010}"));
        fs::rename(&unfinished, &copy).map_err(|error| io(&copy, &error))?;
        for (_, older) in copies {
            fs::remove_dir_all(&older).map_err(|error| io(&older, &error))?;
        }
        Ok(())
    }
}

impl Ledger for Noted {
    fn commit(&mut self, changes: &[Change]) -> Result<(), LedgerError> {
        self.ledger.commit(changes)?;
        self.copy()
    }

    fn row_count(&self) -> u64 {
        self.ledger.row_count()
    }
}

/// Puts the folder back to its last fsync, but for the written pages that `survives` (asked once for each). Returns how many pages
/// were taken back. No process may use the folder.
pub fn cut_power(dir: &Path, sidecar: &Path, mut survives: impl FnMut() -> bool) -> Result<u64, LedgerError> {
    let mut synced = BTreeSet::new();
    let mut taken_back = 0;
    if let Some((_, copy)) = copies(sidecar)?.pop() {
        fs::create_dir_all(dir).map_err(|error| io(dir, &error))?;
        for name in files(&copy)? {
            let (now, then) = (dir.join(&name), copy.join(&name));
            let bytes = fs::read(&then).map_err(|error| io(&then, &error))?;
            let written = fs::read(&now).unwrap_or_default();
            let (mixed, pages) = mix(bytes, &written, &mut survives);
            taken_back += pages;
            if mixed != written {
                fs::write(&now, mixed).map_err(|error| io(&now, &error))?;
            }
            synced.insert(name);
        }
    }
    if dir.exists() {
        for name in files(dir)?.into_iter().filter(|name| !synced.contains(name)) {
            fs::remove_file(dir.join(&name)).map_err(|error| io(dir, &error))?;
        }
    }
    Ok(taken_back)
}

/// The synced bytes with the surviving pages of what was written since; a file grows as far as its last surviving page.
fn mix(mut synced: Vec<u8>, written: &[u8], survives: &mut impl FnMut() -> bool) -> (Vec<u8>, u64) {
    let mut taken_back = 0;
    for (index, page) in written.chunks(PAGE).enumerate() {
        let (from, to) = (index * PAGE, index * PAGE + page.len());
        if synced.get(from..to).is_some_and(|old| old == page) {
            continue;
        }
        if !survives() {
            taken_back += 1;
            continue;
        }
        if synced.len() < to {
            synced.resize(to, 0);
        }
        if let Some(old) = synced.get_mut(from..to) {
            old.copy_from_slice(page);
        }
    }
    (synced, taken_back)
}

/// Finished copies, oldest first.
fn copies(sidecar: &Path) -> Result<Vec<(u64, PathBuf)>, LedgerError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(sidecar).map_err(|error| io(sidecar, &error))? {
        let entry = entry.map_err(|error| io(sidecar, &error))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(COPY)?.parse().ok());
        found.extend(number.map(|number: u64| (number, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// sled's files are all in one folder: ours makes no values that need its second one.
fn files(dir: &Path) -> Result<Vec<OsString>, LedgerError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(|error| io(dir, &error))? {
        let entry = entry.map_err(|error| io(dir, &error))?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

fn copy_files(from: &Path, to: &Path) -> Result<(), LedgerError> {
    fs::create_dir_all(to).map_err(|error| io(to, &error))?;
    for name in files(from)? {
        match fs::copy(from.join(&name), to.join(&name)) {
            // sled's own threads remove what they have replaced
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            copied => drop(copied.map_err(|error| io(from, &error))?),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::disk_os::OsDisk;

    fn row(number: u32, value: &[u8]) -> Change {
        (format!("b{number:05}").into_bytes(), Some(value.to_vec()))
    }

    #[test]
    fn what_was_committed_survives_and_what_was_written_since_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, sidecar) = (folder.path().join("ledger"), folder.path().join("undo"));
        let mut opened = open(&OsDisk, (&dir, &sidecar), 1).unwrap();
        opened.ledger.commit(&(0..50).map(|n| row(n, b"kept")).collect::<Vec<_>>()).unwrap();
        drop(opened);
        // as if written after the last fsync: the copy does not know of it
        let mut later = open_sled(&OsDisk, &dir, 1).unwrap();
        later.ledger.commit(&(0..90).map(|n| row(n, b"lost")).collect::<Vec<_>>()).unwrap();
        drop(later);
        fs::write(dir.join("snap.new"), b"unsynced name").unwrap();
        assert!(cut_power(&dir, &sidecar, || false).unwrap() > 0);
        let after = open(&OsDisk, (&dir, &sidecar), 1).unwrap();
        assert_eq!((after.rows.len(), after.rebuilt), (50, None));
        assert!(after.rows.iter().all(|(_, value)| value == b"kept"));
    }

    #[test]
    fn surviving_pages_are_mixed_in() {
        let synced = vec![1; 2 * PAGE];
        let mut written = vec![2; 3 * PAGE + 7];
        written[..PAGE].fill(1);
        let mut choices = [true, false, true].into_iter();
        let (mixed, taken_back) = mix(synced, &written, &mut || choices.next().unwrap());
        assert_eq!((mixed.len(), taken_back), (3 * PAGE + 7, 1));
        assert!(mixed[..PAGE].iter().all(|byte| *byte == 1) && mixed[PAGE..2 * PAGE] == [2; PAGE]);
        assert!(mixed[2 * PAGE..3 * PAGE].iter().all(|byte| *byte == 0) && mixed[3 * PAGE..] == [2; 7]);
    }
}
