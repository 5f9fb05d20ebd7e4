//! A store damaged anywhere: `inspect` must not panic, must not fail, and may call lost only what was there.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use inspect::report::Report;
use inspect::{Options, inspect};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tempfile::TempDir;

use crate::{Ids, Scenario};

/// Damaged stores tried.
const CASES: u32 = 256;

#[derive(Clone, Debug)]
enum Blow {
    Flip { bit: u8 },
    Cut,
    Zero { len: usize },
    Insert { bytes: Vec<u8> },
}

fn blow() -> impl Strategy<Value = Blow> {
    prop_oneof![
        (0..8u8).prop_map(|bit| Blow::Flip { bit }),
        Just(Blow::Cut),
        (1..20_000usize).prop_map(|len| Blow::Zero { len }),
        prop::collection::vec(any::<u8>(), 1..64).prop_map(|bytes| Blow::Insert { bytes }),
    ]
}

impl Blow {
    fn strike(&self, bytes: &mut Vec<u8>, at: usize) {
        match self {
            Blow::Flip { bit } => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            Blow::Cut => bytes.truncate(at),
            Blow::Zero { len } => {
                let end = at.saturating_add(*len).min(bytes.len());
                bytes[at..end].fill(0);
            }
            Blow::Insert { bytes: more } => drop(bytes.splice(at..at, more.iter().copied())),
        }
    }
}

fn copy(from: &Path, to: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        if path.is_dir() {
            files.extend(copy(&path, &to.join(name))?);
        } else {
            fs::copy(&path, to.join(name))?;
            files.push(to.join(name));
        }
    }
    files.sort();
    Ok(files)
}

/// Every unique key that is in the log, found as bytes and by no decoder.
fn known_ids(log: &Path) -> Result<Ids> {
    const NAME: &[u8] = b"UNIQ_KEY\x01";
    let bytes = fs::read(log)?;
    let starts = bytes.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let ids = starts.map(|(at, _)| {
        let value = &bytes[at + NAME.len()..];
        let end = value.iter().position(|byte| *byte < b' ').unwrap_or(value.len());
        String::from_utf8_lossy(&value[..value.len().min(32).min(end)]).into_owned()
    });
    Ok(ids.collect())
}

/// Ids that are said to have been lost on their way out of the schedule.
fn lost_on_the_way(report: &Report) -> Ids {
    let classes = ["send-back-failed-then-passed", "timer-lost"];
    let findings = report.findings.iter().filter(|finding| classes.contains(&finding.key.class));
    findings.flat_map(|finding| finding.ids.iter().cloned()).collect()
}

#[test]
fn damage_anywhere_is_a_finding_and_names_nobody_who_was_not_there() -> Result<()> {
    let scenario = Scenario::open("healthy-single")?;
    let original = scenario.store("store");
    let folder = TempDir::new()?;
    let damaged = folder.path().join("damaged");
    let files = copy(&original, &damaged)?;
    let known = known_ids(&original.join("commitlog/00000000000000000000"))?;
    assert!(known.len() > 200, "{}", known.len());
    let scratch = TempDir::new()?;
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    // half of the blows go to the written part of the log
    let target = prop_oneof![Just(None), any::<prop::sample::Index>().prop_map(Some)];
    let strategy = (target, any::<prop::sample::Index>(), blow(), any::<bool>());
    let log =
        files.iter().find(|path| path.parent().is_some_and(|folder| folder.ends_with("commitlog"))).cloned();
    let outcome = runner.run(&strategy, |(target, place, blow, with_original)| {
        let path = target.map(|index| index.get(&files).clone()).or_else(|| log.clone()).unwrap_or_default();
        let whole = fs::read(&path).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let written = whole.iter().rposition(|byte| *byte != 0).map_or(1, |last| last + 1);
        let mut bytes = whole.clone();
        blow.strike(&mut bytes, place.index(written.min(whole.len()).max(1)).min(whole.len()));
        fs::write(&path, &bytes).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let mut stores = vec![damaged.clone()];
        if with_original {
            stores.push(original.clone());
        }
        let report = inspect(&Options::new(stores, scratch.path().to_owned()), &mut |_, _| ());
        fs::write(&path, &whole).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let report = report.map_err(|error| TestCaseError::fail(format!("{}: {error}", path.display())))?;
        // in the undamaged store every one came out
        let invented = lost_on_the_way(&report);
        prop_assert!(invented.is_empty(), "their copies were there: {invented:?}");
        for finding in report.findings.iter().filter(|finding| finding.key.loss) {
            prop_assert!(finding.key.store != "store", "the undamaged copy is blamed: {finding:?}");
            for id in &finding.ids {
                let is_own = id.len() == 32 && id.starts_with("7F00000100002A9F");
                prop_assert!(known.contains(id) || is_own, "{id} was never there: {finding:?}");
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
    Ok(())
}
