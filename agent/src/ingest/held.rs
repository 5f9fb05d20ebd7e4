//! Owns the payloads of one source's newest frames: those its broker has not flushed yet, with what is needed to decode them.
//! A power cut takes them from the broker, not from the agent. Pure. Used by the intake; written to disk with each checkpoint.

use bytes::Bytes;
use lifecycle::frame::{Frame, FrameDecoder};
use lifecycle::identity::Incarnation;
use lifecycle::position::Position;
use std::collections::VecDeque;

/// Runs kept beside the current one.
pub const OLD_RUNS_MAX: usize = 4;

const RESET_FLAG: u8 = 1;

/// Whether decoding may start at this payload.
pub fn is_reset(payload: &[u8]) -> bool {
    payload.first().is_some_and(|flags| flags & RESET_FLAG != 0)
}

/// Frames of one run, consecutive, the first a reset point.
#[derive(Debug, Default)]
struct Run {
    incarnation: Incarnation,
    frames: VecDeque<(u64, Bytes)>,
    /// Numbers of the reset points among them; the first is the first frame's.
    resets: VecDeque<u64>,
    flushed: u64,
}

impl Run {
    /// Drops frames before the second reset point; returns their payloads.
    fn drop_first_part(&mut self) -> impl Iterator<Item = (u64, Bytes)> + '_ {
        self.resets.pop_front();
        let end = self.resets.front().copied().unwrap_or(u64::MAX);
        let count = self.frames.partition_point(|(sequence, _)| *sequence < end);
        self.frames.drain(..count)
    }
}

/// Frames held, oldest run first.
#[derive(Debug, Default)]
pub struct Held {
    runs: VecDeque<Run>,
    bytes: usize,
    bytes_max: usize,
    /// Unflushed frames that were given up for want of room.
    pub dropped: u64,
}

impl Held {
    /// Holds at most `bytes_max` of payloads.
    pub fn new(bytes_max: usize) -> Self {
        Held { bytes_max, ..Default::default() }
    }

    /// Takes back what a checkpoint had kept.
    pub fn load(&mut self, frames: Vec<(Position, Bytes)>) {
        for (position, payload) in frames {
            self.push(position, payload);
        }
    }

