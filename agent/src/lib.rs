//! The agent: reconciles what was sent, stored, flushed, delivered and consumed, and says what was lost.
//!
//! `ingest → fold → ledger → judge → report`. Owns nothing of the broker: of the workspace's crates it uses `lifecycle` (the
//! shared contract) and `store::{disk, segment, journal}` for its own logs.

pub mod config;
pub mod fold;
pub mod http;
pub mod ingest;
pub mod judge;
pub mod ledger;
pub mod metrics;
pub mod report;
pub mod run;
pub mod telemetry;
