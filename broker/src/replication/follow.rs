//! The replica's end of a replication connection: finds the master among the members, agrees with it on where to start, hands what
//! comes to the core one message at a time, and says how far the core is. Goes on for ever, from member to member.

use super::frame::{Hello, Message, Standing};
use super::{HEARTBEAT, Progress, StreamError, read_message, write_bytes};
use crate::api::{FromMaster, ReplyFn, Request};
use crate::core::Core;
use crate::handle::CoreHandle;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause before the next member is tried.
const PAUSE: Duration = Duration::from_millis(200);
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Where clients reach the master, as far as this member knows.
pub type MasterAddress = Arc<Mutex<Option<SocketAddr>>>;

/// What following needs.
pub struct Follower {
    /// The replica's core.
    pub core: CoreHandle,
    /// Where the master may be: every other member.
    pub members: Vec<SocketAddr>,
    /// How far the replica is.
    pub progress: watch::Receiver<Progress>,
    /// Told where clients reach the master.
    pub master: MasterAddress,
}

/// Follows whichever member is master, until `shutdown`.
pub async fn follow(follower: Follower, shutdown: CancellationToken) {
    let mut told: BTreeMap<SocketAddr, String> = BTreeMap::new();
    for address in follower.members.iter().copied().cycle() {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = once(&follower, address) => outcome,
        };
        match outcome {
            Err(StreamError::Core(_)) => return,
            Err(error) => {
                // the same reason once: a master may be away for long, and other members are none
                let text = error.to_string();
                if told.get(&address) != Some(&text) {
                    tracing::warn!(%error, member = %address, "this member is not followed");
                    told.insert(address, text);
                }
            }
            Ok(()) => drop(told.remove(&address)),
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn once(follower: &Follower, address: SocketAddr) -> Result<(), StreamError> {
    let (from, to, remoting) = introduce(&follower.core, address, false).await?;
    *follower.master.lock().unwrap_or_else(PoisonError::into_inner) = remoting.parse().ok();
    tracing::info!(master = %address, "following the master");
    tokio::select! {
        outcome = receive(&follower.core, from, None) => outcome,
        outcome = report(to, follower.progress.clone()) => outcome,
    }
}

/// Copies from a member that is no master, until everything it has is here.
pub(super) async fn copy(
    core: &CoreHandle,
    address: SocketAddr,
    progress: watch::Receiver<Progress>,
    until: Standing,
) -> Result<(), StreamError> {
    let (from, to, _) = introduce(core, address, true).await?;
    tokio::select! {
        outcome = receive(core, from, Some(until)) => outcome,
        outcome = report(to, progress) => outcome,
    }
}

/// Connects, and agrees on where to start.
async fn introduce(
    core: &CoreHandle,
    address: SocketAddr,
    copies: bool,
) -> Result<(OwnedReadHalf, OwnedWriteHalf, String), StreamError> {
    let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address));
    let socket = connecting.await.map_err(|_| StreamError::Silence)??;
    socket.set_nodelay(true)?;
    let (mut from, mut to) = socket.into_split();
    let hello =
        core.call(|reply| Request::Look(Box::new(move |core, _| reply(core.replica_hello())))).await?;
    let hello = Hello { copies, ..hello.ok_or(StreamError::Unexpected)? };
    write_bytes(&mut to, &Message::Hello(hello).encode()).await?;
    let welcome = match read_message(&mut from).await? {
        Message::Welcome(welcome) => welcome,
        Message::Refused(why) => return Err(StreamError::Refused(why)),
        _ => return Err(StreamError::Unexpected),
    };
    let remoting = welcome.remoting.clone();
    take(core, FromMaster::Welcome { welcome, copies }).await?;
    Ok((from, to, remoting))
}

async fn take(core: &CoreHandle, message: FromMaster) -> Result<(), StreamError> {
    let taken = core.call(|reply| Request::FromMaster(message, reply)).await?;
    taken.map_err(|refusal| StreamError::Disagreed(refusal.to_string()))
}

async fn receive(
    core: &CoreHandle,
    mut from: OwnedReadHalf,
    until: Option<Standing>,
) -> Result<(), StreamError> {
    loop {
        if let Some(until) = &until {
            let stands = |reply: ReplyFn<Standing>| {
                Request::Look(Box::new(move |core: &mut Core, _| reply(core.standing())))
            };
            let here = core.call(stands).await?;
            if here.log.end >= until.log.end && here.journal == until.journal {
                return Ok(());
            }
        }
        let message = match read_message(&mut from).await? {
            Message::Log { position, readable, bytes } => FromMaster::Log { position, readable, bytes },
            Message::Frames { run, frames } => FromMaster::Frames { run, frames },
            Message::Heartbeat { start, readable, .. } => FromMaster::Heartbeat { start, readable },
            _ => return Err(StreamError::Unexpected),
        };
        take(core, message).await?;
    }
}

async fn report(mut to: OwnedWriteHalf, mut progress: watch::Receiver<Progress>) -> Result<(), StreamError> {
    loop {
        let Progress { received, flushed } = *progress.borrow_and_update();
        write_bytes(&mut to, &Message::Ack { received, flushed }.encode()).await?;
        // nothing new is said again after a while: the master hears that we live
        if let Ok(Err(_)) = tokio::time::timeout(HEARTBEAT, progress.changed()).await {
            return Ok(());
        }
    }
}
