//! Owns the view of one stored record: fields borrowed from the bytes read, checked, and nothing copied. Unlike
//! [`wire::message`] it takes names as bytes, because in a damaged file they need not be text, and says what is wrong
//! with a record that is not whole. Pure.

use memchr::memchr;
use wire::message::{MAGIC_BLANK, MAGIC_V1, MAGIC_V2};
use wire::properties::{
    NAME_VALUE_SEPARATOR, ORIGIN_MESSAGE_ID, PROPERTY_SEPARATOR, REAL_TOPIC, RETRY_TOPIC, UNIQ_KEY,
};

/// A record longer than this, in bytes, is taken for damage (a broker refuses messages over 4 MiB unless told otherwise).
pub const RECORD_LEN_MAX: usize = 64 << 20;
/// Total size and magic: what says which record this is.
pub const HEAD_LEN: usize = 8;
/// Everything with version-4 addresses and no body, topic or properties.
const RECORD_LEN_MIN: usize = 91;
const BORN_HOST_V6: i32 = 1 << 4;
const STORE_HOST_V6: i32 = 1 << 5;
/// The two bits of `sysFlag` that say what part of a transaction the record is.
const TRANSACTION_BITS: i32 = 0b1100;
const TRANSACTION_COMMIT: i32 = 0b1000;
const NAME_END: u8 = NAME_VALUE_SEPARATOR as u8;
const PROPERTY_END: u8 = PROPERTY_SEPARATOR as u8;

/// One whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Bytes it takes in the log.
    pub size: u32,
    pub queue: u32,
    pub queue_offset: u64,
    /// Where it is in the commit log.
    pub position: u64,
    pub sys_flag: i32,
    /// Milliseconds since 1970, by the producer's clock.
    pub born_ms: i64,
    /// Milliseconds since 1970, by the broker's clock.
    pub store_ms: i64,
    pub reconsume_times: i32,
    /// As stored; see [`Record::body_is_intact`].
    pub body_crc: u32,
    /// Address and port as stored: 8 or 20 bytes.
    pub store_host: &'a [u8],
    pub body: &'a [u8],
    pub topic: &'a [u8],
    pub properties: &'a [u8],
}

/// What the bytes at a place of the log begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A record of this many bytes, if the rest agrees.
    Record { size: usize },
    /// The rest of the file is filler.
    Blank,
    /// Never written.
    Zero,
    /// None of these.
    Unknown,
}

/// Why bytes that begin like a record are not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Its lengths do not add up, or lead out of it.
    Lengths,
    /// It says it is somewhere else.
    Position,
    /// Its topic or properties hold bytes that cannot be there: cut off, and the rest never reached the disk.
    Names,
}

/// The properties that decide what a record is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Named<'a> {
    pub unique_key: Option<&'a [u8]>,
    pub real_topic: Option<&'a [u8]>,
    pub retry_topic: Option<&'a [u8]>,
    pub origin_id: Option<&'a [u8]>,
}

/// Reads the first [`HEAD_LEN`] bytes; fewer are `Unknown`.
pub fn head(bytes: &[u8]) -> Head {
    let Some((size, magic)) = u32_at(bytes, 0).zip(u32_at(bytes, 4)) else { return Head::Unknown };
    let size_fits = (RECORD_LEN_MIN..=RECORD_LEN_MAX).contains(&(size as usize));
    match magic {
        MAGIC_V1 | MAGIC_V2 if size_fits => Head::Record { size: size as usize },
        MAGIC_BLANK => Head::Blank,
        0 if size == 0 => Head::Zero,
        _ => Head::Unknown,
    }
}

