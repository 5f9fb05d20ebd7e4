//! Owns `losstrace bench`: a bounded load generator for the broker, over both protocols, that reports what each message costs
//! beside every rate. Clients run on one thread of this process, the broker is a process of its own, fresh and in a temporary
//! folder unless `--address` names one.
//!
//! Rates depend on what else the machine does; compare sides of one run only (`--paired`, presets). CPU, flushes, writes and bytes
//! per message are steadier.

mod disk;
mod echo;
mod grpc;
mod ids;
pub(crate) mod options;
mod remoting;
mod report;
mod round;
mod tally;
mod target;
mod workload;

use crate::cli::Common;
use anyhow::{Context, Result};
use options::{BenchOptions, Flush, Output, Preset, Protocol};
use report::{Series, compare};
use std::time::Duration;
use target::Target;

/// How long the disk's own flush rate is measured, before each round.
const DISK_TIME: Duration = Duration::from_secs(1);
/// Producers of the sync-flush preset.
const SYNC_FLUSH_PRODUCERS: [u32; 4] = [1, 16, 64, 256];

/// Producers of the replication preset.
const REPLICATION_PRODUCERS: [u32; 3] = [1, 16, 64];

/// Connections and sends under way on each, of presets that measure 64 waiting producers: 64 programs with a connection of their own,
/// and 64 threads of one program, which share its client's connection (an SDK keeps one for each broker).
const SHAPES: [(u32, u32); 2] = [(64, 1), (1, 64)];

/// Measures and prints.
pub(crate) fn run(options: &BenchOptions, common: &Common) -> Result<()> {
    options.check()?;
    if let Some(address) = options.echo_at {
        return echo::run(address, options.protocol);
    }
    let all = match options.preset {
        Some(Preset::JournalCost) => journal_cost(options, common)?,
        Some(Preset::SyncFlush) => sync_flush(options, common)?,
        Some(Preset::Headline) => headline(options, common)?,
        Some(Preset::Replication) => replication(options, common)?,
        Some(Preset::Echo) => beside_echo(options, common)?,
        None if options.paired.len() == 2 => {
            paired(options, common, (&options.paired[0], &options.paired[1]))?
        }
        None => single(options, common)?,
    };
    match options.output {
        Output::Table => report::print_table(&all),
        Output::Json => report::print_json(&all),
    }
    Ok(())
}

fn single(options: &BenchOptions, common: &Common) -> Result<Vec<Series>> {
    let target = match options.address {
        Some(address) => Target::attach(options, address),
        None => Target::start(options, common, &[])?,
    };
    let mut sending = Series::new(options.label());
    let mut consuming = Series::new("  consuming it".to_owned());
    for _ in 0..options.rounds {
        let round = round::run(&target, options)?;
        sending.rounds.push(round.sending);
        consuming.rounds.extend(round.consuming);
    }
    let consumed = !consuming.rounds.is_empty();
    Ok([sending].into_iter().chain(consumed.then_some(consuming)).collect())
}

/// Both sides' brokers run all the time; rounds go A B B A, so that what drifts hits both alike.
fn paired(options: &BenchOptions, common: &Common, (a, b): (&str, &str)) -> Result<Vec<Series>> {
    let settings = |side: &str| side.split('+').map(str::to_owned).collect::<Vec<_>>();
    let targets =
        [Target::start(options, common, &settings(a))?, Target::start(options, common, &settings(b))?];
    let mut sides = [a, b].map(|side| Series::new(format!("{}, {side}", options.label())));
    in_turn::<2>(options.rounds, |side| {
        sides[side].rounds.push(round::run(&targets[side], options)?.sending);
        Ok(())
    })?;
    let [mut one, other] = sides;
    one.notes = compare(&one, &other);
    Ok(vec![one, other])
}

fn in_turn<const SIDES: usize>(rounds: u32, mut run: impl FnMut(usize) -> Result<()>) -> Result<()> {
    for round in 0..rounds {
        let mut order: [usize; SIDES] = std::array::from_fn(|side| side);
        if round % 2 == 1 {
            order.reverse();
        }
        order.into_iter().try_for_each(&mut run)?;
    }
    Ok(())
}

fn journal_cost(options: &BenchOptions, common: &Common) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for (flush, (producers, window)) in each_with_each([Flush::Async, Flush::Sync], SHAPES) {
        let options = BenchOptions { flush, producers, window, ..options.clone() };
        all.extend(paired(&options, common, ("broker.journal=true", "broker.journal=false"))?);
    }
    Ok(all)
}

