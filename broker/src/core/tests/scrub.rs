use super::harness::*;
use super::slaves::Pair;
use crate::api::*;
use crate::config::Config;
use lifecycle::fact::{ConsumeModel, Fact, Scrubbed};
use lifecycle::identity::QueueKey;
use lifecycle::ranges::Ranges;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use store::commit_log::HEADER_LEN;
use store::consume_queue::Unit;
use store::disk::{Disk, OpenMode};
use store::disk_sim::SimFaults;
use store::segment::segment_name;

const SEGMENT: u64 = 64 * 1024;

fn config() -> Config {
    Config {
        segment_bytes: SEGMENT,
        scrub_interval_ms: 1_000,
        scrub_bytes_per_second: 1 << 20,
        snapshot_interval_ms: 100,
        ..small()
    }
}

/// A topic with so many messages, flushed.
fn stored(config: Config, count: usize) -> Bench {
    let mut bench = Bench::new(config);
    for n in 0..count {
        let padding = format!("P\u{1}{}\u{2}", "x".repeat((n * 997) % 3_000));
        bench.send_with("t", &format!("A{n:03}"), &padding).unwrap();
    }
    bench.pass(600);
    // and the journal knows that it is
    bench.pass(600);
    bench
}

impl Bench {
    fn rounds(&self) -> u64 {
        self.core.as_ref().unwrap().counters().scrub_rounds_total
    }

    /// Until another whole round has ended.
    fn whole_round(&mut self) {
        // one that is under way may have passed already
        for _ in 0..2 {
            let before = self.rounds();
            for _ in 0..500 {
                if self.rounds() > before {
                    break;
                }
                self.pass(100);
            }
            assert!(self.rounds() > before, "the round ends");
        }
        self.pass(300);
    }

    fn scrubbed(&self) -> Vec<Scrubbed> {
        let facts = self.facts().into_iter();
        facts
            .filter_map(|fact| if let Fact::Scrubbed(scrubbed) = fact { Some(scrubbed) } else { None })
            .collect()
    }

    /// Offsets told, over all facts, of one queue; and how often.
    fn told(&self) -> (Vec<u64>, u64) {
        let (mut offsets, mut unnamed) = (Vec::new(), 0);
        for scrubbed in self.scrubbed() {
            unnamed += scrubbed.unnamed_max;
            for (_, ranges) in scrubbed.bad {
                offsets.extend(ranges.iter().flat_map(|(from, to)| from..to));
            }
        }
        (offsets, unnamed)
    }

    fn key(&self, topic: &str) -> QueueKey {
        self.core.as_ref().unwrap().state_view().queue_key(topic, 0).unwrap()
    }

    fn unit(&mut self, topic: &str, offset: u64) -> Unit {
        let key = self.key(topic);
        self.core.as_mut().unwrap().unit_at(key, offset).unwrap()
    }

    /// First byte, header included, and end.
    fn place(&mut self, topic: &str, offset: u64) -> (u64, u64) {
        let unit = self.unit(topic, offset);
        (unit.commitlog_offset - HEADER_LEN as u64, unit.commitlog_offset + u64::from(unit.size))
    }

    fn flip(&self, at: u64) {
        assert!(self.disk.flip_bit(&log_file(at), at % SEGMENT, 3));
    }

    fn spoil(&self, from: u64, to: u64) {
        for at in from..to {
            self.flip(at);
        }
    }
}

fn log_file(at: u64) -> PathBuf {
    Path::new("/data/commitlog").join(segment_name(at - at % SEGMENT))
}

#[test]
fn a_healthy_log_is_read_whole_at_the_pace_that_was_set_and_rounds_are_told() {
    let mut bench = stored(config(), 120);
    let end = bench.core.as_ref().unwrap().log_view().end;
    assert!(end.0 > 2 * SEGMENT);
    bench.whole_round();
    assert_eq!(bench.told(), (vec![], 0));
    let rounds: Vec<_> = bench.scrubbed().into_iter().filter(|s| s.ends_round).collect();
    assert!(rounds.len() >= 2);
    assert_eq!(rounds[1].to, end);
    let covered: Ranges =
        bench.scrubbed().iter().map(|s| (s.from.0, s.to.0)).filter(|(a, b)| a < b).collect();
    assert_eq!(covered, Ranges::of(0, end.0));
    // the pace: a quarter of a second's worth at a time
    let slow = Config { scrub_bytes_per_second: 64 * 1024, ..config() };
    let mut bench = stored(slow, 120);
    let (before, from) = (bench.core.as_ref().unwrap().counters().scrubbed_bytes_total, bench.now.mono_ms);
    for _ in 0..100 {
        bench.pass(50);
    }
    let (read, ms) =
        (bench.core.as_ref().unwrap().counters().scrubbed_bytes_total - before, bench.now.mono_ms - from);
    assert!(read <= 64 * 1024 * ms / 1000 + 128 * 1024, "{read} bytes in {ms} ms");
    assert!(read >= 32 * 1024 * ms / 1000, "{read} bytes in {ms} ms");
}

