//! Owns a small window of recently stored client ids, to notice an id that comes twice. Finds candidates only: whether they
//! are one send stored twice is asked of the source. Not part of the books: it is empty after a restart, and bounded.

use lifecycle::identity::MessageIdentity;

/// Ids remembered.
pub const REPEAT_WINDOW: usize = 65_536;

/// The window. Hashes lie apart from places: most ids are new, and then only a hash is read.
#[derive(Clone)]
pub struct Repeats {
    hashes: Vec<u64>,
    places: Vec<MessageIdentity>,
}

impl Default for Repeats {
    fn default() -> Self {
        Repeats { hashes: vec![0; REPEAT_WINDOW], places: vec![MessageIdentity::default(); REPEAT_WINDOW] }
    }
}

impl Repeats {
    /// Remembers an id; returns where an id with the same hash was stored before, if that is still known.
    pub fn note(&mut self, id: &[u8], at: MessageIdentity) -> Option<MessageIdentity> {
        if id.is_empty() {
            return None;
        }
        let hash = hash(id);
        let index = hash as usize % REPEAT_WINDOW;
        let known = std::mem::replace(self.hashes.get_mut(index)?, hash);
        let first = std::mem::replace(self.places.get_mut(index)?, at);
        (known == hash && first != at).then_some(first)
    }
}

/// A fixed 64-bit mix, eight bytes at a time. Not for adversaries: a collision only costs a question.
fn hash(id: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut h = K ^ id.len() as u64;
    let mut words = id.chunks_exact(8);
    for word in words.by_ref() {
        let word = word.try_into().map_or(0, u64::from_le_bytes);
        h = (h ^ word).wrapping_mul(K).rotate_left(29);
    }
    let rest = words.remainder().iter().fold(0u64, |rest, byte| (rest << 8) | u64::from(*byte));
    h = (h ^ rest).wrapping_mul(K).rotate_left(29);
    (h ^ (h >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifecycle::identity::QueueKey;

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
