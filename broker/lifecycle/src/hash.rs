//! Owns a fast hasher for maps whose keys the broker itself numbers (queues, topics). Such keys cannot be chosen to collide,
//! so they need no keyed hash; names and ids that clients choose keep the standard one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map with keys of our own making.
pub type OwnKeyMap<K, V> = HashMap<K, V, BuildHasherDefault<OwnKeyHasher>>;

/// One multiplication per word.
#[derive(Clone, Copy, Debug, Default)]
pub struct OwnKeyHasher(u64);

impl Hasher for OwnKeyHasher {
    fn finish(&self) -> u64 {
        // a product's high bits depend on all bits of its factors; tables look at the low ones
        self.0.rotate_left(26)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.wrapping_add(word).wrapping_mul(0xF135_7AEA_2E62_A9C5);
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(u64::from(word));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{QueueKey, TopicIncarnation};
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    #[test]
    fn queues_of_many_topics_spread_over_a_table() {
        let hash = |key: QueueKey| BuildHasherDefault::<OwnKeyHasher>::default().hash_one(key);
        let keys = (0..1024u32).flat_map(|serial| {
            (0..8).map(move |queue_id| QueueKey { topic: TopicIncarnation::new(3, serial), queue_id })
        });
        let slots: HashSet<u64> = keys.map(|key| hash(key) % 8192).collect();
        // 8,192 keys thrown at random into as many slots fill 63 % of them
        assert!(slots.len() > 4_800, "{}", slots.len());
    }
}
