//! The worst power cut, on a real file system: random work, death between any two system calls, undo, compare with a model of
//! what was synced.

use super::log::Record;
use super::*;
use crate::disk_sim::SimRng;
use proptest::prelude::*;

/// Content by name.
type Files = BTreeMap<String, Vec<u8>>;

struct World {
    data: PathBuf,
    sidecar: PathBuf,
    disk: UndoDisk,
    /// Name to file, file to (content now, content synced).
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    files: Vec<(Vec<u8>, Vec<u8>)>,
}

fn read_dir(dir: &Path) -> Files {
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    OsDisk.list(dir).unwrap().into_iter().map(|entry| (entry.name.clone(), read(&entry.name))).collect()
}

impl World {
    fn new(root: &Path) -> World {
        let (data, sidecar) = (root.join("data"), root.join("sidecar"));
        OsDisk.create_dir_all(&data).unwrap();
        let disk = UndoDisk::open(&sidecar).unwrap();
        World {
            data,
            sidecar,
            disk,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            files: Vec::new(),
        }
    }

    fn now(&self) -> Files {
        self.names.iter().map(|(name, file)| (name.clone(), self.files[*file].0.clone())).collect()
    }

    fn durable(&self) -> Files {
        self.durable_names.iter().map(|(name, file)| (name.clone(), self.files[*file].1.clone())).collect()
    }

    /// One random change. The model follows only when the call succeeded.
    fn change(&mut self, rng: &mut SimRng) -> Result<()> {
        let name = ["a", "b", "c"][usize::try_from(rng.below(3)).unwrap()].to_owned();
        let path = self.data.join(&name);
        let what = rng.below(12);
        if what == 0 {
            self.disk.sync_dir(&self.data)?;
            self.durable_names = self.names.clone();
            return Ok(());
        }
        let Some(file) = self.names.get(&name).copied() else {
            self.disk.open(&path, OpenMode::CreateNew)?;
            self.files.push((Vec::new(), Vec::new()));
            self.names.insert(name, self.files.len() - 1);
            return Ok(());
        };
        match what {
            1 => {
                self.disk.remove(&path)?;
                self.names.remove(&name);
            }
            2 | 3 => {
                let to = ["a", "b", "c"][usize::try_from(rng.below(3)).unwrap()].to_owned();
                self.disk.rename(&path, &self.data.join(&to))?;
                self.names.remove(&name);
                self.names.insert(to, file);
            }
            4 | 5 => {
                self.disk.open(&path, OpenMode::Existing)?.sync()?;
                self.files[file].1 = self.files[file].0.clone();
            }
            6 => {
                let len = rng.below(15_000);
                self.disk.open(&path, OpenMode::Create)?.truncate(len)?;
                self.files[file].0.resize(usize::try_from(len).unwrap(), 0);
            }
            _ => {
                let at = usize::try_from(rng.below(12_000)).unwrap();
                let bytes =
                    vec![rng.next_u64().to_le_bytes()[0]; 1 + usize::try_from(rng.below(6000)).unwrap()];
                self.disk.open(&path, OpenMode::Existing)?.write_all_at(&bytes, at as u64)?;
                let content = &mut self.files[file].0;
                content.resize(content.len().max(at + bytes.len()), 0);
                content[at..at + bytes.len()].copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    /// After an undo the world is the durable one.
    fn restart(&mut self) {
        self.names = self.durable_names.clone();
        for file in &mut self.files {
            file.0 = file.1.clone();
        }
        self.disk = UndoDisk::open(&self.sidecar).unwrap();
    }
}

#[test]
fn undo_leaves_exactly_what_was_synced_wherever_the_process_died() {
    let mut deaths = 0;
    for seed in 0..100u64 {
        let root = tempfile::tempdir().unwrap();
        let mut world = World::new(root.path());
        let mut rng = SimRng(seed);
        for _life in 0..4 {
            lock(&world.disk.state).die_after_steps = Some(rng.below(120));
            let before = loop {
                let before = world.durable();
                match world.change(&mut rng) {
                    Ok(()) if rng.below(60) == 0 => break world.durable(),
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!(error.kind, crate::error::ErrorKind::Corrupt("killed by the test"));
                        deaths += 1;
                        break before;
                    }
                }
            };
            UndoDisk::undo(&world.data, &world.sidecar).unwrap();
            let found = read_dir(&world.data);
            if found != before {
                // The process died inside a folder sync, after it took effect.
                world.durable_names = world.names.clone();
            }
            assert_eq!(found, world.durable(), "seed {seed}");
            assert_eq!(UndoDisk::undo(&world.data, &world.sidecar).unwrap(), UndoReport::default());
            assert_eq!(read_dir(&world.data), found, "a second undo changes nothing");
            world.restart();
        }
    }
    assert!(deaths > 100, "the kills must hit: {deaths}");
}

#[test]
fn without_an_undo_a_killed_process_loses_nothing_and_the_log_goes_on() {
    for seed in 0..60u64 {
        let root = tempfile::tempdir().unwrap();
        let mut world = World::new(root.path());
        let mut rng = SimRng(seed);
        for _life in 0..5 {
            for _ in 0..25 {
                world.change(&mut rng).unwrap();
            }
            assert_eq!(read_dir(&world.data), world.now());
            world.disk = UndoDisk::open(&world.sidecar).unwrap();
        }
        UndoDisk::undo(&world.data, &world.sidecar).unwrap();
        assert_eq!(read_dir(&world.data), world.durable(), "seed {seed}");
    }
}

#[test]
fn a_long_log_is_rewritten_and_still_undoes() {
    let root = tempfile::tempdir().unwrap();
    let mut world = World::new(root.path());
    let path = world.data.join("f");
    let file = world.disk.open(&path, OpenMode::Create).unwrap();
    world.disk.sync_dir(&world.data).unwrap();
    let page = |byte: u8| vec![byte; 4096 * 64];
    file.write_all_at(&page(0), 0).unwrap();
    file.sync().unwrap();
    for round in 1..40u8 {
        file.write_all_at(&page(round), 0).unwrap();
        file.sync().unwrap();
    }
    file.write_all_at(&page(99), 4096).unwrap();
    let log_len = std::fs::metadata(world.sidecar.join("undo.log")).unwrap().len();
    assert!(log_len < 6 * 1024 * 1024, "ten megabytes were noted, {log_len} are left");
    let report = UndoDisk::undo(&world.data, &world.sidecar).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), page(39));
    assert_eq!(report.files, [path]);
    world.restart();
}

