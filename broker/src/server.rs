//! Owns the running broker: one thread with both edges and the core's turns, one thread per kind of flush, one for slow work.
//! Never decides anything about messages. Started and stopped by the binary.

mod news;
mod roles;

use crate::api::{Advertised, Request};
use crate::config::{Config, Listen};
use crate::core::{Core, CoreParts, FlushDone, Job, RecoveryReport, TurnEffects};
use crate::feed::{FeedHandle, FeedHead};
use crate::grpc::{self, GrpcConfig};
use crate::handle::CoreHandle;
use crate::remoting::{self, RemotingConfig, RemotingStats, Role, Serving};
use crate::replication::follow::MasterAddress;
use crate::replication::mastership::Change;
use lifecycle::clock::Now;
use lifecycle::identity::Incarnation;
use news::ReplicationNews;
use roles::{Roles, Start};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use store::disk::Disk;
use store::error::StoreError;
use store::journal::JournalSync;
use store::segment::SyncBatch;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Reads the clocks; handed in because only the binary may read them.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// Names runs, each by another name.
pub type Runs = Arc<dyn Fn() -> Incarnation + Send + Sync>;

/// How long clients may take to go when the broker stops.
const DRAIN_MAX: Duration = Duration::from_secs(6);

/// How often the journal is looked at for frames nobody needs any more.
const TRIM_INTERVAL_MS: u64 = 10_000;

/// What a broker is made of.
#[derive(Clone)]
pub struct ServerParts {
    /// Checked settings.
    pub config: Config,
    /// Where to listen.
    pub listen: Listen,
    /// The broker's folder.
    pub dir: PathBuf,
    /// The door to it.
    pub disk: Arc<dyn Disk>,
    /// Names each run; a member that changes its part begins a new one.
    pub runs: Runs,
    /// The clocks.
    pub clock: Clock,
    /// Names the machine's present boot; `None` when it is not known, or when a test cuts the power.
    pub boot: Option<String>,
}

/// Why a broker cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The folder cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A port cannot be had.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// No thread, no runtime.
    #[error("cannot start the broker's thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running broker.
pub struct Server {
    /// Requests from this process.
    pub core: CoreHandle,
    /// Facts.
    pub feed: FeedHandle,
    /// What opening the folder found.
    pub recovery: RecoveryReport,
    /// Counts of the remoting edge.
    pub remoting_stats: Arc<RemotingStats>,
    shutdown: CancellationToken,
    stopped: oneshot::Receiver<Result<(), StoreError>>,
}

struct Sockets {
    name_server: TcpListener,
    remoting: TcpListener,
    grpc: TcpListener,
    http: TcpListener,
    feed: Option<TcpListener>,
    replication: Option<TcpListener>,
}

impl Server {
    /// Opens the folder, binds every port, and serves. Returns when clients may come.
    pub fn start(parts: ServerParts) -> Result<Server, StartError> {
        let shutdown = CancellationToken::new();
        let (ready_sender, ready) = mpsc::channel();
        let (stopped_sender, stopped) = oneshot::channel();
        let token = shutdown.clone();
        std::thread::Builder::new().name("losstrace-broker".into()).spawn(move || {
            run(parts, token, ready_sender, stopped_sender);
        })?;
        let gone = || std::io::Error::other("the broker's thread ended before it was ready");
        let Ready { core, feed, recovery, remoting_stats } = ready.recv().map_err(|_| gone())??;
        Ok(Server { core, feed, recovery, remoting_stats, shutdown, stopped })
    }

    /// Asks it to stop: clients are let go, everything is flushed, a snapshot says so.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Completes when it has stopped; an error means the disk failed and the process should end.
    pub async fn stopped(&mut self) -> Result<(), StoreError> {
        (&mut self.stopped).await.unwrap_or(Ok(()))
    }
}

struct Ready {
    core: CoreHandle,
    feed: FeedHandle,
    recovery: RecoveryReport,
    remoting_stats: Arc<RemotingStats>,
}

fn run(
    parts: ServerParts,
    shutdown: CancellationToken,
    ready: mpsc::Sender<Result<Ready, StartError>>,
    stopped: oneshot::Sender<Result<(), StoreError>>,
) {
    // whoever waits for `ready` or `stopped` may be gone; then nobody needs to know
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error.into()))),
    };
    runtime.block_on(async move {
        let mut ready = Some(ready);
        let outcome = play_parts(parts, &shutdown, &mut ready).await;
        match (ready, outcome) {
            (Some(ready), Err(error)) => drop(ready.send(Err(error))),
            (_, Err(StartError::Store(error))) => drop(stopped.send(Err(error))),
            (_, Err(error)) => {
                tracing::error!(%error, "the broker cannot go on in its new part");
                let failed =
                    StoreError::corrupt(std::path::Path::new("ports"), 0, "could not be taken again");
                drop(stopped.send(Err(failed)));
            }
            (_, Ok(())) => drop(stopped.send(Ok(()))),
        }
    });
}

