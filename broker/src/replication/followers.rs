//! The master's view of its replicas: how far each one is, and which position is confirmed by enough of them. Pure. Called by
//! the core with what the streams hear.

use lifecycle::identity::{LogPosition, Name};
use std::collections::BTreeMap;

/// Most replicas of one master.
pub const REPLICAS_MAX: usize = 16;
/// A replica further behind than this is not in reach: nobody waits for it (RocketMQ: haMaxGapNotInSync, 256 MiB).
pub const LAG_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Which word of a replica counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckKind {
    /// It has received everything up to there.
    Received,
    /// It has everything up to there on its disk.
    Flushed,
}

/// One connected replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Follower {
    /// One past the last byte put on its connection.
    pub sent: LogPosition,
    /// It has received everything below.
    pub received: LogPosition,
    /// It has everything below on its disk.
    pub flushed: LogPosition,
}

/// What a replica or its stream cannot mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowerError {
    /// Over [`REPLICAS_MAX`].
    #[error("{REPLICAS_MAX} replicas are connected already")]
    TooMany,
    /// A second stream under one name.
    #[error("a replica of this name is connected already")]
    NameTaken,
    /// It claims what it was never sent, or to have flushed what it has not received.
    #[error("it confirms positions that it cannot have")]
    ForgedAck,
    /// This member takes no writes any more.
    #[error("this member is not the master any more")]
    NoMaster,
    /// No stream under this name.
    #[error("no replica of this name is connected")]
    Unknown,
}

/// All connected replicas.
#[derive(Debug)]
pub struct Followers {
    ack: AckKind,
    /// Replicas whose word is needed beside the master's own.
    needed: usize,
    connected: BTreeMap<Name, Follower>,
    confirmed: LogPosition,
}

impl Followers {
    /// `in_sync_replicas` counts the master.
    pub fn new(ack: AckKind, in_sync_replicas: u32) -> Followers {
        assert!(in_sync_replicas >= 1, "the master is one of them");
        let needed = in_sync_replicas as usize - 1;
        Followers { ack, needed, connected: BTreeMap::new(), confirmed: LogPosition(0) }
    }

    /// A replica is connected, and shares the log up to `at`. It confirms nothing by that: it says itself what it has on disk.
    pub fn joined(&mut self, id: &Name, at: LogPosition) -> Result<(), FollowerError> {
        if self.connected.contains_key(id) {
            return Err(FollowerError::NameTaken);
        }
        if self.connected.len() >= REPLICAS_MAX {
            return Err(FollowerError::TooMany);
        }
        self.connected.insert(id.clone(), Follower { sent: at, ..Default::default() });
        Ok(())
    }

    /// Its connection is gone. What it had confirmed stays confirmed.
    pub fn left(&mut self, id: &Name) {
        self.connected.remove(id);
    }

    /// Bytes up to `sent` were put on its connection; then it said what it has. Answers what it was before.
    pub fn acked(
        &mut self,
        id: &Name,
        sent: LogPosition,
        (received, flushed): (LogPosition, LogPosition),
    ) -> Result<Follower, FollowerError> {
        let follower = self.connected.get_mut(id).ok_or(FollowerError::Unknown)?;
        let before = *follower;
        if flushed > received || received > sent {
            return Err(FollowerError::ForgedAck);
        }
        follower.sent = follower.sent.max(sent);
        follower.received = follower.received.max(received);
        follower.flushed = follower.flushed.max(flushed);
        self.confirm();
        Ok(before)
    }

    fn confirm(&mut self) {
        let Some(last) = self.needed.checked_sub(1) else { return };
        let mut acked: Vec<LogPosition> = self.connected.values().map(|f| self.word_of(f)).collect();
        acked.sort_unstable_by(|a, b| b.cmp(a));
        self.confirmed = self.confirmed.max(acked.get(last).copied().unwrap_or_default());
    }

    fn word_of(&self, follower: &Follower) -> LogPosition {
        match self.ack {
            AckKind::Received => follower.received,
            AckKind::Flushed => follower.flushed,
        }
    }

    /// Enough replicas have said that they have everything below.
    pub fn confirmed(&self) -> LogPosition {
        self.confirmed
    }

    /// Members in sync, the master included, for a log that ends at `log_end`.
    pub fn in_sync(&self, log_end: LogPosition) -> usize {
        let near = |f: &&Follower| log_end.0.saturating_sub(f.received.0) <= LAG_BYTES_MAX;
        1 + self.connected.values().filter(near).count()
    }

