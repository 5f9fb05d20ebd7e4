//! The demo, as a stranger runs it: it causes losses on real processes and ends well only when the agent found exactly
//! what was destroyed.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::stand::binary;

/// The demo's promise. A debug build on a machine that runs other tests is no stranger's machine, so twice of it.
const LIMIT: Duration = Duration::from_secs(120);

#[test]
#[expect(clippy::disallowed_methods, reason = "measures in real time how long a stranger would wait")]
fn the_demo_finds_exactly_what_it_destroyed() -> Result<()> {
    let begin = Instant::now();
    let output = Command::new(binary()?).arg("demo").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the demo ended with {}:\n{text}\n{errors}", output.status);
    ensure!(begin.elapsed() < LIMIT, "the demo took {:?}", begin.elapsed());
    // each loss is a row, and each row says that both sides are equal
    for class in [
        "stored-not-flushed-lost",
        "undecided",
        "expired-before-consumption",
        "skipped-by-offset-reset",
        "acked-without-delivery",
        "dead-lettered",
        "dlq-expired",
        "send-refused",
        "never-stored",
    ] {
        ensure!(text.contains(&format!("{class}: ")), "no row about {class}:\n{text}");
    }
    ensure!(!text.contains("DIFFERENT"), "a success with differences:\n{text}");
    Ok(())
}
