//! Who is master of a replica group, and under which epoch: what one member has been told, kept in its folder. Here an operator
//! tells it (`losstrace promote`); a consensus service can stand behind the same trait. Never decides what a log holds.
//!
//! ```text
//! role.0, role.1   two slots (see `store::checkpoint`): version u8 (1), part u8 (1: master), wrote last u8, promised u64 big-endian
//! ```
//! Crash story: a promise is on disk before anybody hears it, and a part before the folder is opened in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use store::checkpoint::Checkpoint;
use store::disk::Disk;
use store::error::{Result as StoreResult, StoreError};

const FILE: &str = "role";
const VERSION: u8 = 1;
const LEN: usize = 11;

/// A member's part in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It takes writes, once enough members have promised to follow nobody else.
    Master,
    /// It follows.
    Slave,
}

/// What a member was told, and what it promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mandate {
    /// Its part.
    pub part: Part,
    /// It follows no master whose epoch number is below.
    pub promised: u64,
    /// The folder was last written by a master: what it flushed is said by its own journal.
    pub wrote_last: bool,
}

/// Who is master, and under which epoch.
pub trait Mastership: Send {
    /// What holds now; `None`: nobody has said anything, the settings decide.
    fn mandate(&self) -> Option<Mandate>;
    /// What holds from now on; durable on return.
    fn record(&mut self, mandate: Mandate) -> StoreResult<()>;
}

/// What a running member is to become: it closes its folder, and opens it again in its new part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To stand for master. Forced: an operator wants it, whoever is master now.
    Campaign {
        /// Whoever is master now.
        forced: bool,
    },
    /// Enough members have promised to follow nobody below this epoch number, and it has what they have.
    Elected(u64),
    /// To follow.
    Follow,
}

/// An operator's word, in the folder.
pub struct ByHand {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    /// Made with the first word.
    file: Option<Checkpoint>,
    mandate: Option<Mandate>,
}

impl ByHand {
    /// Whether anything was ever said. Changes nothing.
    pub fn is_in(disk: &dyn Disk, dir: &Path) -> StoreResult<bool> {
        disk.create_dir_all(dir)?;
        let slots = [format!("{FILE}.0"), format!("{FILE}.1")];
        Ok(disk.list(dir)?.iter().any(|entry| slots.contains(&entry.name)))
    }

    /// For a folder where nothing was said so far; it gets its file with the first word.
    pub fn later(disk: &Arc<dyn Disk>, dir: &Path) -> ByHand {
        ByHand { disk: disk.clone(), dir: dir.to_path_buf(), file: None, mandate: None }
    }

    /// Reads what a folder says.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> StoreResult<ByHand> {
        disk.create_dir_all(dir)?;
        let (file, saved, report) = Checkpoint::open(disk.as_ref(), dir, FILE)?;
        let damaged = || StoreError::corrupt(&dir.join(FILE), 0, "a member's part and promise");
        if saved.is_none() && report.damaged.len() == 2 {
            return Err(damaged());
        }
        let mandate = saved.map(|saved| decode(&saved.payload).ok_or_else(damaged)).transpose()?;
        Ok(ByHand { file: Some(file), mandate, ..Self::later(disk, dir) })
    }
}

impl Mastership for ByHand {
    fn mandate(&self) -> Option<Mandate> {
        self.mandate
    }

    fn record(&mut self, mandate: Mandate) -> StoreResult<()> {
        if self.mandate == Some(mandate) {
            return Ok(());
        }
        let mut payload = vec![VERSION, u8::from(mandate.part == Part::Master), u8::from(mandate.wrote_last)];
        payload.extend_from_slice(&mandate.promised.to_be_bytes());
        let file = match &mut self.file {
            Some(file) => file,
            empty => empty.insert(Checkpoint::open(self.disk.as_ref(), &self.dir, FILE)?.0),
        };
        file.save(&payload)?;
        self.mandate = Some(mandate);
        Ok(())
    }
}

fn decode(payload: &[u8]) -> Option<Mandate> {
    let payload: &[u8; LEN] = payload.try_into().ok()?;
    let [version, part, wrote_last, promised @ ..] = *payload;
    let part = match part {
        0 => Part::Slave,
        1 => Part::Master,
        _ => return None,
    };
    let promised = u64::from_be_bytes(promised);
    (version == VERSION && wrote_last <= 1).then_some(Mandate { part, promised, wrote_last: wrote_last == 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::disk_sim::SimDisk;

    #[test]
    fn a_mandate_survives_a_power_cut_and_damage_is_not_read_as_silence() {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(sim.clone());
        let dir = Path::new("/b");
        let mut hand = ByHand::open(&disk, dir).unwrap();
        assert_eq!(hand.mandate(), None);
        let told = Mandate { part: Part::Master, promised: 7, wrote_last: true };
        hand.record(told).unwrap();
        sim.power_cut(1);
        assert_eq!(ByHand::open(&disk, dir).unwrap().mandate(), Some(told));
        assert_eq!(decode(&[1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(decode(&[1, 1]), None);
    }
}
