//! Owns `losstrace bench`.

use crate::config::Settings;
use anyhow::{Result, bail};

/// Not built yet, and says so.
pub(crate) fn run(_settings: &Settings) -> Result<()> {
    bail!("bench is not built yet")
}
