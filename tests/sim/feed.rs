//! Owns the way from the broker's journal to the agent: reads frames as the production feed does, cuts them into batches, and lets
//! them be late, lost, doubled, or broken off. Never changes a frame (a mutant may). Called by the watcher with every step.

use crate::watcher::{Manner, Tamper};
use agent::ingest::pump::{EventKind, Order};
use agent::ingest::{Batch, RunEnd, Snapshot, SourceError};
use agent::judge::Answer;
use agent::judge::questions::Question;
use broker::core::Core;
use bytes::Bytes;
use lifecycle::frame::{FrameDecoder, FrameEncoder};
use lifecycle::identity::{Incarnation, Name};
use lifecycle::position::Position;
use std::collections::VecDeque;
use store::disk_sim::SimRng;
use store::journal::{IncarnationInfo, JournalItem, JournalReader};
use tokio::sync::mpsc;
use wire::message::StoredMessage;
use wire::properties;

const HEARTBEAT_MS: u64 = 1_000;
/// Batches one step reads.
const BATCHES_PER_STEP: usize = 8;

struct Stream {
    reader: JournalReader,
    rewriter: Rewriter,
    run: Incarnation,
    generation: u64,
    carried: Option<(u64, Bytes)>,
    next_sequence: u64,
    beat_ms: u64,
}

/// Changes the facts of a run's frames, for mutants.
#[derive(Default)]
struct Rewriter {
    decoder: FrameDecoder,
    encoder: FrameEncoder,
}

impl Rewriter {
    /// As far as the reset point a reader of `from` begins with: an encoder counts from where the run does.
    fn up_to(core: &Core, from: Position, tamper: Option<Tamper>) -> Rewriter {
        let mut rewriter = Rewriter::default();
        let first = |sequence| core.journal_view().read_from(Position { sequence, ..from });
        let (Some(_), Ok(mut reader), Ok(mut all)) = (tamper, first(from.sequence), first(1)) else {
            return rewriter;
        };
        let begins = match reader.next() {
            Ok(Some(JournalItem::Frame { position, .. })) if position.incarnation == from.incarnation => {
                position
            }
            _ => return rewriter,
        };
        while let Ok(Some(JournalItem::Frame { position, payload, .. })) = all.next()
            && position != begins
        {
            rewriter.frame(payload, tamper);
        }
        rewriter
    }

    fn frame(&mut self, payload: &[u8], tamper: Option<Tamper>) -> Bytes {
        let Some(tamper) = tamper else { return Bytes::copy_from_slice(payload) };
        let mut frame =
            self.decoder.decode(payload).expect("the broker wrote it, and it is read from a reset point");
        tamper(&mut frame.facts);
        let mut out = Vec::new();
        self.encoder.encode(frame.now, frame.reset, &frame.facts, &mut out);
        out.into()
    }
}

/// See the module text.
pub(crate) struct Feed {
    orders: Option<mpsc::Receiver<Order>>,
    pending: Option<Order>,
    stream: Option<Stream>,
    wire: VecDeque<(u64, EventKind)>,
    rng: SimRng,
    manner: Manner,
    is_broken: bool,
    /// Nothing passes.
    pub(crate) is_cut: bool,
    /// What the agent confirmed last.
    pub(crate) confirmed: Option<Position>,
}

impl Feed {
    pub(crate) fn new(seed: u64, manner: Manner) -> Feed {
        Feed {
            orders: None,
            pending: None,
            stream: None,
            wire: VecDeque::new(),
            rng: SimRng(seed ^ 0xFEED),
            manner,
            is_broken: false,
            is_cut: false,
            confirmed: None,
        }
    }

    /// What the connection does, in words.
    pub(crate) fn describe(&self) -> String {
        let stream = self.stream.as_ref().map(|stream| stream.next_sequence);
        let first = self.wire.front().map(|(due, _)| *due);
        format!(
            "stream at {stream:?}, {} on the wire from {first:?}, order {:?}",
            self.wire.len(),
            self.pending
        )
    }

