//! The core driven turn by turn on a simulated disk and a clock of the test's own.

mod harness;
mod leases;
mod offsets;
mod promotion;
mod recovery;
mod reinject;
mod replicas;
mod scrub;
mod sends;
mod slaves;
mod switches;
mod topics;
