//! The record a message is: in the log, in pull and query answers, in a transaction check.
//!
//! Owns: its layout in both versions, the layout of a batch send's body, and the two hashes (body CRC, tag code). Never
//! decides what is stored. Called by: the store and the broker, which lays records directly in its log buffer.
//!
//! ```text
//!  0 u32 total size        20 u64 queue offset       40 i64 born timestamp      u64 prepared transaction offset
//!  4 u32 magic             28 u64 commit-log offset  48 born host (8 or 20)     u32 length, body
//!  8 u32 body CRC          36 i32 sysFlag            .. i64 store timestamp     u8 (v1) or u16 (v2) length, topic
//! 12 i32 queue id                                    .. store host (8 or 20)    u16 length, properties
//! 16 i32 flag                                        .. i32 reconsume times
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::BufMut;

use crate::{
    properties::{MAX_PROPERTIES_LEN, Properties},
    sys_flag::SysFlag,
};

pub const MAGIC_V1: u32 = 0xDAA3_20A7;
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// `CommitLog.BLANK_MAGIC_CODE`: the rest of a log file is filler.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;

/// Where in a record its queue offset is, for whoever assigns it after the record was laid out.
pub const QUEUE_OFFSET_AT: usize = 20;
/// Where in a record its commit-log offset is.
pub const COMMITLOG_OFFSET_AT: usize = 28;
/// Where in a record `sysFlag` is.
pub const SYS_FLAG_AT: usize = 36;

/// Longest topic a version-1 record holds (its length is a signed byte).
const MAX_TOPIC_LEN_V1: usize = 127;
const MAX_TOPIC_LEN_V2: usize = 32_767;
/// Everything but hosts, body, topic and properties, with the one-byte topic length.
const FIXED_LEN: usize = 75;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordVersion {
    V1,
    V2,
}

impl RecordVersion {
    /// Version 1 unless the topic does not fit.
    pub fn for_topic(topic: &str) -> RecordVersion {
        match topic.len() <= MAX_TOPIC_LEN_V1 {
            true => RecordVersion::V1,
            false => RecordVersion::V2,
        }
    }
}

