//! Owns snapshots for readers: the core's whole state as frames of their own, and the journal position they stand for.

use super::{BATCH_BYTES_MAX, FeedError, FeedHandle};
use crate::handle::NotTaken;
use bytes::Bytes;
use lifecycle::clock::Now;
use lifecycle::frame::{FrameDecoder, FrameEncoder};
use lifecycle::identity::{Epoch, LogPosition, Name};
use lifecycle::position::Position;
use store::journal::IncarnationInfo;

/// Facts in one frame of a large snapshot.
const FACTS_PER_FRAME: usize = 4096;

/// The whole state of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Replica group.
    pub broker_name: Name,
    /// Folding every frame up to here gives the same state.
    pub position: Position,
    /// The lowest position a read accepts.
    pub oldest: Position,
    /// The journal still holds everything since the folder was new: reading from `oldest` needs no snapshot.
    pub history_complete: bool,
    /// Payloads of snapshot frames, the first is a reset point.
    pub frames: Vec<Bytes>,
}

struct Taken {
    now: Now,
    frame: Vec<u8>,
    position: Position,
    epochs: Vec<(Epoch, LogPosition)>,
}

pub(super) async fn take(feed: &FeedHandle) -> Result<Snapshot, FeedError> {
    let taken = feed
        .look(|core, now| {
            let (frame, position) = core.snapshot(now)?;
            Some(Taken { now, frame, position, epochs: core.state_view().epochs.clone() })
        })
        .await?
        .ok_or(FeedError::Invalid("the journal cannot be written now"))?;
    let (now, frame) = (taken.now, taken.frame);
    // a large one takes a while: not on the thread that runs the turns
    let frames = tokio::task::spawn_blocking(move || cut(now, frame)).await.map_err(|_| NotTaken::Stopped)?;
    let history_complete = reaches_back(&feed.journal.incarnations(), &taken.epochs);
    Ok(Snapshot {
        broker_name: feed.broker_name.clone(),
        position: taken.position,
        oldest: feed.oldest(),
        history_complete,
        frames,
    })
}

/// Whether the first epoch's own journal is kept from its first frame on. A run that died before its first frame has no epoch.
fn reaches_back(runs: &[IncarnationInfo], epochs: &[(Epoch, LogPosition)]) -> bool {
    let first = runs.iter().find(|run| run.last_sequence > 0);
    match (first, epochs.first()) {
        (Some(run), Some((epoch, _))) => {
            epoch.number == 1 && epoch.incarnation == run.incarnation && run.first_sequence == 1
        }
        _ => false,
    }
}

/// A large snapshot becomes several frames, so that none is near the limit of a message.
fn cut(now: Now, frame: Vec<u8>) -> Vec<Bytes> {
    if frame.len() <= BATCH_BYTES_MAX {
        return vec![frame.into()];
    }
    let Ok(decoded) = FrameDecoder::new().decode(&frame) else {
        tracing::error!(bytes = frame.len(), "own snapshot cannot be read back: sent as it is");
        return vec![frame.into()];
    };
    let mut encoder = FrameEncoder::new();
    let frames = decoded.facts.chunks(FACTS_PER_FRAME).enumerate().map(|(index, facts)| {
        let mut out = Vec::new();
        encoder.encode_snapshot(now, index == 0, facts, &mut out);
        Bytes::from(out)
    });
    frames.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lifecycle::fact::Fact;
    use lifecycle::identity::{Incarnation, QueueKey, TopicIncarnation};

    #[test]
    fn a_large_snapshot_is_cut_and_says_the_same() {
        let now = Now { mono_ms: 5, wall_ms: 1_700_000_000_000 };
        let fact = |n: u64| Fact::GroupConfigured {
            group: format!("group-{n:0200}").as_str().into(),
            retry_max: n as u32,
            consume_enabled: true,
        };
        let mut facts: Vec<Fact> = (0..9000).map(fact).collect();
        let queue = QueueKey { topic: TopicIncarnation::new(1, 1), queue_id: 3 };
        facts.push(Fact::QueueState { queue, min_offset: 1, max_offset: 9 });
        let mut frame = Vec::new();
        FrameEncoder::new().encode_snapshot(now, true, &facts, &mut frame);
        assert!(frame.len() > BATCH_BYTES_MAX);
        let frames = cut(now, frame);
        assert_eq!(frames.len(), 3);
        let mut decoder = FrameDecoder::new();
        let mut read = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            let decoded = decoder.decode(frame).unwrap();
            assert_eq!((decoded.reset, decoded.snapshot, decoded.now), (index == 0, true, now));
            read.extend(decoded.facts);
        }
        assert_eq!(read, facts);
        assert_eq!(cut(now, vec![1, 2, 3]), [Bytes::from_static(&[1, 2, 3])]);
    }

    #[test]
    fn history_is_complete_only_from_the_first_frame_of_the_first_epoch() {
        let run = |n: u8, first_sequence, last_sequence| IncarnationInfo {
            incarnation: Incarnation([n; 16]),
            first_sequence,
            last_sequence,
            is_complete: true,
            is_live: false,
            bytes: 0,
        };
        let epoch = |number, n: u8| (Epoch { number, incarnation: Incarnation([n; 16]) }, LogPosition(0));
        let epochs = [epoch(1, 1), epoch(2, 2)];
        assert!(reaches_back(&[run(1, 1, 9), run(2, 1, 4)], &epochs));
        assert!(reaches_back(&[run(7, 1, 0), run(1, 1, 9), run(2, 1, 4)], &epochs), "died before frame 1");
        assert!(!reaches_back(&[run(1, 5, 9), run(2, 1, 4)], &epochs), "the front is trimmed");
        assert!(!reaches_back(&[run(2, 1, 4)], &epochs), "the first run is gone");
        assert!(!reaches_back(&[run(2, 1, 4)], &epochs[1..]), "the first epoch is not known");
        assert!(!reaches_back(&[], &epochs));
    }
}
