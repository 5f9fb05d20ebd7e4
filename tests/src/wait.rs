//! Waiting for what another process does: owns every poll loop and its limit. Never sleeps a fixed time and hopes.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const POLL: Duration = Duration::from_millis(50);

/// Polls until `look` finds something. An error from `look` counts as "not yet" and is what a time-out reports.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => String::from("it was not so at the last look"),
            Err(error) => format!("the last look failed: {error:#}"),
        };
        if Instant::now() >= end {
            bail!("waited {limit:?} for {what}: {last}");
        }
        thread::sleep(POLL);
    }
}

/// Polls until `check` passes; a time-out reports what `check` last said.
pub fn until_ok(what: &str, limit: Duration, mut check: impl FnMut() -> Result<()>) -> Result<()> {
    until(what, limit, || check().map(Some))
}

/// Lets load run for a while. For nothing else: a condition is waited for with `until`.
pub fn for_load(time: Duration) {
    thread::sleep(time);
}
