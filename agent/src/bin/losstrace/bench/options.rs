//! Owns the flags of `losstrace bench`, their limits, and the presets. Decides nothing about how load is made.

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Most clients of one run: each has a connection of its own.
const PRODUCERS_MAX: u32 = 4_096;
/// Most sends one client has under way.
const WINDOW_MAX: u32 = 1_024;
/// Largest body; the broker's own limit is close by.
const SIZE_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Most topics, and most queues of a topic.
const TOPICS_MAX: u32 = 10_000;
const QUEUES_MAX: u32 = 1_024;
/// Longest measured time of one round, seconds.
const SECONDS_MAX: f64 = 3_600.0;
/// Most rounds of a comparison.
const ROUNDS_MAX: u32 = 101;

/// How clients speak.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RocketMQ 4.x, JSON headers
    Remoting,
    /// RocketMQ 5.x
    Grpc,
}

impl Protocol {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Protocol::Remoting => "remoting",
            Protocol::Grpc => "grpc",
        }
    }
}

/// When the broker answers a send.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
#[value(rename_all = "UPPER")]
pub(crate) enum Flush {
    /// After the disk has it
    #[value(alias = "SYNC_FLUSH", alias = "sync")]
    Sync,
    /// After the operating system has it
    #[value(alias = "ASYNC_FLUSH", alias = "async")]
    Async,
}

impl Flush {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Flush::Sync => "SYNC_FLUSH",
            Flush::Async => "ASYNC_FLUSH",
        }
    }
}

/// What client ids look like: what the journal costs depends on it.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    /// As the protocol's SDKs count them
    Sdk,
    /// 128 random bits
    Random,
}

/// Series of measurements that belong together.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preset {
    /// Journal on and off in turn, SYNC and ASYNC, 64 producers on 64 connections and on one: what tracking costs
    JournalCost,
    /// 1, 16, 64 and 256 waiting producers under SYNC_FLUSH, beside the disk's own flush rate
    SyncFlush,
    /// 64 waiting producers on 64 connections and on one, 1 KiB, SYNC and ASYNC, both protocols
    Headline,
    /// A master alone, and with a replica under ASYNC_MASTER and SYNC_MASTER, in turn: 128 B and 1 KiB, 1, 16 and 64 waiting producers
    Replication,
    /// Each edge beside a bare echo of its protocol: a server that reads requests, and answers; 64 connections and one
    Echo,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output {
    /// For people
    Table,
    /// For programs; everything measured
    Json,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct BenchOptions {
    #[arg(long, value_enum, default_value_t = Protocol::Remoting)]
    pub protocol: Protocol,
    /// Clients, each with a connection of its own
    #[arg(long, default_value_t = 64)]
    pub producers: u32,
    /// Sends a client has under way; 1: it waits for each answer
    #[arg(long, default_value_t = 1)]
    pub window: u32,
    /// Stop after so many messages instead of --seconds
    #[arg(long)]
    pub messages: Option<u64>,
    /// Measured time
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Time under load before anything is measured
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Bytes of a body
    #[arg(long, default_value_t = 1024)]
    pub size: usize,
    /// The broker's flushDiskType (not with --address)
    #[arg(long, value_enum, ignore_case = true, default_value_t = Flush::Async)]
    pub flush: Flush,
    #[arg(long, default_value_t = 1)]
    pub topics: u32,
    /// Queues of each topic
    #[arg(long, default_value_t = 8)]
    pub queues: u32,
    #[arg(long, value_enum, default_value_t = Ids::Sdk)]
    pub ids: Ids,
    /// Then consume everything: pulls with commits (remoting), receive and ack (gRPC)
    #[arg(long)]
    pub consume: bool,
    /// A running broker's remoting port, instead of a fresh broker
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<SocketAddr>,
    /// With --address: its gRPC port
    #[arg(long, value_name = "HOST:PORT", requires = "address")]
    pub grpc_address: Option<SocketAddr>,
    /// With --address: its HTTP port, for its counters
    #[arg(long, value_name = "HOST:PORT", requires = "address")]
    pub http_address: Option<SocketAddr>,
    /// With --address: its process, for CPU and system calls
    #[arg(long, requires = "address")]
    pub pid: Option<u32>,
    /// Where fresh brokers get their temporary folders: the disk that is measured [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub scratch: Option<PathBuf>,
    /// Two brokers in turn, e.g. broker.journal=true,broker.journal=false (settings of one side joined by +)
    #[arg(long, value_name = "A,B", value_delimiter = ',', num_args = 1, conflicts_with = "address")]
    pub paired: Vec<String>,
    /// Rounds of each side of a comparison, and of each row of a preset
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    #[arg(long, value_enum, conflicts_with_all = ["address", "paired"])]
    pub preset: Option<Preset>,
    #[arg(long = "format", value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Run the bare echo of --protocol at this address (the other process of --preset echo)
    #[arg(long, hide = true, value_name = "HOST:PORT")]
    pub echo_at: Option<SocketAddr>,
}

impl BenchOptions {
    /// Says what cannot be run.
    pub(crate) fn check(&self) -> Result<()> {
        let at_most = |name: &str, value: u64, max: u64| {
            ensure!((1..=max).contains(&value), "--{name} must be 1 to {max}");
            Ok(())
        };
        at_most("producers", self.producers.into(), PRODUCERS_MAX.into())?;
        at_most("window", self.window.into(), WINDOW_MAX.into())?;
        at_most("size", self.size as u64, SIZE_MAX as u64)?;
        at_most("topics", self.topics.into(), TOPICS_MAX.into())?;
        at_most("queues", self.queues.into(), QUEUES_MAX.into())?;
        at_most("rounds", self.rounds.into(), ROUNDS_MAX.into())?;
        ensure!(self.messages != Some(0), "--messages must be at least 1");
        ensure!((0.1..=SECONDS_MAX).contains(&self.seconds), "--seconds must be 0.1 to {SECONDS_MAX}");
        ensure!((0.0..=SECONDS_MAX).contains(&self.warmup), "--warmup must be 0 to {SECONDS_MAX}");
        ensure!(self.paired.is_empty() || self.paired.len() == 2, "--paired takes two sides: A,B");
        let grpc = self.protocol == Protocol::Grpc && self.address.is_some();
        ensure!(!grpc || self.grpc_address.is_some(), "--protocol grpc with --address needs --grpc-address");
        Ok(())
    }

    /// In words, for the first column of a table.
    pub(crate) fn label(&self) -> String {
        let window = if self.window > 1 { format!(", window {}", self.window) } else { String::new() };
        let Self { protocol, producers, size, flush, .. } = self;
        format!("{} x{producers}{window}, {size} B, {}", protocol.text(), flush.text())
    }
}
