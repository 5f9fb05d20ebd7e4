//! `losstrace inspect` as a person starts it: its exit codes and its JSON. What it finds, and that it leaves the stores as they are, is
//! held by `tests/stores.rs`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tests::config::Options;
use tests::stand::Stand;

fn unpack(name: &str, into: &Path) -> Result<PathBuf> {
    let archive = tests::checkout().join(format!("tests/fixtures/stores/{name}.tar.gz"));
    let status = Command::new("tar").arg("xzf").arg(&archive).arg("-C").arg(into).status()?;
    ensure!(status.success(), "{} cannot be unpacked", archive.display());
    Ok(into.join(name))
}

#[test]
fn inspect_ends_with_a_code_that_says_what_it_found() -> Result<()> {
    let stand = Stand::new(Options::default())?;
    let folder = tempfile::tempdir()?;
    let lost = unpack("power-cut", folder.path())?.join("cut");
    let healthy = unpack("healthy-single", folder.path())?.join("store");
    let nothing = folder.path().join("nothing");
    let cases: [(&str, Vec<&Path>, i32, &str); 4] = [
        ("losses", vec![&lost], 3, "stored-not-flushed-lost"),
        ("none", vec![&healthy], 0, "dead-lettered"),
        ("it could not read", vec![&nothing], 1, "nothing"),
        ("wrong words", vec![], 2, "STORE"),
    ];
    for (what, stores, code, says) in cases {
        let output = stand.losstrace()?.arg("inspect").args(stores).output()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text)?;
        ensure!(output.status.code() == Some(code), "{what}: {:?}\n{text}", output.status);
        ensure!(text.contains(says), "{what}: {text}");
    }
    let json = stand.losstrace()?.arg("inspect").arg(&lost).args(["--output", "json"]).output()?;
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).context("one JSON document")?;
    ensure!(json.status.code() == Some(3) && report.is_object(), "{report}");
    Ok(())
}
