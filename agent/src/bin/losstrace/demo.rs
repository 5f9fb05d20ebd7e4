//! Owns `losstrace demo`.

use crate::config::Settings;
use anyhow::{Result, bail};

/// Not built yet, and says so.
pub(crate) fn run(_settings: &Settings) -> Result<()> {
    bail!("demo is not built yet")
}
