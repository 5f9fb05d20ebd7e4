//! What a fail-over took is stored again on the new master: once, under its own id, whatever dies in between.

use super::harness::*;
use super::promotion::change_places;
use super::slaves::{Pair, readable};
use crate::api::*;
use crate::survivors::{Consumed, Files, Told, received};
use lifecycle::fact::{ConsumeModel, Fact, StoredKind};
use lifecycle::identity::{CopyReason, QueueKey};
use std::path::Path;
use store::commit_log::survivor::{SurvivingRecord, Survivor};
use store::disk_sim::SimDisk;
use wire::message::StoredMessage;

/// What the old master kept.
struct Kept {
    survivor: Survivor,
    records: Vec<SurvivingRecord>,
    told: Told,
}

impl Kept {
    fn of(old: &Bench) -> Kept {
        let mut files = Files::default();
        files.in_dir(&old.disk, Path::new("/data/survivors")).unwrap();
        assert_eq!((files.survivors.len(), files.frames.len()), (1, 1));
        let survivor = Survivor::open(&old.disk, &files.survivors[0]).unwrap();
        let mut records = Vec::new();
        let unreadable = survivor.records(|record| {
            records.push(record);
            Ok(())
        });
        assert_eq!(unreadable.unwrap(), 0);
        Kept { survivor, records, told: Told::read(&old.disk, &files.frames).unwrap() }
    }

    fn consumed(&self, id: &str) -> Consumed {
        let record = self.records.iter().find(|record| super::harness::id(&record.record.record) == id);
        let record = &record.unwrap_or_else(|| panic!("{id} did not survive")).record;
        let (message, _) = StoredMessage::decode(&record.record).unwrap();
        let queue = QueueKey { topic: record.topic, queue_id: message.queue_id as u32 };
        let (epoch, _) = self.survivor.epochs().last().unwrap();
        self.told.consumed(epoch.incarnation, queue, message.queue_offset)
    }

    fn try_send(&self, master: &mut Bench, dry_run: bool) -> Answer<Vec<(String, Reinjected)>> {
        let request = received(&self.survivor.part(&self.records), dry_run).unwrap();
        let ids: Vec<_> =
            self.records.iter().map(|record| super::harness::id(&record.record.record)).collect();
        let outcomes = master.ask(|reply| Request::Reinject(request, reply))?;
        assert_eq!(outcomes.len(), ids.len());
        Ok(ids.into_iter().zip(outcomes).collect())
    }

    fn send(&self, master: &mut Bench) -> Vec<(String, Reinjected)> {
        self.try_send(master, false).unwrap()
    }
}

fn stored(outcomes: &[(String, Reinjected)]) -> Vec<&str> {
    let stored = outcomes.iter().filter(|(_, outcome)| matches!(outcome, Reinjected::Stored { .. }));
    stored.map(|(id, _)| id.as_str()).collect()
}

/// A0 to A9 are on both; B0 to B4 and a delayed one on the old master alone, which is its replica's replica now.
fn failed_over() -> (Pair, Kept) {
    let mut pair = Pair::new(small());
    pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    for n in 0..10 {
        pair.master.send("t", &format!("A{n}")).unwrap();
    }
    pair.check_same("t");
    for n in 0..5 {
        pair.master.send("t", &format!("B{n}")).unwrap();
    }
    pair.master.send_with("t", "D", "DELAY\u{1}3\u{2}").unwrap();
    // B0 and B1 are done; B2 was handed out, and never committed
    assert_eq!(pair.master.pull("c", "g", "t", 0, 10).records.len(), 5);
    pair.master.commit("c", "g", "t", 0, 12).unwrap();
    let mut pair = change_places(pair, 7);
    pair.connect().unwrap();
    let kept = Kept::of(&pair.slave);
    (pair, kept)
}