/// Throughput must grow with producers, and flushes come near to what the disk can do.
fn sync_flush(options: &BenchOptions, common: &Common) -> Result<Vec<Series>> {
    let base = BenchOptions { flush: Flush::Sync, ..options.clone() };
    let target = Target::start(&base, common, &[])?;
    let folder = target.folder().context("a fresh broker has a folder")?;
    let mut all = Vec::new();
    for producers in SYNC_FLUSH_PRODUCERS {
        let options = BenchOptions { producers, ..base.clone() };
        let mut series = Series::new(options.label());
        let mut rates = Vec::new();
        for _ in 0..options.rounds {
            rates.push(disk::flush_rate(folder, DISK_TIME)?);
            series.rounds.push(round::run(&target, &options)?.sending);
        }
        let disk = report::median(rates.iter().map(|rate| rate.per_second).collect()).unwrap_or(f64::NAN);
        let p50 = report::median(rates.iter().map(|rate| rate.p50_us as f64).collect()).unwrap_or(f64::NAN);
        let p99 = report::median(rates.iter().map(|rate| rate.p99_us as f64).collect()).unwrap_or(f64::NAN);
        series.notes.insert("disk alone, flushes/s".to_owned(), disk);
        series.notes.insert("disk alone, p50 us".to_owned(), p50);
        series.notes.insert("disk alone, p99 us".to_owned(), p99);
        if let Some(flushes) = series.log_flushes_per_second() {
            series.notes.insert("log flushes/s".to_owned(), flushes);
            series.notes.insert("log flushes, share of the disk's rate".to_owned(), flushes / disk);
        }
        all.push(series);
    }
    Ok(all)
}

/// What a replica costs: a master alone beside one that is followed, and one that waits for its follower. All on one machine, so each
/// message is written to one disk twice.
fn replication(options: &BenchOptions, common: &Common) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for flush in [Flush::Async, Flush::Sync] {
        let base = BenchOptions { flush, ..options.clone() };
        let targets = [
            Target::start(&base, common, &[])?,
            Target::start_replicated(&base, common, "ASYNC_MASTER")?,
            Target::start_replicated(&base, common, "SYNC_MASTER")?,
        ];
        let names = ["alone", "ASYNC_MASTER + replica", "SYNC_MASTER + replica"];
        for size in [128, 1024] {
            for producers in REPLICATION_PRODUCERS {
                let options = BenchOptions { size, producers, ..base.clone() };
                let mut sides = names.map(|name| Series::new(format!("{}, {name}", options.label())));
                in_turn::<3>(options.rounds, |side| {
                    sides[side].rounds.push(round::run(&targets[side], &options)?.sending);
                    Ok(())
                })?;
                let [alone, mut followed, mut waited] = sides;
                followed.notes = compare(&followed, &alone);
                waited.notes = compare(&waited, &alone);
                all.extend([alone, followed, waited]);
            }
        }
    }
    Ok(all)
}

fn headline(options: &BenchOptions, common: &Common) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for protocol in [Protocol::Remoting, Protocol::Grpc] {
        for (flush, (producers, window)) in each_with_each([Flush::Async, Flush::Sync], SHAPES) {
            let options = BenchOptions { protocol, flush, producers, window, size: 1024, ..options.clone() };
            all.extend(single(&options, common)?);
        }
    }
    Ok(all)
}

fn each_with_each<A: Copy, B: Copy>(first: [A; 2], second: [B; 2]) -> impl Iterator<Item = (A, B)> {
    first.into_iter().flat_map(move |a| second.into_iter().map(move |b| (a, b)))
}

/// Broker and echo in turn, for both protocols.
fn beside_echo(options: &BenchOptions, common: &Common) -> Result<Vec<Series>> {
    let mut all = Vec::new();
    for (protocol, (producers, window)) in each_with_each([Protocol::Remoting, Protocol::Grpc], SHAPES) {
        let options = BenchOptions { protocol, producers, window, ..options.clone() };
        let targets = [Target::start(&options, common, &[])?, Target::start_echo(protocol)?];
        let bare = format!("bare {} echo x{producers}, window {window}, {} B", protocol.text(), options.size);
        let mut sides = [options.label(), bare].map(Series::new);
        in_turn::<2>(options.rounds, |side| {
            sides[side].rounds.push(round::run(&targets[side], &options)?.sending);
            Ok(())
        })?;
        let [mut broker, echo] = sides;
        broker.notes = compare(&broker, &echo);
        all.extend([broker, echo]);
    }
    Ok(all)
}
