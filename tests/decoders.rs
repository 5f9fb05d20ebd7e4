//! Every decoder of the product against every seed of its fuzz target, and against each seed damaged in many ways; and the seeds
//! against today's encoders. Runs without a fuzzer: see `fuzz/run` for that.

#[path = "fuzz/src/decoders.rs"]
mod decoders;
#[path = "fuzz/seeds.rs"]
mod seeds;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use decoders::{ALL, Decoder};
use store::disk_sim::SimRng;

/// All seeds together: they are kept with the source, so they stay small.
const CORPUS_BYTES_MAX: usize = 200 * 1024;
/// Damaged forms of each seed that are tried here; the fuzzer tries more.
const DAMAGED: u64 = 200;
/// Set to write the seeds that the encoders make, instead of comparing.
const WRITE: &str = "LOSSTRACE_WRITE_SEEDS";

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The seeds of one target by name.
fn seeds_of(target: &str) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let folder = corpus().join(target);
    let mut found = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        found.push((path.clone(), fs::read(&path)?));
    }
    found.sort();
    Ok(found)
}

/// Runs a decoder; a panic names the input, so that it can become a seed.
fn run(decoder: Decoder, name: &str, bytes: &[u8]) -> Result<bool> {
    match std::panic::catch_unwind(|| decoder(bytes)) {
        Ok(understood) => Ok(understood),
        Err(_) => bail!("{name} panics on {} bytes: {}", bytes.len(), hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_target_has_seeds_that_it_understands() -> Result<()> {
    let mut all = 0;
    for (name, decoder) in ALL {
        let seeds = seeds_of(name)?;
        all += seeds.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
        let mut understood = 0;
        for (path, bytes) in &seeds {
            understood += usize::from(run(decoder, &path.display().to_string(), bytes)?);
        }
        ensure!(
            understood > 0,
            "{name}: none of {} seeds is understood: they lead a fuzzer nowhere",
            seeds.len()
        );
    }
    ensure!(all <= CORPUS_BYTES_MAX, "the seeds have {all} bytes");
    let folders: BTreeSet<String> =
        fs::read_dir(corpus())?.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    let targets: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    ensure!(folders == targets, "seeds without a target, or the other way round: {folders:?}");
    Ok(())
}

#[test]
fn damaged_seeds_never_panic() -> Result<()> {
    for (name, decoder) in ALL {
        run(decoder, name, b"")?;
        for (path, bytes) in seeds_of(name)? {
            let mut rng = SimRng(bytes.len() as u64);
            for _ in 0..DAMAGED {
                run(decoder, &path.display().to_string(), &damage(&bytes, &mut rng))?;
            }
        }
    }
    Ok(())
}

/// Cut, changed, repeated or extended somewhere.
fn damage(bytes: &[u8], rng: &mut SimRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=rng.below(3) {
        let at = usize::try_from(rng.below(bytes.len() as u64 + 1)).expect("a position in memory");
        match rng.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.next_u64() as u8),
            2 => bytes.extend_from_within(at..),
            3 => bytes.splice(at..at, [0xff; 9]).for_each(drop),
            _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
        }
    }
    bytes
}

/// What may be written differently one day: the ledger can be built again, and verdicts may learn more to say. Older ones are read.
const MAY_CHANGE: [&str; 2] = ["ledger-rows", "verdict-log"];

/// Formats last: what is written today is byte for byte what was written when the seed was made.
#[test]
fn encoders_still_write_the_seeds() -> Result<()> {
    for (target, name, bytes) in seeds::encoded() {
        let path = corpus().join(target).join(&name);
        if std::env::var_os(WRITE).is_some() {
            fs::create_dir_all(path.parent().context("a seed has a folder")?)?;
            fs::write(&path, &bytes)?;
        }
        let kept = fs::read(&path).with_context(|| format!("{} ({WRITE}=1 writes it)", path.display()))?;
        let same = kept == bytes || MAY_CHANGE.contains(&target);
        ensure!(same, "{target}/{name}: the encoder writes other bytes than it did");
    }
    Ok(())
}