    /// A new agent listens.
    pub(crate) fn connect(&mut self, orders: mpsc::Receiver<Order>) {
        self.orders = Some(orders);
        self.pending = None;
        self.stream = None;
        self.wire.clear();
    }

    /// The broker is gone; what is on its way arrives or not.
    pub(crate) fn broke(&mut self, arrives: bool) {
        // what was to say that the connection broke, or to answer a request, may be among what is lost: the client notices that
        let mut is_missed = self.stream.take().is_some();
        if !arrives {
            is_missed |= !self.wire.is_empty();
            self.wire.clear();
        }
        if is_missed {
            self.push(0, EventKind::Down(SourceError::Unavailable("connection broke".into())));
        }
    }

    /// The next event that has arrived.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<EventKind> {
        if self.is_cut || self.wire.front()?.0 > now_ms {
            return None;
        }
        self.wire.pop_front().map(|(_, kind)| kind)
    }

    /// Takes orders, and reads on.
    pub(crate) fn step(&mut self, now_ms: u64, broker: Option<&Core>) {
        while let Some(Ok(order)) = self.orders.as_mut().map(mpsc::Receiver::try_recv) {
            match order {
                Order::Confirm(position) => self.confirmed = Some(position),
                other => {
                    self.stream = None;
                    self.pending = Some(other);
                }
            }
        }
        let Some(core) = broker.filter(|_| !self.is_cut) else { return };
        match self.pending.take() {
            Some(Order::Read { after, generation }) => self.open(core, after, generation, now_ms),
            Some(Order::Snapshot) => {
                let snapshot = snapshot(core, now_ms);
                self.push(now_ms, EventKind::Snapshot(snapshot));
            }
            _ => {}
        }
        for _ in 0..BATCHES_PER_STEP {
            if !self.read(core, now_ms) {
                break;
            }
        }
    }

    fn open(&mut self, core: &Core, after: Position, generation: u64, now_ms: u64) {
        let from = Position { sequence: after.sequence + 1, ..after };
        match core.journal_view().read_from(from) {
            Ok(reader) => {
                self.stream = Some(Stream {
                    reader,
                    rewriter: Rewriter::up_to(core, from, self.manner.tamper),
                    run: after.incarnation,
                    generation,
                    carried: None,
                    next_sequence: after.sequence + 1,
                    beat_ms: now_ms,
                })
            }
            Err(error) if error.is_not_found() => {
                self.push(now_ms, EventKind::Down(SourceError::PositionGone))
            }
            Err(error) => panic!("the disk works: {error}"),
        }
    }

    /// Reads one batch; whether there may be more.
    fn read(&mut self, core: &Core, now_ms: u64) -> bool {
        let Some(mut stream) = self.stream.take() else { return false };
        let limit = 1 + self.rng.below(self.manner.chunk_max) as usize;
        let runs = core.journal_view().incarnations();
        let at =
            runs.iter().position(|run| run.incarnation == stream.run).expect("a run that is read is there");
        let (head, flushed) = head(core, &runs[at]);
        let mut frames: Vec<Bytes> = Vec::new();
        let mut first = 0;
        let mut closed = false;
        let mut at_end = false;
        if let Some((sequence, frame)) = stream.carried.take() {
            first = sequence;
            frames.push(frame);
        }
        while frames.len() < limit {
            match stream.reader.next().expect("the disk works") {
                Some(JournalItem::Frame { position, payload, .. }) if position.incarnation == stream.run => {
                    let expected = first + frames.len() as u64;
                    let payload = stream.rewriter.frame(payload, self.manner.tamper);
                    if !frames.is_empty() && position.sequence != expected {
                        stream.carried = Some((position.sequence, payload));
                        break;
                    }
                    if frames.is_empty() {
                        first = position.sequence;
                    }
                    frames.push(payload);
                }
                Some(JournalItem::Hole { incarnation, .. }) if incarnation == stream.run => {}
                Some(_) => {
                    closed = true;
                    break;
                }
                None => {
                    at_end = true;
                    break;
                }
            }
        }
        let generation = stream.generation;
        let batch = |first_sequence, frames, run_end| Batch {
            broker_name: crate::world::BROKER.into(),
            incarnation: runs[at].incarnation,
            first_sequence,
            frames,
            flushed_sequence: flushed,
            head_sequence: head,
            run_end,
        };
        if !frames.is_empty() {
            stream.next_sequence = first + frames.len() as u64;
            stream.beat_ms = now_ms + HEARTBEAT_MS;
            self.send(batch(first, frames, None), generation, now_ms);
        } else if at_end && now_ms >= stream.beat_ms {
            stream.beat_ms = now_ms + HEARTBEAT_MS;
            self.send(batch(stream.next_sequence, Vec::new(), None), generation, now_ms);
        }
        if std::mem::take(&mut self.is_broken) {
            return false;
        }
        if closed {
            let next = runs.get(at + 1).expect("a closed run has a successor").incarnation;
            let end = RunEnd { last_sequence: head, next };
            self.send(batch(head + 1, Vec::new(), Some(end)), generation, now_ms);
            if std::mem::take(&mut self.is_broken) {
                return false;
            }
            self.open(core, Position { incarnation: next, sequence: 0 }, generation, now_ms);
            return true;
        }
        self.stream = Some(stream);
        !at_end
    }

    fn send(&mut self, batch: Batch, generation: u64, now_ms: u64) {
        let delay = self.rng.below(self.manner.delay_max_ms + 1);
        if self.rng.below(1000) < self.manner.break_permille {
            // the transport keeps order and loses nothing silently: what is lost is the connection, with all that follows
            self.is_broken = true;
            self.push(now_ms + delay, EventKind::Down(SourceError::Unavailable("connection broke".into())));
            return;
        }
        if self.rng.below(1000) < self.manner.twice_permille {
            self.push(now_ms + delay, EventKind::Batch { batch: batch.clone(), generation });
        }
        self.push(now_ms + delay, EventKind::Batch { batch, generation });
    }

    fn push(&mut self, due_ms: u64, kind: EventKind) {
        let last = self.wire.back().map_or(0, |(due, _)| *due);
        self.wire.push_back((due_ms.max(last), kind));
    }
}

