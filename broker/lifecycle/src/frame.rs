//! Owns the bytes of one journal frame: the facts of one turn of a broker's core, in columns, with dictionaries that live
//! between reset points. Never does IO: where frames lie, how they are numbered and checked is the journal's business.
//!
//! ```text
//! frame    = flags u8 (bit 0: reset point, bit 1: part of a snapshot), clock, section*
//! clock    = at a reset point:  codec version u8, varint wall ms, varint mono ms, varint next ordinal, varint log end
//!            else:              varint mono ms since the last frame, zigzag (wall step - mono step)
//! section  = varint tag, varint length, body              (one per fact; tags in frame/section.rs)
//! name     = varint 0, varint length, UTF-8  (joins the dictionary)   |   varint 1 + number in the dictionary
//! queue    = varint 0, varint topic, varint queue id   (likewise)     |   varint 1 + number
//! ranges   = varint count, then per range: varint gap to the last end, varint length
//! ```
//! At a reset point all dictionaries start empty, so reading may start there. The format is for ever: a change takes a new
//! codec version, and old versions stay readable.

mod section;

use crate::clock::Now;
use crate::fact::Fact;
use crate::hash::OwnKeyMap;
use crate::identity::{Name, QueueKey};
use crate::ids::{IdDecoder, IdEncoder};
use crate::varint::{Reader, put_varint, unzigzag, zigzag};
use std::collections::HashMap;
use thiserror::Error;

/// The version this code writes.
pub const CODEC_VERSION: u8 = 1;
/// Longest name in a frame, in bytes.
pub const NAME_LEN_MAX: usize = 1024;
/// Most names, and most queues, between two reset points.
pub const DICTIONARY_MAX: usize = 65_536;
/// Most messages one frame can describe one by one.
pub const FRAME_MESSAGES_MAX: usize = 1 << 20;

const FLAG_RESET: u8 = 1;
const FLAG_SNAPSHOT: u8 = 2;

/// Why bytes are not a frame.
#[derive(Debug, Error, PartialEq, Eq, Clone, Copy)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("frame ends too early")]
    Truncated,
    /// A value no encoder writes.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
    /// Written by a newer version.
    #[error("frame codec version {0} is not known")]
    Version(u8),
    /// A kind of fact this version does not know.
    #[error("fact kind {0} is not known")]
    UnknownFact(u64),
    /// Reading must start at a reset point, also after an error.
    #[error("not at a reset point")]
    NoResetPoint,
}

/// One decoded frame.
#[derive(Clone, PartialEq, Debug)]
pub struct Frame {
    /// Whether reading may start here.
    pub reset: bool,
    /// Whether it restates a whole state instead of what is new.
    pub snapshot: bool,
    /// When the turn happened, by its broker's clocks.
    pub now: Now,
    /// What happened, in order.
    pub facts: Vec<Fact>,
}

#[derive(Default)]
struct EncoderState {
    names: HashMap<Name, u64>,
    queues: OwnKeyMap<QueueKey, (u64, u64)>,
    ids: IdEncoder,
    now: Now,
    next_ordinal: u64,
    answered_end: u64,
    log_end: u64,
}

/// Encodes the frames of one run in order.
#[derive(Default)]
pub struct FrameEncoder {
    state: EncoderState,
    started: bool,
}

impl FrameEncoder {
    /// An encoder whose first frame is a reset point.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the next frame must be a reset point: the first one, and when a dictionary is nearly full.
    pub fn wants_reset(&self) -> bool {
        let state = &self.state;
        !self.started
            || state.ids.is_full()
            || state.names.len() >= DICTIONARY_MAX / 2
            || state.queues.len() >= DICTIONARY_MAX / 2
    }

    /// Appends one frame to `out`. `reset` makes it a reset point (it is one anyway when [`Self::wants_reset`]).
    pub fn encode(&mut self, now: Now, reset: bool, facts: &[Fact], out: &mut Vec<u8>) {
        self.encode_flagged(now, reset, false, facts, out);
    }

    /// Appends one frame of a snapshot: facts that restate a whole state.
    pub fn encode_snapshot(&mut self, now: Now, reset: bool, facts: &[Fact], out: &mut Vec<u8>) {
        self.encode_flagged(now, reset, true, facts, out);
    }