impl<'a> Record<'a> {
    /// Reads the record that `bytes` are, no more and no less, and that should be at `position`.
    ///
    /// # Errors
    /// What is wrong with it. The body's checksum is not looked at.
    pub fn read(bytes: &'a [u8], position: u64) -> Result<Record<'a>, Flaw> {
        let sys_flag = u32_at(bytes, 36).ok_or(Flaw::Lengths)? as i32;
        let born_len = host_len(sys_flag & BORN_HOST_V6 != 0);
        let store_len = host_len(sys_flag & STORE_HOST_V6 != 0);
        let store_at = 48 + born_len;
        let host_at = store_at + 8;
        let body_at = host_at + store_len + 16;
        let number = |at| u32_at(bytes, at).ok_or(Flaw::Lengths);
        let long = |at| u64_at(bytes, at).ok_or(Flaw::Lengths);
        let body_len = number(body_at - 4)? as usize;
        let topic_at = body_at.checked_add(body_len).ok_or(Flaw::Lengths)?;
        let body = bytes.get(body_at..topic_at).ok_or(Flaw::Lengths)?;
        let (topic_len, length_len) = match number(4)? {
            MAGIC_V2 => (u16_at(bytes, topic_at).ok_or(Flaw::Lengths)? as usize, 2),
            _ => (usize::from(*bytes.get(topic_at).ok_or(Flaw::Lengths)?), 1),
        };
        let (topic, rest) = bytes
            .get(topic_at + length_len..)
            .and_then(|rest| rest.split_at_checked(topic_len))
            .ok_or(Flaw::Lengths)?;
        let properties = rest.get(2..).ok_or(Flaw::Lengths)?;
        if u16_at(rest, 0).map(usize::from) != Some(properties.len()) {
            return Err(Flaw::Lengths);
        }
        if long(28)? != position {
            return Err(Flaw::Position);
        }
        if topic.is_empty() || topic.iter().any(|byte| *byte <= b' ') || memchr(0, properties).is_some() {
            return Err(Flaw::Names);
        }
        Ok(Record {
            size: number(0)?,
            queue: number(12)?,
            queue_offset: long(20)?,
            position,
            sys_flag,
            born_ms: long(40)? as i64,
            store_ms: long(store_at)? as i64,
            reconsume_times: number(host_at + store_len)? as i32,
            body_crc: number(8)?,
            store_host: bytes.get(host_at..host_at + store_len).ok_or(Flaw::Lengths)?,
            body,
            topic,
            properties,
        })
    }

    /// Whether the body has the checksum it was stored with. Nothing else of a record is covered by one.
    pub fn body_is_intact(&self) -> bool {
        crc32fast::hash(self.body) & 0x7FFF_FFFF == self.body_crc & 0x7FFF_FFFF
    }

    /// Whether the broker gives it a place in its queue: the two ends of a transaction that is not to be read have none.
    pub fn has_place(&self) -> bool {
        matches!(self.sys_flag & TRANSACTION_BITS, 0 | TRANSACTION_COMMIT)
    }

    /// Looks through the properties once.
    pub fn named(&self) -> Named<'a> {
        let mut named = Named::default();
        let mut rest = self.properties;
        while !rest.is_empty() {
            let end = memchr(PROPERTY_END, rest).unwrap_or(rest.len());
            let (part, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            let Some(name_end) = memchr(NAME_END, part) else { continue };
            let (name, value) = part.split_at(name_end);
            let value = value.get(1..).filter(|value| !value.is_empty());
            match name {
                name if name == UNIQ_KEY.as_bytes() => named.unique_key = value,
                name if name == REAL_TOPIC.as_bytes() => named.real_topic = value,
                name if name == RETRY_TOPIC.as_bytes() => named.retry_topic = value,
                name if name == ORIGIN_MESSAGE_ID.as_bytes() => named.origin_id = value,
                _ => {}
            }
        }
        named
    }

    /// The id a broker gives a message by its place, in upper-case hexadecimal: what it is called where its producer gave none.
    pub fn put_offset_id(&self, out: &mut Vec<u8>) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for byte in self.store_host.iter().copied().chain(self.position.to_be_bytes()) {
            out.extend([DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }

    /// What two copies of one record have in common and two records hardly ever have.
    pub fn mark(&self) -> u64 {
        let numbers =
            [self.store_ms as u64, self.queue_offset, u64::from(self.body_crc) << 32 | u64::from(self.size)];
        numbers.iter().fold(u64::from(self.queue), |hash, number| {
            (hash ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
        })
    }
}

/// Queue and queue offset of a record of which only the beginning can be trusted.
pub fn place_in_head(bytes: &[u8], position: u64) -> Option<(u32, u64)> {
    (u64_at(bytes, 28)? == position).then_some((u32_at(bytes, 12)?, u64_at(bytes, 20)?))
}

fn host_len(is_v6: bool) -> usize {
    if is_v6 { 20 } else { 8 }
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
}
