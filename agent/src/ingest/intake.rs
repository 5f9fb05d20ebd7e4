//! Owns the order of one source's frames: decodes them, drops duplicates by number, waits for stragglers, and names what is
//! missing. Pure: no IO, no clock. Called by the agent's loop with every batch; what comes out is folded in that order.
//!
//! A hole is waited for, then asked for again (the caller opens a new stream at [`Intake::position`]), and only then a
//! gap in the evidence, which reaches to the next frame that can be read: payloads lean on earlier ones.

use super::held::{Held, is_reset};
use super::{Batch, RunEnd};
use bytes::Bytes;
use lifecycle::frame::{Frame, FrameDecoder};
use lifecycle::identity::Incarnation;
use lifecycle::position::Position;
use std::collections::{BTreeMap, VecDeque};

/// Most frames that wait for an earlier one.
pub const REORDER_FRAMES_MAX: usize = 8_192;
/// Most bytes that wait for an earlier frame.
pub const REORDER_BYTES_MAX: usize = 16 << 20;
/// How long a missing frame is waited for before it is asked for again.
pub const HOLE_PATIENCE_MS: u64 = 1_000;
/// How often missing frames are asked for again before they are given up.
pub const ASKS_MAX: u8 = 3;
/// Finished runs whose late duplicates are recognised.
pub const PAST_RUNS_MAX: usize = 64;
/// End of a gap whose length nobody knows.
pub const UNKNOWN_END: u64 = u64::MAX;

/// No run gets so far; larger numbers in a batch are not believed.
pub const SEQUENCE_MAX: u64 = 1 << 62;

/// What to fold next.
#[derive(Clone, PartialEq, Debug)]
pub enum Step {
    /// A frame, exactly once and in order.
    Frame { position: Position, frame: Frame },
    /// Frames that will never be seen.
    Gap(Gap),
    /// Nothing of `ended` follows; `next` begins at its first frame.
    RunEnded { ended: Incarnation, next: Incarnation },
}

/// Missing evidence: frames `from..=to` of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The run.
    pub incarnation: Incarnation,
    /// The first missing frame.
    pub from: u64,
    /// The last one; [`UNKNOWN_END`] when nobody knows.
    pub to: u64,
    /// Why, for people.
    pub text: &'static str,
}

/// Whether the stream must be opened again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// All is well.
    More,
    /// Read again after [`Intake::position`].
    Again,
}

/// The state of one source's stream.
#[derive(Default)]
pub struct Intake {
    /// The last frame that came out, or was given up.
    position: Position,
    decoder: FrameDecoder,
    /// The last decoded frame; `None`: only a reset point helps.
    decoded_to: Option<u64>,
    waiting: BTreeMap<u64, Bytes>,
    waiting_bytes: usize,
    /// The stream said that everything up to here was sent.
    claimed_to: u64,
    run_end: Option<RunEnd>,
    hole_since_ms: Option<u64>,
    asked: u8,
    /// How far the run was when the current stream first said so.
    first_head: Option<u64>,
    /// The run goes on: it grew under the stream, or its end was waited at. A closed run does neither.
    live: bool,
    /// Everything that was there when the run was first seen to be the newest was folded.
    replayed: bool,
    past: VecDeque<Incarnation>,
    /// Frames the broker may still lose.
    pub held: Held,
    /// Newest frame and flushed position of the current run, as its source says.
    pub head_sequence: u64,
    /// See `head_sequence`.
    pub flushed_sequence: u64,
}

impl Intake {
    /// Goes on after `position`.
    pub fn new(position: Position, held: Held) -> Self {
        Intake { position, held, ..Default::default() }
    }

    /// Where a new stream must begin.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Takes over frames that came another way (kept raw frames, a snapshot).
    pub fn advance(&mut self, position: Position) {
        if position.incarnation != self.position.incarnation {
            // how far another run was says nothing about this one
            self.head_sequence = 0;
            self.flushed_sequence = 0;
            self.asked = 0;
        }
        self.position = position;
    }

    /// A new stream after [`Self::position`] begins.
    pub fn restart(&mut self) {
        self.decoder = FrameDecoder::new();
        self.decoded_to = None;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.claimed_to = 0;
        self.run_end = None;
        self.hole_since_ms = None;
        self.first_head = None;
        self.live = false;
    }

