//! Owns the frames a broker has stated but not yet flushed, as of the last checkpoint: what a power cut takes from the broker
//! can still be named from them, also after a restart of the agent. Never decides which frames: the loop does.
//!
//! Two slots, written in turn, whole each time:
//! ```text
//! slot   = "LTRW", version u16, 0 u16, serial u64, body length u64, crc32 u32 over serial, length, body | body
//! body   = varint sources, each: varint length, name, varint frames, each: incarnation 16, varint sequence, varint length, payload
//! ```
//! (big endian; payloads as the broker's journal has them, each run's first a reset point.)
//! Crash story: the slot with the highest serial whose checksum holds counts; a torn one leaves the one before it.

use bytes::Bytes;
use lifecycle::frame::DecodeError;
use lifecycle::identity::{Incarnation, Name};
use lifecycle::position::Position;
use lifecycle::varint::{Reader, put_varint};
use std::path::PathBuf;
use std::sync::Arc;
use store::disk::{Disk, OpenMode};
use store::error::StoreError;

const MAGIC: &[u8; 4] = b"LTRW";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 28;
const NAME_BYTES_MAX: usize = 1024;
const SOURCES_MAX: usize = 1024;
/// Largest slot that is read back.
const SLOT_BYTES_MAX: u64 = 4 << 30;

/// Frames of one source, in order.
#[derive(Clone, PartialEq, Debug)]
pub struct RawSource {
    /// The source's name.
    pub name: Name,
    /// Payloads with their positions.
    pub frames: Vec<(Position, Bytes)>,
}

/// The two slots.
pub struct RawFrames {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    serial: u64,
    holds_frames: bool,
}

impl RawFrames {
    /// Opens the folder; returns what the newest good slot holds.
    pub fn open(disk: Arc<dyn Disk>, dir: PathBuf) -> Result<(Self, Vec<RawSource>), StoreError> {
        disk.create_dir_all(&dir)?;
        let mut newest: Option<(u64, Vec<RawSource>)> = None;
        for slot in 0..2 {
            let path = dir.join(slot_name(slot));
            let file = match disk.open(&path, OpenMode::Existing) {
                Ok(file) => file,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            // what a killed process wrote and did not sync is about to be believed
            file.sync()?;
            let len = usize::try_from(file.len()?.min(SLOT_BYTES_MAX)).unwrap_or(0);
            let mut bytes = vec![0; len];
            let count = file.read_at(&mut bytes, 0)?;
            bytes.truncate(count);
            if let Some((serial, sources)) = decode_slot(&bytes)
                && newest.as_ref().is_none_or(|(best, _)| serial > *best)
            {
                newest = Some((serial, sources));
            }
        }
        let (serial, sources) = newest.unwrap_or_default();
        let raw = RawFrames { disk, dir, serial, holds_frames: !sources.is_empty() };
        Ok((raw, sources))
    }

    /// Replaces everything kept; durable at return. Costs nothing while there is nothing to keep.
    pub fn write(&mut self, body: &[u8]) -> Result<(), StoreError> {
        let is_empty = body == encode_body(&[]);
        if is_empty && !self.holds_frames {
            return Ok(());
        }
        let serial = self.serial + 1;
        let path = self.dir.join(slot_name(serial % 2));
        let file = self.disk.open(&path, OpenMode::Create)?;
        let mut bytes = encode_header(serial, body);
        bytes.extend_from_slice(body);
        file.write_all_at(&bytes, 0)?;
        file.truncate(bytes.len() as u64)?;
        file.sync()?;
        if serial <= 2 {
            self.disk.sync_dir(&self.dir)?;
        }
        self.serial = serial;
        self.holds_frames = !is_empty;
        Ok(())
    }
}

fn slot_name(serial: u64) -> &'static str {
    if serial.is_multiple_of(2) { "raw-0" } else { "raw-1" }
}

/// The body for these frames.
pub fn encode_body(sources: &[RawSource]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, sources.len() as u64);
    for RawSource { name, frames } in sources {
        put_varint(&mut out, name.len() as u64);
        out.extend_from_slice(name.as_bytes());
        put_varint(&mut out, frames.len() as u64);
        for (position, payload) in frames {
            out.extend_from_slice(&position.incarnation.0);
            put_varint(&mut out, position.sequence);
            put_varint(&mut out, payload.len() as u64);
            out.extend_from_slice(payload);
        }
    }
    out
}

fn encode_header(serial: u64, body: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&serial.to_be_bytes());
    out.extend_from_slice(&(body.len() as u64).to_be_bytes());
    out.extend_from_slice(&checksum(serial, body).to_be_bytes());
    assert_eq!(out.len(), HEADER_BYTES, "the drawing is the truth");
    out
}

fn checksum(serial: u64, body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&serial.to_be_bytes());
    crc.update(&(body.len() as u64).to_be_bytes());
    crc.update(body);
    crc.finalize()
}

/// Serial and sources of a slot; `None` when it is torn or not ours.
fn decode_slot(bytes: &[u8]) -> Option<(u64, Vec<RawSource>)> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (_, rest) = rest.split_first_chunk::<2>()?;
    let (serial, rest) = rest.split_first_chunk::<8>()?;
    let (len, rest) = rest.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    if magic != MAGIC || u16::from_be_bytes(*version) != VERSION {
        return None;
    }
    let serial = u64::from_be_bytes(*serial);
    let body = rest.get(..usize::try_from(u64::from_be_bytes(*len)).ok()?)?;
    if checksum(serial, body) != u32::from_be_bytes(*crc) {
        return None;
    }
    Some((serial, decode_body(body).ok()?))
}

fn decode_body(body: &[u8]) -> Result<Vec<RawSource>, DecodeError> {
    let mut reader = Reader::new(body);
    let mut sources = Vec::new();
    for _ in 0..reader.length(SOURCES_MAX)? {
        let len = reader.length(NAME_BYTES_MAX)?;
        let name = std::str::from_utf8(reader.bytes(len)?).map_err(|_| DecodeError::Malformed("name"))?;
        let mut frames = Vec::new();
        for _ in 0..reader.length(reader.remaining())? {
            let incarnation: [u8; 16] =
                reader.bytes(16)?.try_into().map_err(|_| DecodeError::Malformed("incarnation"))?;
            let sequence = reader.varint()?;
            let len = reader.length(reader.remaining())?;
            let payload = Bytes::copy_from_slice(reader.bytes(len)?);
            frames.push((Position { incarnation: Incarnation(incarnation), sequence }, payload));
        }
        sources.push(RawSource { name: name.into(), frames });
    }
    Ok(sources)
}

#[cfg(test)]
mod tests;
