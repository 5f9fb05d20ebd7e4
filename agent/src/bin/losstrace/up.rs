//! Owns the running processes: broker and agent together, or each alone. Wires clocks, disk, sources and sockets, waits for
//! the signal to stop, and stops in the order in which nothing is lost: broker first, then the agent behind it.

use crate::config::Settings;
use crate::source::InProcess;
use agent::config::FeedConfig;
use agent::http::agent_desk::AgentDesk;
use agent::ingest::Source;
use agent::ledger::sled::power_cut;
use agent::metrics::Metrics;
use agent::run::handle::Observation;
use agent::run::{Agent, AgentHandle, Clock, Environment, OpenLedger, Phase};
use agent::telemetry::{Telemetry, TelemetryConfig};
use anyhow::{Context, Result, bail};
use broker::config::BrokerRole;
use broker::server::{Server, ServerParts};
use lifecycle::clock::Now;
use lifecycle::identity::Incarnation;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::disk::Disk;
use store::disk_os::OsDisk;
use store::disk_undo::UndoDisk;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;

/// Connections and segments each take a file; ten thousand idle clients are ordinary.
const FILES_MAX: u64 = 65_536;
/// The HTTP door and the exporter; broker and agent have threads of their own.
const WORKERS: usize = 2;
/// After this long a stop is not waited for any more.
const STOP_MAX: Duration = Duration::from_secs(25);

/// Which parts run in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parts {
    Both,
    Broker,
    Agent,
}

impl Parts {
    fn service(self) -> &'static str {
        match self {
            Parts::Both => "losstrace",
            Parts::Broker => "losstrace-broker",
            Parts::Agent => "losstrace-agent",
        }
    }
}

/// Runs until SIGTERM or SIGINT, or until a part fails.
pub(crate) fn run(settings: &Settings, parts: Parts) -> Result<()> {
    let raised = rlimit::increase_nofile_limit(FILES_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("losstrace-http")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let telemetry = runtime.block_on(async { Telemetry::start(&telemetry(settings, parts)) })?;
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files; many clients may be refused");
    }
    let result = runtime.block_on(serve(settings, parts));
    // the exporter needs the runtime for its last batch
    telemetry.shutdown();
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

fn telemetry(settings: &Settings, parts: Parts) -> TelemetryConfig {
    TelemetryConfig {
        format: settings.log.format,
        colour: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        level: settings.log.level.clone(),
        otlp_endpoint: settings.otlp.endpoint.clone(),
        service: parts.service(),
    }
}

async fn serve(settings: &Settings, parts: Parts) -> Result<()> {
    let stop = stop_on_signal()?;
    warn_when_open(settings);
    match parts {
        Parts::Agent => serve_agent(settings, stop).await,
        Parts::Broker => serve_broker(settings, stop).await,
        Parts::Both => serve_both(settings, stop).await,
    }
}

async fn serve_broker(settings: &Settings, mut stop: watch::Receiver<bool>) -> Result<()> {
    let mut server = start_broker(settings, Some(settings.listen.feed), clock())?;
    tracing::info!(remoting = %settings.listen.remoting, grpc = %settings.listen.grpc, "the broker takes clients");
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => server.stop(),
        ended = server.stopped() => return ended.context("the broker's disk failed"),
    }
    broker_stopped(&mut server).await
}