fn head(core: &Core, run: &IncarnationInfo) -> (u64, u64) {
    if !run.is_live {
        return (run.last_sequence, run.last_sequence);
    }
    let (position, flushed) = core.journal_head();
    (position.sequence, flushed)
}

fn snapshot(core: &Core, mono_ms: u64) -> Snapshot {
    let now = lifecycle::clock::Now { mono_ms, wall_ms: 0 };
    let runs = core.journal_view().incarnations();
    let oldest = runs.iter().find(|run| run.last_sequence > 0).unwrap_or(&runs[0]);
    let first_epoch = core.state_view().epochs.first().map(|(epoch, _)| (epoch.number, epoch.incarnation));
    let history_complete = first_epoch == Some((1, oldest.incarnation)) && oldest.first_sequence == 1;
    let (frame, position) = core.snapshot(now).expect("the journal can be written");
    Snapshot {
        broker_name: crate::world::BROKER.into(),
        position,
        oldest: Position { incarnation: oldest.incarnation, sequence: oldest.first_sequence - 1 },
        history_complete,
        frames: vec![frame.into()],
    }
}

/// What the broker answers to a question of the judge.
pub(crate) fn answer(core: &mut Core, question: Question) -> Answer {
    let Question { number, id, topic, place } = question;
    let mut answer = Answer { number, places: Vec::new(), tag: None, complete: true };
    let name: Name = crate::world::BROKER.into();
    if let Some((_, identity)) = place {
        let found = core.inspect(identity).ok().flatten();
        answer.tag = found.and_then(|found| {
            let (message, _) = StoredMessage::decode(&found.record).ok()?;
            Some(message.properties.get(properties::TAGS).unwrap_or_default().to_owned())
        });
        return answer;
    }
    match core.locate(&id) {
        Ok(found) => {
            answer.complete = found.complete;
            let here = found.messages.into_iter().filter(|found| topic.is_empty() || found.topic == topic);
            answer.places = here.map(|found| (name.clone(), found.identity)).collect();
        }
        Err(_) => answer.complete = false,
    }
    answer
}
