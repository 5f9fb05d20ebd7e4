//! Owns a small window of recently stored client ids, to notice an id that comes twice. Finds candidates only: whether they
//! are one send stored twice is asked of the source. Not part of the books: it is empty after a restart, and bounded.

use lifecycle::identity::{MessageIdentity, QueueKey};

/// Ids remembered.
pub const REPEAT_WINDOW: usize = 65_536;

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u64,
    queue: QueueKey,
    queue_offset: u64,
    epoch: u64,
}

/// The window.
#[derive(Clone)]
pub struct Repeats {
    slots: Vec<Slot>,
}

impl Default for Repeats {
    fn default() -> Self {
        Repeats { slots: vec![Slot::default(); REPEAT_WINDOW] }
    }
}

impl Repeats {
    /// Remembers an id; returns where an id with the same hash was stored before, if that is still known.
    pub fn note(&mut self, id: &[u8], at: MessageIdentity) -> Option<MessageIdentity> {
        if id.is_empty() {
            return None;
        }
        let hash = hash(id);
        let slot = self.slots.get_mut(hash as usize % REPEAT_WINDOW)?;
        let before = *slot;
        *slot = Slot { hash, queue: at.queue, queue_offset: at.queue_offset, epoch: at.epoch_number };
        let first = MessageIdentity {
            queue: before.queue,
            queue_offset: before.queue_offset,
            epoch_number: before.epoch,
        };
        (before.hash == hash && first != at).then_some(first)
    }
}

/// A fixed 64-bit mix, eight bytes at a time. Not for adversaries: a collision only costs a question.
fn hash(id: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut h = K ^ id.len() as u64;
    for chunk in id.chunks(8) {
        let mut bytes = [0u8; 8];
        for (to, from) in bytes.iter_mut().zip(chunk) {
            *to = *from;
        }
        h = (h ^ u64::from_le_bytes(bytes)).wrapping_mul(K).rotate_left(29);
    }
    (h ^ (h >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u64) -> MessageIdentity {
        MessageIdentity { queue: QueueKey::default(), queue_offset: n, epoch_number: 1 }
    }

    #[test]
    fn an_id_seen_again_names_its_first_place_and_fresh_ids_none() {
        let mut repeats = Repeats::default();
        for n in 0..60_000u64 {
            assert_eq!(repeats.note(format!("{n:032X}").as_bytes(), at(n)), None, "{n}");
        }
        assert_eq!(repeats.note(format!("{:032X}", 59_999).as_bytes(), at(70_000)), Some(at(59_999)));
        assert_eq!(repeats.note(b"", at(1)), None);
        assert_eq!(repeats.note(b"", at(2)), None);
    }
}
