//! Owns what is sorted: rows by place (topic, queue, queue offset) and rows by message id, as bytes whose order is the order of
//! their keys, and back. Pure.

use crate::record::{u16_at, u32_at, u64_at};

/// Topic, queue, queue offset.
pub type Place<'a> = (&'a [u8], u32, u64);

/// What a record is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A message under its own topic.
    Normal,
    Retry,
    Dead,
    Schedule,
    Half,
    /// The broker's own.
    System,
}

pub const HALF_TOPIC: &[u8] = b"RMQ_SYS_TRANS_HALF_TOPIC";
pub const OP_TOPIC: &[u8] = b"RMQ_SYS_TRANS_OP_HALF_TOPIC";
pub const SCHEDULE_TOPIC: &[u8] = b"SCHEDULE_TOPIC_XXXX";
pub const RETRY_PREFIX: &[u8] = b"%RETRY%";
pub const DEAD_PREFIX: &[u8] = b"%DLQ%";
const SYSTEM_PREFIX: &[u8] = b"rmq_sys_";
/// Longest topic or id kept, in bytes.
const NAME_LEN_MAX: usize = 32 << 10;

impl Role {
    const ALL: [Role; 6] = [Role::Normal, Role::Retry, Role::Dead, Role::Schedule, Role::Half, Role::System];

    pub fn of(topic: &[u8]) -> Role {
        match topic {
            HALF_TOPIC => Role::Half,
            SCHEDULE_TOPIC => Role::Schedule,
            _ if topic.starts_with(RETRY_PREFIX) => Role::Retry,
            _ if topic.starts_with(DEAD_PREFIX) => Role::Dead,
            _ if topic
                .get(..SYSTEM_PREFIX.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(SYSTEM_PREFIX)) =>
            {
                Role::System
            }
            _ => Role::Normal,
        }
    }
}

/// What is known about one offset of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AtPlace {
    Record {
        position: u64,
        store_ms: i64,
        id: Vec<u8>,
    },
    /// The queue's entry.
    Unit {
        position: u64,
        is_plausible: bool,
    },
    /// The half message stored here was ended.
    Ended,
    /// A client says it was told that its message is here.
    Sent {
        id: Vec<u8>,
    },
}

/// What is known about one message id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OfId {
    Record(Stored),
    Ended,
    /// Delivered to this group, says the trace.
    Delivered {
        group: Vec<u8>,
    },
    /// Between two snapshots this group's offset passed it.
    Passed {
        passing: u32,
        queue: u32,
        offset: u64,
    },
    /// Named in the list of what was sent; `ok` when the client was told so.
    Sent {
        line: u64,
        ok: bool,
    },
    /// Named in the list of what was processed.
    Processed {
        line: u64,
    },
    /// Already found to be gone from this store.
    Gone,
}

/// One stored record, as far as its id's story needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub role: Role,
    /// A schedule's progress has passed it, or every group of its topic has.
    pub is_passed: bool,
    pub is_committed: bool,
    pub has_unique_key: bool,
    pub queue: u32,
    pub offset: u64,
    pub position: u64,
    pub born_ms: i64,
    pub body_crc: u32,
    pub reconsume_times: u32,
    pub topic: Vec<u8>,
    /// Where it is going or where it came from: the real topic of a schedule's and of what came out of it, the origin topic of a dead
    /// letter.
    pub other_topic: Vec<u8>,
    pub origin_id: Vec<u8>,
}

/// Writes the row of a place into `out`, which is cleared first.
pub fn put_place(out: &mut Vec<u8>, (topic, queue, offset): Place<'_>, store: u8, what: &AtPlace) {
    out.clear();
    out.extend_from_slice(cut(topic));
    out.push(0);
    out.extend(queue.to_be_bytes());
    out.extend(offset.to_be_bytes());
    match what {
        AtPlace::Record { position, store_ms, id } => {
            out.extend([0, store]);
            out.extend(position.to_be_bytes());
            out.extend(store_ms.to_be_bytes());
            out.extend_from_slice(cut(id));
        }
        AtPlace::Unit { position, is_plausible } => {
            out.extend([1, store]);
            out.extend(position.to_be_bytes());
            out.push(u8::from(*is_plausible));
        }
        AtPlace::Ended => out.extend([2, store]),
        AtPlace::Sent { id } => {
            out.extend([3, store]);
            out.extend_from_slice(cut(id));
        }
    }
}

/// Topic, queue, queue offset, store and what: as [`put_place`] wrote them.
pub fn place(row: &[u8]) -> Option<(Place<'_>, u8, AtPlace)> {
    let (topic, rest) = key(row)?;
    let at = (topic, u32_at(rest, 0)?, u64_at(rest, 4)?);
    let rest = rest.get(12..)?;
    let (kind, store, body) = (*rest.first()?, *rest.get(1)?, rest.get(2..)?);
    let what = match kind {
        0 => AtPlace::Record {
            position: u64_at(body, 0)?,
            store_ms: u64_at(body, 8)? as i64,
            id: body.get(16..)?.to_vec(),
        },
        1 => AtPlace::Unit { position: u64_at(body, 0)?, is_plausible: body.get(8) == Some(&1) },
        2 => AtPlace::Ended,
        3 => AtPlace::Sent { id: body.to_vec() },
        _ => return None,
    };
    Some((at, store, what))
}

