//! Log-structured storage: synchronous, disk injected.
//!
//! Owns every byte the broker and the agent's logs keep on disk, and what recovery may and may not lose. Never reads a
//! clock, never spawns a thread, never opens a socket; files are touched only through [`disk::Disk`]. Called by the broker, and, for
//! `disk`, `segment` and `journal`, by the agent's logs.
//!
//! | module | keeps | format drawn in |
//! |---|---|---|
//! | [`folder`] | whose folder it is, its format version, the lock | `folder.rs` |
//! | [`commit_log`] on [`segment`] | the records, in one byte order | `commit_log.rs`, `segment.rs` |
//! | [`journal`] | facts, or evidence, or verdicts: numbered frames | `journal.rs` |
//! | [`checkpoint`] | small blobs replaced as a whole | `checkpoint.rs` |
//! | [`consume_queue`] | queue offset → commit-log offset | `consume_queue.rs` |
//! | [`index`] | key hash → commit-log offsets | `index.rs` |
//!
//! [`disk_os`] is the real disk, [`disk_sim`] one that fails on purpose, [`disk_undo`] adds power cuts to real processes; [`retention`] decides what may
//! go.
//!
//! What a crash may cost:
//! - *The process dies*: nothing that was handed to the operating system. Tails of consume queues and the index's table live in
//!   memory and are made again from the log.
//! - *The power fails*: also what was not synced, in any subset of its sectors. Log and journal end where their checksums say;
//!   queues and index are cut back to the checkpoint and dispatched again.
//! - *A sync fails*: the process stops ([`error::Disposition::Fatal`]); nobody tries again over it.
//! - *Bits rot*: checksums say where. Damage is reported with its bounds and what follows it stays readable; nothing
//!   is ever passed on as good that is not.

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
mod kept_file;
pub mod retention;
pub mod segment;