#[test]
fn appends_cost_one_small_record_per_sync() {
    let root = tempfile::tempdir().unwrap();
    let world = World::new(root.path());
    let file = world.disk.open(&world.data.join("log"), OpenMode::Create).unwrap();
    for round in 0..50u64 {
        for part in 0..20 {
            file.write_all_at(&[7; 100], (round * 20 + part) * 100).unwrap();
        }
        file.sync().unwrap();
    }
    let log_len = std::fs::metadata(world.sidecar.join("undo.log")).unwrap().len();
    // Beside the marks, only the page that holds the old end is kept, once per sync.
    assert!(log_len < 50 * 4400, "{log_len}");
}

fn undos() -> impl Strategy<Value = Undo> {
    let path = || "[a-z]{0,9}".prop_map(PathBuf::from);
    prop_oneof![
        (any::<u64>(), any::<u64>()).prop_map(|(inode, len)| Undo::Len { inode, len }),
        (any::<u64>(), any::<u64>(), proptest::collection::vec(any::<u8>(), 0..50))
            .prop_map(|(inode, offset, bytes)| Undo::Bytes { inode, offset, bytes }),
        path().prop_map(|path| Undo::Create { path }),
        (path(), path(), any::<u64>(), any::<u64>()).prop_map(|(from, to, inode, replaced)| Undo::Rename {
            from,
            to,
            inode,
            replaced
        }),
        (path(), any::<u64>()).prop_map(|(path, inode)| Undo::Remove { path, inode }),
        (any::<u64>(), any::<u64>()).prop_map(|(inode, before)| Undo::Synced { inode, before }),
        (path(), any::<u64>()).prop_map(|(dir, before)| Undo::DirSynced { dir, before }),
        any::<u64>().prop_map(|inode| Undo::Forget { inode }),
    ]
}

proptest! {
    #[test]
    fn records_come_back_and_cut_ones_do_not(number: u64, undo in undos(), cut in 1..20usize) {
        let record = Record { number, undo };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        prop_assert_eq!(Record::decode(&bytes), Some((record, bytes.len())));
        bytes.truncate(bytes.len() - cut);
        prop_assert_eq!(Record::decode(&bytes), None);
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), valid: bool) {
        let mut bytes = bytes;
        if valid && bytes.len() > 8 {
            let body = bytes.len() - 8;
            let crc = crc32fast::hash(&bytes[8..]);
            bytes[..4].copy_from_slice(&u32::try_from(body).unwrap().to_le_bytes());
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        }
        if let Some((_, len)) = Record::decode(&bytes) {
            prop_assert!(valid && len == bytes.len());
        }
    }
}