#[test]
fn what_a_fail_over_took_is_stored_again_once() {
    let (mut pair, kept) = failed_over();
    assert_eq!(kept.records.len(), 6);
    for (id, by) in [("B0", true), ("B1", true), ("B2", false), ("B4", false), ("D", false)] {
        let expected = if by { Consumed::By(vec!["g".into()]) } else { Consumed::No };
        assert_eq!(kept.consumed(id), expected, "{id}");
    }
    let would = kept.try_send(&mut pair.master, true).unwrap();
    assert!(would.iter().all(|(_, outcome)| *outcome == Reinjected::WouldStore), "{would:?}");
    assert_eq!(readable(&mut pair.master, "t").len(), 10, "a dry run stores nothing");
    let outcomes = kept.send(&mut pair.master);
    assert_eq!(stored(&outcomes), ["B0", "B1", "B2", "B3", "B4", "D"]);
    let expected = Reinjected::Stored { topic: "t".into(), queue: 0, offset: 10 };
    assert_eq!(outcomes[0].1, expected, "behind what is there");
    assert_eq!(readable(&mut pair.master, "t")[10..], ["B0", "B1", "B2", "B3", "B4"]);
    let redriven = pair.master.facts().into_iter().filter_map(|fact| match fact {
        Fact::Stored(stored) => Some(stored.kinds),
        _ => None,
    });
    let lineages: Vec<_> = redriven
        .flatten()
        .filter_map(|(_, kind)| match kind {
            StoredKind::Copy { lineage, .. } if lineage.reason == CopyReason::ReDrive => Some(lineage),
            _ => None,
        })
        .collect();
    assert_eq!(lineages.len(), 6);
    assert_eq!((lineages[2].parent.queue_offset, lineages[2].root), (12, lineages[2].parent));
    // the delayed one waits for its time, and is delivered once
    pair.master.pass(4_000);
    assert_eq!(readable(&mut pair.master, "t")[15..], ["D"]);
    pair.check_same("t");
    for _ in 0..2 {
        assert!(kept.send(&mut pair.master).iter().all(|(_, o)| *o == Reinjected::AlreadyStored));
        pair.master.stop_cleanly();
        assert!(kept.send(&mut pair.master).iter().all(|(_, o)| *o == Reinjected::AlreadyStored));
        pair.master.kill();
    }
    // and the next master knows it too
    pair.connect().unwrap();
    pair.check_same("t");
    let mut pair = change_places(pair, 20);
    assert!(kept.send(&mut pair.master).iter().all(|(_, o)| *o == Reinjected::AlreadyStored));
    assert_eq!(readable(&mut pair.master, "t").len(), 16);
}

#[test]
fn one_that_a_power_cut_takes_again_can_be_sent_again() {
    let (mut pair, kept) = failed_over();
    pair.master.pass(1_000);
    pair.master.flushing = false;
    assert_eq!(stored(&kept.send(&mut pair.master)).len(), 6);
    let mut seen = [false; 2];
    for seed in 0..20 {
        pair.master.power_cut(seed);
        pair.master.flushing = false;
        let there = readable(&mut pair.master, "t");
        let again = kept.send(&mut pair.master);
        let missing = ["B0", "B1", "B2", "B3", "B4"].iter().filter(|id| !there.contains(&(**id).to_owned()));
        let again: Vec<_> = stored(&again).into_iter().filter(|id| *id != "D").collect();
        assert_eq!(again, missing.copied().collect::<Vec<_>>(), "seed {seed}: exactly what is not there");
        seen[usize::from(again.is_empty())] = true;
        let mut all = readable(&mut pair.master, "t");
        all.sort();
        all.dedup();
        assert_eq!((all.len(), readable(&mut pair.master, "t").len()), (15, 15), "seed {seed}: each once");
    }
    assert_eq!(seen, [true, true], "some cuts take them, some do not");
}

