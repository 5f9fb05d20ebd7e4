//! Owns a broker of its own for one replay: the real core and the real remoting edge, on a thread of this process and a disk in
//! memory. What production's shell does around them is done here too, as plainly as it goes.

use crate::replay::Addresses;
use broker::api::{Advertised, Request};
use broker::config::Config;
use broker::core::{Core, CoreParts, FlushDone, FlushOrders};
use broker::handle::CoreHandle;
use broker::remoting::{Limits, RemotingConfig, Role, Serving, serve};
use lifecycle::clock::Now;
use lifecycle::identity::Incarnation;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use store::disk_sim::SimDisk;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Where the transcripts' broker said it can be reached: routes and offset ids name it, whatever port is really used.
const ADVERTISED: &str = "127.0.0.1:10911";

/// A running broker; stops when dropped.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    shutdown: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `flush_delay`: how slow the disk is.
    pub(crate) fn start(config: Config, flush_delay: Duration) -> Server {
        let shutdown = CancellationToken::new();
        let (tell, told) = mpsc::channel();
        let token = shutdown.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(config, flush_delay, token, tell));
        });
        let addresses = told.recv().expect("the broker starts");
        Server { addresses, shutdown, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || std::thread::panicking(), "the broker panicked");
        }
    }
}

async fn run(
    config: Config,
    flush_delay: Duration,
    shutdown: CancellationToken,
    tell: mpsc::Sender<Addresses>,
) {
    let name_server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let broker = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses =
        Addresses { name_server: name_server.local_addr().unwrap(), broker: broker.local_addr().unwrap() };
    let handle = CoreHandle::new();
    let clock = clock();
    let serving = |role| Serving {
        role,
        core: handle.clone(),
        config: remoting(&config),
        clock: clock.clone(),
        stats: Arc::default(),
    };
    tokio::spawn(serve(name_server, serving(Role::NameServer), shutdown.clone()));
    tokio::spawn(serve(broker, serving(Role::Broker), shutdown.clone()));
    let parts = CoreParts {
        disk: Arc::new(SimDisk::new()),
        dir: PathBuf::from("/broker"),
        config,
        incarnation: Incarnation([7; 16]),
        store_host: advertised(),
    };
    let (core, _) = Core::open(parts, clock()).expect("an empty folder opens");
    tell.send(addresses).unwrap();
    turns(core, &handle, &clock, flush_delay, &shutdown).await;
}

fn advertised() -> SocketAddr {
    ADVERTISED.parse().unwrap()
}

fn remoting(config: &Config) -> RemotingConfig {
    RemotingConfig {
        advertised: Advertised {
            broker_name: config.broker_name.as_str().into(),
            cluster: config.cluster.as_str().into(),
            remoting: advertised(),
        },
        region: "DefaultRegion".into(),
        trace_on: true,
        auto_create_topic: config.auto_create_topics,
        default_queue_nums: config.default_queues,
        limits: Limits::default(),
    }
}

#[expect(clippy::disallowed_methods, reason = "stands for the binary, which reads the clocks")]
fn clock() -> broker::remoting::Clock {
    let started = Instant::now();
    Arc::new(move || Now {
        mono_ms: started.elapsed().as_millis() as u64,
        wall_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64,
    })
}

async fn turns(
    mut core: Core,
    handle: &CoreHandle,
    clock: &broker::remoting::Clock,
    flush_delay: Duration,
    shutdown: &CancellationToken,
) {
    let done = Arc::new(Mutex::new(Vec::new()));
    let mut requests: Vec<Request> = Vec::new();
    while !shutdown.is_cancelled() {
        handle.drain(&mut requests);
        let mut flushed = std::mem::take(&mut *done.lock().unwrap());
        let now = clock();
        let effects = core.turn(now, &mut requests, &mut flushed);
        assert!(effects.fatal.is_none(), "{:?}", effects.fatal);
        flush(effects.flush, flush_delay, &done, handle);
        let sleep = effects.wake_at_ms.map(|at| Duration::from_millis(at.saturating_sub(now.mono_ms)));
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = handle.arrived() => {}
            () = tokio::time::sleep(sleep.unwrap_or(Duration::from_secs(3600))) => {}
        }
    }
}

/// Each order on a thread of its own, as in production.
fn flush(orders: FlushOrders, delay: Duration, done: &Arc<Mutex<Vec<FlushDone>>>, handle: &CoreHandle) {
    let start = |work: Box<dyn FnOnce() -> FlushDone + Send>| {
        let (done, handle) = (done.clone(), handle.clone());
        std::thread::spawn(move || {
            let result = work();
            done.lock().unwrap().push(result);
            handle.wake();
        });
    };
    if let Some(batch) = orders.log {
        start(Box::new(move || {
            #[expect(clippy::disallowed_methods, reason = "a slow disk")]
            std::thread::sleep(delay);
            FlushDone::Log(batch.sync())
        }));
    }
    if let Some(batch) = orders.journal {
        start(Box::new(move || FlushDone::Journal(batch.sync())));
    }
    for job in orders.jobs {
        start(Box::new(move || FlushDone::Job(job.run())));
    }
}
