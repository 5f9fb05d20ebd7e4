use super::*;
use crate::commit_log::testing::{SEGMENT, epoch, open, put};
use crate::disk_sim::SimDisk;

fn filled(disk: &SimDisk) -> CommitLog {
    let mut log = open(disk, vec![]);
    log.begin_epoch(epoch(1, 1));
    for n in 0..40usize {
        put(&mut log, 20 + n * 13, n % 3 == 0);
    }
    log.write().unwrap();
    log.begin_epoch(epoch(2, 2));
    put(&mut log, 700, false);
    log.write().unwrap();
    log
}

fn bytes_of(log: &CommitLog, from: u64, len: usize) -> Bytes {
    let mut buf = vec![0; len];
    let got = log.chain.read_at(&mut buf, from).unwrap();
    buf.truncate(got);
    buf.into()
}

/// Copies in chunks of at most `chunk` bytes, cut where records end.
fn copy_all(master: &CommitLog, copy: &mut CommitLog, chunk: usize) {
    while copy.end() < master.end() {
        let bytes = bytes_of(master, copy.end().0, chunk.max(PIECE_LEN_MAX.min(SEGMENT as usize)));
        let len = whole_len(&bytes, copy.end(), SEGMENT).min(bytes.len());
        assert!(len > 0, "a chunk holds at least one piece");
        copy.append_copied(copy.end(), &bytes.slice(..len)).unwrap();
    }
}

#[test]
fn a_copy_is_the_same_bytes_and_the_same_records() {
    let (one, other) = (SimDisk::new(), SimDisk::new());
    let master = filled(&one);
    let mut copy = open(&other, vec![]);
    copy.accept_epochs(master.epochs().to_vec());
    copy_all(&master, &mut copy, 1000);
    assert!(master.end().0 > 2 * SEGMENT, "several segments, with fillers between them");
    let all = master.end().0 as usize;
    assert_eq!(bytes_of(&master, 0, all), bytes_of(&copy, 0, all));
    let mut count = 0;
    let count_one = |_| {
        count += 1;
        Ok(())
    };
    copy.walk(LogPosition(0), copy.end(), count_one).unwrap();
    assert_eq!(count, 41);
}

#[test]
fn what_is_not_whole_good_and_in_place_is_not_appended() {
    let (one, other) = (SimDisk::new(), SimDisk::new());
    let master = filled(&one);
    let mut copy = open(&other, vec![]);
    copy.accept_epochs(vec![(epoch(1, 1), LogPosition(0))]);
    let bytes = bytes_of(&master, 0, 600);
    let len = whole_len(&bytes, LogPosition(0), SEGMENT);
    assert!(len > 0 && len < 600);
    let good = bytes.slice(..len);
    assert!(matches!(
        copy.append_copied(LogPosition(1), &good),
        Err(CopyError::Misplaced { given: 1, end: 0 })
    ));
    assert!(
        matches!(copy.append_copied(LogPosition(0), &bytes), Err(CopyError::Damaged(_))),
        "a torn record"
    );
    for at in 0..len {
        let mut flipped = good.to_vec();
        flipped[at] ^= 1;
        let outcome = copy.append_copied(LogPosition(0), &flipped.into());
        assert!(matches!(outcome, Err(CopyError::Damaged(_))), "byte {at}");
        assert_eq!(copy.end(), LogPosition(0));
    }
    // the same bytes under a fork's epoch
    let mut fork = open(&SimDisk::new(), vec![]);
    fork.accept_epochs(vec![(epoch(1, 9), LogPosition(0))]);
    assert!(matches!(fork.append_copied(LogPosition(0), &good), Err(CopyError::Damaged(0))));
    copy.append_copied(LogPosition(0), &good).unwrap();
    assert_eq!(copy.end(), LogPosition(len as u64));
}
