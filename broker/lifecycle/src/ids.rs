//! Owns client message ids in bulk: a column of short texts without an allocation per id, and their coding in journal frames.
//! Sequences that SDKs count up (RocketMQ's 34- and 32-digit ids) cost two bytes each, random ids their packed digits.
//! Never interprets what an id means: ids join, they do not identify.

use crate::frame::DecodeError;
use crate::varint::{Reader, put_varint, unzigzag, zigzag};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

/// Longest id kept, in bytes; edges refuse longer ones.
pub const ID_LEN_MAX: usize = 255;
/// Streams remembered between two reset points; beyond it the encoder asks for a reset.
pub const STREAMS_MAX: usize = 16_384;

/// Prefixes seen once that are remembered.
const SEEN_ONCE: usize = 16_384;

/// Texts of client ids, in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct IdColumn {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl IdColumn {
    /// An empty column.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an id; longer ones are cut at [`ID_LEN_MAX`] (edges refuse them before).
    pub fn push(&mut self, id: &[u8]) {
        self.bytes.extend(id.iter().take(ID_LEN_MAX));
        self.ends.push(self.bytes.len() as u32);
    }

    /// How many ids.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of memory the texts take.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The id at `index`; `None` beyond the end.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.bytes.get(start..end)
    }

    /// The ids in order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

impl<'a> FromIterator<&'a [u8]> for IdColumn {
    fn from_iter<I: IntoIterator<Item = &'a [u8]>>(iter: I) -> Self {
        let mut column = IdColumn::new();
        for id in iter {
            column.push(id);
        }
        column
    }
}

// Coding of one id: varint tag, then
//   0  text:    varint length, bytes
//   1  packed:  u8 case, u8 byte count, bytes                    (hex, stream not worth it yet)
//   2  opening: u8 case, u8 byte count, bytes                    (as 1; also opens the next stream number)
//   3+n stream n: zigzag varint, difference of the last 8 bytes  (as big-endian u64) to the stream's last
const TAG_TEXT: u64 = 0;
const TAG_PACKED: u64 = 1;
const TAG_OPENING: u64 = 2;
const TAG_STREAM: u64 = 3;

const TAIL: usize = 8;
const PACKED_MIN: usize = 12;
const PACKED_MAX: usize = 32;
const CASE_PREFIX_LOWER: u8 = 1;
const CASE_TAIL_LOWER: u8 = 2;

#[derive(Clone, PartialEq, Eq)]
struct Prefix {
    case: u8,
    bytes: [u8; PACKED_MAX - TAIL],
    len: u8,
}

struct Packed {
    prefix: Prefix,
    tail: u64,
}

impl Hash for Prefix {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // two writes instead of the five of a derived one
        state.write(&self.bytes);
        state.write_u16(u16::from_be_bytes([self.case, self.len]));
    }
}

impl Prefix {
    /// Tells prefixes apart where a mistake does no harm; anybody can make two of one fingerprint. Never 0.
    fn fingerprint(&self) -> u64 {
        let (words, _) = self.bytes.as_chunks::<8>();
        let mixed = words.iter().fold(u64::from(self.case) << 8 | u64::from(self.len), |mixed, word| {
            let product = u128::from(mixed ^ u64::from_le_bytes(*word)) * 0x9E37_79B9_7F4A_7C15;
            (product >> 64) as u64 ^ product as u64
        });
        mixed | 1
    }
}

/// The encoder's memory between reset points.
#[derive(Default)]
pub(crate) struct IdEncoder {
    streams: HashMap<Prefix, (u64, u64)>,
    /// Fingerprints of prefixes seen once, each in the place its lowest bits name; the newest stays. A wrong answer costs a few
    /// bytes: a stream opened early, or late.
    seen_once: Vec<u64>,
}

impl IdEncoder {
    pub(crate) fn is_full(&self) -> bool {
        self.streams.len() >= STREAMS_MAX
    }

