//! The replication stream's bytes. Pure: messages to frames and back; whatever comes, decoding answers or refuses, and never
//! takes more memory than its limit.
//!
//! ```text
//! frame:    magic "LTRP", version u8 (1), kind u8, 0 u16, payload length u32, CRC-32 of these 12 bytes and the payload u32,
//!           payload; big-endian
//! 1 hello      replica to master: texts broker name and replica id, segment bytes u64, flag u8 (1: it only copies), log view, runs
//! 2 welcome    master to replica: start u64, flag u8 (1: its disk's word is waited for), run 16 bytes and sequence u64 of the last
//!              journal frame both have, text: where clients reach the master, log view
//! 3 refused    master to replica: text
//! 4 log        position u64, readable u64, records and fillers as they are in the log
//! 5 frames     run 16 bytes, then per journal frame: sequence u64, reset point u8, length u32, payload
//! 6 heartbeat  log start u64, log end u64, readable u64
//! 7 ack        replica to master: received u64, flushed u64
//! 8 ask        member to member: texts broker name and replica id, epoch number u64 (0: nothing is asked for)
//! 9 standing   the answer: flag u8 (1: it is master), promised epoch number u64, log view, run 16 bytes, sequence u64
//! text:     length u16, UTF-8      log view: end u64, count u32, per epoch: number u64, incarnation 16 bytes, first byte u64
//! runs:     count u32, per run of the journal, oldest first: 16 bytes, sequence u64 of its last frame
//! ```

use super::epochs::{EPOCHS_MAX, LogView};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use lifecycle::identity::{Epoch, Incarnation, LogPosition};
use lifecycle::position::Position;

/// Version of the format above.
pub const VERSION: u8 = 1;
/// Bytes before a payload.
pub const HEADER_LEN: usize = 16;
/// Longest payload: the largest journal frame, or the largest piece of a log, with what is said of it.
pub const PAYLOAD_LEN_MAX: usize = 9 * 1024 * 1024;
/// Longest text.
const TEXT_LEN_MAX: usize = 1024;
/// Most runs of a journal that are named.
pub const RUNS_MAX: usize = 4_096;

const MAGIC: &[u8; 4] = b"LTRP";
/// Of a header, what its CRC covers.
const COVERED: usize = 12;

/// One journal frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalFrame {
    /// Its number within the run.
    pub sequence: u64,
    /// Whether decoding can start here.
    pub is_reset_point: bool,
    /// The payload.
    pub payload: Bytes,
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The replica group.
    pub broker_name: String,
    /// Its name in it.
    pub replica_id: String,
    /// Size of its log's segments: copies are byte for byte.
    pub segment_bytes: u64,
    /// It wants a copy of what is there, from whoever has it, and is nobody's replica by that.
    pub copies: bool,
    /// Its log.
    pub log: LogView,
    /// The last journal frame it has of each run, oldest first; the newest [`RUNS_MAX`].
    pub runs: Vec<Position>,
}

/// What a master answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Up to here the two logs are the same; log bytes follow from here.
    pub start: LogPosition,
    /// The master waits for the replica's disk.
    pub waits_for_disk: bool,
    /// The last journal frame both have (sequence 0: none): what the replica has behind it is void.
    pub journal: Position,
    /// Where clients reach the master.
    pub remoting: String,
    /// The master's log.
    pub log: LogView,
}

/// Asks a member how it stands, and for its word to follow nobody below an epoch number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// The replica group.
    pub broker_name: String,
    /// Who asks.
    pub replica_id: String,
    /// The epoch it wants to open; 0: it only asks.
    pub number: u64,
}

