//! The replica's end of a replication connection: finds the master, agrees with it on where to start, hands what comes to the
//! core one message at a time, and says how far the core is. Goes on for ever; a refusal is tried again, and logged each time.

use super::frame::Message;
use super::{HEARTBEAT, Progress, StreamError, read_message, write_bytes};
use crate::api::{FromMaster, Request};
use crate::handle::CoreHandle;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause before a connection is tried again; after a refusal, which will not go away by itself, longer.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_REFUSED: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// Follows the master at `address` until `shutdown`.
pub async fn follow(
    core: CoreHandle,
    address: SocketAddr,
    progress: watch::Receiver<Progress>,
    shutdown: CancellationToken,
) {
    let mut last = String::new();
    loop {
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = once(&core, address, progress.clone()) => outcome,
        };
        let pause = match outcome {
            Err(StreamError::Core(_)) => return,
            Err(error @ (StreamError::Refused(_) | StreamError::Disagreed(_))) => {
                tracing::error!(%error, master = %address, "this replica cannot follow its master");
                PAUSE_REFUSED
            }
            Err(error) => {
                // the same reason once: a master may be away for long
                let text = error.to_string();
                if text != last {
                    tracing::warn!(%error, master = %address, "no connection to the master");
                    last = text;
                }
                PAUSE
            }
            Ok(()) => PAUSE,
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn once(
    core: &CoreHandle,
    address: SocketAddr,
    progress: watch::Receiver<Progress>,
) -> Result<(), StreamError> {
    let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address));
    let socket = connecting.await.map_err(|_| StreamError::Silence)??;
    socket.set_nodelay(true)?;
    let (mut from, mut to) = socket.into_split();
    let hello =
        core.call(|reply| Request::Look(Box::new(move |core, _| reply(core.replica_hello())))).await?;
    let hello = hello.ok_or(StreamError::Unexpected)?;
    write_bytes(&mut to, &Message::Hello(hello).encode()).await?;
    let welcome = match read_message(&mut from).await? {
        Message::Welcome(welcome) => welcome,
        Message::Refused(why) => return Err(StreamError::Refused(why)),
        _ => return Err(StreamError::Unexpected),
    };
    take(core, FromMaster::Welcome(welcome)).await?;
    tracing::info!(master = %address, "following the master");
    tokio::select! {
        outcome = receive(core, from) => outcome,
        outcome = report(to, progress) => outcome,
    }
}

async fn take(core: &CoreHandle, message: FromMaster) -> Result<(), StreamError> {
    let taken = core.call(|reply| Request::FromMaster(message, reply)).await?;
    taken.map_err(|refusal| StreamError::Disagreed(refusal.to_string()))
}

async fn receive(core: &CoreHandle, mut from: OwnedReadHalf) -> Result<(), StreamError> {
    loop {
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
