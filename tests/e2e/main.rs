//! End to end: the real binary, unmodified SDKs, a real Prometheus. Each test has a product of its own on ports of its
//! own; how they are run in parallel is in `.config/nextest.toml`. See the `tests` crate for the harness.

mod bad_clients;
mod bad_folders;
mod boards;
mod crash;
mod cross;
mod demo;
mod exposition;
mod failover;
mod grpc;
mod harness;
mod inspect;
mod load;
mod power_cut;
mod remoting;
mod replication;
mod reports;
mod rot;
mod scenario;