#[test]
fn a_damaged_header_body_or_record_of_two_is_named_once_however_many_rounds_there_are() {
    let mut bench = stored(config(), 60);
    let (of_3, of_7, of_20, of_21) =
        (bench.place("t", 3), bench.place("t", 7), bench.place("t", 20), bench.place("t", 21));
    bench.flip(of_3.0 + 5);
    bench.flip(of_7.1 - 1);
    bench.spoil(of_20.1 - 40, of_21.0 + 40);
    for _ in 0..3 {
        bench.whole_round();
    }
    assert_eq!(bench.told(), (vec![3, 7, 20, 21], 0));
    assert_eq!(bench.core.as_ref().unwrap().counters().scrub_bad_records_total, 4);
    let damaged = bench.scrubbed().iter().fold(Ranges::new(), |mut all, s| {
        all.union(&s.damaged);
        all
    });
    let wanted: Ranges = [of_3, of_7, (of_20.0, of_21.1)].into_iter().collect();
    assert_eq!(damaged, wanted);
    // later damage is news, also beside an earlier one
    let later = bench_place(&mut bench, 4) + 60;
    bench.flip(later);
    bench.whole_round();
    assert_eq!(bench.told(), (vec![3, 7, 20, 21, 4], 0));
}

fn bench_place(bench: &mut Bench, offset: u64) -> u64 {
    bench.place("t", offset).0
}

#[test]
fn damage_at_a_segments_border_is_named() {
    let mut bench = stored(config(), 120);
    let first = (0..120).find(|n| bench_place(&mut bench, *n) == SEGMENT).unwrap();
    let (last, next) = (bench.place("t", first - 1), bench.place("t", first));
    bench.spoil(last.1 - 30, SEGMENT);
    bench.spoil(next.0, next.0 + 30);
    bench.whole_round();
    assert_eq!(bench.told(), (vec![first - 1, first], 0));
}

#[test]
fn spoilt_padding_is_nobodys_message() {
    let mut bench = stored(config(), 120);
    let first = (0..120).find(|n| bench_place(&mut bench, *n) == SEGMENT).unwrap();
    let last = bench.place("t", first - 1);
    assert!(SEGMENT - last.1 > 200);
    bench.flip(last.1 + 1);
    bench.whole_round();
    bench.flip(SEGMENT - 9);
    bench.whole_round();
    assert_eq!(bench.told(), (vec![], 0));
    assert_eq!(bench.scrubbed().iter().map(|s| s.damaged.len()).sum::<u64>(), SEGMENT - last.1);
}

#[test]
fn what_is_not_flushed_is_not_judged() {
    let mut bench = stored(config(), 20);
    bench.flushing = false;
    for n in 0..5 {
        bench.send("t", &format!("B{n}")).unwrap();
    }
    let at = bench_place(&mut bench, 22);
    bench.flip(at + 60);
    // reading goes on, flushing does not
    let mut orders = Vec::new();
    for _ in 0..200 {
        bench.now.mono_ms += 100;
        bench.now.wall_ms += 100;
        let jobs = std::mem::take(&mut orders);
        let mut done: Vec<_> =
            jobs.into_iter().map(|job: crate::core::Job| crate::core::FlushDone::Job(job.run())).collect();
        let effects = bench.core.as_mut().unwrap().turn(bench.now, &mut Vec::new(), &mut done);
        orders.extend(effects.flush.jobs);
    }
    assert!(bench.rounds() > 1);
    assert_eq!(bench.told(), (vec![], 0));
}

#[test]
fn a_record_whose_entry_is_damaged_too_is_counted_without_a_name() {
    let mut bench = stored(Config { snapshot_interval_ms: 1_000_000, ..config() }, 40);
    let at = bench_place(&mut bench, 9);
    // the consume queue is derived: its tail must be in the file to be spoilt there
    bench.core.as_mut().unwrap().queues.write_out().unwrap();
    let dir = bench.disk.list(Path::new("/data/consumequeue")).unwrap().remove(0).name;
    let file = bench.disk.list(&Path::new("/data/consumequeue").join(&dir)).unwrap().remove(0).name;
    let path = Path::new("/data/consumequeue").join(dir).join(file);
    let file = bench.disk.open(&path, OpenMode::Existing).unwrap();
    file.write_all_at(&[0; 20], 9 * 20).unwrap();
    bench.flip(at + 60);
    bench.whole_round();
    let (named, unnamed) = bench.told();
    assert_eq!(named, Vec::<u64>::new());
    assert!(unnamed >= 1, "a bound that holds");
    bench.whole_round();
    assert_eq!(bench.told().1, unnamed, "counted once");
}

