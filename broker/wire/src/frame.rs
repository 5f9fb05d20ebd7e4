//! Cuts a byte stream into remoting frames.
//!
//! Owns: the two length words and their limits. Never reads a header's content (`command` does). Called by: the session of
//! a connection, which feeds it what it read.
//!
//! ```text
//! u32 length (of all that follows) | u8 header type | u24 header length | header | body
//! ```

use bytes::{Buf, Bytes, BytesMut};

/// Longest frame, its length word included (Java: `com.rocketmq.remoting.frameMaxLength`).
pub const MAX_FRAME_LEN: usize = 16 * 1024 * 1024;
/// Longest header. Properties are at most 32 KiB and escape to six times that in JSON, so nothing real comes near.
pub const MAX_HEADER_LEN: usize = 1024 * 1024;

const LENGTH_LEN: usize = 4;
const TYPE_LEN: usize = 4;
/// First byte of a TLS handshake. A frame within the limit starts with 0 or 1, so the two cannot be confused.
const TLS_HANDSHAKE: u8 = 0x16;

/// How a command's header is written: the top byte of the second length word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HeaderType {
    /// `SerializeType.JSON`
    Json,
    /// `SerializeType.ROCKETMQ`
    Rocketmq,
}

impl HeaderType {
    pub fn byte(self) -> u8 {
        match self {
            HeaderType::Json => 0,
            HeaderType::Rocketmq => 1,
        }
    }

    pub fn from_byte(byte: u8) -> Option<HeaderType> {
        match byte {
            0 => Some(HeaderType::Json),
            1 => Some(HeaderType::Rocketmq),
            _ => None,
        }
    }

    /// The Java enum name, as `serializeTypeCurrentRPC` carries it.
    pub fn name(self) -> &'static str {
        match self {
            HeaderType::Json => "JSON",
            HeaderType::Rocketmq => "ROCKETMQ",
        }
    }
}

/// One frame, its header and body still bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header_type: HeaderType,
    pub header: Bytes,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of {frame_len} bytes exceeds the limit of {max} bytes")]
    TooLong { frame_len: usize, max: usize },
    #[error("frame length {length} is too short to hold a header length")]
    TooShort { length: usize },
    #[error("header of {header_len} bytes exceeds the frame or the limit of {max} bytes")]
    HeaderTooLong { header_len: usize, max: usize },
    #[error("header type {header_type} is neither JSON nor ROCKETMQ")]
    UnknownHeaderType { header_type: u8 },
    #[error("peer speaks TLS, this port speaks plain text")]
    Tls,
}

impl FrameError {
    /// True when the bad frame was taken off the buffer whole, so the next bytes start a frame. Otherwise the stream has no
    /// known frame border any more and the connection must be closed.
    pub fn in_sync(&self) -> bool {
        matches!(self, FrameError::UnknownHeaderType { .. })
    }
}

/// Cuts frames off the front of a read buffer; holds no state but its limit.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    max_frame_len: usize,
}

impl Default for FrameDecoder {
    fn default() -> FrameDecoder {
        FrameDecoder::new(MAX_FRAME_LEN)
    }
}

impl FrameDecoder {
    /// A decoder with its own limit, never above [`MAX_FRAME_LEN`].
    pub fn new(max_frame_len: usize) -> FrameDecoder {
        FrameDecoder { max_frame_len: max_frame_len.min(MAX_FRAME_LEN) }
    }

    /// Takes the next complete frame off `buf`; `None` means more bytes are needed. Reserves nothing for what a peer merely
    /// announces: the buffer grows with what arrives.
    pub fn decode(&self, buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(length) = peek_u32(buf, 0) else {
            return Ok(None);
        };
        let frame_len = length as usize + LENGTH_LEN;
        if buf[0] == TLS_HANDSHAKE {
            return Err(FrameError::Tls);
        }
        if frame_len > self.max_frame_len {
            return Err(FrameError::TooLong { frame_len, max: self.max_frame_len });
        }
        if frame_len < LENGTH_LEN + TYPE_LEN {
            return Err(FrameError::TooShort { length: length as usize });
        }
        let Some(type_word) = peek_u32(buf, LENGTH_LEN) else {
            return Ok(None);
        };
        let header_len = (type_word & 0x00FF_FFFF) as usize;
        let max = MAX_HEADER_LEN.min(frame_len - LENGTH_LEN - TYPE_LEN);
        if header_len > max {
            return Err(FrameError::HeaderTooLong { header_len, max });
        }
        if buf.len() < frame_len {
            return Ok(None);
        }

        let mut frame = buf.split_to(frame_len).freeze();
        let header_type = (type_word >> 24) as u8;
        let header_type =
            HeaderType::from_byte(header_type).ok_or(FrameError::UnknownHeaderType { header_type })?;
        frame.advance(LENGTH_LEN + TYPE_LEN);
        let header = frame.split_to(header_len);
        Ok(Some(Frame { header_type, header, body: frame }))
    }
}

