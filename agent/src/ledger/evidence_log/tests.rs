use super::*;
use lifecycle::fact::{SendOutcome, SentReported};
use proptest::prelude::*;
use std::path::Path;
use store::disk_sim::{SimDisk, SimFaults};

const DIR: &str = "/agent/evidence";

fn run(n: u8) -> Incarnation {
    Incarnation([n; 16])
}

fn report(id: &str) -> Fact {
    Fact::SentReported(SentReported {
        id: id.into(),
        topic: "orders".into(),
        outcome: SendOutcome::Ok,
        broker: "broker-a".into(),
        queue_id: Some(1),
        queue_offset: Some(2),
        sent_wall_ms: 3,
        reported_wall_ms: 4,
    })
}

fn open(disk: &SimDisk, n: u8, bytes_max: u64) -> EvidenceLog {
    EvidenceLog::open(Arc::new(disk.clone()), DIR.into(), run(n), bytes_max).unwrap()
}

fn ids(log: &EvidenceLog, after: Option<Position>) -> (Vec<String>, Vec<Gap>) {
    let (mut ids, mut gaps) = (Vec::new(), Vec::new());
    replay(&log.view(), after, |step| match step {
        Step::Frame { frame, .. } => ids.extend(frame.facts.iter().map(|fact| match fact {
            Fact::SentReported(report) => report.id.to_string(),
            _ => panic!("not a report"),
        })),
        Step::Gap(gap) => gaps.push(gap),
        Step::RunEnded { .. } => {}
    })
    .unwrap();
    (ids, gaps)
}

#[test]
fn replay_goes_on_after_a_position_over_runs() {
    let disk = SimDisk::new();
    let mut said = Vec::new();
    let mut positions = vec![None];
    for n in 1..5 {
        let mut log = open(&disk, n, 1 << 30);
        for k in 0..3 {
            let id = format!("id-{n}-{k}");
            let (position, frame) = log.append(Now { mono_ms: 1, wall_ms: 2 }, vec![report(&id)]).unwrap();
            assert_eq!(frame.facts, [report(&id)]);
            positions.push(Some(position));
            said.push(id);
        }
        disk.power_cut(u64::from(n));
    }
    let log = open(&disk, 9, 1 << 30);
    for (index, position) in positions.iter().enumerate() {
        assert_eq!(ids(&log, *position), (said[index..].to_vec(), vec![]), "after {position:?}");
    }
}

#[test]
fn the_size_limit_takes_the_oldest_and_says_so() {
    let disk = SimDisk::new();
    let mut log = open(&disk, 1, 40 << 20);
    let big: Vec<Fact> = (0..20_000).map(|n| report(&format!("{n:0100}"))).collect();
    let mut first = None;
    for _ in 0..40 {
        let (position, _) = log.append(Now::default(), big.clone()).unwrap();
        first.get_or_insert(position);
    }
    let total: u64 = disk.list(Path::new(DIR)).unwrap().iter().map(|entry| entry.len).sum();
    assert!(total <= (40 << 20) + 2 * (16 << 20) + (4 << 20), "{total} bytes");
    let (ids, gaps) = ids(&log, first);
    assert!(ids.len() < 39 * 20_000 && !ids.is_empty());
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].from, 2);
    assert_eq!(gaps[0].to as usize + ids.len() / 20_000, 40, "the gap is exact");
}

#[test]
fn a_position_nobody_knows_reads_all_and_is_a_gap() {
    let disk = SimDisk::new();
    let mut log = open(&disk, 1, 1 << 30);
    log.append(Now::default(), vec![report("a")]).unwrap();
    let (ids, gaps) = ids(&log, Some(Position { incarnation: run(77), sequence: 5 }));
    assert_eq!((ids, gaps.len(), gaps[0].from), (vec!["a".to_owned()], 1, 6));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whoever was told "taken" finds it after any kill or power cut, exactly once.
    #[test]
    fn nobody_is_told_before_it_is_durable(effects in 0u64..60, cut in any::<bool>(), seed in any::<u64>()) {
        let disk = SimDisk::new();
        disk.set_faults(SimFaults { die_after_effects: Some(effects), ..Default::default() });
        let mut told = Vec::new();
        if let Ok(mut log) = EvidenceLog::open(Arc::new(disk.clone()), DIR.into(), run(1), 1 << 30) {
            for n in 0..20 {
                let id = format!("id-{n}");
                match log.append(Now::default(), vec![report(&id)]) {
                    Ok(_) => told.push(id),
                    Err(_) => {
                        prop_assert!(log.append(Now::default(), vec![report("later")]).is_err(), "a failed log stays failed");
                        break;
                    }
                }
            }
        }
        if cut { disk.power_cut(seed) } else { disk.kill() }
        disk.set_faults(SimFaults::default());
        let (found, gaps) = ids(&open(&disk, 2, 1 << 30), None);
        prop_assert_eq!(gaps, vec![]);
        prop_assert!(found.starts_with(&told), "told {:?}, found {:?}", told, found);
        prop_assert!(found.len() <= told.len() + 1);
    }
}
