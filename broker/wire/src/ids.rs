//! The three kinds of message id: where the broker put a message, and what a 4.x or a 5.x client called it.
//!
//! Owns: their text forms. An id of a client is a name and not proof of anything: two messages may carry the same one.
//! Called by: the edges, the store's index, reports.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("id of {len} characters has none of the known lengths")]
    Length { len: usize },
    #[error("id is not hexadecimal")]
    NotHex,
    #[error("id names port {port}")]
    Port { port: u32 },
    #[error("id has version {version}, known is 1")]
    Version { version: u8 },
}

/// `offsetMsgId`: address of the broker and commit-log offset of the record. 32 hex digits, 56 with IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OffsetMessageId {
    pub host: SocketAddr,
    pub commitlog_offset: u64,
}

impl OffsetMessageId {
    pub fn parse(text: &str) -> Result<OffsetMessageId, IdError> {
        let (ip, rest): (IpAddr, [u8; 12]) = match text.len() {
            32 => {
                let (ip, rest) = split::<16, 4, 12>(unhex(text)?);
                (Ipv4Addr::from(ip).into(), rest)
            }
            56 => {
                let (ip, rest) = split::<28, 16, 12>(unhex(text)?);
                (Ipv6Addr::from(ip).into(), rest)
            }
            len => return Err(IdError::Length { len }),
        };
        let (port, offset) = split::<12, 4, 8>(rest);
        let port = u32::from_be_bytes(port);
        Ok(OffsetMessageId {
            host: SocketAddr::new(ip, u16::try_from(port).map_err(|_| IdError::Port { port })?),
            commitlog_offset: u64::from_be_bytes(offset),
        })
    }
}

impl OffsetMessageId {
    /// Appends the text form, without the formatting machinery: every answer to a send has one.
    pub fn append_to(&self, text: &mut String) {
        match self.host.ip() {
            IpAddr::V4(ip) => append_hex(text, &ip.octets()),
            IpAddr::V6(ip) => append_hex(text, &ip.octets()),
        }
        append_hex(text, &u32::from(self.host.port()).to_be_bytes());
        append_hex(text, &self.commitlog_offset.to_be_bytes());
    }
}

impl fmt::Display for OffsetMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        self.append_to(&mut text);
        f.write_str(&text)
    }
}

fn append_hex(text: &mut String, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut digits = [b'0'; 32];
    for (byte, pair) in bytes.iter().zip(digits.as_chunks_mut::<2>().0) {
        *pair = [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
    }
    text.push_str(std::str::from_utf8(&digits[..2 * bytes.len()]).expect("hexadecimal digits are text"));
}

/// `UNIQ_KEY` as the Java 4.x client makes it: 32 hex digits, 56 with IPv6. Other clients put other text there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UniqKey {
    pub ip: IpAddr,
    /// Low 16 bits of the process id.
    pub pid: u16,
    pub class_loader: u32,
    /// Milliseconds since the start of the local month.
    pub since_month_ms: u32,
    /// Wraps every 65,536 ids; trace messages count too.
    pub counter: u16,
}

impl UniqKey {
    pub fn parse(text: &str) -> Result<UniqKey, IdError> {
        let (ip, rest): (IpAddr, [u8; 12]) = match text.len() {
            32 => {
                let (ip, rest) = split::<16, 4, 12>(unhex(text)?);
                (Ipv4Addr::from(ip).into(), rest)
            }
            56 => {
                let (ip, rest) = split::<28, 16, 12>(unhex(text)?);
                (Ipv6Addr::from(ip).into(), rest)
            }
            len => return Err(IdError::Length { len }),
        };
        let (pid, rest) = split::<12, 2, 10>(rest);
        let (class_loader, rest) = split::<10, 4, 6>(rest);
        let (since_month_ms, counter) = split::<6, 4, 2>(rest);
        Ok(UniqKey {
            ip,
            pid: u16::from_be_bytes(pid),
            class_loader: u32::from_be_bytes(class_loader),
            since_month_ms: u32::from_be_bytes(since_month_ms),
            counter: u16::from_be_bytes(counter),
        })
    }
}

impl fmt::Display for UniqKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            IpAddr::V4(ip) => write!(f, "{:08X}", u32::from(ip))?,
            IpAddr::V6(ip) => write!(f, "{:032X}", u128::from(ip))?,
        }
        write!(f, "{:04X}{:08X}{:08X}{:04X}", self.pid, self.class_loader, self.since_month_ms, self.counter)
    }
}

/// Message id of a 5.x client, version 1: 34 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientMessageId {
    pub mac: [u8; 6],
    /// Low 16 bits of the process id (Node: modulo 65535).
    pub pid: u16,
    /// Seconds since 2021-01-01 UTC; the Rust client writes something else here.
    pub seconds: u32,
    /// Counts up within one process; where it starts and what else it counts differs between clients.
    pub sequence: u32,
}

impl ClientMessageId {
    const VERSION: u8 = 1;

