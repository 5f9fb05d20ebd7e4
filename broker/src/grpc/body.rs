//! Owns the forms of a body: what a gRPC client compressed is stored plain, what a remoting client compressed is handed out
//! plain, always with a digest every SDK can check. Inflating is bounded: a small body may not become a huge one.

use super::proto::{Digest, DigestType, Encoding};
use bytes::Bytes;
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::GzEncoder;
use md5::{Digest as _, Md5};
use std::io::{Read, Write};
use wire::sys_flag::{self, SysFlag};

/// Largest body a stored one is inflated to; senders are held to less, so only a forged one is larger.
const INFLATED_MAX_BYTES: usize = 16 * 1024 * 1024;
/// The digest of no body: an SDK that is handed a body nobody can read marks it corrupted and does not consume it.
const UNREADABLE_CHECKSUM: &str = "00000000000000000000000000000000";

/// Why a body cannot be inflated.
#[derive(Debug, thiserror::Error)]
pub(super) enum InflateError {
    #[error("it inflates to more than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("it is damaged: {0}")]
    Damaged(std::io::Error),
    #[error("compression {0:?} is not supported for gRPC consumers")]
    Unsupported(sys_flag::Compression),
}

/// The plain form of a body a client sent as GZIP.
pub(super) fn gunzip(body: &[u8], limit: usize) -> Result<Vec<u8>, InflateError> {
    inflate(MultiGzDecoder::new(body), limit)
}

fn inflate(decoder: impl Read, limit: usize) -> Result<Vec<u8>, InflateError> {
    let mut plain = Vec::new();
    let one_too_many = limit as u64 + 1;
    decoder.take(one_too_many).read_to_end(&mut plain).map_err(InflateError::Damaged)?;
    match plain.len() > limit {
        true => Err(InflateError::TooLarge { limit }),
        false => Ok(plain),
    }
}

/// A body as it is handed out.
#[derive(Debug, PartialEq)]
pub(super) struct Outgoing {
    pub(super) body: Bytes,
    pub(super) encoding: Encoding,
    pub(super) digest: Digest,
}

impl Outgoing {
    /// From the stored form. A body over `plain_max` (only remoting clients can send one) is compressed, because SDKs refuse
    /// frames over 4 MiB. One that cannot be read is handed out as it is, marked so that SDKs call it corrupted.
    pub(super) fn of(stored: Bytes, sys_flag: SysFlag, plain_max: usize) -> Outgoing {
        let plain = match plain(stored.clone(), sys_flag) {
            Ok(plain) => plain,
            Err(error) => {
                tracing::error!(%error, "a stored body cannot be read, consumers will see it as corrupted");
                return Outgoing::with(stored, Encoding::Identity, UNREADABLE_CHECKSUM.to_owned());
            }
        };
        if plain.len() > plain_max
            && let Ok(body) = gzip(&plain)
        {
            return Outgoing::with(body.clone(), Encoding::Gzip, md5_hex(&body));
        }
        Outgoing::with(plain.clone(), Encoding::Identity, md5_hex(&plain))
    }

    fn with(body: Bytes, encoding: Encoding, checksum: String) -> Outgoing {
        // MD5: clients disagree on how a CRC-32 is written
        Outgoing { body, encoding, digest: Digest { r#type: DigestType::Md5.into(), checksum } }
    }
}

fn plain(stored: Bytes, sys_flag: SysFlag) -> Result<Bytes, InflateError> {
    match sys_flag.compression() {
        sys_flag::Compression::None => Ok(stored),
        sys_flag::Compression::Zlib => {
            inflate(ZlibDecoder::new(&stored[..]), INFLATED_MAX_BYTES).map(Bytes::from)
        }
        other => Err(InflateError::Unsupported(other)),
    }
}

fn gzip(plain: &[u8]) -> std::io::Result<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish().map(Bytes::from)
}

/// 32 upper-case hex digits, as SDKs compare text.
fn md5_hex(bytes: &[u8]) -> String {
    Md5::digest(bytes).iter().fold(String::with_capacity(32), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789ABCDEF"[usize::from(digit)]));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::ZlibEncoder;
    use proptest::prelude::*;

    const MAX: usize = 1_000;

    fn zlib(plain: &[u8]) -> Bytes {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn digest_is_the_one_sdks_compute() {
        assert_eq!(md5_hex(b"hello"), "5D41402ABC4B2A76B9719D911017C592");
    }

    #[test]
    fn a_plain_body_is_handed_out_as_it_is() {
        let out = Outgoing::of(Bytes::from_static(b"hello"), SysFlag(0), MAX);
        assert_eq!((&out.body[..], out.encoding), (&b"hello"[..], Encoding::Identity));
        assert_eq!(out.digest.checksum, md5_hex(b"hello"));
    }

    #[test]
    fn a_body_compressed_by_a_remoting_client_is_inflated() {
        for flag in [1, 0x301] {
            let out = Outgoing::of(zlib(b"hello"), SysFlag(flag), MAX);
            assert_eq!((&out.body[..], out.encoding), (&b"hello"[..], Encoding::Identity));
        }
    }

    #[test]
    fn a_body_too_large_for_a_frame_is_compressed() {
        let plain = vec![7; MAX + 1];
        let out = Outgoing::of(plain.clone().into(), SysFlag(0), MAX);
        assert_eq!(out.encoding, Encoding::Gzip);
        assert_eq!(out.digest.checksum, md5_hex(&out.body));
        assert_eq!(gunzip(&out.body, MAX + 1).unwrap(), plain);
    }

    #[test]
    fn a_body_nobody_can_read_looks_corrupted() {
        for (body, flag) in [(Bytes::from_static(b"no zlib"), 1), (Bytes::from_static(b"lz4"), 0x101)] {
            let out = Outgoing::of(body.clone(), SysFlag(flag), MAX);
            assert_eq!(out.body, body);
            assert_ne!(out.digest.checksum, md5_hex(&body));
        }
        let bomb = zlib(&vec![0; INFLATED_MAX_BYTES + 1]);
        assert_eq!(Outgoing::of(bomb, SysFlag(1), MAX).digest.checksum, UNREADABLE_CHECKSUM);
    }

    #[test]
    fn inflating_stops_at_the_limit() {
        let packed = gzip(&[1; 100]).unwrap();
        assert_eq!(gunzip(&packed, 100).unwrap(), [1; 100]);
        assert!(matches!(gunzip(&packed, 99), Err(InflateError::TooLarge { limit: 99 })));
        assert!(matches!(gunzip(b"x", 99), Err(InflateError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(body: Vec<u8>, flag in 0..0x800) {
            let out = Outgoing::of(body.clone().into(), SysFlag(flag), MAX);
            prop_assert_eq!(out.digest.checksum.len(), 32);
            prop_assert!(gunzip(&body, MAX).map_or(true, |plain| plain.len() <= MAX));
        }
    }
}