#[test]
fn what_the_disk_cannot_read_is_named_and_stops_nobody() {
    let mut bench = stored(config(), 40);
    let (from, to) = bench.place("t", 9);
    bench.disk.set_faults(SimFaults { bad_bytes: Some((from + 10, to - 10)), ..SimFaults::default() });
    bench.whole_round();
    bench.disk.set_faults(SimFaults::default());
    let told = bench.told().0;
    assert!(told.contains(&9), "{told:?}");
    // whatever shares a page with it cannot be read either
    let pages = (from / 4096 * 4096)..(to / 4096 + 1) * 4096;
    assert!(pages.end < SEGMENT);
    for offset in told {
        // the same pages of every file
        let place = bench.place("t", offset);
        let (from, to) = (place.0 % SEGMENT, place.0 % SEGMENT + place.1 - place.0);
        assert!(from < pages.end && to > pages.start, "{offset} {place:?} {pages:?}");
    }
    assert!(bench.send("t", "later").is_ok());
}

#[test]
fn a_reader_is_led_past_a_record_that_cannot_be_read_and_both_are_told() {
    for of_medium in [false, true] {
        let mut bench = stored(Config { scrub_interval_ms: 0, ..config() }, 12);
        bench.heartbeat("c", "g", "t", ConsumeModel::Clustering);
        let (from, to) = bench.place("t", 4);
        match of_medium {
            true => bench.disk.set_faults(SimFaults { bad_bytes: Some((from, to)), ..SimFaults::default() }),
            false => bench.flip(to - 2),
        }
        let pulled = bench.pull("c", "g", "t", 0, 0);
        assert_eq!(ids(&pulled.records).len(), 11);
        assert_eq!(pulled.next_offset, 12);
        let alone = bench.pull("c", "g", "t", 0, 4);
        assert!(!ids(&alone.records).contains(&"A004".to_owned()));
        let key = bench.key("t");
        let unreadable = |fact: &Fact| matches!(fact, Fact::Unreadable { queue, ranges, .. } if *queue == key && *ranges == Ranges::of(4, 5));
        assert!(bench.facts().iter().any(unreadable));
        assert_eq!(bench.told(), (vec![4], 0), "told once, though it was asked for twice");
        // nothing but what cannot be read: no record, and somewhere to go on
        let only = PullMessages { max_messages: 1, ..pull("c", "g", "t", 0, 4) };
        let pulled = bench.ask(|reply| Request::Pull(only, reply)).unwrap();
        assert!(pulled.next_offset > 4);
        bench.disk.set_faults(SimFaults::default());
    }
}

#[test]
fn a_lease_consumer_is_done_with_what_cannot_be_read() {
    let mut bench = stored(Config { scrub_interval_ms: 0, ..config() }, 6);
    let at = bench_place(&mut bench, 2);
    bench.flip(at + 70);
    let got = bench.receive("l", "leases", "t", 10_000);
    assert_eq!(leased(&got).len(), 5);
    // another one rots while it is out
    let at = bench_place(&mut bench, 5);
    bench.flip(at + 70);
    for message in &got[..4] {
        bench.ack("leases", "t", &message.handle).unwrap();
    }
    assert_eq!(bench.position("leases", "t", 0), 5, "the floor rises over what nobody can read");
    bench.pass(11_000);
    assert_eq!(leased(&bench.receive("l", "leases", "t", 10_000)), vec![]);
    bench.pass(10);
    assert_eq!(bench.position("leases", "t", 0), 6);
    assert_eq!(bench.told(), (vec![2, 5], 0));
}

#[test]
fn a_restart_goes_on_where_the_round_was_and_tells_nothing_again() {
    for clean in [false, true] {
        let slow = Config { scrub_bytes_per_second: 256 * 1024, scrub_interval_ms: 3_000, ..config() };
        let mut bench = stored(slow, 200);
        let at = bench_place(&mut bench, 1);
        bench.flip(at + 60);
        for _ in 0..60 {
            bench.pass(100);
            if bench.scrubbed().iter().any(|s| s.to.0 >= SEGMENT) {
                break;
            }
        }
        assert_eq!((bench.told(), bench.rounds()), ((vec![1], 0), 0), "in the middle of its first round");
        bench.pass(300);
        let told = bench.scrubbed().len();
        match clean {
            true => bench.stop_cleanly(),
            false => bench.kill(),
        };
        bench.whole_round();
        let after = &bench.scrubbed()[told..];
        assert!(after[0].from.0 >= SEGMENT, "{:?}", after[0]);
        assert_eq!(after[0].round_wall_ms, bench.scrubbed()[0].round_wall_ms, "the same round");
        assert_eq!(bench.told(), (vec![1], 0));
    }
}