    /// Whether everything the source has was folded.
    pub fn caught_up(&self) -> bool {
        self.live && !self.has_hole() && self.position.sequence >= self.head_sequence
    }

    /// Whether the intake has been at the end once since the agent started, as it then was.
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// The newest frame the source is known to have; `None` while a newer run may exist, or nothing was heard.
    pub fn head(&self) -> Option<Position> {
        let sequence = self.head_sequence.max(self.position.sequence);
        self.live.then_some(Position { sequence, ..self.position })
    }

    /// Whether something is known to be missing that may still come.
    pub fn has_hole(&self) -> bool {
        !self.waiting.is_empty() || self.claimed_to > self.position.sequence || self.run_end.is_some()
    }

    /// Takes one batch; `out` gets what can be folded now.
    pub fn take(&mut self, batch: Batch, now_ms: u64, out: &mut Vec<Step>) -> Want {
        let last = batch.run_end.map_or(0, |end| end.last_sequence);
        if batch.first_sequence > SEQUENCE_MAX || last > SEQUENCE_MAX {
            tracing::warn!(first = batch.first_sequence, last, "frame number out of range, batch ignored");
            return Want::More;
        }
        if self.past.contains(&batch.incarnation) {
            return Want::More;
        }
        if self.position.incarnation == Incarnation::NONE {
            self.position.incarnation = batch.incarnation;
        }
        if batch.incarnation != self.position.incarnation {
            // the old run never said that it was over, or not all of it came: ask again, then give its rest up
            if self.asked < ASKS_MAX {
                return self.ask_again();
            }
            self.give_up_run(batch.incarnation, out);
        }
        let first_head = *self.first_head.get_or_insert(batch.head_sequence);
        self.live |= batch.head_sequence > first_head || (batch.frames.is_empty() && batch.run_end.is_none());
        self.head_sequence = self.head_sequence.max(batch.head_sequence);
        self.flushed_sequence = self.flushed_sequence.max(batch.flushed_sequence);
        self.claimed_to =
            self.claimed_to.max((batch.first_sequence + batch.frames.len() as u64).saturating_sub(1));
        for (sequence, payload) in (batch.first_sequence..).zip(batch.frames) {
            if self.decoded_to.is_none_or(|decoded| sequence > decoded) {
                self.waiting_bytes += payload.len();
                if let Some(twice) = self.waiting.insert(sequence, payload) {
                    self.waiting_bytes -= twice.len();
                }
            }
        }
        self.run_end = batch.run_end.or(self.run_end);
        let want = self.drain(out);
        self.held.flushed(batch.incarnation, batch.flushed_sequence);
        if want == Want::Again || !self.is_over_full() {
            return self.note_hole(now_ms, want);
        }
        let want = self.no_more_patience(out);
        self.note_hole(now_ms, want)
    }