async fn serve_both(settings: &Settings, stop: watch::Receiver<bool>) -> Result<()> {
    if settings.broker.broker_role == BrokerRole::Slave {
        bail!("a SLAVE runs alone (`losstrace broker`): an agent follows its master");
    }
    if !settings.broker.members.is_empty() {
        bail!(
            "a member of a replica group runs alone (`losstrace broker`): it may have to follow another one"
        );
    }
    let clock = clock();
    let mut server = start_broker(settings, Some(settings.listen.feed), clock.clone())?;
    let name = &settings.broker.broker_name;
    let source = Arc::new(InProcess::new(name, &settings.agent.reader, server.feed.clone()));
    tracing::warn!("broker and agent share one disk: what destroys it takes the evidence too");
    tracing::info!(remoting = %settings.listen.remoting, grpc = %settings.listen.grpc, "the broker takes clients");
    let agent = start_agent(settings, vec![source], clock.clone())?;
    let desk = AgentDesk::new(agent.clone(), clock);
    let door = tokio::spawn(agent_door(settings.listen.agent_http, agent.clone(), desk, stop.clone()));
    let outcome = tokio::select! {
        outcome = without_agent(&agent, stop, door) => outcome,
        ended = server.stopped() => ended.context("the broker's disk failed"),
    };
    // broker first: what it states while it stops still reaches the agent
    server.stop();
    let stopped = broker_stopped(&mut server).await;
    agent.stop();
    if tokio::time::timeout(STOP_MAX, agent.stopped()).await.is_err() {
        bail!("the agent did not stop in {} s", STOP_MAX.as_secs());
    }
    tracing::info!("stopped");
    outcome.and(stopped)
}

fn start_broker(settings: &Settings, feed: Option<std::net::SocketAddr>, clock: Clock) -> Result<Server> {
    let listen = &settings.listen;
    let parts = ServerParts {
        config: settings.broker.clone(),
        listen: broker::config::Listen {
            name_server: listen.name_server,
            remoting: listen.remoting,
            grpc: listen.grpc,
            http: listen.broker_http,
            feed,
            replication: listen.replication,
        },
        dir: settings.data_dir.join("broker"),
        disk: disk(settings)?,
        runs: Arc::new(incarnation),
        clock,
        // with an undo log every start may follow a power cut
        boot: if settings.undo_log.is_some() { None } else { boot() },
    };
    Server::start(parts).context("cannot start the broker")
}

/// The real disk, noting what a power cut would take back where a test asks for it.
fn disk(settings: &Settings) -> Result<Arc<dyn Disk>> {
    Ok(match &settings.undo_log {
        Some(folder) => Arc::new(UndoDisk::open(folder).context("cannot open the undo log")?),
        None => Arc::new(OsDisk),
    })
}

async fn broker_stopped(server: &mut Server) -> Result<()> {
    match tokio::time::timeout(STOP_MAX, server.stopped()).await {
        Ok(outcome) => outcome.context("the broker did not stop cleanly"),
        Err(_) => bail!("the broker did not stop in {} s", STOP_MAX.as_secs()),
    }
}

async fn serve_agent(settings: &Settings, stop: watch::Receiver<bool>) -> Result<()> {
    let clock = clock();
    let agent = start_agent(&followed(settings), Vec::new(), clock.clone())?;
    let desk = AgentDesk::new(agent.clone(), clock);
    let door = tokio::spawn(agent_door(settings.listen.agent_http, agent.clone(), desk, stop.clone()));
    let outcome = until_stopped(&agent, stop, door).await;
    agent.stop();
    if tokio::time::timeout(STOP_MAX, agent.stopped()).await.is_err() {
        bail!("the agent did not stop in {} s", STOP_MAX.as_secs());
    }
    tracing::info!("stopped");
    outcome
}

/// The agent alone follows the brokers of its configuration, or the one this configuration would start.
fn followed(settings: &Settings) -> Settings {
    let mut settings = settings.clone();
    if settings.agent.feeds.is_empty() {
        let url = format!("http://{}", settings.listen.feed);
        settings.agent.feeds.push(FeedConfig { name: settings.broker.broker_name.clone(), urls: vec![url] });
    }
    settings
}

/// Starts the agent; `sources` are brokers in this process.
fn start_agent(settings: &Settings, sources: Vec<Arc<dyn Source>>, clock: Clock) -> Result<AgentHandle> {
    let disk = disk(settings)?;
    let ledger = settings.undo_log.clone().map(|folder| -> OpenLedger {
        let (disk, dir, wall_ms) = (disk.clone(), settings.agent.data_dir.join("ledger"), clock().wall_ms);
        Box::new(move || power_cut::open(disk.as_ref(), (&dir, &folder.join("ledger")), wall_ms))
    });
    let environment = Environment { clock, disk, incarnation: incarnation(), sources, ledger };
    Agent::start(settings.agent.clone(), environment).context("cannot start the agent")
}