/// How a member stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Standing {
    /// It takes writes.
    pub is_master: bool,
    /// It follows no master whose epoch is below.
    pub promised: u64,
    /// Its log.
    pub log: LogView,
    /// Its last journal frame; sequence 0: none.
    pub journal: Position,
}

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// See [`Hello`].
    Hello(Hello),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// The master does not take this replica, and why.
    Refused(String),
    /// A piece of the log.
    Log {
        /// Where it stands.
        position: LogPosition,
        /// Consumers may read below.
        readable: LogPosition,
        /// Whole records and fillers.
        bytes: Bytes,
    },
    /// Journal frames of one run; they speak of log bytes that were sent before.
    Frames {
        /// The run.
        run: Incarnation,
        /// In order.
        frames: Vec<JournalFrame>,
    },
    /// The master lives.
    Heartbeat {
        /// First byte it still has.
        start: LogPosition,
        /// Its log's end.
        end: LogPosition,
        /// Consumers may read below.
        readable: LogPosition,
    },
    /// How far the replica is.
    Ack {
        /// It has received everything below.
        received: LogPosition,
        /// It has everything below on its disk.
        flushed: LogPosition,
    },
    /// See [`Ask`].
    Ask(Ask),
    /// See [`Standing`].
    Standing(Standing),
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Something else speaks.
    #[error("not a replication stream")]
    Magic,
    /// A later edition.
    #[error("version {0} of the replication stream, this program speaks version {VERSION}")]
    Version(u8),
    /// Over [`PAYLOAD_LEN_MAX`].
    #[error("frame of {0} bytes is over the limit of {PAYLOAD_LEN_MAX}")]
    TooLong(usize),
    /// Changed on the way.
    #[error("frame checksum")]
    Checksum,
    /// The payload is not what its kind says.
    #[error("frame of kind {0} is not in order")]
    Payload(u8),
}

/// A frame's first bytes, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    /// Bytes that follow.
    pub len: usize,
    crc: u32,
    covered: [u8; COVERED],
}

impl Header {
    /// Reads a header; the payload may be waited for when it is good.
    pub fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Header, FrameError> {
        let mut rest = bytes.as_slice();
        let mut covered = [0; COVERED];
        covered.copy_from_slice(&bytes[..COVERED]);
        let magic = rest.get_u32();
        let (version, kind, zero, len) =
            (rest.get_u8(), rest.get_u8(), rest.get_u16(), rest.get_u32() as usize);
        if magic != u32::from_be_bytes(*MAGIC) {
            return Err(FrameError::Magic);
        }
        if version != VERSION || zero != 0 {
            return Err(FrameError::Version(version));
        }
        if len > PAYLOAD_LEN_MAX {
            return Err(FrameError::TooLong(len));
        }
        Ok(Header { kind, len, crc: rest.get_u32(), covered })
    }

    /// Reads the payload that came after it.
    pub fn message(&self, payload: Bytes) -> Result<Message, FrameError> {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&self.covered);
        hasher.update(&payload);
        if payload.len() != self.len || hasher.finalize() != self.crc {
            return Err(FrameError::Checksum);
        }
        decode_payload(self.kind, payload).ok_or(FrameError::Payload(self.kind))
    }
}

impl Message {
    fn kind(&self) -> u8 {
        match self {
            Message::Hello(_) => 1,
            Message::Welcome(_) => 2,
            Message::Refused(_) => 3,
            Message::Log { .. } => 4,
            Message::Frames { .. } => 5,
            Message::Heartbeat { .. } => 6,
            Message::Ack { .. } => 7,
            Message::Ask(_) => 8,
            Message::Standing(_) => 9,
        }
    }

    /// The frame. Its parts are within their limits, or this is a bug of the sender.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_LEN + 64);
        out.put_slice(MAGIC);
        out.put_u8(VERSION);
        out.put_u8(self.kind());
        out.put_u16(0);
        out.put_u64(0);
        self.put_payload(&mut out);
        let len = out.len() - HEADER_LEN;
        assert!(len <= PAYLOAD_LEN_MAX, "messages are built within the limit");
        let (head, payload) = out.split_at_mut(HEADER_LEN);
        head[8..COVERED].copy_from_slice(&(len as u32).to_be_bytes());
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&head[..COVERED]);
        hasher.update(payload);
        head[COVERED..].copy_from_slice(&hasher.finalize().to_be_bytes());
        out.freeze()
    }

    fn put_payload(&self, out: &mut BytesMut) {
        match self {
            Message::Hello(hello) => {
                put_text(out, &hello.broker_name);
                put_text(out, &hello.replica_id);
                out.put_u64(hello.segment_bytes);
                out.put_u8(u8::from(hello.copies));
                put_log(out, &hello.log);
                assert!(hello.runs.len() <= RUNS_MAX, "the newest are chosen before");
                out.put_u32(hello.runs.len() as u32);
                hello.runs.iter().for_each(|position| put_position(out, *position));
            }
            Message::Welcome(welcome) => {
                out.put_u64(welcome.start.0);
                out.put_u8(u8::from(welcome.waits_for_disk));
                put_position(out, welcome.journal);
                put_text(out, &welcome.remoting);
                put_log(out, &welcome.log);
            }
            Message::Refused(why) => put_text(out, why),
            Message::Log { position, readable, bytes } => {
                out.put_u64(position.0);
                out.put_u64(readable.0);
                out.put_slice(bytes);
            }
            Message::Frames { run, frames } => {
                out.put_slice(&run.0);
                for frame in frames {
                    out.put_u64(frame.sequence);
                    out.put_u8(u8::from(frame.is_reset_point));
                    out.put_u32(frame.payload.len() as u32);
                    out.put_slice(&frame.payload);
                }
            }
            Message::Heartbeat { start, end, readable } => {
                [start, end, readable].into_iter().for_each(|position| out.put_u64(position.0));
            }
            Message::Ack { received, flushed } => {
                out.put_u64(received.0);
                out.put_u64(flushed.0);
            }
            Message::Ask(ask) => {
                put_text(out, &ask.broker_name);
                put_text(out, &ask.replica_id);
                out.put_u64(ask.number);
            }
            Message::Standing(standing) => {
                out.put_u8(u8::from(standing.is_master));
                out.put_u64(standing.promised);
                put_log(out, &standing.log);
                put_position(out, standing.journal);
            }
        }
    }
}