/// One stored message; text and body borrowed from the bytes it was read from or is written from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredMessage<'a> {
    pub version: RecordVersion,
    /// CRC-32 of the body as stored, top bit cleared. See [`body_crc`].
    pub body_crc: u32,
    pub queue_id: i32,
    /// The producer's own flag.
    pub flag: i32,
    pub queue_offset: u64,
    pub commitlog_offset: u64,
    pub sys_flag: SysFlag,
    pub born_timestamp_ms: i64,
    pub born_host: SocketAddr,
    pub store_timestamp_ms: i64,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    pub prepared_transaction_offset: u64,
    pub body: &'a [u8],
    pub topic: &'a str,
    pub properties: Properties<'a>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("record ends inside {field}")]
    Truncated { field: &'static str },
    #[error("magic {magic:08x} is not a message's")]
    Magic { magic: u32 },
    #[error("rest of the file is filler of {len} bytes")]
    Blank { len: u32 },
    #[error("record says it is {stated} bytes long but its fields take {actual}")]
    Size { stated: usize, actual: usize },
    #[error("length {length} of {field} is out of range")]
    Length { field: &'static str, length: i64 },
    #[error("{field} is not UTF-8")]
    NotUtf8 { field: &'static str },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("topic of {len} bytes exceeds {max}")]
    Topic { len: usize, max: usize },
    #[error("properties of {len} bytes exceed {MAX_PROPERTIES_LEN}")]
    Properties { len: usize },
    #[error("body of {len} bytes makes the record exceed 2 GiB")]
    Body { len: usize },
}

impl<'a> StoredMessage<'a> {
    /// Reads the record at the front of `bytes` and says how long it is. The body's CRC is not checked here: see
    /// [`StoredMessage::body_is_intact`].
    pub fn decode(bytes: &'a [u8]) -> Result<(StoredMessage<'a>, usize), RecordError> {
        let mut reader = Reader { rest: bytes };
        let total = reader.u32("total size")?;
        let version = match reader.u32("magic")? {
            MAGIC_V1 => RecordVersion::V1,
            MAGIC_V2 => RecordVersion::V2,
            MAGIC_BLANK => return Err(RecordError::Blank { len: total }),
            magic => return Err(RecordError::Magic { magic }),
        };
        let stated = total as usize;
        if bytes.len() < stated {
            return Err(RecordError::Truncated { field: "record" });
        }
        let body_crc = reader.u32("body crc")?;
        let queue_id = reader.i32("queue id")?;
        let flag = reader.i32("flag")?;
        let queue_offset = reader.u64("queue offset")?;
        let commitlog_offset = reader.u64("commit-log offset")?;
        let sys_flag = SysFlag(reader.i32("sysFlag")?);
        let message = StoredMessage {
            version,
            body_crc,
            queue_id,
            flag,
            queue_offset,
            commitlog_offset,
            sys_flag,
            born_timestamp_ms: reader.u64("born timestamp")? as i64,
            born_host: reader.host(sys_flag.is_born_host_v6(), "born host")?,
            store_timestamp_ms: reader.u64("store timestamp")? as i64,
            store_host: reader.host(sys_flag.is_store_host_v6(), "store host")?,
            reconsume_times: reader.i32("reconsume times")?,
            prepared_transaction_offset: reader.u64("prepared transaction offset")?,
            body: reader.body()?,
            topic: reader.topic(version)?,
            properties: Properties(reader.properties()?),
        };
        let actual = bytes.len() - reader.rest.len();
        match actual == stated {
            true => Ok((message, stated)),
            false => Err(RecordError::Size { stated, actual }),
        }
    }

    /// Whether the body still has the CRC it was stored with.
    pub fn body_is_intact(&self) -> bool {
        body_crc(self.body) == self.body_crc
    }

    /// Bytes [`StoredMessage::encode`] appends.
    pub fn encoded_len(&self) -> usize {
        let topic_length_len = match self.version {
            RecordVersion::V1 => 1,
            RecordVersion::V2 => 2,
        };
        FIXED_LEN - 1
            + host_len(self.born_host)
            + host_len(self.store_host)
            + self.body.len()
            + topic_length_len
            + self.topic.len()
            + self.properties.0.len()
    }

    /// Appends the record and returns its length; appends nothing on an error. The address-family bits of `sysFlag` follow
    /// the hosts.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        let total = self.check_lengths()?;
        out.reserve(total as usize);
        out.put_u32(total);
        out.put_u32(match self.version {
            RecordVersion::V1 => MAGIC_V1,
            RecordVersion::V2 => MAGIC_V2,
        });
        out.put_u32(self.body_crc);
        out.put_i32(self.queue_id);
        out.put_i32(self.flag);
        out.put_u64(self.queue_offset);
        out.put_u64(self.commitlog_offset);
        out.put_i32(self.sys_flag.with_hosts(self.born_host, self.store_host).0);
        out.put_i64(self.born_timestamp_ms);
        put_host(out, self.born_host);
        out.put_i64(self.store_timestamp_ms);
        put_host(out, self.store_host);
        out.put_i32(self.reconsume_times);
        out.put_u64(self.prepared_transaction_offset);
        out.put_u32(self.body.len() as u32);
        out.put_slice(self.body);
        match self.version {
            RecordVersion::V1 => out.put_u8(self.topic.len() as u8),
            RecordVersion::V2 => out.put_u16(self.topic.len() as u16),
        }
        out.put_slice(self.topic.as_bytes());
        out.put_u16(self.properties.0.len() as u16);
        out.put_slice(self.properties.0.as_bytes());
        Ok(total as usize)
    }

    fn check_lengths(&self) -> Result<u32, EncodeError> {
        let max = match self.version {
            RecordVersion::V1 => MAX_TOPIC_LEN_V1,
            RecordVersion::V2 => MAX_TOPIC_LEN_V2,
        };
        if self.topic.len() > max {
            return Err(EncodeError::Topic { len: self.topic.len(), max });
        }
        let properties = self.properties.0.len();
        if properties > MAX_PROPERTIES_LEN {
            return Err(EncodeError::Properties { len: properties });
        }
        match i32::try_from(self.encoded_len()) {
            Ok(total) => Ok(total as u32),
            Err(_) => Err(EncodeError::Body { len: self.body.len() }),
        }
    }
}

/// Walks concatenated records, as a pull answer's body holds them; stops after the first that is not one.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<StoredMessage<'_>, RecordError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let decoded = StoredMessage::decode(rest);
        rest = match decoded {
            Ok((_, len)) => &rest[len..],
            Err(_) => &[],
        };
        Some(decoded.map(|(message, _)| message))
    })
}

/// CRC-32 of a body as stored, top bit cleared (`UtilAll.crc32`).
pub fn body_crc(body: &[u8]) -> u32 {
    crc32fast::hash(body) & 0x7FFF_FFFF
}

/// Hash of a tag as consume queues and subscriptions carry it: Java's `String.hashCode`, over UTF-16 units.
pub fn tag_code(tag: &str) -> i32 {
    tag.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

/// One message of a batch send's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchItem<'a> {
    pub flag: i32,
    pub body: &'a [u8],
    pub properties: Properties<'a>,
}

