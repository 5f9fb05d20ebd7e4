//! Log-structured storage: synchronous, disk injected.
//!
//! Owns every byte the broker and the agent's logs keep on disk, and what recovery may and may not lose. Never reads a
//! clock, never spawns a thread, never opens a socket; files are touched only through [`disk::Disk`].

pub mod checkpoint;
pub mod commit_log;
pub mod consume_queue;
pub mod disk;
pub mod disk_os;
pub mod disk_sim;
pub mod disk_undo;
pub mod error;
pub mod folder;
pub mod index;
pub mod journal;
pub mod retention;
pub mod segment;
