//! The broker: RocketMQ's two protocols over one storage core that states what happens to every message.
//!
//! ```text
//! remoting, grpc (sockets) ──► handle ──► core (one turn at a time) ──► store (commit log, queues, index)
//!                                            │  └─► state: a fold of the facts
//!                                            └────► trace ──► journal ──► feed ──► agents
//! ```
//! [`server`] wires it: one thread runs edges and turns, others flush. [`core`] is where meaning lives; it sees neither sockets nor
//! clocks. [`api`] is what can be asked of it.

pub mod api;
pub mod config;
pub mod core;
pub mod feed;
pub mod grpc;
pub mod handle;
pub mod http;
pub mod metrics;
pub mod remoting;
pub mod replication;
pub mod server;
pub mod state;
pub mod survivors;
pub mod trace;