    /// Gives a hole up for which nothing came in time.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Step>) -> Want {
        match self.hole_since_ms {
            Some(since) if now_ms.saturating_sub(since) >= HOLE_PATIENCE_MS => {
                self.hole_since_ms = None;
                let want = self.no_more_patience(out);
                self.note_hole(now_ms, want)
            }
            _ => Want::More,
        }
    }

    fn is_over_full(&self) -> bool {
        self.waiting.len() > REORDER_FRAMES_MAX || self.waiting_bytes > REORDER_BYTES_MAX
    }

    fn note_hole(&mut self, now_ms: u64, want: Want) -> Want {
        self.hole_since_ms = self.has_hole().then(|| self.hole_since_ms.unwrap_or(now_ms));
        self.replayed |= self.live && self.first_head.is_some_and(|head| self.position.sequence >= head);
        want
    }

    fn ask_again(&mut self) -> Want {
        self.asked += 1;
        Want::Again
    }

    fn no_more_patience(&mut self, out: &mut Vec<Step>) -> Want {
        if self.asked < ASKS_MAX {
            return self.ask_again();
        }
        // what waits behind the hole can only be read from a reset point on
        self.decoded_to = None;
        self.drain(out);
        if self.waiting.is_empty()
            && let Some(end) = self.run_end
        {
            self.gap_to(end.last_sequence, "end of the run was not delivered", out);
            self.switch_run(end.next, out);
        } else if self.waiting.is_empty() && self.claimed_to > self.position.sequence {
            self.gap_to(self.claimed_to, "frames were not delivered", out);
        }
        Want::More
    }

    /// Decodes what is next in line.
    fn drain(&mut self, out: &mut Vec<Step>) -> Want {
        loop {
            if self.decoded_to.is_none() && !self.find_reset(out) {
                return match self.waiting.is_empty() {
                    true => self.end_of_run(out),
                    false => self.ask_again(),
                };
            }
            let Some(next) = self.decoded_to.map(|decoded| decoded + 1) else { continue };
            let Some(payload) = self.remove_waiting(next) else { return self.end_of_run(out) };
            match self.decoder.decode(&payload) {
                Ok(frame) => {
                    self.decoded_to = Some(next);
                    let position = Position { sequence: next, ..self.position };
                    self.held.push(position, payload);
                    if next > self.position.sequence {
                        self.position = position;
                        self.asked = 0;
                        out.push(Step::Frame { position, frame });
                    }
                }
                Err(error) => {
                    tracing::warn!(sequence = next, %error, "frame cannot be decoded");
                    self.decoded_to = None;
                    // it may have been spoilt on the way
                    if self.asked < ASKS_MAX {
                        return self.ask_again();
                    }
                }
            }
        }
    }

    /// Drops waiting frames up to a reset point. Returns false when there is none, or when reading there would skip frames
    /// that were not asked for again yet.
    fn find_reset(&mut self, out: &mut Vec<Step>) -> bool {
        while let Some((sequence, payload)) = self.waiting.first_key_value() {
            let sequence = *sequence;
            if is_reset(payload) {
                if sequence > self.position.sequence + 1 {
                    if self.asked < ASKS_MAX {
                        return false;
                    }
                    self.gap_to(sequence - 1, "frames are not kept any more, or cannot be read", out);
                }
                self.decoded_to = Some(sequence - 1);
                return true;
            }
            self.remove_waiting(sequence);
        }
        false
    }

    fn end_of_run(&mut self, out: &mut Vec<Step>) -> Want {
        if let Some(end) = self.run_end
            && self.position.sequence >= end.last_sequence
        {
            self.take_held(out);
            self.held.closed(self.position.incarnation, end.last_sequence);
            self.switch_run(end.next, out);
        }
        Want::More
    }

    /// The broker lost the end of this run; what was held from before a restart of the agent stays valid evidence.
    fn take_held(&mut self, out: &mut Vec<Step>) {
        for (position, frame) in self.held.decode(self.position.incarnation) {
            if position.sequence == self.position.sequence + 1 {
                self.position = position;
                out.push(Step::Frame { position, frame });
            }
        }
    }

    fn give_up_run(&mut self, next: Incarnation, out: &mut Vec<Step>) {
        match self.run_end {
            Some(end) => self.gap_to(end.last_sequence, "end of the run was not delivered", out),
            None => self.gap_to(UNKNOWN_END, "the run's end was never stated", out),
        }
        self.switch_run(next, out);
    }

    fn switch_run(&mut self, next: Incarnation, out: &mut Vec<Step>) {
        let ended = self.position.incarnation;
        self.past.push_back(ended);
        if self.past.len() > PAST_RUNS_MAX {
            self.past.pop_front();
        }
        self.restart();
        self.position = Position { incarnation: next, sequence: 0 };
        self.head_sequence = 0;
        self.flushed_sequence = 0;
        self.asked = 0;
        out.push(Step::RunEnded { ended, next });
    }

    fn gap_to(&mut self, to: u64, text: &'static str, out: &mut Vec<Step>) {
        let Position { incarnation, sequence } = self.position;
        if to > sequence {
            out.push(Step::Gap(Gap { incarnation, from: sequence + 1, to, text }));
            self.position.sequence = to;
        }
    }

    fn remove_waiting(&mut self, sequence: u64) -> Option<Bytes> {
        let payload = self.waiting.remove(&sequence)?;
        self.waiting_bytes -= payload.len();
        Some(payload)
    }
}

#[cfg(test)]
mod tests;