/// One part after the other, until the broker is to stop.
async fn play_parts(
    mut parts: ServerParts,
    shutdown: &CancellationToken,
    ready: &mut Option<mpsc::Sender<Result<Ready, StartError>>>,
) -> Result<(), StartError> {
    let mut roles = Roles::open(&parts)?;
    let settings = parts.config.clone();
    loop {
        parts.config = roles.config(&settings);
        let (turns, sockets, found) = open(&parts, &roles, shutdown).await?;
        roles.opened()?;
        if let Some(ready) = ready.take() {
            drop(ready.send(Ok(found)));
        }
        match serve(&parts, turns, sockets, &mut roles, shutdown).await? {
            Some(change) if !shutdown.is_cancelled() => roles.take(change)?,
            _ => return Ok(()),
        }
    }
}

async fn open(
    parts: &ServerParts,
    roles: &Roles,
    shutdown: &CancellationToken,
) -> Result<(Turns, Sockets, Ready), StartError> {
    // what a SLAVE states of itself says nothing about the messages its master stored: agents follow the master
    let feed = parts.listen.feed.filter(|_| roles.start == Start::Master);
    let sockets = bind(&Listen { feed, ..parts.listen.clone() }).await?;
    let core_parts = CoreParts {
        disk: parts.disk.clone(),
        dir: parts.dir.clone(),
        config: parts.config.clone(),
        incarnation: (parts.runs)(),
        store_host: advertised_address(parts.listen.remoting),
        boot: parts.boot.clone(),
        mandate: roles.mandate.said(),
    };
    let (core, recovery) = Core::open(core_parts, (parts.clock)())?;
    tracing::info!(
        clean = recovery.clean,
        lost = recovery.lost,
        stated_again = recovery.stated_again,
        torn_bytes = recovery.scan.torn_bytes,
        log_end = recovery.scan.end.0,
        "folder opened"
    );
    if recovery.lost > 0 {
        tracing::error!(
            lost = recovery.lost,
            "messages of the last run did not survive: the agent names them"
        );
    }
    let handle = CoreHandle::new();
    let (position, flushed_sequence) = core.journal_head();
    let (head, heads) = watch::channel(FeedHead { position, flushed_sequence });
    let broker_name = parts.config.broker_name.as_str().into();
    let feed = FeedHandle::new(broker_name, core.journal_view(), handle.clone(), heads)
        .with_readers_kept(parts.disk.clone(), &parts.dir)?;
    let flushers = Flushers::start(&handle)?;
    let remoting_stats = Arc::new(RemotingStats::default());
    let replication = ReplicationNews::of(parts, &core);
    let turns = Turns {
        core,
        replication,
        handle: handle.clone(),
        clock: parts.clock.clone(),
        flushers,
        head,
        feed: feed.clone(),
        shutdown: shutdown.clone(),
        remoting_stats: remoting_stats.clone(),
    };
    Ok((turns, sockets, Ready { core: handle, feed, recovery, remoting_stats }))
}

async fn bind(listen: &Listen) -> Result<Sockets, StartError> {
    async fn one(address: SocketAddr) -> Result<TcpListener, StartError> {
        TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, error })
    }
    Ok(Sockets {
        name_server: one(listen.name_server).await?,
        remoting: one(listen.remoting).await?,
        grpc: one(listen.grpc).await?,
        http: one(listen.http).await?,
        feed: match listen.feed {
            Some(address) => Some(one(address).await?),
            None => None,
        },
        replication: match listen.replication {
            Some(address) => Some(one(address).await?),
            None => None,
        },
    })
}

