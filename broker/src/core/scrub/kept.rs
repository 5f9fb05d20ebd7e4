//! What a folder keeps of reading its log back.
//!
//! ```text
//! version u8, flags u8 (1: the round is over), round began wall ms u64, round ended wall ms u64, read to u64, round's end u64,
//! count u32, per range of damaged bytes: first u64, end u64   big-endian
//! ```

use lifecycle::ranges::Ranges;

const VERSION: u8 = 1;
const OVER: u8 = 1;
const HEAD_LEN: usize = 2 + 4 * 8 + 4;
/// Ranges of damaged bytes that are remembered. Beyond it the lowest are forgotten: they expire first, and are stated once more if
/// they do not.
const DAMAGED_RUNS_MAX: usize = 65_536;

/// See the module text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) round_wall_ms: u64,
    /// When the last whole round ended.
    pub(super) ended_wall_ms: u64,
    pub(super) at: u64,
    pub(super) end: u64,
    pub(super) is_over: bool,
    /// Bytes that were stated as damaged.
    pub(super) damaged: Ranges,
}

impl Default for Kept {
    /// A folder that was never read back: the next round is its first.
    fn default() -> Kept {
        Kept { round_wall_ms: 0, ended_wall_ms: 0, at: 0, end: 0, is_over: true, damaged: Ranges::new() }
    }
}

impl Kept {
    pub(super) fn add_damaged(&mut self, more: &Ranges) {
        self.damaged.union(more);
        let more = self.damaged.run_count().saturating_sub(DAMAGED_RUNS_MAX);
        let forgotten = self.damaged.iter().take(more).last();
        if let Some((_, to)) = forgotten {
            self.damaged.remove(0, to);
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, if self.is_over { OVER } else { 0 }];
        for number in [self.round_wall_ms, self.ended_wall_ms, self.at, self.end] {
            out.extend_from_slice(&number.to_be_bytes());
        }
        out.extend_from_slice(&(self.damaged.run_count() as u32).to_be_bytes());
        for (from, to) in self.damaged.iter() {
            out.extend_from_slice(&from.to_be_bytes());
            out.extend_from_slice(&to.to_be_bytes());
        }
        out
    }

    /// `None`: another version, or no such thing.
    pub(super) fn decode(bytes: &[u8]) -> Option<Kept> {
        let (head, ranges) = bytes.split_at_checked(HEAD_LEN)?;
        let (flags, numbers) = head.split_at_checked(2)?;
        let number = |at: usize| Some(u64::from_be_bytes(*numbers.get(at * 8..)?.first_chunk()?));
        let count = u32::from_be_bytes(*numbers.get(32..)?.first_chunk()?);
        if *flags.first()? != VERSION || ranges.len() != usize::try_from(count).ok()?.checked_mul(16)? {
            return None;
        }
        let mut damaged = Ranges::new();
        for range in ranges.as_chunks::<16>().0 {
            let (from, to) = range.split_first_chunk::<8>()?;
            let (from, to) = (u64::from_be_bytes(*from), u64::from_be_bytes(*to.first_chunk()?));
            if from >= to {
                return None;
            }
            damaged.insert(from, to);
        }
        Some(Kept {
            round_wall_ms: number(0)?,
            ended_wall_ms: number(1)?,
            at: number(2)?,
            end: number(3)?,
            is_over: flags.get(1)? & OVER != 0,
            damaged,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_comes_back_and_no_bytes_panic(
            numbers in any::<[u64; 4]>(), is_over in any::<bool>(),
            runs in proptest::collection::vec((0..1000u64, 1..50u64), 0..9),
            junk in proptest::collection::vec(any::<u8>(), 0..99),
        ) {
            let [round_wall_ms, ended_wall_ms, at, end] = numbers;
            let damaged = runs.into_iter().map(|(from, len)| (from, from + len)).collect();
            let kept = Kept { round_wall_ms, ended_wall_ms, at, end, is_over, damaged };
            let bytes = kept.encode();
            prop_assert_eq!(Kept::decode(&bytes), Some(kept));
            for len in 0..bytes.len() {
                prop_assert_eq!(Kept::decode(&bytes[..len]), None);
            }
            Kept::decode(&junk);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut kept = Kept::default();
        for n in 0..DAMAGED_RUNS_MAX as u64 + 9 {
            kept.add_damaged(&Ranges::of(n * 10, n * 10 + 5));
        }
        assert_eq!(kept.damaged.run_count(), DAMAGED_RUNS_MAX);
        assert_eq!(kept.damaged.first(), Some(90), "the lowest go");
    }
}
