//! Owns one listening port: accepts, bounds how many connections are open, and waits for them when the broker stops. Called by
//! whoever wires the broker, once per port.

use super::outbox::Unsent;
use super::session::{self, Session};
use super::stats::{RemotingStats, count};
use super::{BROKER_CONNECTION_ID_FIRST, Clock, NAME_SERVER_CONNECTION_ID_FIRST, RemotingConfig, Role};
use crate::api::ConnectionId;
use crate::handle::CoreHandle;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after a failed accept (no file descriptors left): the next may work.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// What all connections of one port share.
pub(super) struct Edge {
    pub(super) role: Role,
    pub(super) core: CoreHandle,
    pub(super) config: RemotingConfig,
    pub(super) clock: Clock,
    pub(super) stats: Arc<RemotingStats>,
    /// Outboxes to be written.
    pub(super) unsent: Arc<Unsent>,
    /// Where each open connection comes from; only ever looked up.
    peers: Mutex<HashMap<ConnectionId, SocketAddr>>,
}

impl Edge {
    pub(super) fn new(role: Role, core: CoreHandle, config: RemotingConfig, clock: Clock) -> Edge {
        Edge {
            role,
            core,
            config,
            clock,
            stats: Arc::default(),
            unsent: Arc::default(),
            peers: Mutex::default(),
        }
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, HashMap<ConnectionId, SocketAddr>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a port needs beside its listener.
#[derive(Clone)]
pub struct Serving {
    /// Which server it stands for.
    pub role: Role,
    /// Answers the requests.
    pub core: CoreHandle,
    /// Names, addresses, bounds.
    pub config: RemotingConfig,
    /// Reads the clocks.
    pub clock: Clock,
    /// Counts.
    pub stats: Arc<RemotingStats>,
}

/// Serves one port until `shutdown`; returns when every connection has been closed. Must run on the core's runtime.
pub async fn serve(listener: TcpListener, serving: Serving, shutdown: CancellationToken) {
    let Serving { role, core, config, clock, stats } = serving;
    let edge = Arc::new(Edge { stats, ..Edge::new(role, core, config, clock) });
    let mut next_id = match role {
        Role::Broker => BROKER_CONNECTION_ID_FIRST,
        Role::NameServer => NAME_SERVER_CONNECTION_ID_FIRST,
    };
    let unsent = edge.unsent.clone();
    // ends with this function, which ends after all sessions
    let mut writer = JoinSet::new();
    writer.spawn(async move { unsent.write().await });
    let sessions = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let id = ConnectionId(next_id);
                next_id += 1;
                if let Some(session) = admit(&edge, id, &stream, peer) {
                    sessions.spawn(session::run(session, stream, shutdown.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, ?role, "accept failed, trying again");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
    drop(listener);
    sessions.close();
    sessions.wait().await;
}

fn admit(edge: &Arc<Edge>, id: ConnectionId, stream: &TcpStream, peer: SocketAddr) -> Option<Session> {
    let open = edge.stats.connections.load(Ordering::Relaxed);
    if open >= edge.config.limits.max_connections as u64 {
        count(&edge.stats.turned_away);
        return None;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "connection closed while it was accepted");
        return None;
    }
    count(&edge.stats.accepted);
    Some(Session::new(edge.clone(), id, peer))
}
