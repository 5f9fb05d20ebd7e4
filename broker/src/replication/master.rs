//! The master's end of a replication connection: takes a replica in, sends it what is new, hears how far it is. Bytes come from
//! the files, a little at a time, and what is not new is read on a blocking thread: a replica that is slow or far behind stops nobody.

use super::agreement::{Agreement, Ground};
use super::frame::{Ask, Hello, Message, Standing, Welcome};
use super::mastership::{Change, Mandate, Mastership, Part};
use super::source::Source;
use super::{HEARTBEAT, Head, StreamError, read_message, write_bytes};
use crate::api::{ReplicaEvent, Request};
use crate::core::Core;
use crate::handle::{CoreHandle, NotTaken};
use lifecycle::identity::{LogPosition, Name};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::disk::Disk;
use store::error::StoreError;
use store::segment::SegmentConfig;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Most connections at once: replicas, and some that come back before they are known to be gone.
const CONNECTIONS_MAX: usize = 2 * super::followers::REPLICAS_MAX;
/// How long a word waits when the core's queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);
/// How long facts wait for messages to travel with; as much of what consumers did a fail-over may take back.
const FACTS_PAUSE: Duration = Duration::from_millis(5);
/// The end of the log that is taken to be in memory still.
const HOT_BYTES: u64 = 1 << 20;
/// About as much is written to a connection at once.
const WRITE_BYTES: usize = 256 * 1024;

/// What streams need of the master.
pub struct Master {
    /// The replica group.
    pub broker_name: String,
    /// The core.
    pub core: CoreHandle,
    /// What may be sent.
    pub heads: watch::Sender<Head>,
    /// Where the log's files are.
    pub disk: Arc<dyn Disk>,
    /// How they are cut.
    pub segments: SegmentConfig,
    /// A replica's disk is waited for.
    pub waits_for_disk: bool,
    /// Where clients reach this member.
    pub remoting: String,
    /// What this member was told and has promised.
    pub mandate: SharedMandate,
    /// Hears that this member is master no more.
    pub changes: mpsc::Sender<Change>,
}

/// A member's mandate, where streams and the server's own thread keep promises in it.
#[derive(Clone)]
pub struct SharedMandate {
    mastership: Arc<Mutex<Box<dyn Mastership>>>,
    /// What the settings say where nobody has said anything.
    otherwise: Mandate,
}

impl SharedMandate {
    /// What `mastership` says, and where it is silent the settings.
    pub fn new(mastership: Box<dyn Mastership>, otherwise: Mandate) -> SharedMandate {
        SharedMandate { mastership: Arc::new(Mutex::new(mastership)), otherwise }
    }

    /// What was said; `None`: nothing.
    pub fn said(&self) -> Option<Mandate> {
        self.mastership.lock().unwrap_or_else(PoisonError::into_inner).mandate()
    }

    /// What holds.
    pub fn holds(&self) -> Mandate {
        self.said().unwrap_or(self.otherwise)
    }

    /// Changes it; durable on return.
    pub fn change(&self, change: impl FnOnce(&mut Mandate)) -> Result<(), StoreError> {
        let mut mastership = self.mastership.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mandate = mastership.mandate().unwrap_or(self.otherwise);
        change(&mut mandate);
        mastership.record(mandate)
    }
}

/// Takes replicas until `shutdown`.
pub async fn serve(listener: TcpListener, master: Arc<Master>, shutdown: CancellationToken) {
    let mut streams = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) if streams.len() < CONNECTIONS_MAX => {
                    let (master, stop) = (master.clone(), shutdown.clone());
                    streams.spawn(async move {
                        if let Err(error) = take_in(socket, &master, &stop).await {
                            tracing::warn!(%peer, %error, "a replication connection ended");
                        }
                    });
                }
                Ok((_, peer)) => tracing::warn!(%peer, "too many replication connections: this one is closed"),
                Err(error) => {
                    tracing::warn!(%error, "no replication connection could be accepted");
                    tokio::time::sleep(FULL_PAUSE).await;
                }
            },
            Some(_) = streams.join_next() => {}
        }
    }
    while streams.join_next().await.is_some() {}
}

