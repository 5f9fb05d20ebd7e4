//! Owns a broker of its own for one replay: the real one, as the binary starts it, in this process and on a disk in memory.

use crate::replay::Addresses;
use crate::slow_disk::SlowDisk;
use broker::config::{Config, Listen};
use broker::server::{Clock, Server as Broker, ServerParts};
use lifecycle::clock::Now;
use lifecycle::identity::Incarnation;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tests::ports::Port;

/// A running broker; it stops when dropped.
pub(crate) struct Server {
    pub(crate) addresses: Addresses,
    broker: Broker,
    _ports: Vec<Port>,
}

impl Server {
    /// `sync_time`: how slow the disk is.
    pub(crate) fn start(config: Config, sync_time: Duration) -> Server {
        let ports: Vec<Port> = (0..4).map(|_| Port::claim().unwrap()).collect();
        let address = |index: usize| SocketAddr::from(([127, 0, 0, 1], ports[index].number));
        let addresses = Addresses { name_server: address(0), broker: address(1) };
        let disk = SlowDisk::new();
        let parts = ServerParts {
            config,
            listen: Listen {
                name_server: addresses.name_server,
                remoting: addresses.broker,
                grpc: address(2),
                http: address(3),
                feed: None,
                replication: None,
            },
            dir: PathBuf::from("/broker"),
            disk: Arc::new(disk.clone()),
            runs: Arc::new(|| Incarnation([7; 16])),
            clock: clock(),
            boot: None,
        };
        let broker = Broker::start(parts).expect("the broker starts");
        disk.syncs_take(sync_time);
        Server { addresses, broker, _ports: ports }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.broker.stop();
    }
}

#[expect(clippy::disallowed_methods, reason = "stands for the binary, which reads the clocks")]
fn clock() -> Clock {
    let started = Instant::now();
    Arc::new(move || Now {
        mono_ms: started.elapsed().as_millis() as u64,
        wall_ms: SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64,
    })
}
