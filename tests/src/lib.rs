//! The end-to-end harness: starts the real `losstrace` binary, drives it with unmodified RocketMQ SDKs and a real
//! Prometheus, and asks the product's own API what became of every message.
//!
//! Owns processes, folders and ports of a test, and gives them back when the test ends, however it ends. Never looks
//! inside the product: everything goes through sockets, files and exit codes, as a user's would. Called by the tests
//! in `tests/e2e`; the clients' side of it is in `tests/clients`, installed by `tests/install`.
//!
//! Where things are: `stand` (one product under test) → `process` (one child), `config` (its TOML), `ports`;
//! `clients` (SDK runs), `admin` (topics), `raw` (bytes no SDK would write); `api` (every JSON path and metric name), `http`, `metrics`, `prometheus`;
//! `wait` (the only clock).

#![allow(
    clippy::disallowed_methods,
    reason = "a harness lives outside the core: real clock, files and processes"
)]

pub mod admin;
pub mod api;
pub mod clients;
pub mod config;
pub mod http;
pub mod metrics;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod raw;
pub mod stand;
pub mod wait;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The checkout, found from where this crate was compiled.
pub fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests crate lies one folder below the checkout")
}

/// The cargo target folder this test runs from (`target/PROFILE/deps/TEST` → `target`), wherever it was put.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?.parent().context("the profile folder has no parent")?.to_path_buf())
}

/// `target/PROFILE`, where cargo leaves the workspace's binaries.
pub fn profile_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("the test does not know its own path")?;
    let deps = exe.parent().context("the test executable has no folder")?;
    let profile = if deps.ends_with("deps") { deps.parent() } else { Some(deps) };
    Ok(profile.context("the test executable is not below a target folder")?.to_path_buf())
}
