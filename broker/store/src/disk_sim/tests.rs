//! What the simulated disk promises: synced is kept, unsynced is anything, faults come where planned.

use super::inode::PAGE;
use super::*;
use proptest::prelude::*;

fn disk_with(name: &str) -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("/d")).unwrap();
    let file = disk.open(&Path::new("/d").join(name), OpenMode::CreateNew).unwrap();
    (disk, file)
}

fn content(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path), OpenMode::Existing).ok()?;
    let mut buf = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(&mut buf, 0).unwrap();
    Some(buf)
}

#[test]
fn an_unsynced_name_may_vanish_and_a_synced_one_does_not() {
    let (mut vanished, mut stayed) = (0, 0);
    for seed in 0..40 {
        let (disk, file) = disk_with("f");
        file.write_all_at(b"x", 0).unwrap();
        file.sync().unwrap();
        disk.power_cut(seed);
        if content(&disk, "/d/f").is_some() {
            stayed += 1
        } else {
            vanished += 1
        }

        let (disk, file) = disk_with("f");
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_all_at(b"x", 0).unwrap();
        file.sync().unwrap();
        disk.power_cut(seed);
        assert_eq!(content(&disk, "/d/f").unwrap(), b"x");
    }
    assert!(vanished > 5 && stayed > 5, "both must happen: {vanished} {stayed}");
}

#[test]
fn unsynced_pages_are_lost_kept_and_torn() {
    let (mut old, mut new, mut torn) = (0, 0, 0);
    for seed in 0..60 {
        let (disk, file) = disk_with("f");
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_all_at(&[1; 8192], 0).unwrap();
        file.sync().unwrap();
        file.write_all_at(&[2; 4096], 4096).unwrap();
        disk.power_cut(seed);
        let bytes = content(&disk, "/d/f").unwrap();
        assert_eq!(bytes[..4096], [1; 4096], "the page that was synced and not touched stays");
        let twos = bytes[4096..].iter().filter(|byte| **byte == 2).count();
        assert_eq!(twos % 512, 0, "sectors are atomic");
        match twos {
            0 => old += 1,
            4096 => new += 1,
            _ => torn += 1,
        }
    }
    assert!(old > 5 && new > 5 && torn > 5, "{old} {new} {torn}");
}

#[test]
fn a_failed_sync_leaves_pages_that_a_later_sync_does_not_save() {
    let mut lost = 0;
    for seed in 0..30 {
        let (disk, file) = disk_with("f");
        disk.sync_dir(Path::new("/d")).unwrap();
        file.write_all_at(&[1; 4096], 0).unwrap();
        file.sync().unwrap();
        file.write_all_at(&[2; 4096], 0).unwrap();
        disk.set_faults(SimFaults { fail_sync_after: Some(0), ..SimFaults::default() });
        assert!(file.sync().unwrap_err().is_fatal());
        disk.set_faults(SimFaults::default());
        file.sync().unwrap();
        disk.power_cut(seed);
        lost += usize::from(content(&disk, "/d/f").unwrap() == vec![1; 4096]);
    }
    assert!(lost > 3, "the second sync must not save what the first one dropped");
}

#[test]
fn a_full_disk_writes_a_part_and_dead_handles_fail() {
    let (disk, file) = disk_with("f");
    disk.set_faults(SimFaults { no_space_after_bytes: Some(10), ..SimFaults::default() });
    file.write_all_at(&[1; 8], 0).unwrap();
    assert_eq!(file.allocate(20).unwrap_err().kind, ErrorKind::NoSpace);
    assert_eq!(file.write_all_at(&[2; 8], 8).unwrap_err().kind, ErrorKind::NoSpace);
    assert_eq!(content(&disk, "/d/f").unwrap(), [1, 1, 1, 1, 1, 1, 1, 1, 2, 2]);
    disk.kill();
    assert_eq!(content(&disk, "/d/f").unwrap().len(), 10, "a killed process loses nothing it wrote");
    assert_eq!(file.write_all_at(b"x", 0).unwrap_err().kind, ErrorKind::Io(EIO));
}

#[test]
fn locks_end_with_their_holder() {
    let (disk, _file) = disk_with("f");
    let path = Path::new("/d/LOCK");
    let held = disk.lock(path).unwrap();
    assert_eq!(disk.lock(path).unwrap_err().kind, ErrorKind::Locked);
    drop(held);
    let _held = disk.lock(path).unwrap();
    disk.kill();
    disk.lock(path).unwrap();
}

#[test]
fn a_removed_file_is_readable_through_its_handle() {
    let (disk, file) = disk_with("f");
    file.write_all_at(b"abc", 0).unwrap();
    disk.remove(Path::new("/d/f")).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(file.len().unwrap(), 3);
    assert!(content(&disk, "/d/f").is_none());
    drop(file);
    assert_eq!(disk.space(Path::new("/d")).unwrap().free_bytes, 1 << 40);
}

#[derive(Debug, Clone)]
enum Step {
    Write { at: u64, len: usize, byte: u8 },
    Truncate(u64),
    Sync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..20_000u64, 1..9000usize, 1..255u8).prop_map(|(at, len, byte)| Step::Write { at, len, byte }),
        1 => (0..20_000u64).prop_map(Step::Truncate),
        1 => Just(Step::Sync),
    ];
    proptest::collection::vec(step, 1..24)
}

proptest! {
    /// After a cut every byte is the synced one, one written since, or zero; and with nothing unsynced the
    /// file is exactly the synced one.
    #[test]
    fn nothing_synced_is_lost_and_nothing_is_invented(steps in steps(), seed: u64) {
        let (disk, file) = disk_with("f");
        disk.sync_dir(Path::new("/d")).unwrap();
        let (mut model, mut durable): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut since: Vec<Vec<u8>> = Vec::new();
        for step in steps {
            match step {
                Step::Write { at, len, byte } => {
                    file.write_all_at(&vec![byte; len], at).unwrap();
                    let at = usize::try_from(at).unwrap();
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].fill(byte);
                    since.push(model.clone());
                }
                Step::Truncate(len) => {
                    file.truncate(len).unwrap();
                    model.resize(usize::try_from(len).unwrap(), 0);
                    since.push(model.clone());
                }
                Step::Sync => {
                    file.sync().unwrap();
                    durable = model.clone();
                    since.clear();
                }
            }
            prop_assert_eq!(&content(&disk, "/d/f").unwrap(), &model);
        }
        disk.power_cut(seed);
        let bytes = content(&disk, "/d/f").unwrap();
        if since.is_empty() {
            prop_assert_eq!(&bytes, &durable);
        }
        for (at, byte) in bytes.iter().enumerate() {
            let known = *byte == 0
                || durable.get(at) == Some(byte)
                || since.iter().any(|version| version.get(at) == Some(byte));
            prop_assert!(known, "invented byte {byte} at {at}");
        }
        let untouched = |at: usize| since.iter().all(|version| {
            let page = at / PAGE * PAGE;
            version.get(page..page + PAGE).is_some() && version.get(page..page + PAGE) == durable.get(page..page + PAGE)
        });
        for (at, byte) in durable.iter().enumerate() {
            if untouched(at) {
                prop_assert_eq!(bytes.get(at), Some(byte));
            }
        }
    }
}