    pub(crate) fn encode(&mut self, id: &[u8], out: &mut Vec<u8>) {
        let Some(packed) = pack(id) else {
            put_varint(out, TAG_TEXT);
            put_varint(out, id.len() as u64);
            out.extend_from_slice(id);
            return;
        };
        if let Some((number, last)) = self.streams.get_mut(&packed.prefix) {
            put_varint(out, TAG_STREAM + *number);
            put_varint(out, zigzag(packed.tail.wrapping_sub(*last) as i64));
            *last = packed.tail;
            return;
        }
        // a prefix seen only once is probably random: opening a stream for it would only fill the dictionary
        let opens = self.was_seen(packed.prefix.fingerprint()) && !self.is_full();
        put_varint(out, if opens { TAG_OPENING } else { TAG_PACKED });
        let prefix_len = usize::from(packed.prefix.len);
        out.push(packed.prefix.case);
        out.push((prefix_len + TAIL) as u8);
        out.extend(packed.prefix.bytes.iter().take(prefix_len));
        out.extend_from_slice(&packed.tail.to_be_bytes());
        if opens {
            let number = self.streams.len() as u64;
            self.streams.insert(packed.prefix, (number, packed.tail));
        }
    }

    /// Whether this prefix was seen before; from now on it was.
    fn was_seen(&mut self, fingerprint: u64) -> bool {
        self.seen_once.resize(SEEN_ONCE, 0);
        let place = (fingerprint >> 1) as usize % SEEN_ONCE;
        self.seen_once.get_mut(place).is_some_and(|seen| std::mem::replace(seen, fingerprint) == fingerprint)
    }
}

/// The decoder's memory between reset points.
#[derive(Default)]
pub(crate) struct IdDecoder {
    streams: Vec<(Prefix, u64)>,
    text: Vec<u8>,
}

impl IdDecoder {
    pub(crate) fn decode(
        &mut self,
        reader: &mut Reader<'_>,
        column: &mut IdColumn,
    ) -> Result<(), DecodeError> {
        let tag = reader.varint()?;
        match tag {
            TAG_TEXT => {
                let len = reader.length(ID_LEN_MAX)?;
                column.push(reader.bytes(len)?);
                return Ok(());
            }
            TAG_PACKED | TAG_OPENING => {
                let case = reader.u8()?;
                let len = usize::from(reader.u8()?);
                if !(PACKED_MIN..=PACKED_MAX).contains(&len) || case > (CASE_PREFIX_LOWER | CASE_TAIL_LOWER) {
                    return Err(DecodeError::Malformed("packed id"));
                }
                let mut prefix = Prefix { case, bytes: Default::default(), len: (len - TAIL) as u8 };
                let bytes = reader.bytes(len - TAIL)?;
                for (to, from) in prefix.bytes.iter_mut().zip(bytes) {
                    *to = *from;
                }
                let tail = reader.u64()?;
                self.unpack(&prefix, tail, column);
                if tag == TAG_OPENING {
                    if self.streams.len() >= STREAMS_MAX {
                        return Err(DecodeError::Malformed("too many id streams"));
                    }
                    self.streams.push((prefix, tail));
                }
            }
            _ => {
                let delta = unzigzag(reader.varint()?);
                let number =
                    usize::try_from(tag - TAG_STREAM).map_err(|_| DecodeError::Malformed("id stream"))?;
                let (prefix, last) =
                    self.streams.get_mut(number).ok_or(DecodeError::Malformed("unknown id stream"))?;
                *last = last.wrapping_add(delta as u64);
                let (prefix, tail) = (prefix.clone(), *last);
                self.unpack(&prefix, tail, column);
            }
        }
        Ok(())
    }

    fn unpack(&mut self, prefix: &Prefix, tail: u64, column: &mut IdColumn) {
        self.text.clear();
        let prefix_bytes = prefix.bytes.iter().take(usize::from(prefix.len));
        push_hex(&mut self.text, prefix_bytes, prefix.case & CASE_PREFIX_LOWER != 0);
        push_hex(&mut self.text, tail.to_be_bytes().iter(), prefix.case & CASE_TAIL_LOWER != 0);
        column.push(&self.text);
    }
}

fn push_hex<'a>(out: &mut Vec<u8>, bytes: impl Iterator<Item = &'a u8>, lower: bool) {
    let digits: &[u8; 16] = if lower { b"0123456789abcdef" } else { b"0123456789ABCDEF" };
    let digit = |nibble: u8| digits.get(usize::from(nibble)).copied().unwrap_or(b'?');
    for byte in bytes {
        out.push(digit(byte >> 4));
        out.push(digit(byte & 15));
    }
}

