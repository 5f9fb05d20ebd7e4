//! The bytes of a journal segment, drawn in `journal.rs`: header and frames, to and from values.
//!
//! Owns encoding, checksums and the scan of one file. Never decides what damage means. Called by the journal's
//! writer, recovery and reader.

use super::{FORMAT_VERSION, FRAME_PAYLOAD_BYTES_MAX};
use crate::disk::DiskFile;
use crate::error::{ErrorKind, Op, Result, StoreError};
use lifecycle::identity::Incarnation;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"LTJ1";
pub(super) const HEADER_BYTES: usize = 44;
/// Length varint (4 bytes carry 28 bits) and checksum.
const FRAME_HEAD_BYTES_MAX: usize = 8;
const CRC_BYTES: usize = 4;
/// Far beyond any life; keeps arithmetic on numbers read from disk from overflowing.
const SEQUENCE_MAX: u64 = 1 << 62;
const READ_BYTES: usize = 256 * 1024;

/// The first bytes of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) incarnation: Incarnation,
    pub(super) first_sequence: u64,
    pub(super) created_wall_ms: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[8..24].copy_from_slice(&self.incarnation.0);
        bytes[24..32].copy_from_slice(&self.first_sequence.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.created_wall_ms.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..40]);
        bytes[40..44].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<SegmentHeader> {
        let damaged = |what| Err(StoreError::corrupt(path, 0, what));
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return damaged("journal header is cut short");
        };
        if bytes[0..4] != MAGIC {
            return damaged("not a journal segment");
        }
        if crc32fast::hash(&bytes[..40]).to_le_bytes() != bytes[40..44] {
            return damaged("journal header checksum");
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if version != FORMAT_VERSION {
            let kind = ErrorKind::VersionMismatch { found: version.into(), supported: FORMAT_VERSION.into() };
            return Err(StoreError::new(Op::Decode, path, 4, kind));
        }
        let u64_at = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let mut incarnation = Incarnation([0; 16]);
        incarnation.0.copy_from_slice(&bytes[8..24]);
        let first_sequence = u64_at(24);
        if !(1..=SEQUENCE_MAX).contains(&first_sequence) {
            return damaged("journal sequence out of range");
        }
        Ok(SegmentHeader { incarnation, first_sequence, created_wall_ms: u64_at(32) })
    }
}

/// Checksum of one frame. The incarnation and the sequence go in first: a frame of another run, or at another place,
/// never passes, without a byte spent on either.
fn checksum(incarnation: Incarnation, sequence: u64, head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&incarnation.0);
    hasher.update(&sequence.to_le_bytes());
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

/// Appends one frame to `out`.
pub(super) fn encode_frame(
    out: &mut Vec<u8>,
    (incarnation, sequence): (Incarnation, u64),
    payload: &[u8],
    is_reset_point: bool,
) {
    assert!(!payload.is_empty() && payload.len() <= FRAME_PAYLOAD_BYTES_MAX);
    let start = out.len();
    let mut head = (payload.len() as u64) << 1 | u64::from(is_reset_point);
    while head >= 0x80 {
        out.push(u8::try_from(head & 0x7F).unwrap_or_default() | 0x80);
        head >>= 7;
    }
    out.push(u8::try_from(head).unwrap_or_default());
    let crc = checksum(incarnation, sequence, &out[start..], payload);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(payload);
}

/// Bytes of the length varint.
fn head_len(payload_len: usize) -> usize {
    match payload_len << 1 {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// The length varint at the start of `bytes`: its own length, the payload's, and the reset mark.
fn decode_head(bytes: &[u8]) -> Option<(usize, usize, bool)> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(FRAME_HEAD_BYTES_MAX - CRC_BYTES).enumerate() {
        value |= u64::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            let len = usize::try_from(value >> 1).ok()?;
            let minimal = index == 0 || *byte != 0;
            let fits = len > 0 && len <= FRAME_PAYLOAD_BYTES_MAX;
            return (minimal && fits).then_some((index + 1, len, value & 1 == 1));
        }
    }
    None
}

/// What is at a place that should hold a frame.
enum FrameAt {
    Valid {
        total: usize,
        payload: Range<usize>,
        is_reset_point: bool,
    },
    /// `total` is where the next frame would start, if the length can be believed.
    Bad {
        total: Option<usize>,
    },
}

/// One step of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scanned {
    /// `payload` is a range of [`SegmentScan::bytes`].
    Frame {
        sequence: u64,
        is_reset_point: bool,
        payload: Range<usize>,
    },
    /// Frames that are damaged, or stand between damage and the next reset point.
    Hole {
        from: u64,
        to: u64,
    },
    End,
}