    pub fn parse(text: &str) -> Result<ClientMessageId, IdError> {
        if text.len() != 34 {
            return Err(IdError::Length { len: text.len() });
        }
        let ([version], rest) = split::<17, 1, 16>(unhex(text)?);
        if version != ClientMessageId::VERSION {
            return Err(IdError::Version { version });
        }
        let (mac, rest) = split::<16, 6, 10>(rest);
        let (pid, rest) = split::<10, 2, 8>(rest);
        let (seconds, sequence) = split::<8, 4, 4>(rest);
        Ok(ClientMessageId {
            mac,
            pid: u16::from_be_bytes(pid),
            seconds: u32::from_be_bytes(seconds),
            sequence: u32::from_be_bytes(sequence),
        })
    }
}

impl fmt::Display for ClientMessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02X}", ClientMessageId::VERSION)?;
        for byte in self.mac {
            write!(f, "{byte:02X}")?;
        }
        write!(f, "{:04X}{:08X}{:08X}", self.pid, self.seconds, self.sequence)
    }
}

/// The caller has checked that `text` is twice `N` bytes long.
fn unhex<const N: usize>(text: &str) -> Result<[u8; N], IdError> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(IdError::NotHex);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Ok(bytes)
}

fn split<const N: usize, const A: usize, const B: usize>(bytes: [u8; N]) -> ([u8; A], [u8; B]) {
    const { assert!(A + B == N) };
    let mut first = [0; A];
    let mut second = [0; B];
    first.copy_from_slice(&bytes[..A]);
    second.copy_from_slice(&bytes[A..]);
    (first, second)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn offset_message_id_of_a_transcript() {
        let id = OffsetMessageId::parse("7F00000100002A9F000000000000201A").unwrap();
        assert_eq!(id.host, "127.0.0.1:10911".parse().unwrap());
        assert_eq!(id.commitlog_offset, 0x201A);
        assert_eq!(id.to_string(), "7F00000100002A9F000000000000201A");
    }

    #[test]
    fn uniq_key_of_a_transcript() {
        let key = UniqKey::parse("7F00000147164E0E2F2A707EFE610001").unwrap();
        assert_eq!(key.ip, IpAddr::V4(Ipv4Addr::LOCALHOST));
        assert_eq!((key.pid, key.class_loader), (0x4716, 0x4E0E_2F2A));
        assert_eq!((key.since_month_ms, key.counter), (0x707E_FE61, 1));
    }

    #[test]
    fn client_message_id_in_both_cases() {
        let text = "01AABBCCDDEEFF12340A0B0C0D00000002";
        let id = ClientMessageId::parse(text).unwrap();
        assert_eq!(id.mac, [0xAA, 0xBB, 0xCC, 0xDD, 0xEE, 0xFF]);
        assert_eq!((id.pid, id.seconds, id.sequence), (0x1234, 0x0A0B_0C0D, 2));
        assert_eq!(ClientMessageId::parse(&text.to_lowercase()), Ok(id));
        assert_eq!(
            ClientMessageId::parse(&text.replacen("01", "02", 1)),
            Err(IdError::Version { version: 2 })
        );
    }

    #[test]
    fn refuses_what_is_no_id() {
        assert_eq!(OffsetMessageId::parse("7F"), Err(IdError::Length { len: 2 }));
        assert_eq!(OffsetMessageId::parse(&"G".repeat(32)), Err(IdError::NotHex));
        assert_eq!(OffsetMessageId::parse(&"F".repeat(32)), Err(IdError::Port { port: u32::MAX }));
        assert_eq!(UniqKey::parse(&"é".repeat(16)), Err(IdError::NotHex));
        assert_eq!(ClientMessageId::parse(""), Err(IdError::Length { len: 0 }));
    }

    proptest! {
        #[test]
        fn ids_round_trip(ip in any::<IpAddr>(), port in any::<u16>(), offset in any::<u64>(), parts in any::<(u16, u32, u32, u16, [u8; 6])>()) {
            let id = OffsetMessageId { host: SocketAddr::new(ip, port), commitlog_offset: offset };
            prop_assert_eq!(OffsetMessageId::parse(&id.to_string()), Ok(id));
            let (pid, class_loader, since_month_ms, counter, mac) = parts;
            let key = UniqKey { ip, pid, class_loader, since_month_ms, counter };
            prop_assert_eq!(UniqKey::parse(&key.to_string()), Ok(key));
            let client = ClientMessageId { mac, pid, seconds: class_loader, sequence: since_month_ms };
            prop_assert_eq!(ClientMessageId::parse(&client.to_string()), Ok(client));
        }

        #[test]
        fn any_text_is_refused_or_prints_the_same(text in ".{0,60}", hex in "[0-9a-gA-F]{32}|01[0-9A-F]{32}|[0-9a-f]{40}0000[0-9a-f]{12}") {
            for text in [text, hex] {
                let same = text.to_uppercase();
                if let Ok(id) = OffsetMessageId::parse(&text) {
                    prop_assert_eq!(id.to_string(), &same[..]);
                }
                if let Ok(key) = UniqKey::parse(&text) {
                    prop_assert_eq!(key.to_string(), &same[..]);
                }
                if let Ok(id) = ClientMessageId::parse(&text) {
                    prop_assert_eq!(id.to_string(), &same[..]);
                }
            }
        }
    }
}
