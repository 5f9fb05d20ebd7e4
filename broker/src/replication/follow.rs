//! The replica's end of a replication connection: finds the master among the members, agrees with it on where to start, hands what
//! comes to the core, as much as is there in one turn, and says how far the core is. Goes on for ever, from member to member.

use super::frame::{HEADER_LEN, Header, Hello, Message, Standing};
use super::{HEARTBEAT, Progress, StreamError, read_message, write_bytes};
use crate::api::{FromMaster, ReplyFn, Request};
use crate::core::Core;
use crate::handle::CoreHandle;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause before the next member is tried.
const PAUSE: Duration = Duration::from_millis(200);
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(3);
/// What is read from the connection at once, and how many messages are taken in one turn.
const BATCH_BYTES: usize = 256 * 1024;
const BATCH_MESSAGES: usize = 64;
/// A flush takes a millisecond or so: so long, what was received is not said without it.
const FLUSH_PAUSE: Duration = Duration::from_millis(20);

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
    let Introduced { from, to, remoting, waits_for_disk } = introduce(&follower.core, address, false).await?;
    *follower.master.lock().unwrap_or_else(PoisonError::into_inner) = remoting.parse().ok();
    tracing::info!(master = %address, "following the master");
    tokio::select! {
        outcome = receive(&follower.core, from, None) => outcome,
        outcome = report(to, follower.progress.clone(), waits_for_disk) => outcome,
    }
}

/// Copies from a member that is no master, until everything it has is here.
pub(super) async fn copy(
    core: &CoreHandle,
    address: SocketAddr,
    progress: watch::Receiver<Progress>,
    until: Standing,
) -> Result<(), StreamError> {
    let Introduced { from, to, .. } = introduce(core, address, true).await?;
    tokio::select! {
        outcome = receive(core, from, Some(until)) => outcome,
        outcome = report(to, progress, false) => outcome,
    }
}

/// A connection to a member that has agreed.
struct Introduced {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
    /// Where clients reach it.
    remoting: String,
    /// It waits for our disk.
    waits_for_disk: bool,
}

/// Connects, and agrees on where to start.
async fn introduce(core: &CoreHandle, address: SocketAddr, copies: bool) -> Result<Introduced, StreamError> {
    let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address));
    let socket = connecting.await.map_err(|_| StreamError::Silence)??;
    socket.set_nodelay(true)?;
    let (from, mut to) = socket.into_split();
    let mut from = BufReader::with_capacity(BATCH_BYTES, from);
    let hello =
        core.call(|reply| Request::Look(Box::new(move |core, _| reply(core.replica_hello())))).await?;
    let hello = Hello { copies, ..hello.ok_or(StreamError::Unexpected)? };
    write_bytes(&mut to, &Message::Hello(hello).encode()).await?;
    let welcome = match read_message(&mut from).await? {
        Message::Welcome(welcome) => welcome,
        Message::Refused(why) => return Err(StreamError::Refused(why)),
        _ => return Err(StreamError::Unexpected),
    };
    let (remoting, waits_for_disk) = (welcome.remoting.clone(), welcome.waits_for_disk);
    take(core, vec![FromMaster::Welcome { welcome, copies }]).await?;
    Ok(Introduced { from, to, remoting, waits_for_disk })
}

async fn take(core: &CoreHandle, messages: Vec<FromMaster>) -> Result<(), StreamError> {
    let taken = core.call(|reply| Request::FromMaster(messages, reply)).await?;
    taken.map_err(|refusal| StreamError::Disagreed(refusal.to_string()))
}

async fn receive(
    core: &CoreHandle,
    mut from: BufReader<OwnedReadHalf>,
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
        // what has come together is taken in one turn
        let mut messages = vec![for_core(read_message(&mut from).await?)?];
        while messages.len() < BATCH_MESSAGES && holds_message(from.buffer())? {
            messages.push(for_core(read_message(&mut from).await?)?);
        }
        take(core, messages).await?;
    }
}

fn for_core(message: Message) -> Result<FromMaster, StreamError> {
    Ok(match message {
        Message::Log { position, readable, bytes } => FromMaster::Log { position, readable, bytes },
        Message::Frames { run, frames } => FromMaster::Frames { run, frames },
        Message::Heartbeat { start, readable, .. } => FromMaster::Heartbeat { start, readable },
        _ => return Err(StreamError::Unexpected),
    })
}

/// Whether a whole message is here already.
fn holds_message(bytes: &[u8]) -> Result<bool, StreamError> {
    let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Ok(false) };
    Ok(payload.len() >= Header::decode(head)?.len)
}

async fn report(
    mut to: OwnedWriteHalf,
    mut progress: watch::Receiver<Progress>,
    waits_for_disk: bool,
) -> Result<(), StreamError> {
    let mut told = Progress::default();
    loop {
        if waits_for_disk && progress.borrow().flushed <= told.flushed {
            // a master that waits for the disk needs no word of what is on its way there
            let flushed = progress.wait_for(|now| now.flushed > told.flushed);
            if let Ok(Err(_)) = tokio::time::timeout(FLUSH_PAUSE, flushed).await {
                return Ok(());
            }
        }
        told = *progress.borrow_and_update();
        let Progress { received, flushed } = told;
        write_bytes(&mut to, &Message::Ack { received, flushed }.encode()).await?;
        // nothing new is said again after a while: the master hears that we live
        if let Ok(Err(_)) = tokio::time::timeout(HEARTBEAT, progress.changed()).await {
            return Ok(());
        }
    }
}