/// Reads the frames of one file in order, through one buffer.
#[derive(Debug)]
pub(super) struct SegmentScan {
    file: Arc<dyn DiskFile>,
    incarnation: Incarnation,
    /// Bytes of the file that are journal.
    pub(super) limit: u64,
    pub(super) at: u64,
    /// The sequence of the frame at `at`.
    pub(super) sequence: u64,
    hole_from: Option<u64>,
    /// Bytes at the end in which no frame was found.
    pub(super) cut_bytes: u64,
    buf: Vec<u8>,
    buf_at: u64,
}

impl SegmentScan {
    pub(super) fn new(file: Arc<dyn DiskFile>, header: (Incarnation, u64), limit: u64) -> SegmentScan {
        let (incarnation, sequence) = header;
        let at = HEADER_BYTES as u64;
        SegmentScan {
            file,
            incarnation,
            limit,
            at,
            sequence,
            hole_from: None,
            cut_bytes: 0,
            buf: Vec::new(),
            buf_at: 0,
        }
    }

    /// The buffer that the ranges of frames point into, until the next step.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf
    }

    /// The file offset of the frame just returned with this payload.
    pub(super) fn frame_start(&self, payload: &Range<usize>) -> u64 {
        let head_len = head_len(payload.len()) + CRC_BYTES;
        self.buf_at + (payload.start - head_len) as u64
    }

    /// Continues at a frame seen before.
    pub(super) fn seek(&mut self, at: u64, sequence: u64) {
        (self.at, self.sequence, self.hole_from, self.cut_bytes) = (at, sequence, None, 0);
    }

    pub(super) fn step(&mut self) -> Result<Scanned> {
        while self.at < self.limit {
            match self.frame_at(self.at, self.sequence)? {
                FrameAt::Valid { total, payload, is_reset_point } => {
                    if self.hole_from.is_some() && is_reset_point {
                        break;
                    }
                    let sequence = self.sequence;
                    self.at += total as u64;
                    self.sequence += 1;
                    if self.hole_from.is_none() {
                        return Ok(Scanned::Frame { sequence, is_reset_point, payload });
                    }
                }
                FrameAt::Bad { total } => {
                    if self.skip_one(total)? {
                        continue;
                    }
                    self.cut_bytes = self.limit - self.at;
                    self.at = self.limit;
                }
            }
        }
        match self.hole_from.take() {
            Some(from) if from < self.sequence => Ok(Scanned::Hole { from, to: self.sequence - 1 }),
            _ => Ok(Scanned::End),
        }
    }

    /// Steps over one damaged frame when its length leads to a good one: the checksum of that one proves its place.
    fn skip_one(&mut self, total: Option<usize>) -> Result<bool> {
        let Some(total) = total else { return Ok(false) };
        let next = self.at + total as u64;
        if next >= self.limit || matches!(self.frame_at(next, self.sequence + 1)?, FrameAt::Bad { .. }) {
            return Ok(false);
        }
        self.hole_from.get_or_insert(self.sequence);
        self.at = next;
        self.sequence += 1;
        Ok(true)
    }

    fn frame_at(&mut self, at: u64, sequence: u64) -> Result<FrameAt> {
        let head = self.load(at, FRAME_HEAD_BYTES_MAX)?;
        let Some((head_len, payload_len, is_reset_point)) = decode_head(&self.buf[head]) else {
            return Ok(FrameAt::Bad { total: None });
        };
        let total = head_len + CRC_BYTES + payload_len;
        let frame = self.load(at, total)?;
        if frame.len() < total {
            return Ok(FrameAt::Bad { total: None });
        }
        let payload = frame.start + head_len + CRC_BYTES..frame.end;
        let head = &self.buf[frame.start..frame.start + head_len];
        let crc = checksum(self.incarnation, sequence, head, &self.buf[payload.clone()]);
        if crc.to_le_bytes() != self.buf[frame.start + head_len..payload.start] {
            return Ok(FrameAt::Bad { total: Some(total) });
        }
        Ok(FrameAt::Valid { total, payload, is_reset_point })
    }

    /// Makes `len` bytes at `at` present in the buffer; fewer where the journal ends.
    fn load(&mut self, at: u64, len: usize) -> Result<Range<usize>> {
        let left = usize::try_from(self.limit.saturating_sub(at)).unwrap_or(usize::MAX);
        let len = len.min(left);
        let buffered = at >= self.buf_at && at + len as u64 <= self.buf_at + self.buf.len() as u64;
        if !buffered {
            self.buf.resize(len.max(READ_BYTES).min(left), 0);
            let count = self.file.read_at(&mut self.buf, at)?;
            self.buf.truncate(count);
            self.buf_at = at;
        }
        let start = usize::try_from(at - self.buf_at).unwrap_or(usize::MAX);
        Ok(start..(start + len).min(self.buf.len()))
    }
}
