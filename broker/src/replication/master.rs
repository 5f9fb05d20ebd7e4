//! The master's end of a replication connection: takes a replica in, sends it what is new, hears how far it is. Bytes come from
//! the files, read on a blocking thread and one message at a time, so a replica that is slow or far behind stops nobody.

use super::epochs::{LogView, common_position};
use super::frame::{Hello, Message, Welcome};
use super::source::Source;
use super::{HEARTBEAT, Head, StreamError, read_message, write_bytes};
use crate::api::{ReplicaEvent, Request};
use crate::core::Core;
use crate::handle::{CoreHandle, NotTaken};
use bytes::Bytes;
use lifecycle::identity::{LogPosition, Name};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use store::disk::Disk;
use store::journal::JournalView;
use store::segment::SegmentConfig;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Most connections at once: replicas, and some that come back before they are known to be gone.
const CONNECTIONS_MAX: usize = 2 * super::followers::REPLICAS_MAX;
/// How long a word waits when the core's queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

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
    /// The journal.
    pub journal: JournalView,
    /// A replica's disk is waited for.
    pub waits_for_disk: bool,
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
    let Message::Hello(hello) = read_message(&mut from).await? else { return Err(StreamError::Unexpected) };
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
    let joined = |reply| Request::Replica(ReplicaEvent::Joined { id: id.clone(), at, reply });
    if let Err(error) = master.core.call(joined).await? {
        write_bytes(&mut to, &Message::Refused(error.to_string()).encode()).await?;
        return Err(StreamError::Disagreed(error.to_string()));
    }
    let sent = Arc::new(AtomicU64::new(at.0));
    let outcome = async {
        write_bytes(&mut to, &Message::Welcome(welcome).encode()).await?;
        let stream = Stream { heads, source: Some(source), sent: sent.clone(), told: LogPosition(0), to };
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

/// Compares the two logs, and finds the places to send from.
async fn admit(hello: &Hello, master: &Arc<Master>) -> Result<(Welcome, Source), StreamError> {
    let differs = |what: String| Err(StreamError::Disagreed(what));
    if hello.broker_name != master.broker_name {
        return differs(format!("this is replica group {}, not {}", master.broker_name, hello.broker_name));
    }
    let size = master.segments.segment_size_bytes;
    if hello.segment_bytes != size {
        return differs(format!("segment_bytes is {size} here and {} there", hello.segment_bytes));
    }
    let (log, start) = look(&master.core, |core| (core.log_view(), core.log_start())).await?;
    let common = common_position(&log, &hello.log).map_err(|e| StreamError::Disagreed(e.to_string()))?;
    if common < start {
        return differs(format!(
            "the log begins at {}, the replica needs {}: copy the folder",
            start.0, common.0
        ));
    }
    let (view, after) = (master.journal.clone(), hello.journal);
    check_journal(&view, after, &log).map_err(StreamError::Disagreed)?;
    let (disk, segments) = (master.disk.clone(), master.segments.clone());
    let source = blocking(move || Source::open(disk, &segments, (&view, after), common)).await?;
    Ok((Welcome { start: common, waits_for_disk: master.waits_for_disk, log }, source))
}

/// The journal must still have every frame the replica lacks.
fn check_journal(
    view: &JournalView,
    after: lifecycle::position::Position,
    log: &LogView,
) -> Result<(), String> {
    let runs = view.incarnations();
    if after.sequence == 0 {
        let first = log.epochs.first().map(|(epoch, _)| epoch.incarnation);
        let whole = runs.first().is_some_and(|run| Some(run.incarnation) == first && run.first_sequence == 1);
        return whole
            .then_some(())
            .ok_or_else(|| "the journal's first frames are gone: copy the folder".into());
    }
    let Some(run) = runs.iter().find(|run| run.incarnation == after.incarnation) else {
        return Err(format!("run {} of the replica's journal is not known here", after.incarnation));
    };
    if after.sequence > run.last_sequence && run.is_live {
        return Err("the replica has journal frames that were never written".into());
    }
    if after.sequence > run.last_sequence {
        tracing::warn!(run = %run.incarnation, here = run.last_sequence, there = after.sequence,
            "a replica holds journal frames that a power cut took here: it keeps them");
    }
    Ok(())
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
    /// The readable end last told.
    told: LogPosition,
    to: OwnedWriteHalf,
}

impl Stream {
    async fn run(mut self) -> Result<(), StreamError> {
        loop {
            let head = *self.heads.borrow_and_update();
            while let Some(bytes) = self.next(head).await? {
                write_bytes(&mut self.to, &bytes).await?;
            }
            let news = if self.told < head.readable {
                true
            } else {
                match tokio::time::timeout(HEARTBEAT, self.heads.changed()).await {
                    Ok(Ok(())) => false,
                    // the broker has stopped
                    Ok(Err(_)) => return Ok(()),
                    Err(_) => true,
                }
            };
            if news {
                let Head { start, end, readable, .. } = head;
                write_bytes(&mut self.to, &Message::Heartbeat { start, end, readable }.encode()).await?;
                self.told = readable;
            }
        }
    }

    /// The next message as bytes, read and checksummed on another thread.
    async fn next(&mut self, head: Head) -> Result<Option<Bytes>, StreamError> {
        let Some(mut source) = self.source.take() else { return Ok(None) };
        let (source, message) = blocking(move || {
            let message = source.next(&head)?;
            Ok((source, message.map(|message| (end_of(&message), message.encode()))))
        })
        .await?;
        self.source = Some(source);
        let Some((end, bytes)) = message else { return Ok(None) };
        self.sent.fetch_max(end.0, Ordering::SeqCst);
        Ok(Some(bytes))
    }
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