/// Serves the agent's HTTP until `stop`. Ends early only when it cannot serve.
async fn agent_door(
    listen: std::net::SocketAddr,
    agent: AgentHandle,
    desk: AgentDesk,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let metrics = Arc::new(Metrics::new(prometheus::Registry::new(), env!("CARGO_PKG_VERSION"))?);
    let observed = observe(agent.observations(), metrics.clone());
    drop(agent);
    tokio::spawn(observed);
    let listener = TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    tracing::info!(address = %listen, "the agent answers on http");
    let router = agent::http::router(Arc::new(desk), metrics);
    // the sender lives as long as the process: an error would mean that it stops
    let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
    agent::http::serve(listener, router, stopped).await.context("agent http")
}

/// Feeds the histograms until the agent has stopped. Observations that came faster than they were taken are skipped: the
/// counters that matter do not come this way.
async fn observe(mut observations: Receiver<Observation>, metrics: Arc<Metrics>) {
    loop {
        match observations.recv().await {
            Ok(Observation::CheckpointMs(ms)) => metrics.observe_checkpoint(ms as f64 / 1000.0),
            Ok(Observation::DetectionMs(ms)) => metrics.observe_detection_delay(ms as f64 / 1000.0),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// As [`until_stopped`], but an agent that fails after it had begun does not take the broker with it: clients are served, facts
/// wait in the journal, and `/healthz` says why nobody reads them.
async fn without_agent(
    agent: &AgentHandle,
    mut stop: watch::Receiver<bool>,
    door: tokio::task::JoinHandle<Result<()>>,
) -> Result<()> {
    let outcome = until_stopped(agent, stop.clone(), door).await;
    let reason = agent.failure().filter(|_| agent.status().phase != Phase::Loading);
    if let Some(reason) = reason {
        tracing::error!(
            %reason,
            "the agent has stopped: nothing is judged until a restart; the broker goes on and keeps the facts"
        );
        // an error would mean that the process stops
        drop(stop.wait_for(|stop| *stop).await);
    }
    outcome
}

/// Completes at a signal, or when agent or door end by themselves.
async fn until_stopped(
    agent: &AgentHandle,
    mut stop: watch::Receiver<bool>,
    door: tokio::task::JoinHandle<Result<()>>,
) -> Result<()> {
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => Ok(()),
        () = agent.stopped() => match agent.failure() {
            Some(reason) => bail!("the agent has stopped: {reason}"),
            None => bail!("the agent has stopped"),
        },
        ended = door => match ended.context("the http door panicked")? {
            Ok(()) => Ok(()),
            Err(error) => Err(error),
        },
    }
}

/// The process's clocks: monotonic since its start, and the wall.
fn clock() -> Clock {
    let start = Instant::now();
    Arc::new(move || Now { mono_ms: millis(start.elapsed()), wall_ms: wall_ms() })
}

fn wall_ms() -> u64 {
    // a clock before 1970 shows as 1970
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The kernel's name for the machine's present boot.
fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

/// A name for this run.
fn incarnation() -> Incarnation {
    Incarnation::from_uuid(uuid::Uuid::now_v7())
}

/// Nothing asks who you are, so a door that others can reach is worth a line.
fn warn_when_open(settings: &Settings) {
    let listen = &settings.listen;
    for (door, address) in [
        ("name_server", listen.name_server),
        ("remoting", listen.remoting),
        ("grpc", listen.grpc),
        ("agent_http", listen.agent_http),
        ("broker_http", listen.broker_http),
        ("feed", listen.feed),
    ]
    .into_iter()
    .chain(listen.replication.map(|address| ("replication", address)))
    {
        if !address.ip().is_loopback() {
            tracing::warn!(door, %address, "reachable from other machines, without authentication");
        }
    }
}

/// Turns true at the first SIGTERM or SIGINT; the second ends the process at once.
fn stop_on_signal() -> Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        either(&mut terminate, &mut interrupt).await;
        tracing::info!("stopping; a second signal ends it at once");
        sender.send_replace(true);
        either(&mut terminate, &mut interrupt).await;
        std::process::exit(i32::from(crate::FAILED));
    });
    Ok(receiver)
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