fn put_position(out: &mut BytesMut, position: Position) {
    out.put_slice(&position.incarnation.0);
    out.put_u64(position.sequence);
}

/// Longer texts are cut, at a border of characters.
fn put_text(out: &mut BytesMut, text: &str) {
    let text = text.get(..text.floor_char_boundary(TEXT_LEN_MAX)).unwrap_or_default();
    out.put_u16(text.len() as u16);
    out.put_slice(text.as_bytes());
}

fn put_log(out: &mut BytesMut, log: &LogView) {
    assert!(log.epochs.len() <= EPOCHS_MAX, "the table is checked before it is sent");
    out.put_u64(log.end.0);
    out.put_u32(log.epochs.len() as u32);
    for (epoch, start) in &log.epochs {
        out.put_u64(epoch.number);
        out.put_slice(&epoch.incarnation.0);
        out.put_u64(start.0);
    }
}

fn decode_payload(kind: u8, mut rest: Bytes) -> Option<Message> {
    let message = match kind {
        1 => Message::Hello(Hello {
            broker_name: text(&mut rest)?,
            replica_id: text(&mut rest)?,
            segment_bytes: number(&mut rest)?,
            copies: flag(&mut rest)?,
            log: log_view(&mut rest)?,
            runs: runs(&mut rest)?,
        }),
        2 => Message::Welcome(Welcome {
            start: LogPosition(number(&mut rest)?),
            waits_for_disk: flag(&mut rest)?,
            journal: position(&mut rest)?,
            remoting: text(&mut rest)?,
            log: log_view(&mut rest)?,
        }),
        3 => Message::Refused(text(&mut rest)?),
        4 => Message::Log {
            position: LogPosition(number(&mut rest)?),
            readable: LogPosition(number(&mut rest)?),
            bytes: std::mem::take(&mut rest),
        },
        5 => {
            let run = run(&mut rest)?;
            let mut frames = Vec::new();
            while !rest.is_empty() {
                let (sequence, is_reset_point) = (number(&mut rest)?, flag(&mut rest)?);
                let len = take(&mut rest, 4)?.get_u32() as usize;
                frames.push(JournalFrame { sequence, is_reset_point, payload: take(&mut rest, len)? });
            }
            Message::Frames { run, frames }
        }
        6 => Message::Heartbeat {
            start: LogPosition(number(&mut rest)?),
            end: LogPosition(number(&mut rest)?),
            readable: LogPosition(number(&mut rest)?),
        },
        7 => Message::Ack {
            received: LogPosition(number(&mut rest)?),
            flushed: LogPosition(number(&mut rest)?),
        },
        8 => Message::Ask(Ask {
            broker_name: text(&mut rest)?,
            replica_id: text(&mut rest)?,
            number: number(&mut rest)?,
        }),
        9 => Message::Standing(Standing {
            is_master: flag(&mut rest)?,
            promised: number(&mut rest)?,
            log: log_view(&mut rest)?,
            journal: position(&mut rest)?,
        }),
        _ => return None,
    };
    rest.is_empty().then_some(message)
}

fn take(rest: &mut Bytes, len: usize) -> Option<Bytes> {
    (rest.len() >= len).then(|| rest.split_to(len))
}

fn number(rest: &mut Bytes) -> Option<u64> {
    take(rest, 8).map(|mut bytes| bytes.get_u64())
}