    /// Whether enough replicas are in reach to confirm what is stored now.
    pub fn in_reach(&self, log_end: LogPosition) -> bool {
        self.in_sync(log_end) > self.needed
    }

    /// Every connected replica, by name.
    pub fn connected(&self) -> impl ExactSizeIterator<Item = (&Name, &Follower)> {
        self.connected.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn at(position: u64) -> LogPosition {
        LogPosition(position)
    }

    #[test]
    fn a_position_is_confirmed_by_k_members_and_the_master_is_one() {
        let (a, b): (Name, Name) = ("a".into(), "b".into());
        let mut three = Followers::new(AckKind::Flushed, 3);
        three.joined(&a, at(0)).unwrap();
        assert!(!three.in_reach(at(0)));
        three.joined(&b, at(0)).unwrap();
        assert!(three.in_reach(at(0)));
        three.acked(&a, at(100), (at(100), at(100))).unwrap();
        assert_eq!(three.confirmed(), at(0), "two of three");
        three.acked(&b, at(100), (at(100), at(40))).unwrap();
        assert_eq!(three.confirmed(), at(40), "on three disks up to here");
        three.left(&a);
        assert_eq!(three.confirmed(), at(40), "what was confirmed stays so");
        assert!(!three.in_reach(at(100)));
        let mut alone = Followers::new(AckKind::Received, 1);
        assert!(alone.in_reach(at(5)));
        assert_eq!(alone.joined(&a, at(0)), Ok(()));
        assert_eq!(alone.joined(&a, at(0)), Err(FollowerError::NameTaken));
    }

    #[test]
    fn a_replica_far_behind_is_not_in_reach_and_a_forged_word_confirms_nothing() {
        let a: Name = "a".into();
        let mut two = Followers::new(AckKind::Received, 2);
        two.joined(&a, at(0)).unwrap();
        assert!(two.in_reach(at(LAG_BYTES_MAX)));
        assert!(!two.in_reach(at(LAG_BYTES_MAX + 1)));
        assert_eq!(two.acked(&a, at(10), (at(11), at(0))), Err(FollowerError::ForgedAck));
        assert_eq!(two.acked(&a, at(10), (at(5), at(6))), Err(FollowerError::ForgedAck));
        assert_eq!(two.confirmed(), at(0));
        for n in 1..REPLICAS_MAX {
            two.joined(&format!("r{n}").as_str().into(), at(0)).unwrap();
        }
        assert_eq!(two.joined(&"one more".into(), at(0)), Err(FollowerError::TooMany));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(u8),
        Leave(u8),
        Ack(u8, u64, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u8..4).prop_map(Step::Join),
            (0u8..4).prop_map(Step::Leave),
            (0u8..4, 0u64..50, 0u64..50).prop_map(|(id, received, less)| Step::Ack(id, received, less)),
        ]
    }

    proptest! {
        /// Whatever the order of joins, cuts and acks (late and doubled ones too): what is confirmed was said by enough
        /// different replicas, and never goes back.
        #[test]
        fn confirmed_means_k_members_have_said_so(
            k in 1u32..4,
            flushed_counts in any::<bool>(),
            steps in prop::collection::vec(step(), 1..80),
        ) {
            let ack = if flushed_counts { AckKind::Flushed } else { AckKind::Received };
            let mut followers = Followers::new(ack, k);
            // the oracle: the most each replica ever said
            let mut said: BTreeMap<u8, u64> = BTreeMap::new();
            let mut before = LogPosition(0);
            for step in steps {
                let name = |id: u8| Name::from(format!("r{id}"));
                match step {
                    Step::Join(id) => drop(followers.joined(&name(id), at(0))),
                    Step::Leave(id) => followers.left(&name(id)),
                    Step::Ack(id, received, less) => {
                        let flushed = received.saturating_sub(less);
                        if followers.acked(&name(id), at(50), (at(received), at(flushed))).is_ok() {
                            let word = if flushed_counts { flushed } else { received };
                            let known = said.entry(id).or_default();
                            *known = (*known).max(word);
                        }
                    }
                }
                let confirmed = followers.confirmed();
                prop_assert!(confirmed >= before);
                before = confirmed;
                let have = said.values().filter(|word| **word >= confirmed.0).count();
                prop_assert!(confirmed.0 == 0 || have + 1 >= k as usize);
            }
        }
    }
}
