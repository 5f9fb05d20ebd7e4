//! Finds the byte that ends a run of plain text, eight bytes at a time: every send has some fifty short texts to be found.
//!
//! Owns: that search and nothing else. Called by: `properties`, `command`.

const ONES: u64 = u64::MAX / 255;
const HIGHS: u64 = ONES << 7;

/// Marks the lowest byte of `word` that is below `limit` (at most 128) by its high bit; later bytes may be marked wrongly.
#[inline]
fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGHS
}

/// Bytes before the first that is below `limit` (at most 128).
#[inline]
pub(crate) fn run_above(bytes: &[u8], limit: u8) -> usize {
    run(bytes, |word| below(word, limit), |byte| byte < limit)
}

/// Bytes before the first that JSON escapes or that ends a text: a quote, a backslash, a control character.
#[inline]
pub(crate) fn run_of_json_text(bytes: &[u8]) -> usize {
    let is_stop = |byte| byte == b'"' || byte == b'\\' || byte < 0x20;
    let stops = |word: u64| {
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        below(word, 0x20) | quote | backslash
    };
    run(bytes, stops, is_stop)
}

#[inline(always)]
fn run(bytes: &[u8], stops: impl Fn(u64) -> u64, is_stop: impl Fn(u8) -> bool) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = stops(u64::from_le_bytes(*word));
        if found != 0 {
            return index * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    words.len() * 8 + rest.iter().position(|byte| is_stop(*byte)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn finds_what_a_byte_by_byte_search_finds(
            bytes in prop::collection::vec(prop_oneof![0u8..4, 0x1Eu8..0x24, Just(b'\\'), any::<u8>()], 0..40),
        ) {
            let naive = |is_stop: &dyn Fn(u8) -> bool| {
                bytes.iter().position(|byte| is_stop(*byte)).unwrap_or(bytes.len())
            };
            prop_assert_eq!(run_above(&bytes, 3), naive(&|byte| byte < 3));
            let ends_text = |byte| byte < 0x20 || byte == b'"' || byte == b'\\';
            prop_assert_eq!(run_of_json_text(&bytes), naive(&ends_text));
        }
    }
}
