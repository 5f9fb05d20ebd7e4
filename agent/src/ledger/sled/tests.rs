use super::*;
use store::disk_os::OsDisk;
use store::disk_sim::SimRng;

fn key(n: u64) -> Vec<u8> {
    [b"b".as_slice(), &n.to_be_bytes()].concat()
}

fn put(n: u64, len: usize, fill: u8) -> Change {
    (key(n), Some(vec![fill; len]))
}

fn open_at(dir: &Path) -> OpenedLedger {
    open(&OsDisk, dir, 1_700_000_000_000).unwrap()
}

/// State of commit `step`: everything a reader of that commit must see.
fn model(steps: u64) -> Vec<Row> {
    let mut rows = std::collections::BTreeMap::new();
    for step in 1..=steps {
        for (key, value) in changes(step) {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
    }
    rows.into_iter().collect()
}

fn changes(step: u64) -> Vec<Change> {
    let mut rng = SimRng(step * 7919);
    let mut out: Vec<Change> = (0..8)
        .map(|_| {
            let n = rng.below(40);
            if rng.below(5) == 0 { (key(n), None) } else { put(n, rng.below(4_000) as usize, step as u8) }
        })
        .collect();
    out.push((b"pstep".to_vec(), Some(step.to_be_bytes().to_vec())));
    out
}

fn filled(dir: &Path, steps: u64) {
    let mut opened = open_at(dir);
    for step in 1..=steps {
        opened.ledger.commit(&changes(step)).unwrap();
    }
    assert_eq!(opened.ledger.row_count(), model(steps).len() as u64);
}

#[test]
fn what_was_committed_is_there_again() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("ledger");
    filled(&dir, 30);
    let opened = open_at(&dir);
    assert_eq!((opened.rebuilt, opened.rows), (None, model(30)));
    assert!(!has_blobs(&dir));
}

#[test]
fn a_second_agent_is_refused_and_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("ledger");
    let first = open_at(&dir);
    assert!(matches!(open(&OsDisk, &dir, 1), Err(LedgerError::InUse(_))));
    drop(first);
    assert_eq!(open_at(&dir).rebuilt, None);
}

#[test]
fn a_snapshot_left_half_written_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("ledger");
    filled(&dir, 5);
    let leftover = dir.join("snap.FFFFFFFFFFFFFFFF.generating");
    fs::write(&leftover, b"").unwrap();
    let opened = open_at(&dir);
    assert_eq!((opened.rebuilt, opened.rows), (None, model(5)));
    assert!(!leftover.exists());
}

#[test]
fn a_foreign_blob_or_format_is_not_trusted() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("ledger");
    filled(&dir, 2);
    {
        let db = open_unlocked(&dir).unwrap();
        db.insert(FORMAT_KEY, seal(FORMAT_KEY, b"losstrace ledger 99")).unwrap();
        db.flush().unwrap();
    }
    let opened = open_at(&dir);
    assert!(opened.rebuilt.unwrap().contains("format"));
    assert_eq!(opened.rows, vec![]);
}

#[test]
fn a_row_taken_out_or_put_in_behind_our_back_is_noticed() {
    for tamper in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("ledger");
        filled(&dir, 3);
        {
            let db = open_unlocked(&dir).unwrap();
            let some = model(3).into_iter().next().unwrap().0;
            if tamper {
                db.remove(&some).unwrap();
            } else {
                db.insert(key(999), seal(&key(999), b"x")).unwrap();
            }
            db.flush().unwrap();
        }
        let opened = open_at(&dir);
        assert!(opened.rebuilt.unwrap().contains("digest"));
        assert_eq!(opened.rows, vec![]);
    }
}

/// Damage of any kind gives a state that was once committed, or an empty ledger with the reason; never a third thing.
#[test]
fn flipped_bytes_never_give_a_state_that_never_was() {
    let root = tempfile::tempdir().unwrap();
    let good = root.path().join("good");
    const STEPS: u64 = 150;
    filled(&good, STEPS);
    let (mut rebuilt, mut rolled_back, mut unharmed) = (0, 0, 0);
    for trial in 0..24u64 {
        let dir = root.path().join(format!("trial-{trial}"));
        copy(&good, &dir);
        let mut rng = SimRng(trial + 1);
        let file = dir.join("db");
        let mut bytes = fs::read(&file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        for _ in 0..8 {
            let at = rng.below(used) as usize;
            bytes[at] ^= 1 + rng.below(255) as u8;
        }
        if trial % 6 == 5 {
            bytes.truncate(rng.below(used) as usize);
        }
        fs::write(&file, bytes).unwrap();
        let mut opened = open_at(&dir);
        match &opened.rebuilt {
            Some(_) => {
                rebuilt += 1;
                assert_eq!(opened.rows, vec![]);
                let aside = dir.with_file_name(format!("trial-{trial}.corrupt-1700000000000"));
                assert!(aside.join("db").exists(), "what was found is kept for a look");
            }
            None => {
                let step =
                    opened.rows.iter().find(|(key, _)| key == b"pstep").map(|(_, value)| value.clone());
                let step = step.map_or(0, |value| u64::from_be_bytes(value.try_into().unwrap()));
                assert_eq!(opened.rows, model(step), "rows and position belong together");
                if step == STEPS { unharmed += 1 } else { rolled_back += 1 }
            }
        }
        opened.ledger.commit(&[put(1, 10, 1)]).unwrap();
    }
    println!("rebuilt {rebuilt}, rolled back {rolled_back}, unharmed {unharmed}");
    assert!(rebuilt > 0, "the damage was too small to test anything");
}

#[test]
fn only_a_few_damaged_ledgers_are_kept() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("ledger");
    for round in 0..6 {
        drop(open_at(&dir));
        fs::write(dir.join("conf"), b"not a configuration").unwrap();
        let opened = open(&OsDisk, &dir, 1_000 + round).unwrap();
        assert!(opened.rebuilt.is_some());
    }
    let kept = set_aside_before(&dir).unwrap();
    assert_eq!(kept.len(), SET_ASIDE_MAX);
    assert!(kept[2].to_string_lossy().ends_with("1005"), "the newest stay: {kept:?}");
}

#[test]
#[should_panic(expected = "ledger row of")]
fn a_row_too_large_is_a_bug() {
    let root = tempfile::tempdir().unwrap();
    let mut opened = open_at(&root.path().join("ledger"));
    // the guard turns the panic into an error and poisons the ledger: nobody may go on
    let error = opened.ledger.commit(&[put(1, VALUE_BYTES_MAX + 1, 0)]).unwrap_err();
    assert_eq!(opened.ledger.commit(&[]), Err(LedgerError::Poisoned));
    panic!("{error}");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