fn peek_u32(buf: &[u8], at: usize) -> Option<u32> {
    let bytes = buf.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(header_type: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
        out.extend_from_slice(&((u32::from(header_type) << 24) | header.len() as u32).to_be_bytes());
        out.extend_from_slice(header);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn refuses_what_it_cannot_frame_and_says_if_the_connection_can_go_on() {
        let check = |bytes: &[u8], expected: FrameError, in_sync: bool| {
            let mut buf = BytesMut::from(bytes);
            let error = FrameDecoder::default().decode(&mut buf).unwrap_err();
            assert_eq!(error, expected);
            assert_eq!(error.in_sync(), in_sync);
        };
        check(&[0x16, 3, 1, 0], FrameError::Tls, false);
        check(
            &0x0100_0000u32.to_be_bytes(),
            FrameError::TooLong { frame_len: 0x0100_0004, max: MAX_FRAME_LEN },
            false,
        );
        check(&[0, 0, 0, 3], FrameError::TooShort { length: 3 }, false);
        check(&[0, 0, 0, 6, 0, 0, 0, 3], FrameError::HeaderTooLong { header_len: 3, max: 2 }, false);
        check(
            &[0x00, 0x80, 0, 0, 0, 0x10, 0, 1],
            FrameError::HeaderTooLong { header_len: MAX_HEADER_LEN + 1, max: MAX_HEADER_LEN },
            false,
        );
    }

    #[test]
    fn goes_on_after_an_unknown_header_type() {
        let mut buf = BytesMut::from(&raw(2, b"xx", b"yyy")[..]);
        buf.extend_from_slice(&raw(1, b"head", b""));
        let error = FrameDecoder::default().decode(&mut buf).unwrap_err();
        assert_eq!(error, FrameError::UnknownHeaderType { header_type: 2 });
        assert!(error.in_sync());
        let frame = FrameDecoder::default().decode(&mut buf).unwrap().unwrap();
        assert_eq!(frame.header_type, HeaderType::Rocketmq);
        assert_eq!(&frame.header[..], b"head");
        assert!(buf.is_empty());
    }

    #[test]
    fn largest_frame_passes_and_one_more_byte_does_not() {
        let decoder = FrameDecoder::new(100);
        let mut buf = BytesMut::from(&raw(0, b"h", &[7; 91])[..]);
        assert_eq!(buf.len(), 100);
        assert_eq!(decoder.decode(&mut buf).unwrap().unwrap().body.len(), 91);
        let mut buf = BytesMut::from(&raw(0, b"h", &[7; 92])[..]);
        assert!(matches!(decoder.decode(&mut buf), Err(FrameError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            frames in prop::collection::vec(
                (0u8..2, prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(any::<u8>(), 0..80)), 1..6),
            cut in 1usize..30,
        ) {
            let stream: Vec<u8> = frames.iter().flat_map(|(t, h, b)| raw(*t, h, b)).collect();
            let mut buf = BytesMut::new();
            let mut seen = Vec::new();
            for part in stream.chunks(cut) {
                buf.extend_from_slice(part);
                while let Some(frame) = FrameDecoder::default().decode(&mut buf).unwrap() {
                    seen.push((frame.header_type.byte(), frame.header.to_vec(), frame.body.to_vec()));
                }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), small in any::<bool>()) {
            let mut bytes = bytes;
            if small && bytes.len() > 6 {
                bytes[..4].copy_from_slice(&[0, 0, 0, 16]);
                bytes[5] = 0;
                bytes[6] = 0;
            }
            let mut buf = BytesMut::from(&bytes[..]);
            let before = buf.len();
            match FrameDecoder::default().decode(&mut buf) {
                Ok(Some(frame)) => prop_assert_eq!(buf.len() + 8 + frame.header.len() + frame.body.len(), before),
                Ok(None) => prop_assert_eq!(buf.len(), before),
                Err(error) => prop_assert_eq!(buf.len() < before, error.in_sync()),
            }
        }
    }
}
