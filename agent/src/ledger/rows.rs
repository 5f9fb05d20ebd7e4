//! Owns how a row is made checkable: a checksum per row, bound to its key, and one order-free digest over all rows. Never does
//! IO. Used by the sled ledger.
//!
//! ```text
//! value  = version u8, payload, crc32 u32 BE over key, version, payload
//! digest = row count u64 BE, wrapping sum of row hashes u64 BE      (row hash: first 8 bytes of SHA-256 over key length, key, value)
//! ```

use sha2::{Digest as _, Sha256};

const VERSION: u8 = 1;
const CRC_BYTES: usize = 4;

/// The stored form of a row's value.
pub fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(1 + payload.len() + CRC_BYTES);
    value.push(VERSION);
    value.extend_from_slice(payload);
    value.extend_from_slice(&checksum(key, &value).to_be_bytes());
    value
}

/// The payload of a stored value; `None` when it is not what [`seal`] made for this key.
pub fn unseal<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (body, crc) = value.split_last_chunk::<CRC_BYTES>()?;
    let (version, payload) = body.split_first()?;
    (*version == VERSION && checksum(key, body) == u32::from_be_bytes(*crc)).then_some(payload)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&(key.len() as u64).to_be_bytes());
    crc.update(key);
    crc.update(body);
    crc.finalize()
}

/// The hash of a stored row.
pub fn row_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut sha = Sha256::new();
    sha.update((key.len() as u64).to_be_bytes());
    sha.update(key);
    sha.update(value);
    let hash: [u8; 32] = sha.finalize().into();
    hash.first_chunk::<8>().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Count and sum over a set of rows: equal sets have equal digests, in whatever order they were made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// How many rows.
    pub count: u64,
    /// Wrapping sum of their hashes.
    pub sum: u64,
}

impl Digest {
    /// A row joins.
    pub fn add(&mut self, hash: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    /// A row leaves.
    pub fn take(&mut self, hash: u64) {
        assert!(self.count > 0, "a row leaves that never joined");
        self.count -= 1;
        self.sum = self.sum.wrapping_sub(hash);
    }

    /// The stored form.
    pub fn encode(&self) -> [u8; 16] {
        let mut out = [0; 16];
        let (count, sum) = out.split_at_mut(8);
        count.copy_from_slice(&self.count.to_be_bytes());
        sum.copy_from_slice(&self.sum.to_be_bytes());
        out
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (count, rest) = bytes.split_first_chunk::<8>()?;
        let sum: [u8; 8] = rest.try_into().ok()?;
        Some(Digest { count: u64::from_be_bytes(*count), sum: u64::from_be_bytes(sum) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sealed_row_opens_under_its_key_only(key in prop::collection::vec(any::<u8>(), 0..40), other in prop::collection::vec(any::<u8>(), 0..40),
                                                 payload in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let value = seal(&key, &payload);
            prop_assert_eq!(unseal(&key, &value), Some(payload.as_slice()));
            if other != key {
                prop_assert_eq!(unseal(&other, &value), None);
            }
            let mut spoilt = value.clone();
            let at = at.index(spoilt.len());
            spoilt[at] ^= 1 << bit;
            prop_assert_eq!(unseal(&key, &spoilt), None);
            prop_assert_ne!(row_hash(&key, &spoilt), row_hash(&key, &value));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(payload) = unseal(b"k", &bytes) {
                prop_assert_eq!(seal(b"k", payload), bytes.clone());
            }
            if let Some(digest) = Digest::decode(&bytes) {
                prop_assert_eq!(digest.encode().to_vec(), bytes);
            }
        }

        #[test]
        fn the_digest_knows_sets_not_orders(mut hashes in prop::collection::vec(any::<u64>(), 1..20)) {
            let mut a = Digest::default();
            for hash in &hashes { a.add(*hash); }
            let gone = hashes.remove(0);
            a.take(gone);
            let mut b = Digest::default();
            for hash in hashes.iter().rev() { b.add(*hash); }
            prop_assert_eq!(a, b);
        }
    }
}