#[test]
fn what_recovery_has_named_is_not_counted_again_without_a_name() {
    // recovery reads what lies behind the last snapshot, and makes the consume queues again
    let mut bench = stored(Config { snapshot_interval_ms: 1_000_000, ..config() }, 30);
    let at = bench_place(&mut bench, 6);
    bench.flip(at + 60);
    bench.power_cut(3);
    let bad = bench.facts().into_iter().find_map(|fact| match fact {
        Fact::Recovered(recovered) if !recovered.bad.is_empty() => Some(recovered.bad),
        _ => None,
    });
    assert_eq!(bad, Some(vec![(bench.key("t"), Ranges::of(6, 7))]));
    bench.whole_round();
    assert_eq!(bench.told(), (vec![], 0));
    bench.stop_cleanly();
    bench.whole_round();
    assert_eq!(bench.told(), (vec![], 0));
}

#[test]
fn what_rotted_below_the_snapshot_is_named_by_a_start_that_reads_it_and_says_nothing_of_the_rest() {
    for offsets in [vec![0], vec![4], vec![11], vec![3, 4]] {
        // nobody reads it back later
        let mut bench = stored(Config { scrub_interval_ms: 0, ..config() }, 12);
        let places: Vec<u64> = offsets.iter().map(|offset| bench_place(&mut bench, *offset)).collect();
        bench.core.take().unwrap().close(bench.now).unwrap();
        places.iter().for_each(|at| bench.flip(at + 60));
        let report = bench.open();
        assert!(report.clean && report.scan.damaged.len() == 1, "{report:?}");
        let recovered = bench.facts().into_iter().filter_map(|fact| match fact {
            Fact::Recovered(recovered) => Some((recovered.clean, recovered.unnamed_max)),
            _ => None,
        });
        assert_eq!(recovered.last(), Some((true, 0)), "no message behind the snapshot is in doubt");
        assert_eq!(bench.told(), (offsets.clone(), 0));
        bench.stop_cleanly();
        assert_eq!(bench.told(), (offsets, 0), "once");
    }
}

#[test]
fn a_statement_that_a_power_cut_took_is_made_again() {
    let mut seen = BTreeMap::new();
    for seed in 0..30 {
        let mut bench = stored(config(), 30);
        let at = bench_place(&mut bench, 6);
        bench.flip(at + 60);
        for _ in 0..40 {
            bench.pass(50);
            if !bench.told().0.is_empty() {
                break;
            }
        }
        let turns = seed % 4;
        for _ in 0..turns {
            bench.turn(Vec::new());
        }
        bench.power_cut(seed);
        let named_by_recovery =
            bench.facts().iter().any(|fact| matches!(fact, Fact::Recovered(r) if !r.bad.is_empty()));
        bench.whole_round();
        assert!(named_by_recovery || bench.told().0.contains(&6), "seed {seed}: it is said somewhere");
        assert_eq!(bench.told().1, 0, "seed {seed}");
        *seen.entry(bench.told().0.len()).or_insert(0) += 1;
    }
    assert!(!seen.is_empty());
}