    fn encode_flagged(&mut self, now: Now, reset: bool, snapshot: bool, facts: &[Fact], out: &mut Vec<u8>) {
        let reset = reset || self.wants_reset();
        self.started = true;
        out.push(if reset { FLAG_RESET } else { 0 } | if snapshot { FLAG_SNAPSHOT } else { 0 });
        if reset {
            let EncoderState { next_ordinal, answered_end, log_end, .. } = self.state;
            self.state = EncoderState { now, next_ordinal, answered_end, log_end, ..Default::default() };
            out.push(CODEC_VERSION);
            for value in [now.wall_ms, now.mono_ms, next_ordinal, answered_end, log_end] {
                put_varint(out, value);
            }
        } else {
            let before = self.state.now;
            let mono_step = now.mono_ms.saturating_sub(before.mono_ms);
            let wall_step = now.wall_ms.wrapping_sub(before.wall_ms);
            put_varint(out, mono_step);
            put_varint(out, zigzag(wall_step.wrapping_sub(mono_step) as i64));
            self.state.now = Now { mono_ms: before.mono_ms + mono_step, wall_ms: now.wall_ms };
        }
        let mut body = Vec::new();
        for fact in facts {
            body.clear();
            let tag = section::encode(fact, &mut self.state, &mut body);
            put_varint(out, tag);
            put_varint(out, body.len() as u64);
            out.extend_from_slice(&body);
        }
    }
}

#[derive(Default)]
struct DecoderState {
    names: Vec<Name>,
    queues: Vec<(QueueKey, u64)>,
    ids: IdDecoder,
    now: Now,
    next_ordinal: u64,
    answered_end: u64,
    log_end: u64,
}

/// Decodes the frames of one run in order, starting at a reset point.
#[derive(Default)]
pub struct FrameDecoder {
    state: Option<DecoderState>,
}

impl FrameDecoder {
    /// A decoder that needs a reset point first.
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes one whole frame. After an error only a reset point is accepted, since the dictionaries are incomplete.
    pub fn decode(&mut self, payload: &[u8]) -> Result<Frame, DecodeError> {
        let mut reader = Reader::new(payload);
        let result = self.decode_frame(&mut reader);
        if result.is_err() {
            self.state = None;
        }
        result
    }

    fn decode_frame(&mut self, reader: &mut Reader<'_>) -> Result<Frame, DecodeError> {
        let flags = reader.u8()?;
        if flags > (FLAG_RESET | FLAG_SNAPSHOT) {
            return Err(DecodeError::Malformed("frame flags"));
        }
        let reset = flags & FLAG_RESET != 0;
        if reset {
            self.state = Some(decode_reset(reader)?);
        }
        let state = self.state.as_mut().ok_or(DecodeError::NoResetPoint)?;
        if !reset {
            let mono_step = reader.varint()?;
            let extra = unzigzag(reader.varint()?);
            let mono = state.now.mono_ms.checked_add(mono_step).ok_or(DecodeError::Malformed("clock"))?;
            let wall = state.now.wall_ms.wrapping_add(mono_step).wrapping_add(extra as u64);
            state.now = Now { mono_ms: mono, wall_ms: wall };
        }
        let mut facts = Vec::new();
        while !reader.is_empty() {
            let tag = reader.varint()?;
            let len = reader.length(reader.remaining())?;
            let mut body = Reader::new(reader.bytes(len)?);
            facts.push(section::decode(tag, &mut body, state)?);
            if !body.is_empty() {
                return Err(DecodeError::Malformed("section longer than its fact"));
            }
        }
        Ok(Frame { reset, snapshot: flags & FLAG_SNAPSHOT != 0, now: state.now, facts })
    }
}

fn decode_reset(reader: &mut Reader<'_>) -> Result<DecoderState, DecodeError> {
    let version = reader.u8()?;
    if version != CODEC_VERSION {
        return Err(DecodeError::Version(version));
    }
    let wall_ms = reader.varint()?;
    let mono_ms = reader.varint()?;
    Ok(DecoderState {
        now: Now { mono_ms, wall_ms },
        next_ordinal: reader.varint()?,
        answered_end: reader.varint()?,
        log_end: reader.varint()?,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests;