/// Writes the row of an id into `out`, which is cleared first.
pub fn put_id(out: &mut Vec<u8>, id: &[u8], store: u8, what: &OfId) {
    out.clear();
    out.extend_from_slice(cut(id));
    out.push(0);
    match what {
        OfId::Record(stored) => {
            out.extend([0, store]);
            put_stored(out, stored);
        }
        OfId::Ended => out.extend([1, store]),
        OfId::Delivered { group } => {
            out.extend([2, store]);
            out.extend_from_slice(cut(group));
        }
        OfId::Passed { passing, queue, offset } => {
            out.extend([3, store]);
            out.extend(passing.to_be_bytes());
            out.extend(queue.to_be_bytes());
            out.extend(offset.to_be_bytes());
        }
        OfId::Sent { line, ok } => {
            out.extend([4, store]);
            out.extend(line.to_be_bytes());
            out.push(u8::from(*ok));
        }
        OfId::Processed { line } => {
            out.extend([5, store]);
            out.extend(line.to_be_bytes());
        }
        OfId::Gone => out.extend([6, store]),
    }
}

fn put_stored(out: &mut Vec<u8>, stored: &Stored) {
    let flags = [stored.is_passed, stored.is_committed, stored.has_unique_key];
    let flags = flags.iter().enumerate().map(|(bit, flag)| u8::from(*flag) << bit).sum();
    out.extend([stored.role as u8, flags]);
    out.extend(stored.queue.to_be_bytes());
    out.extend(stored.offset.to_be_bytes());
    out.extend(stored.position.to_be_bytes());
    out.extend(stored.born_ms.to_be_bytes());
    out.extend(stored.body_crc.to_be_bytes());
    out.extend(stored.reconsume_times.to_be_bytes());
    for name in [&stored.topic, &stored.other_topic, &stored.origin_id] {
        out.extend((cut(name).len() as u16).to_be_bytes());
        out.extend_from_slice(cut(name));
    }
}

/// Id, store and what: as [`put_id`] wrote them.
pub fn id(row: &[u8]) -> Option<(&[u8], u8, OfId)> {
    let (id, rest) = key(row)?;
    let (kind, store, body) = (*rest.first()?, *rest.get(1)?, rest.get(2..)?);
    let what = match kind {
        0 => OfId::Record(stored(body)?),
        1 => OfId::Ended,
        2 => OfId::Delivered { group: body.to_vec() },
        3 => OfId::Passed { passing: u32_at(body, 0)?, queue: u32_at(body, 4)?, offset: u64_at(body, 8)? },
        4 => OfId::Sent { line: u64_at(body, 0)?, ok: body.get(8) == Some(&1) },
        5 => OfId::Processed { line: u64_at(body, 0)? },
        6 => OfId::Gone,
        _ => return None,
    };
    Some((id, store, what))
}

fn stored(body: &[u8]) -> Option<Stored> {
    let (role, flags) = (*body.first()?, *body.get(1)?);
    let mut names = body.get(38..)?;
    let mut name = || {
        let len = usize::from(u16_at(names, 0)?);
        let found = names.get(2..2 + len)?.to_vec();
        names = names.get(2 + len..)?;
        Some(found)
    };
    Some(Stored {
        role: *Role::ALL.get(usize::from(role))?,
        is_passed: flags & 1 != 0,
        is_committed: flags & 2 != 0,
        has_unique_key: flags & 4 != 0,
        queue: u32_at(body, 2)?,
        offset: u64_at(body, 6)?,
        position: u64_at(body, 14)?,
        born_ms: u64_at(body, 22)? as i64,
        body_crc: u32_at(body, 30)?,
        reconsume_times: u32_at(body, 34)?,
        topic: name()?,
        other_topic: name()?,
        origin_id: name()?,
    })
}

fn key(row: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, row)?;
    Some((row.get(..end)?, row.get(end + 1..)?))
}

fn cut(name: &[u8]) -> &[u8] {
    name.get(..NAME_LEN_MAX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_were() {
        let mut row = Vec::new();
        let stored = Stored {
            role: Role::Dead,
            is_passed: true,
            is_committed: false,
            has_unique_key: true,
            queue: 3,
            offset: 4,
            position: u64::MAX,
            born_ms: -1,
            body_crc: 7,
            reconsume_times: 2,
            topic: b"%DLQ%g".to_vec(),
            other_topic: b"Orders".to_vec(),
            origin_id: b"7F".to_vec(),
        };
        for what in [
            OfId::Record(stored),
            OfId::Ended,
            OfId::Delivered { group: b"g".to_vec() },
            OfId::Passed { passing: 1, queue: 2, offset: 3 },
            OfId::Sent { line: 9, ok: true },
            OfId::Processed { line: 1 },
            OfId::Gone,
        ] {
            put_id(&mut row, b"id", 5, &what);
            assert_eq!(id(&row), Some((b"id".as_slice(), 5, what)));
        }
        for what in [
            AtPlace::Record { position: 1, store_ms: -2, id: b"x".to_vec() },
            AtPlace::Unit { position: 5, is_plausible: true },
            AtPlace::Ended,
            AtPlace::Sent { id: b"y".to_vec() },
        ] {
            put_place(&mut row, (b"T", 1, 2), 3, &what);
            assert_eq!(place(&row), Some(((b"T".as_slice(), 1, 2), 3, what)));
        }
    }

    #[test]
    fn the_order_of_rows_is_the_order_of_their_places() {
        let row = |topic: &[u8], queue, offset| {
            let mut row = Vec::new();
            put_place(&mut row, (topic, queue, offset), 0, &AtPlace::Ended);
            row
        };
        let rows =
            [row(b"A", 0, 9), row(b"A", 1, 0), row(b"A", 256, 0), row(b"AB", 0, 255), row(b"AB", 0, 256)];
        assert!(rows.is_sorted());
    }
}