async fn take_in(
    socket: TcpStream,
    master: &Arc<Master>,
    stop: &CancellationToken,
) -> Result<(), StreamError> {
    socket.set_nodelay(true)?;
    let (mut from, mut to) = socket.into_split();
    let hello = match read_message(&mut from).await? {
        Message::Hello(hello) => hello,
        Message::Ask(ask) => {
            let answer = match stand(&ask, master).await {
                Ok(standing) => Message::Standing(standing),
                Err(error) => Message::Refused(error.to_string()),
            };
            return write_bytes(&mut to, &answer.encode()).await;
        }
        _ => return Err(StreamError::Unexpected),
    };
    // before the first look: nothing that is written from now on is missed
    let heads = master.heads.subscribe();
    let (welcome, source) = match admit(&hello, master).await {
        Ok(admitted) => admitted,
        Err(error) => {
            write_bytes(&mut to, &Message::Refused(error.to_string()).encode()).await?;
            return Err(error);
        }
    };
    let id: Name = hello.replica_id.as_str().into();
    let at = welcome.start;
    if hello.copies {
        return send_copy((from, to), (heads, welcome, source), stop).await;
    }
    let joined = |reply| Request::Replica(ReplicaEvent::Joined { id: id.clone(), at, reply });
    if let Err(error) = master.core.call(joined).await? {
        write_bytes(&mut to, &Message::Refused(error.to_string()).encode()).await?;
        return Err(StreamError::Disagreed(error.to_string()));
    }
    let sent = Arc::new(AtomicU64::new(at.0));
    let outcome = async {
        write_bytes(&mut to, &Message::Welcome(welcome).encode()).await?;
        let stream = Stream::new(heads, source, sent.clone(), to);
        tokio::select! {
            outcome = stream.run() => outcome,
            outcome = hear(from, &id, &sent, &master.core) => outcome,
            () = stop.cancelled() => Ok(()),
        }
    };
    let outcome = outcome.await;
    let left = tell(&master.core, || ReplicaEvent::Left { id: id.clone() }).await;
    outcome.and(left.map_err(StreamError::Core))
}

/// Says how this member stands, and keeps a promise on disk before it is said. A master that promises takes nothing more.
async fn stand(ask: &Ask, master: &Arc<Master>) -> Result<Standing, StreamError> {
    if ask.broker_name != master.broker_name {
        let what = format!("this is replica group {}, not {}", master.broker_name, ask.broker_name);
        return Err(StreamError::Disagreed(what));
    }
    let number = ask.number;
    let asked = look(&master.core, move |core| {
        let was_master = core.standing().is_master;
        let promised = number > 0 && core.promise(number);
        (core.standing(), promised, was_master)
    });
    let (standing, promised, was_master) = asked.await?;
    if number > 0 && !promised {
        // perhaps this very number was promised to somebody else: nobody may count it twice
        let what = format!("epoch {number} is not promised: {} was, or is", standing.promised.max(number));
        return Err(StreamError::Disagreed(what));
    }
    if promised {
        let mandate = master.mandate.clone();
        blocking(move || {
            Ok(mandate.change(|mandate| {
                mandate.promised = mandate.promised.max(number);
                if was_master {
                    mandate.part = Part::Slave;
                }
            })?)
        })
        .await?;
        tracing::warn!(by = %ask.replica_id, number, was_master, "another member stands for master: promised");
        if was_master {
            // full: it changes its part already
            master.changes.try_send(Change::Follow).ok();
        }
    }
    Ok(standing)
}

/// Sends what there is to a member that only copies; what it says is not for the core.
async fn send_copy(
    (mut from, mut to): (OwnedReadHalf, OwnedWriteHalf),
    (heads, welcome, source): (watch::Receiver<Head>, Welcome, Source),
    stop: &CancellationToken,
) -> Result<(), StreamError> {
    write_bytes(&mut to, &Message::Welcome(welcome).encode()).await?;
    let stream = Stream::new(heads, source, Arc::default(), to);
    let hear = async {
        loop {
            read_message(&mut from).await?;
        }
    };
    tokio::select! {
        outcome = stream.run() => outcome,
        outcome = hear => outcome,
        () = stop.cancelled() => Ok(()),
    }
}

/// Compares the two logs, and finds the places to send from.
async fn admit(hello: &Hello, master: &Arc<Master>) -> Result<(Welcome, Source), StreamError> {
    let ground = look(&master.core, |core| Ground::of(core)).await?;
    let Agreement { welcome, view, is_master } = ground.agree(hello)?;
    let (disk, segments) = (master.disk.clone(), master.segments.clone());
    let (start, journal) = (welcome.start, welcome.journal);
    let source = blocking(move || Source::open(disk, &segments, (&view, journal), start)).await?;
    let remoting = if is_master { master.remoting.clone() } else { String::new() };
    Ok((Welcome { waits_for_disk: master.waits_for_disk, remoting, ..welcome }, source))
}

async fn look<T: Send + 'static>(
    core: &CoreHandle,
    what: impl FnOnce(&mut Core) -> T + Send + 'static,
) -> Result<T, NotTaken> {
    core.call(|reply| Request::Look(Box::new(move |core, _| reply(what(core))))).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StreamError> + Send + 'static,
) -> Result<T, StreamError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(StreamError::Io(std::io::Error::other(error))),
    }
}