fn flag(rest: &mut Bytes) -> Option<bool> {
    match take(rest, 1)?.get_u8() {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn run(rest: &mut Bytes) -> Option<Incarnation> {
    take(rest, 16)?.first_chunk().map(|bytes| Incarnation(*bytes))
}

fn position(rest: &mut Bytes) -> Option<Position> {
    Some(Position { incarnation: run(rest)?, sequence: number(rest)? })
}

fn runs(rest: &mut Bytes) -> Option<Vec<Position>> {
    let count = take(rest, 4)?.get_u32() as usize;
    // the rows must be here before memory is taken for them
    if count > RUNS_MAX || rest.len() < count * 24 {
        return None;
    }
    (0..count).map(|_| position(rest)).collect()
}

fn text(rest: &mut Bytes) -> Option<String> {
    let len = usize::from(take(rest, 2)?.get_u16());
    let bytes = take(rest, (len <= TEXT_LEN_MAX).then_some(len)?)?;
    String::from_utf8(bytes.into()).ok()
}

fn log_view(rest: &mut Bytes) -> Option<LogView> {
    let end = LogPosition(number(rest)?);
    let count = take(rest, 4)?.get_u32() as usize;
    // the rows must be here before memory is taken for them
    if count > EPOCHS_MAX || rest.len() < count * 32 {
        return None;
    }
    let mut epochs = Vec::with_capacity(count);
    for _ in 0..count {
        let epoch = Epoch { number: number(rest)?, incarnation: run(rest)? };
        epochs.push((epoch, LogPosition(number(rest)?)));
    }
    Some(LogView { epochs, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn examples() -> Vec<Message> {
        let row = |number: u64| {
            (Epoch { number, incarnation: Incarnation([number as u8; 16]) }, LogPosition(number * 10))
        };
        let log = LogView { epochs: vec![row(1), row(4)], end: LogPosition(77) };
        let at = |run, sequence| Position { incarnation: Incarnation([run; 16]), sequence };
        let frame = |sequence, len| JournalFrame {
            sequence,
            is_reset_point: sequence == 1,
            payload: vec![sequence as u8; len].into(),
        };
        vec![
            Message::Hello(Hello {
                broker_name: "b".into(),
                replica_id: "r1".into(),
                segment_bytes: 1 << 28,
                copies: false,
                log: log.clone(),
                runs: vec![at(2, 7), at(3, 9)],
            }),
            Message::Welcome(Welcome {
                start: LogPosition(40),
                waits_for_disk: true,
                journal: at(3, 8),
                remoting: "10.0.0.1:10911".into(),
                log: log.clone(),
            }),
            Message::Ask(Ask { broker_name: "b".into(), replica_id: "r2".into(), number: 7 }),
            Message::Standing(Standing { is_master: true, promised: 6, log, journal: at(3, 8) }),
            Message::Refused("no".into()),
            Message::Log {
                position: LogPosition(5),
                readable: LogPosition(4),
                bytes: Bytes::from_static(b"rec"),
            },
            Message::Frames {
                run: Incarnation([8; 16]),
                frames: vec![frame(1, 3), frame(2, 0), frame(3, 300)],
            },
            Message::Heartbeat { start: LogPosition(1), end: LogPosition(2), readable: LogPosition(2) },
            Message::Ack { received: LogPosition(9), flushed: LogPosition(7) },
        ]
    }

    fn decode(bytes: &[u8]) -> Result<Message, FrameError> {
        let Some((head, payload)) = bytes.split_first_chunk::<HEADER_LEN>() else {
            return Err(FrameError::Magic);
        };
        Header::decode(head)?.message(Bytes::copy_from_slice(payload))
    }

    #[test]
    fn every_message_comes_back_and_no_changed_bit_passes() {
        for message in examples() {
            let bytes = message.encode();
            assert_eq!(decode(&bytes), Ok(message));
            for at in 0..bytes.len() {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << (at % 8);
                assert!(decode(&flipped).is_err(), "byte {at}");
            }
            assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn the_first_edition_stays_readable() {
        let ack = "4c54525001070000000000103113cb9f00000000000000090000000000000007";
        let message = Message::Ack { received: LogPosition(9), flushed: LogPosition(7) };
        let encoded: String = message.encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(encoded, ack);
    }

    proptest! {
        #[test]
        fn any_payload_is_read_or_refused(kind in 0u8..9, payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let payload = Bytes::from(payload);
            if let Some(message) = decode_payload(kind, payload.clone()) {
                let again = message.encode().slice(HEADER_LEN..);
                prop_assert_eq!(decode_payload(kind, again), Some(message));
            }
        }
    }
}