    /// A frame was decoded. Frames that are held already, or do not follow and are no reset point, are not taken.
    pub fn push(&mut self, position: Position, payload: Bytes) {
        if self.runs.back().is_none_or(|run| run.incarnation != position.incarnation) {
            if self.runs.iter().any(|run| run.incarnation == position.incarnation) {
                return;
            }
            self.runs.push_back(Run { incarnation: position.incarnation, ..Default::default() });
        }
        let Some(run) = self.runs.back_mut() else { return };
        let last = run.frames.back().map(|(sequence, _)| *sequence);
        match last {
            Some(last) if position.sequence <= last => return,
            Some(last) if position.sequence == last + 1 => {}
            _ if !is_reset(&payload) => return,
            _ => {
                self.bytes -= run.frames.drain(..).map(|(_, payload)| payload.len()).sum::<usize>();
                run.resets.clear();
            }
        }
        self.bytes += payload.len();
        if is_reset(&payload) {
            run.resets.push_back(position.sequence);
        }
        run.frames.push_back((position.sequence, payload));
        while self.bytes > self.bytes_max || self.runs.len() > OLD_RUNS_MAX + 1 {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    /// The run's journal is on its broker's disk up to here.
    pub fn flushed(&mut self, incarnation: Incarnation, sequence: u64) {
        if let Some(run) = self.runs.iter_mut().find(|run| run.incarnation == incarnation) {
            run.flushed = run.flushed.max(sequence);
        }
        self.trim();
    }

    /// The run is over and its broker can read it up to `last`: what is beyond stays until [`Self::release_old`].
    pub fn closed(&mut self, incarnation: Incarnation, last: u64) {
        self.flushed(incarnation, last);
        self.runs.retain(|run| {
            let done =
                run.incarnation == incarnation && run.frames.back().is_none_or(|(end, _)| *end <= last);
            if done {
                self.bytes -= run.frames.iter().map(|(_, payload)| payload.len()).sum::<usize>();
            }
            !done
        });
    }

    /// Forgets every run but `current`: what they told has been judged.
    pub fn release_old(&mut self, current: Incarnation) {
        self.runs.retain(|run| run.incarnation == current);
        self.bytes = self.runs.iter().flat_map(|run| &run.frames).map(|(_, payload)| payload.len()).sum();
    }

    /// What must survive a restart: nothing while the broker has flushed everything.
    pub fn to_keep(&self) -> Vec<(Position, Bytes)> {
        let unflushed = |run: &&Run| run.frames.back().is_some_and(|(last, _)| *last > run.flushed);
        let runs = self.runs.iter().filter(unflushed);
        let frames =
            runs.flat_map(|run| run.frames.iter().map(move |(sequence, payload)| (run, sequence, payload)));
        let position =
            |run: &Run, sequence: &u64| Position { incarnation: run.incarnation, sequence: *sequence };
        frames.map(|(run, sequence, payload)| (position(run, sequence), payload.clone())).collect()
    }

    /// Decodes everything held of one run.
    pub fn decode(&self, incarnation: Incarnation) -> Vec<(Position, Frame)> {
        let mut decoder = FrameDecoder::new();
        let runs = self.runs.iter().filter(|run| run.incarnation == incarnation);
        let mut out = Vec::new();
        for (sequence, payload) in runs.flat_map(|run| &run.frames) {
            match decoder.decode(payload) {
                Ok(frame) => out.push((Position { incarnation, sequence: *sequence }, frame)),
                Err(error) => tracing::warn!(sequence, %error, "held frame cannot be decoded"),
            }
        }
        out
    }

    /// Runs of which something is held, oldest first.
    pub fn runs(&self) -> Vec<Incarnation> {
        self.runs.iter().map(|run| run.incarnation).collect()
    }

    /// Drops what lies before the last reset point from which all unflushed frames can be decoded.
    fn trim(&mut self) {
        for run in &mut self.runs {
            while run.resets.get(1).is_some_and(|next| *next <= run.flushed + 1) {
                self.bytes -= run.drop_first_part().map(|(_, payload)| payload.len()).sum::<usize>();
            }
        }
    }

    /// Drops the oldest frames up to a reset point, in the oldest run.
    fn drop_oldest(&mut self) -> bool {
        let Some(run) = self.runs.front_mut() else { return false };
        let flushed = run.flushed;
        for (sequence, payload) in run.drop_first_part() {
            self.bytes -= payload.len();
            self.dropped += u64::from(sequence > flushed);
        }
        if run.frames.is_empty() {
            self.runs.pop_front();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifecycle::clock::Now;
    use lifecycle::fact::Fact;
    use lifecycle::frame::FrameEncoder;

    const RUN: Incarnation = Incarnation([1; 16]);
    const NEXT: Incarnation = Incarnation([2; 16]);

    fn frames(run: Incarnation, count: u64, reset_every: u64) -> Vec<(Position, Bytes)> {
        let mut encoder = FrameEncoder::new();
        let encode = |n: u64| {
            let mut out = Vec::new();
            let now = Now { mono_ms: n, wall_ms: n };
            encoder.encode(
                now,
                (n - 1).is_multiple_of(reset_every),
                &[Fact::JournalFlushed { sequence: n }],
                &mut out,
            );
            (Position { incarnation: run, sequence: n }, Bytes::from(out))
        };
        (1..=count).map(encode).collect()
    }

    fn kept(held: &Held) -> Vec<u64> {
        held.to_keep().iter().map(|(position, _)| position.sequence).collect()
    }

    #[test]
    fn flushed_frames_go_but_for_what_decoding_needs() {
        let mut held = Held::new(1 << 20);
        held.load(frames(RUN, 12, 5));
        assert_eq!(kept(&held), (1..=12).collect::<Vec<_>>());
        held.flushed(RUN, 7);
        assert_eq!(kept(&held), (6..=12).collect::<Vec<_>>());
        assert_eq!(held.decode(RUN).len(), 7);
        held.flushed(RUN, 12);
        assert_eq!(kept(&held), [0u64; 0]);
        held.load(frames(RUN, 13, 5));
        assert_eq!(kept(&held), [11, 12, 13], "the reset point was not forgotten");
        assert_eq!(held.decode(RUN).len(), 3);
    }

    #[test]
    fn a_closed_run_leaves_what_its_broker_lost() {
        let mut held = Held::new(1 << 20);
        held.load(frames(RUN, 9, 4));
        held.flushed(RUN, 6);
        held.closed(RUN, 7);
        held.load(frames(NEXT, 2, 4));
        assert_eq!(kept(&held), [5, 6, 7, 8, 9, 1, 2]);
        held.release_old(NEXT);
        assert_eq!(kept(&held), [1, 2]);
        held.closed(NEXT, 2);
        assert_eq!((kept(&held), held.bytes), (vec![], 0));
    }

    #[test]
    fn the_limit_costs_the_oldest_and_is_counted() {
        let all = frames(RUN, 40, 4);
        let some: usize = all.iter().take(10).map(|(_, payload)| payload.len()).sum();
        let mut held = Held::new(some);
        held.load(all);
        assert!(held.bytes <= some);
        let kept = kept(&held);
        assert_eq!((kept[0] % 4, *kept.last().unwrap()), (1, 40));
        assert_eq!(held.dropped, kept[0] - 1);
        assert_eq!(held.decode(RUN).len(), kept.len());
    }

    #[test]
    fn a_hole_starts_afresh_at_a_reset_point_only() {
        let all = frames(RUN, 12, 4);
        let mut held = Held::new(1 << 20);
        for (position, payload) in all.iter().filter(|(p, _)| ![6, 7].contains(&p.sequence)) {
            held.push(*position, payload.clone());
        }
        assert_eq!(kept(&held), [9, 10, 11, 12]);
    }
}