/// Packs hexadecimal ids whose two parts are each of one case; anything else stays text.
fn pack(id: &[u8]) -> Option<Packed> {
    if !id.len().is_multiple_of(2) || !(PACKED_MIN * 2..=PACKED_MAX * 2).contains(&id.len()) {
        return None;
    }
    let (prefix_text, tail_text) = id.split_at(id.len() - TAIL * 2);
    let mut prefix = Prefix { case: 0, bytes: Default::default(), len: (prefix_text.len() / 2) as u8 };
    let prefix_lower = unhex(prefix_text, &mut prefix.bytes)?;
    let mut tail = [0u8; TAIL];
    let tail_lower = unhex(tail_text, &mut tail)?;
    prefix.case =
        if prefix_lower { CASE_PREFIX_LOWER } else { 0 } | if tail_lower { CASE_TAIL_LOWER } else { 0 };
    Some(Packed { prefix, tail: u64::from_be_bytes(tail) })
}

/// Returns whether the digits are lower case (upper when there are no letters); `None` when mixed or not hexadecimal.
fn unhex(text: &[u8], out: &mut [u8]) -> Option<bool> {
    let (mut lower, mut upper) = (false, false);
    for (pair, byte) in text.chunks_exact(2).zip(out.iter_mut()) {
        for digit in pair {
            let value = match digit {
                b'0'..=b'9' => digit - b'0',
                b'a'..=b'f' => {
                    lower = true;
                    digit - b'a' + 10
                }
                b'A'..=b'F' => {
                    upper = true;
                    digit - b'A' + 10
                }
                _ => return None,
            };
            *byte = (*byte << 4) | value;
        }
    }
    if lower && upper { None } else { Some(lower) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(ids: &[Vec<u8>]) -> (usize, Vec<Vec<u8>>) {
        let mut encoder = IdEncoder::default();
        let mut bytes = Vec::new();
        for id in ids {
            encoder.encode(id, &mut bytes);
        }
        let mut decoder = IdDecoder::default();
        let mut reader = Reader::new(&bytes);
        let mut column = IdColumn::new();
        for _ in ids {
            decoder.decode(&mut reader, &mut column).unwrap();
        }
        assert!(reader.is_empty());
        (bytes.len(), column.iter().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn counted_ids_cost_two_bytes_and_random_ones_their_digits() {
        let counted: Vec<Vec<u8>> =
            (0..1000u32).map(|n| format!("01AABBCCDDEEFF00170B1F3C2A{n:08X}").into_bytes()).collect();
        let (size, back) = round_trip(&counted);
        assert_eq!(back, counted);
        assert!(size < 1000 * 2 + 40, "{size}");
        let mut x = 7u128;
        let random: Vec<Vec<u8>> = (0..1000)
            .map(|_| {
                x = x.wrapping_mul(0x2360ED051FC65DA44385DF649FCCF645).wrapping_add(99);
                format!("{x:032x}").into_bytes()
            })
            .collect();
        let (size, back) = round_trip(&random);
        assert_eq!(back, random);
        assert!(size <= 1000 * 19, "{size}");
    }

    proptest! {
        #[test]
        fn any_ids_survive(ids in prop::collection::vec(
            prop_oneof!["[0-9A-F]{34}", "[0-9a-f]{32}", "[0-9A-F]{18}[0-9a-f]{16}", "[0-9a-fA-F]{30,40}", ".{0,40}", "7F0000010001AABBCCDD00000000000[0-9]"], 0..60)) {
            let ids: Vec<Vec<u8>> = ids.into_iter().map(|id| id.into_bytes().into_iter().take(ID_LEN_MAX).collect()).collect();
            let (_, back) = round_trip(&ids);
            prop_assert_eq!(back, ids);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut decoder = IdDecoder::default();
            let mut reader = Reader::new(&bytes);
            let mut column = IdColumn::new();
            while decoder.decode(&mut reader, &mut column).is_ok() {}
            prop_assert!(column.len() <= bytes.len());
        }
    }
}