#[test]
fn what_is_not_lost_or_not_ours_is_not_stored() {
    let (mut pair, kept) = failed_over();
    // the replica refuses: it is no master
    assert!(kept.try_send(&mut pair.slave, false).is_err());
    // a broker of another group
    let mut other = Bench::new(small());
    (other.disk, other.runs) = (SimDisk::new(), 90);
    other.kill();
    other.send("t", "X").unwrap();
    assert!(matches!(kept.try_send(&mut other, false), Err(Refusal::BadParameter(_))));
    // the master's own records, as if they had been cut off
    let log = pair.master.core.as_ref().unwrap();
    let dir = Path::new("/elsewhere");
    let epochs = log.log_view().epochs;
    let mut copy = store::commit_log::CommitLog::open(
        std::sync::Arc::new(pair.master.disk.clone()),
        Path::new("/data/commitlog"),
        small().segment_bytes,
        epochs,
    )
    .unwrap();
    let disk = pair.master.disk.clone();
    let path = copy.cut_with_survivor(&disk, dir, copy.start()).unwrap().unwrap();
    let survivor = Survivor::open(&disk, &path).unwrap();
    let mut records = Vec::new();
    survivor
        .records(|record| {
            records.push(record);
            Ok(())
        })
        .unwrap();
    let own = Kept { survivor, records, told: Told::default() };
    let outcomes = own.send(&mut pair.master);
    assert!(outcomes.len() >= 10);
    assert!(outcomes.iter().all(|(_, outcome)| *outcome == Reinjected::NotLost), "{outcomes:?}");
}

#[test]
fn copies_are_left_to_their_originals_and_a_topic_that_is_gone_is_named() {
    let mut pair = Pair::new(small());
    pair.master.heartbeat("c", "g", "t", ConsumeModel::Clustering);
    pair.master.send("t", "A").unwrap();
    pair.check_same("t");
    // only the old master knows of topic u; B is sent back there, and its copy consumed; C is sent back, its copy is not
    pair.master.heartbeat("c", "g", "u", ConsumeModel::Clustering);
    for id in ["B", "C"] {
        let at = pair.master.send("u", id).unwrap()[0].commitlog_offset;
        assert_eq!(pair.master.pull("c", "g", "u", 0, i64::from(id == "C")).records.len(), 1);
        let back = SendBack {
            group: "g".into(),
            commitlog_offset: at,
            delay_level: 1,
            max_reconsume_times: None,
            client: "c".into(),
        };
        pair.master.ask(|reply| Request::SendBack(back, reply)).unwrap();
    }
    pair.master.commit("c", "g", "u", 0, 2).unwrap();
    pair.master.pass(2_000);
    let retried = pair.master.pull("c", "g", "%RETRY%g", 0, 0);
    assert_eq!(ids(&retried.records), ["B", "C"]);
    pair.master.commit("c", "g", "%RETRY%g", 0, 1).unwrap();
    let mut pair = change_places(pair, 7);
    pair.connect().unwrap();
    let kept = Kept::of(&pair.slave);
    let originals: Vec<_> = kept.records.iter().filter(|record| record.record.lineage.is_none()).collect();
    assert_eq!(originals.len(), 2);
    assert_eq!(kept.consumed("B"), Consumed::By(vec!["g".into()]), "its copy was consumed");
    assert_eq!(kept.consumed("C"), Consumed::No, "its copy was not");
    let no_topic = Reinjected::NoTopic { topic: "u".into() };
    for (record, (id, outcome)) in kept.records.iter().zip(kept.send(&mut pair.master)) {
        let expected = if record.record.lineage.is_some() { Reinjected::Copy } else { no_topic.clone() };
        assert_eq!(outcome, expected, "{id}");
    }
    pair.master.configure("u", "NORMAL", false).unwrap();
    assert_eq!(stored(&kept.send(&mut pair.master)), ["B", "C"]);
    pair.master.heartbeat("c", "g", "u", ConsumeModel::Clustering);
    assert_eq!(ids(&pair.master.pull("c", "g", "u", 0, 0).records), ["B", "C"]);
}
