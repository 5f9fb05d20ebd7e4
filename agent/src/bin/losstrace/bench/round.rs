//! Owns one round: clients come, warm up, are measured while they send (and consume), and go. Reads the target before and after.

use super::options::{BenchOptions, Protocol};
use super::report::{Cost, Measured};
use super::tally::{Phase, Shared};
use super::target::{Reading, Target};
use super::workload::deal_queues;
use super::{grpc, remoting};
use anyhow::{Context, Result, bail};
use std::time::{Duration, Instant};
use tokio::task::{JoinSet, LocalSet};

/// How often the end of a round is looked for.
const LOOK: Duration = Duration::from_millis(5);
/// How often it is asked how far a replica is; each time, clients wait for the answer.
const LAG_LOOK: Duration = Duration::from_millis(200);
/// After this long a round is given up.
const ROUND_MAX: Duration = Duration::from_secs(2 * 3_600);
/// How long clients may take to go after a round is over: the broker's own time-outs are shorter.
const GO_MAX: Duration = Duration::from_secs(15);

/// What a round measured.
pub(crate) struct Round {
    pub sending: Measured,
    pub consuming: Option<Measured>,
}

/// Runs a round on this thread alone.
pub(crate) fn run(target: &Target, options: &BenchOptions) -> Result<Round> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(LocalSet::new().run_until(async {
        if target.has_topics() {
            remoting::create_topics(target.remoting, options).await?;
        }
        let sending = send(target, options).await?;
        let consuming = match options.consume {
            true => Some(consume(target, options).await?),
            false => None,
        };
        Ok(Round { sending, consuming })
    }))
}

async fn send(target: &Target, options: &BenchOptions) -> Result<Measured> {
    let shared = Shared::new(options.messages)?;
    let mut clients = JoinSet::new();
    for client in 0..options.producers {
        let (options, shared) = (options.clone(), shared.clone());
        let (remoting, grpc) = (target.remoting, target.grpc);
        clients.spawn_local(async move {
            match options.protocol {
                Protocol::Remoting => remoting::produce(remoting, &options, client, &shared).await,
                Protocol::Grpc => {
                    let address = grpc.context("the target has no gRPC port")?;
                    grpc::produce(address, &options, client, &shared).await
                }
            }
        });
    }
    if options.messages.is_none() {
        tokio::time::sleep(Duration::from_secs_f64(options.warmup)).await;
    }
    let before = target.read()?;
    shared.enter(Phase::Measuring);
    let start = Instant::now();
    let limit = match options.messages {
        Some(_) => ROUND_MAX,
        None => Duration::from_secs_f64(options.seconds),
    };
    let (mut lag_bytes, mut looked) = (None, start);
    while start.elapsed() < limit && shared.goes_on() {
        ended_early(&mut clients, &shared)?;
        if looked.elapsed() >= LAG_LOOK {
            lag_bytes = lag_bytes.max(target.lag_bytes()?);
            looked = Instant::now();
        }
        tokio::time::sleep(LOOK.min(limit)).await;
    }
    let took = start.elapsed();
    let after = target.read()?;
    let measured = Measured { lag_bytes, ..measure(&shared, took, (&before, &after)) };
    shared.enter(Phase::Over);
    leave(clients).await?;
    Ok(measured)
}

/// A client that failed ends the round: what is left would measure something else.
fn ended_early(clients: &mut JoinSet<Result<()>>, shared: &Shared) -> Result<()> {
    while let Some(ended) = clients.try_join_next() {
        ended?.context("a client failed")?;
        if shared.goes_on() {
            bail!("a client ended before the round was over");
        }
    }
    Ok(())
}

async fn leave(mut clients: JoinSet<Result<()>>) -> Result<()> {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended?.context("a client failed")?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(GO_MAX, all).await.context("clients wait for answers that do not come")?
}

async fn consume(target: &Target, options: &BenchOptions) -> Result<Measured> {
    let shared = Shared::new(None)?;
    let mut clients = JoinSet::new();
    let before = target.read()?;
    shared.enter(Phase::Measuring);
    let start = Instant::now();
    for (client, queues) in deal_queues(options).into_iter().enumerate() {
        let (shared, protocol, client) = (shared.clone(), options.protocol, client as u32);
        let (remoting, grpc) = (target.remoting, target.grpc);
        clients.spawn_local(async move {
            match protocol {
                Protocol::Remoting => remoting::consume(remoting, &queues, client, &shared).await,
                Protocol::Grpc => {
                    let mut topics: Vec<String> = queues.into_iter().map(|(topic, _)| topic).collect();
                    topics.dedup();
                    let address = grpc.context("the target has no gRPC port")?;
                    grpc::consume(address, &topics, client, &shared).await
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended?.context("a consumer failed")?;
    }
    let took = start.elapsed();
    let after = target.read()?;
    Ok(measure(&shared, took, (&before, &after)))
}

fn measure(shared: &Shared, took: Duration, (before, after): (&Reading, &Reading)) -> Measured {
    let messages = shared.messages();
    let seconds = took.as_secs_f64();
    Measured {
        messages,
        seconds,
        messages_per_second: messages as f64 / seconds,
        latency_us: shared.latency(),
        errors: shared.errors(),
        cost: Cost::between(before, after, messages),
        lag_bytes: None,
    }
}