/// A wildcard address cannot be dialled; on one machine loopback can.
fn advertised_address(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

async fn serve(
    parts: &ServerParts,
    turns: Turns,
    sockets: Sockets,
    roles: &mut Roles,
    shutdown: &CancellationToken,
) -> Result<Option<Change>, StoreError> {
    let config = &parts.config;
    let remoting_config = RemotingConfig {
        advertised: Advertised {
            broker_name: config.broker_name.as_str().into(),
            cluster: config.cluster.as_str().into(),
            remoting: advertised_address(parts.listen.remoting),
            broker_id: config.broker_role.broker_id(),
        },
        region: "DefaultRegion".into(),
        trace_on: true,
        auto_create_topic: config.auto_create_topics,
        default_queue_nums: config.default_queues,
        limits: Default::default(),
        master: MasterAddress::default(),
    };
    let grpc_address = advertised_address(parts.listen.grpc);
    let grpc_config = GrpcConfig::new(config, (grpc_address.ip().to_string(), grpc_address.port()));
    let handle = turns.handle.clone();
    let feed = turns.feed.clone();
    let serving = |role| Serving {
        role,
        core: handle.clone(),
        config: remoting_config.clone(),
        clock: parts.clock.clone(),
        stats: turns.remoting_stats.clone(),
    };
    let edges = shutdown.child_token();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(remoting::serve(sockets.name_server, serving(Role::NameServer), edges.clone()));
    tasks.spawn(remoting::serve(sockets.remoting, serving(Role::Broker), edges.clone()));
    let grpc = grpc::serve(sockets.grpc, handle.clone(), grpc_config, parts.clock.clone(), edges.clone());
    tasks.spawn(async move { log_end("grpc edge", grpc.await.map_err(|e| e.to_string())) });
    let door = crate::http::Doors {
        core: handle.clone(),
        remoting: turns.remoting_stats.clone(),
        changes: roles.changes(),
    };
    let http = crate::http::serve(sockets.http, door, edges.clone());
    tasks.spawn(async move { log_end("http", http.await.map_err(|e| e.to_string())) });
    if let Some(listener) = sockets.feed {
        let served = crate::feed::serve(listener, feed, edges.clone());
        tasks.spawn(async move { log_end("feed", served.await.map_err(|e| e.to_string())) });
    }
    if let Some(listener) = sockets.replication {
        let master = turns.replication.master(parts, &turns.core, &handle, roles);
        tasks.spawn(crate::replication::master::serve(listener, master, edges.clone()));
    }
    let follower = turns.replication.follower(parts, &handle, &remoting_config.master);
    if let (Start::Slave, Some(follower)) = (roles.start, follower) {
        tasks.spawn(crate::replication::follow::follow(follower, edges.clone()));
    }
    if let Some(campaign) = roles.campaign(parts, &handle, turns.replication.progress()) {
        let ended = edges.clone();
        tasks.spawn(async move {
            ended.run_until_cancelled(campaign).await;
        });
    }
    let closing = handle.clone();
    let ends = edges.clone();
    tokio::spawn(async move {
        ends.cancelled().await;
        // clients are answered while they go; then the core takes nothing more
        let all_gone = async { while tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_MAX, all_gone).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        closing.close();
    });
    let mut running = std::pin::pin!(turns.run());
    let change = tokio::select! {
        outcome = &mut running => return outcome.map(|()| None),
        change = roles.changed() => change,
    };
    edges.cancel();
    running.await.map(|()| change)
}

fn log_end(what: &'static str, outcome: Result<(), String>) {
    if let Err(error) = outcome {
        tracing::error!(%error, "{what} stopped");
    }
}

/// The loop of turns.
struct Turns {
    core: Core,
    handle: CoreHandle,
    clock: Clock,
    flushers: Flushers,
    head: watch::Sender<FeedHead>,
    feed: FeedHandle,
    shutdown: CancellationToken,
    remoting_stats: Arc<RemotingStats>,
    replication: ReplicationNews,
}

impl Turns {
    async fn run(mut self) -> Result<(), StoreError> {
        let mut requests: Vec<Request> = Vec::new();
        let mut done = Vec::new();
        let mut wake_at_ms = Some(0);
        let mut next_trim_ms = 0;
        loop {
            self.wait(wake_at_ms).await;
            // every socket that is ready gets its turn before ours: one frame and one flush cover them all
            tokio::task::yield_now().await;
            let open = self.handle.drain(&mut requests);
            self.flushers.completed(&mut done);
            let TurnEffects { flush, wake_at_ms: next, fatal } =
                self.core.turn((self.clock)(), &mut requests, &mut done);
            if let Some(error) = fatal {
                self.handle.close();
                self.shutdown.cancel();
                return Err(error);
            }
            self.flushers.start_all(flush);
            self.tell_feed();
            self.replication.tell(&self.core);
            self.trim_journal(&mut next_trim_ms);
            wake_at_ms = next;
            if !open && requests.is_empty() && self.flushers.idle() {
                break;
            }
        }
        let now = (self.clock)();
        self.flushers.stop();
        self.core.close(now)
    }

    async fn wait(&self, wake_at_ms: Option<u64>) {
        let arrived = self.handle.arrived();
        match wake_at_ms {
            None => arrived.await,
            Some(at) => {
                let left = Duration::from_millis(at.saturating_sub((self.clock)().mono_ms));
                // a time-out is as good a reason for a turn as an arrival
                drop(tokio::time::timeout(left, arrived).await);
            }
        }
    }

    fn trim_journal(&mut self, next_ms: &mut u64) {
        let now_ms = (self.clock)().mono_ms;
        if now_ms < *next_ms {
            return;
        }
        *next_ms = now_ms + TRIM_INTERVAL_MS;
        match self.core.trim_journal(self.feed.min_confirmed()) {
            Ok(0) => {}
            Ok(bytes) => tracing::info!(bytes, "journal trimmed behind expired messages"),
            Err(error) => tracing::warn!(%error, "the journal could not be trimmed; it is tried again"),
        }
    }

    fn tell_feed(&mut self) {
        let (position, flushed_sequence) = self.core.journal_head();
        let head = FeedHead { position, flushed_sequence };
        self.head.send_if_modified(|known| {
            let changed = *known != head;
            *known = head;
            changed
        });
    }
}

/// Threads that wait for the disk, so that turns do not.
struct Flushers {
    log: mpsc::Sender<SyncBatch>,
    journal: mpsc::Sender<JournalSync>,
    jobs: mpsc::Sender<Job>,
    /// A disk that fails takes its time over each read: nothing else waits behind that.
    scrubs: mpsc::Sender<Job>,
    completed: Arc<Mutex<Vec<FlushDone>>>,
    under_way: usize,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Flushers {
    fn start(handle: &CoreHandle) -> Result<Flushers, std::io::Error> {
        let completed = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        let log = worker("losstrace-flush-log", handle, &completed, &mut threads, |batch: SyncBatch| {
            FlushDone::Log(batch.sync())
        })?;
        let journal =
            worker("losstrace-flush-journal", handle, &completed, &mut threads, |batch: JournalSync| {
                FlushDone::Journal(batch.sync())
            })?;
        let jobs =
            worker("losstrace-jobs", handle, &completed, &mut threads, |job: Job| FlushDone::Job(job.run()))?;
        let scrubs = worker("losstrace-scrub", handle, &completed, &mut threads, |job: Job| {
            FlushDone::Job(job.run())
        })?;
        Ok(Flushers { log, journal, jobs, scrubs, completed, under_way: 0, threads })
    }

    fn start_all(&mut self, orders: crate::core::FlushOrders) {
        // a worker only ends when its sender is dropped, so sending cannot fail while we live
        let started = orders.log.map(|batch| self.log.send(batch).is_ok()).into_iter();
        let started = started.chain(orders.journal.map(|batch| self.journal.send(batch).is_ok()));
        let count = started.filter(|sent| *sent).count();
        let thread = |job: &Job| if matches!(job, Job::Scrub(_)) { &self.scrubs } else { &self.jobs };
        let jobs = orders.jobs.into_iter().filter_map(|job| thread(&job).send(job).ok()).count();
        self.under_way += count + jobs;
    }

    fn completed(&mut self, into: &mut Vec<FlushDone>) {
        let mut completed = self.completed.lock().unwrap_or_else(PoisonError::into_inner);
        self.under_way -= completed.len();
        into.append(&mut completed);
    }

    fn idle(&self) -> bool {
        self.under_way == 0
    }

    fn stop(&mut self) {
        let (log, journal, jobs) = (mpsc::channel().0, mpsc::channel().0, mpsc::channel().0);
        (self.log, self.journal, self.jobs, self.scrubs) = (log, journal, jobs, mpsc::channel().0);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a flusher thread panicked");
            }
        }
    }
}

fn worker<T: Send + 'static>(
    name: &str,
    handle: &CoreHandle,
    completed: &Arc<Mutex<Vec<FlushDone>>>,
    threads: &mut Vec<std::thread::JoinHandle<()>>,
    work: impl Fn(T) -> FlushDone + Send + 'static,
) -> Result<mpsc::Sender<T>, std::io::Error> {
    let (sender, orders) = mpsc::channel::<T>();
    let (handle, completed) = (handle.clone(), completed.clone());
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        while let Ok(order) = orders.recv() {
            let done = work(order);
            completed.lock().unwrap_or_else(PoisonError::into_inner).push(done);
            handle.wake();
        }
    })?;
    threads.push(thread);
    Ok(sender)
}