#[test]
fn what_retention_takes_meanwhile_is_no_finding() {
    let mut bench = stored(Config { retention_ms: 5_000, retention_interval_ms: 100, ..config() }, 200);
    let at = bench_place(&mut bench, 0);
    bench.flip(at + 60);
    // the order to read the first segment is out; before it is carried out the segment goes
    let mut order = None;
    for _ in 0..100 {
        bench.now.mono_ms += 20;
        bench.now.wall_ms += 20;
        let mut effects = bench.core.as_mut().unwrap().turn(bench.now, &mut Vec::new(), &mut Vec::new());
        if let Some(at) = effects.flush.jobs.iter().position(|job| matches!(job, crate::core::Job::Scrub(_)))
        {
            order = Some(effects.flush.jobs.remove(at));
            break;
        }
    }
    let order = order.expect("a round begins");
    bench.now.mono_ms += 6_000;
    bench.now.wall_ms += 6_000;
    for _ in 0..3 {
        bench.core.as_mut().unwrap().turn(bench.now, &mut Vec::new(), &mut Vec::new());
    }
    let start = bench.core.as_ref().unwrap().log_start().0;
    assert!(start >= SEGMENT, "the first segment is gone");
    let done = crate::core::FlushDone::Job(order.run());
    bench.core.as_mut().unwrap().turn(bench.now, &mut Vec::new(), &mut vec![done]);
    for _ in 0..100 {
        bench.now.mono_ms += 100;
        let mut jobs =
            bench.core.as_mut().unwrap().turn(bench.now, &mut Vec::new(), &mut Vec::new()).flush.jobs;
        let mut done: Vec<_> = jobs.drain(..).map(|job| crate::core::FlushDone::Job(job.run())).collect();
        bench.core.as_mut().unwrap().turn(bench.now, &mut Vec::new(), &mut done);
    }
    assert!(bench.rounds() > 0);
    assert_eq!(bench.told(), (vec![], 0));
    assert!(bench.scrubbed().iter().all(|s| s.damaged.is_empty()));
}

/// A master and a replica that has everything, on its disk.
fn replicated(count: usize) -> Pair {
    let mut pair = Pair::new(Config { scrub_interval_ms: 0, snapshot_interval_ms: 100, ..small() });
    pair.slave.config = Config { scrub_interval_ms: 1_000, ..pair.slave.config.clone() };
    pair.slave.kill();
    pair.connect().unwrap();
    for n in 0..count {
        pair.master.send("t", &format!("A{n:03}")).unwrap();
    }
    pair.master.pass(600);
    pair.carry_all();
    pair.slave.pass(600);
    pair
}

#[test]
fn a_replica_reads_its_own_copy_back_and_remembers_what_it_told() {
    let mut pair = replicated(50);
    let (from, to) = pair.slave.place("t", 7);
    assert!(pair.slave.disk.flip_bit(Path::new("/data/commitlog/00000000000000000000"), to - 3, 1));
    pair.slave.whole_round();
    assert_eq!(pair.slave.told(), (vec![7], 0));
    assert_eq!(
        pair.slave.scrubbed().iter().map(|s| s.damaged.clone()).find(|d| !d.is_empty()),
        Some(Ranges::of(from, to))
    );
    assert_eq!(pair.master.told(), (vec![], 0));
    // its consume queues are made again from what is left
    for _ in 0..2 {
        pair.slave.kill();
        pair.slave.whole_round();
        assert_eq!(pair.slave.told(), (vec![7], 0));
    }
}

#[test]
fn what_a_replicas_start_finds_damaged_is_named_by_what_is_missing() {
    let mut pair = replicated(50);
    let (_, to) = pair.slave.place("t", 7);
    pair.slave.pass(300);
    assert!(pair.slave.disk.flip_bit(Path::new("/data/commitlog/00000000000000000000"), to - 3, 1));
    pair.slave.kill();
    assert_eq!(pair.slave.told(), (vec![7], 0));
    pair.slave.whole_round();
    assert_eq!(pair.slave.told(), (vec![7], 0));
}

#[test]
fn what_was_cut_and_sent_again_while_it_was_read_is_no_finding() {
    let mut pair = replicated(50);
    let slave = |pair: &mut Pair| {
        pair.slave.core.as_mut().unwrap().turn(pair.slave.now, &mut Vec::new(), &mut Vec::new())
    };
    let mut order = None;
    for _ in 0..200 {
        pair.slave.now.mono_ms += 20;
        pair.slave.now.wall_ms += 20;
        let mut effects = slave(&mut pair);
        if let Some(at) = effects.flush.jobs.iter().position(|job| matches!(job, crate::core::Job::Scrub(_)))
        {
            order = Some(effects.flush.jobs.remove(at));
            break;
        }
    }
    let order = order.expect("a round begins");
    // another master's log stands where this one stood
    let disk = pair.slave.disk.clone();
    let core = pair.slave.core.as_mut().unwrap();
    let cut = core.log_view().end.0 / 2;
    let file = disk.open(Path::new("/data/commitlog/00000000000000000000"), OpenMode::Existing).unwrap();
    core.scrub.cut(lifecycle::identity::LogPosition(cut));
    file.write_all_at(&[0xEE; 300], cut).unwrap();
    let done = crate::core::FlushDone::Job(order.run());
    pair.slave.core.as_mut().unwrap().turn(pair.slave.now, &mut Vec::new(), &mut vec![done]);
    assert_eq!(pair.slave.told(), (vec![], 0));
    assert!(pair.slave.scrubbed().iter().all(|s| s.damaged.is_empty()));
}