/// Tells the core, waiting while its queue is full: a word that is lost would be waited for.
async fn tell(core: &CoreHandle, event: impl Fn() -> ReplicaEvent) -> Result<(), NotTaken> {
    loop {
        match core.submit(Request::Replica(event())) {
            Err(NotTaken::Full) => tokio::time::sleep(FULL_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// The sending half.
struct Stream {
    heads: watch::Receiver<Head>,
    source: Option<Source>,
    /// Raised before bytes go out, so that no word about them can come first.
    sent: Arc<AtomicU64>,
    /// The head up to which everything was sent.
    told: Head,
    to: OwnedWriteHalf,
}

impl Stream {
    fn new(heads: watch::Receiver<Head>, source: Source, sent: Arc<AtomicU64>, to: OwnedWriteHalf) -> Stream {
        Stream { heads, source: Some(source), sent, told: Head::default(), to }
    }

    /// Until the broker stops, or the connection fails.
    async fn run(mut self) -> Result<(), StreamError> {
        loop {
            let head = *self.heads.borrow_and_update();
            let log_end = self.told.end;
            if head.end <= log_end && head != self.told {
                // facts alone, and what may be read, go with the next messages, if some come soon
                let more = self.heads.wait_for(|head| head.end > log_end);
                if let Ok(Err(_)) = tokio::time::timeout(FACTS_PAUSE, more).await.map(|more| more.map(drop)) {
                    return Ok(());
                }
            }
            let head = *self.heads.borrow_and_update();
            let mut said_readable = self.told.readable;
            while let Some(bytes) = self.next(head, &mut said_readable).await? {
                write_bytes(&mut self.to, &bytes).await?;
            }
            if said_readable < head.readable {
                self.heartbeat(head).await?;
            }
            self.told = head;
            match tokio::time::timeout(HEARTBEAT, self.heads.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(()),
                Err(_) => self.heartbeat(head).await?,
            }
        }
    }

    async fn heartbeat(&mut self, head: Head) -> Result<(), StreamError> {
        let Head { start, end, readable, .. } = head;
        write_bytes(&mut self.to, &Message::Heartbeat { start, end, readable }.encode()).await
    }

    /// The next messages as bytes. What was written just now is in the operating system's memory: reading it here is cheaper than
    /// asking another thread; a replica that lies behind is served by one, which may wait for the disk.
    async fn next(
        &mut self,
        head: Head,
        said_readable: &mut LogPosition,
    ) -> Result<Option<Vec<u8>>, StreamError> {
        let Some(mut source) = self.source.take() else { return Ok(None) };
        let gathered = if source.behind(&head) <= HOT_BYTES {
            gather(&mut source, &head)?
        } else {
            let gathering = blocking(move || {
                let gathered = gather(&mut source, &head)?;
                Ok((source, gathered))
            });
            let gathered;
            (source, gathered) = gathering.await?;
            gathered
        };
        self.source = Some(source);
        let Some(Gathered { end, bytes }) = gathered else { return Ok(None) };
        if end > LogPosition(0) {
            *said_readable = head.readable;
        }
        self.sent.fetch_max(end.0, Ordering::SeqCst);
        Ok(Some(bytes))
    }
}

/// Messages for one write.
struct Gathered {
    /// Where the log bytes among them end; 0: there are none.
    end: LogPosition,
    bytes: Vec<u8>,
}

/// Some messages, together about [`WRITE_BYTES`] long; `None` when all up to `head` is sent.
fn gather(source: &mut Source, head: &Head) -> Result<Option<Gathered>, StreamError> {
    let mut bytes = Vec::new();
    let mut end = LogPosition(0);
    while bytes.len() < WRITE_BYTES
        && let Some(message) = source.next(head)?
    {
        end = end.max(end_of(&message));
        bytes.extend_from_slice(&message.encode());
    }
    Ok((!bytes.is_empty()).then_some(Gathered { end, bytes }))
}

fn end_of(message: &Message) -> LogPosition {
    match message {
        Message::Log { position, bytes, .. } => LogPosition(position.0 + bytes.len() as u64),
        _ => LogPosition(0),
    }
}

/// The hearing half.
async fn hear(
    mut from: OwnedReadHalf,
    id: &Name,
    sent: &AtomicU64,
    core: &CoreHandle,
) -> Result<(), StreamError> {
    loop {
        let Message::Ack { received, flushed } = read_message(&mut from).await? else {
            return Err(StreamError::Unexpected);
        };
        let sent = LogPosition(sent.load(Ordering::SeqCst));
        if flushed > received || received > sent {
            return Err(StreamError::ForgedAck);
        }
        tell(core, || ReplicaEvent::Acked { id: id.clone(), sent, received, flushed }).await?;
    }
}