impl BatchItem<'_> {
    /// total size, magic, CRC, flag, body length, properties length
    const FIXED_LEN: usize = 4 + 4 + 4 + 4 + 4 + 2;

    /// Appends the item as a producer does (magic and CRC left 0).
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        let properties = self.properties.0.len();
        if properties > MAX_PROPERTIES_LEN {
            return Err(EncodeError::Properties { len: properties });
        }
        let total = BatchItem::FIXED_LEN + self.body.len() + properties;
        let stated = i32::try_from(total).map_err(|_| EncodeError::Body { len: self.body.len() })?;
        out.put_i32(stated);
        out.put_u64(0);
        out.put_i32(self.flag);
        out.put_u32(self.body.len() as u32);
        out.put_slice(self.body);
        out.put_u16(properties as u16);
        out.put_slice(self.properties.0.as_bytes());
        Ok(total)
    }
}

/// Walks the messages of a batch send's body (code 320); stops after the first that is not one. A sender's CRC is ignored,
/// as Apache's broker does: 4.x clients leave it 0.
pub fn batch_items(body: &[u8]) -> impl Iterator<Item = Result<BatchItem<'_>, RecordError>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let decoded = batch_item(rest);
        rest = match decoded {
            Ok((_, len)) => &rest[len..],
            Err(_) => &[],
        };
        Some(decoded.map(|(item, _)| item))
    })
}

fn batch_item(bytes: &[u8]) -> Result<(BatchItem<'_>, usize), RecordError> {
    let mut reader = Reader { rest: bytes };
    let stated = reader.u32("total size")? as usize;
    reader.u32("magic")?;
    reader.u32("body crc")?;
    let item = BatchItem {
        flag: reader.i32("flag")?,
        body: reader.body()?,
        properties: Properties(reader.properties()?),
    };
    let actual = bytes.len() - reader.rest.len();
    match actual == stated {
        true => Ok((item, actual)),
        false => Err(RecordError::Size { stated, actual }),
    }
}

fn host_len(host: SocketAddr) -> usize {
    match host {
        SocketAddr::V4(_) => 8,
        SocketAddr::V6(_) => 20,
    }
}

fn put_host(out: &mut Vec<u8>, host: SocketAddr) {
    match host.ip() {
        IpAddr::V4(ip) => out.put_slice(&ip.octets()),
        IpAddr::V6(ip) => out.put_slice(&ip.octets()),
    }
    out.put_u32(host.port().into());
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], RecordError> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>().ok_or(RecordError::Truncated { field })?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, RecordError> {
        self.array(field).map(u32::from_be_bytes)
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, RecordError> {
        self.array(field).map(i32::from_be_bytes)
    }

    fn u64(&mut self, field: &'static str) -> Result<u64, RecordError> {
        self.array(field).map(u64::from_be_bytes)
    }

    fn host(&mut self, is_v6: bool, field: &'static str) -> Result<SocketAddr, RecordError> {
        let ip: IpAddr = match is_v6 {
            true => Ipv6Addr::from(self.array::<16>(field)?).into(),
            false => Ipv4Addr::from(self.array::<4>(field)?).into(),
        };
        let port = self.u32(field)?;
        let port = u16::try_from(port).map_err(|_| RecordError::Length { field, length: port.into() })?;
        Ok(SocketAddr::new(ip, port))
    }

    fn bytes(&mut self, length: i64, field: &'static str) -> Result<&'a [u8], RecordError> {
        let len = usize::try_from(length).map_err(|_| RecordError::Length { field, length })?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(RecordError::Truncated { field })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn body(&mut self) -> Result<&'a [u8], RecordError> {
        let length = self.i32("body length")?;
        self.bytes(length.into(), "body")
    }

    fn topic(&mut self, version: RecordVersion) -> Result<&'a str, RecordError> {
        let length = match version {
            RecordVersion::V1 => i64::from(i8::from_be_bytes(self.array("topic length")?)),
            RecordVersion::V2 => i64::from(i16::from_be_bytes(self.array("topic length")?)),
        };
        text(self.bytes(length, "topic")?, "topic")
    }

    fn properties(&mut self) -> Result<&'a str, RecordError> {
        let length = i16::from_be_bytes(self.array("properties length")?);
        text(self.bytes(length.into(), "properties")?, "properties")
    }
}

fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, RecordError> {
    std::str::from_utf8(bytes).map_err(|_| RecordError::NotUtf8 { field })
}

#[cfg(test)]
mod tests;
