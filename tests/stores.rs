//! Real stores with the truth beside them: what `inspect` finds in each must be what happened to it, id by id, and nothing more.
//! The wanted ids are read from the truth's lines; see `fixtures/stores/README.md`.

#[path = "stores/damage.rs"]
mod damage;
#[path = "stores/schedule.rs"]
mod schedule;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use flate2::read::GzDecoder;
use inspect::findings::{Finding, LOSS_CLASSES, State};
use inspect::report::Report;
use inspect::{InspectError, Options, inspect};
use serde_json::Value;
use tempfile::TempDir;

/// One scenario, unpacked.
struct Scenario {
    folder: TempDir,
    name: &'static str,
    truth: Vec<Value>,
}

type Ids = BTreeSet<String>;

impl Scenario {
    fn open(name: &'static str) -> Result<Scenario> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stores");
        let folder = TempDir::new()?;
        let archive = fs::File::open(fixtures.join(format!("{name}.tar.gz"))).context(name)?;
        tar::Archive::new(GzDecoder::new(archive)).unpack(folder.path())?;
        let truth = fs::read_to_string(fixtures.join(format!("{name}.truth.ndjson")))?;
        let truth = truth.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Scenario { folder, name, truth })
    }

    fn store(&self, folder: &str) -> PathBuf {
        self.folder.path().join(self.name).join(folder)
    }

    fn inspect(&self, folders: &[&str], set: impl FnOnce(&mut Options)) -> Result<Report> {
        let scratch = TempDir::new()?;
        let stores = folders.iter().map(|folder| self.store(folder)).collect();
        let mut options = Options::new(stores, scratch.path().to_owned());
        set(&mut options);
        let report = inspect(&options, &mut |_, _| ())?;
        let mut losses = report.findings.iter().filter(|finding| finding.key.loss);
        ensure!(losses.all(|finding| LOSS_CLASSES.contains(&finding.key.class)), "a loss without a name");
        ensure!(fs::read_dir(scratch.path())?.next().is_none(), "the scratch folder is left full");
        Ok(report)
    }

    fn lines<'a>(&'a self, ev: &'a str) -> impl Iterator<Item = &'a Value> {
        self.truth.iter().filter(move |line| line["ev"] == ev)
    }

    /// The expectation of this name about this folder.
    fn expected(&self, expect: &str, folder: &str) -> Result<&Value> {
        let mut lines =
            self.lines("expect").filter(|line| line["expect"] == expect && line["folder"] == folder);
        lines.next().with_context(|| format!("{}: no line expects {expect} of {folder}", self.name))
    }

    fn expected_ids(&self, expect: &str, folder: &str) -> Result<Ids> {
        let line = self.expected(expect, folder)?;
        let ids: Ids = strings(&line["ids"]);
        ensure!(Some(ids.len() as u64) == line["count"].as_u64(), "{expect}: the truth counts otherwise");
        Ok(ids)
    }

    /// A list of what the clients sent before `until`, as a producer's outbox would give it.
    fn sent_list(&self, with_places: bool) -> Result<PathBuf> {
        let mut text = String::new();
        for line in &self.truth {
            let (id, topic) = (line["id"].as_str(), line["topic"].as_str());
            let outcome = match line["ev"].as_str() {
                Some("sent") => line["status"].as_str(),
                Some("send-failed") => Some("failed"),
                Some("sent-oneway") => Some("oneway"),
                _ => continue,
            };
            let Some(id) = id else { continue };
            let mut row = serde_json::json!({"id": id, "topic": topic, "outcome": outcome});
            // half and delayed messages are stored under another topic: their offsets are not the topic's
            if with_places && line["kind"] == "normal" {
                row["queue"] = line["queue"].clone();
                row["offset"] = line["offset"].clone();
            }
            text.push_str(&format!("{row}\n"));
        }
        let path = self.folder.path().join(format!("sent-{with_places}.ndjson"));
        fs::write(&path, text)?;
        Ok(path)
    }

    /// What `group` had not read when `folder` was copied, by its committed offsets and the queues' ends.
    fn unread(&self, folder: &str) -> Result<BTreeMap<(String, String), u64>> {
        let facts = self.lines("facts").find(|line| line["folder"] == folder).context("no facts")?;
        let mut unread = BTreeMap::new();
        for (name, queues) in facts["consumerOffsets"].as_object().context("offsets")? {
            let (topic, group) = name.split_once('@').context("name")?;
            if group.starts_with("CID_RMQ_SYS_") {
                continue;
            }
            for (queue, committed) in queues.as_object().context("queues")? {
                let range = &facts["queues"][format!("{topic}/{queue}")];
                let Some((min, max)) = range["min"].as_u64().zip(range["max"].as_u64()) else { continue };
                let behind = max.saturating_sub(committed.as_u64().context("offset")?.max(min));
                if behind > 0 {
                    *unread.entry((topic.to_owned(), group.to_owned())).or_insert(0) += behind;
                }
            }
        }
        Ok(unread)
    }
}

fn strings(value: &Value) -> Ids {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn of<'a>(report: &'a Report, class: &'a str) -> impl Iterator<Item = &'a Finding> {
    report.findings.iter().filter(move |finding| finding.key.class == class)
}

fn ids(report: &Report, class: &str) -> Ids {
    of(report, class).flat_map(|finding| finding.ids.iter().cloned()).collect()
}

fn count(report: &Report, class: &str) -> u64 {
    of(report, class).map(|finding| finding.count).sum()
}

fn classes(report: &Report) -> BTreeSet<&str> {
    report.findings.iter().map(|finding| finding.key.class).collect()
}

/// No loss, nothing undecided, and only these classes.
fn assert_unharmed(report: &Report, allowed: &[&str]) {
    assert!(!report.has_losses(), "{:#?}", report.findings);
    assert_eq!(report.undecided, 0, "{:#?}", report.findings);
    let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
    assert!(classes(report).is_subset(&allowed), "{:?} in {:#?}", classes(report), report.findings);
}

/// The findings of groups that are behind say what the offsets say.
fn assert_behind(scenario: &Scenario, report: &Report, folder: &str) -> Result<()> {
    let mut found = BTreeMap::new();
    for finding in of(report, "behind").filter(|finding| finding.key.store == folder) {
        *found.entry((finding.key.topic.clone(), finding.key.group.clone())).or_insert(0) += finding.count;
        assert_eq!(finding.ids.len() as u64, finding.count, "every unread message is named: {finding:?}");
    }
    assert_eq!(found, scenario.unread(folder)?);
    Ok(())
}

#[test]
fn a_healthy_store_has_no_loss_and_its_dead_and_delayed_and_half_messages_are_named() -> Result<()> {
    let scenario = Scenario::open("healthy-single")?;
    let notes = ["behind", "dead-lettered", "delayed-pending", "half-unresolved"];
    let report = scenario.inspect(&["store"], |_| ())?;
    assert_unharmed(&report, &notes);
    for (class, expect) in [
        ("dead-lettered", "dead-letter"),
        ("delayed-pending", "delayed-pending"),
        ("half-unresolved", "half-unresolved"),
    ] {
        assert_eq!(ids(&report, class), scenario.expected_ids(expect, "store")?, "{class}");
    }
    assert_behind(&scenario, &report, "store")?;
    let group = scenario.expected("behind", "store")?["group"].as_str().context("group")?;
    let behind = of(&report, "behind").find(|finding| finding.key.group == group).context("behind")?;
    assert_eq!(behind.ids.iter().cloned().collect::<Ids>(), scenario.expected_ids("behind", "store")?);
    let dead = of(&report, "dead-lettered").next().context("dead")?;
    assert_eq!(dead.key.group, scenario.expected("dead-letter", "store")?["group"]);
    let id = dead.ids.first().context("id")?;
    let sent = scenario.lines("sent").find(|line| line["id"] == id.as_str()).context("sent")?;
    let origin = format!(
        "{id}: from {} queue {} offset {}",
        sent["topic"].as_str().unwrap_or(""),
        sent["queue"],
        sent["offset"]
    );
    assert!(dead.details.iter().any(|detail| detail.starts_with(&origin)), "{origin} in {:?}", dead.details);

    let sent = scenario.sent_list(true)?;
    let report = scenario.inspect(&["store"], |options| options.sent = Some(sent))?;
    assert_unharmed(&report, &[&notes[..], &["stored-though-unacked"]].concat());
    Ok(())
}

#[test]
fn a_power_cut_is_counted_by_the_queues_and_named_by_the_list_of_what_was_sent() -> Result<()> {
    let scenario = Scenario::open("power-cut")?;
    for folder in ["cut", "restarted"] {
        let wanted = scenario.expected_ids("lost", folder)?;
        let report = scenario.inspect(&[folder], |_| ())?;
        assert_eq!(report.lost, wanted.len() as u64, "{folder}");
        assert_eq!(count(&report, "stored-not-flushed-lost"), report.lost);
        assert_eq!((report.suspected, report.undecided), (0, 0));
        let facts = scenario.lines("facts").find(|line| line["folder"] == folder).context("facts")?;
        for (name, range) in facts["queues"].as_object().context("queues")? {
            let (topic, queue) = name.split_once('/').context("name")?;
            let lost = of(&report, "stored-not-flushed-lost")
                .find(|finding| finding.key.topic == topic)
                .context("topic")?;
            let (max, beyond) = (
                range["max"].as_u64().context("max")?,
                range["entriesBeyondLogEnd"].as_u64().context("beyond")?,
            );
            assert_eq!(lost.offsets[&queue.parse()?], [(max, max + beyond)], "{name}");
        }
        let torn: Vec<u64> =
            of(&report, "torn").filter_map(|finding| finding.positions).map(|range| range.0).collect();
        let fault = scenario.lines("fault").find(|line| !line["tornRecordAt"].is_null()).context("fault")?;
        assert_eq!(torn, [fault["tornRecordAt"].as_u64().context("torn")?]);

        let sent = scenario.sent_list(true)?;
        let report = scenario.inspect(&[folder], |options| options.sent = Some(sent))?;
        assert_eq!(ids(&report, "stored-not-flushed-lost"), wanted, "{folder}");
        assert_eq!((report.lost, report.suspected), (wanted.len() as u64, 0), "{:?}", classes(&report));
        // without places: lost all the same, by the same ids, and how is not known of each
        let sent = scenario.sent_list(false)?;
        let report = scenario.inspect(&[folder], |options| options.sent = Some(sent))?;
        assert_eq!(ids(&report, "never-stored"), wanted, "{folder}");
        assert!(of(&report, "never-stored").all(|finding| finding.key.state == State::Suspected));
    }
    let report = scenario.inspect(&["cut", "restarted"], |_| ())?;
    for folder in ["cut", "restarted"] {
        let lost: u64 = report
            .findings
            .iter()
            .filter(|finding| finding.key.loss && finding.key.store == folder)
            .map(|finding| finding.count)
            .sum();
        assert_eq!(lost, scenario.expected_ids("lost", folder)?.len() as u64);
    }
    Ok(())
}

#[test]
fn what_only_the_old_master_has_is_lost_when_the_other_was_promoted_and_undecided_when_nobody_says_so()
-> Result<()> {
    let scenario = Scenario::open("failover-unreplicated")?;
    let wanted = scenario.expected_ids("lost", "slave")?;
    let report = scenario.inspect(&["master", "slave"], |_| ())?;
    assert!(!report.has_losses(), "{:#?}", report.findings);
    assert_eq!((ids(&report, "undecided"), report.undecided), (wanted.clone(), wanted.len() as u64));
    assert!(
        of(&report, "undecided").all(|finding| finding.key.store == "slave" && finding.key.other == "master")
    );

    let slave = scenario.store("slave");
    let report = scenario.inspect(&["slave", "master"], |options| options.promoted = Some(slave))?;
    assert_eq!(
        (ids(&report, "not-replicated-at-failover"), report.lost),
        (wanted.clone(), wanted.len() as u64)
    );
    assert_eq!((report.suspected, report.undecided), (0, 0), "{:#?}", report.findings);

    let master = scenario.store("master");
    let report = scenario.inspect(&["master", "slave"], |options| options.promoted = Some(master))?;
    assert!(!report.has_losses());
    for folder in ["master", "slave"] {
        let report = scenario.inspect(&[folder], |_| ())?;
        assert_unharmed(&report, &["behind", "delayed-pending", "unindexed"]);
        assert_behind(&scenario, &report, folder)?;
    }
    Ok(())
}

#[test]
fn what_expired_unread_is_counted_alone_and_named_by_the_snapshot_before() -> Result<()> {
    let scenario = Scenario::open("expired-unread")?;
    let wanted = scenario.expected("expired-unread", "after")?;
    let wanted_ids = scenario.expected_ids("expired-unread", "after")?;
    let alone = scenario.inspect(&["after"], |_| ())?;
    let both = scenario.inspect(&["before", "after"], |_| ())?;
    for report in [&alone, &both] {
        assert_eq!((report.lost, report.suspected), (wanted_ids.len() as u64, 0), "{:#?}", report.findings);
        let mut lost = report.findings.iter().filter(|finding| finding.key.loss);
        let finding = lost.next().context("expired")?;
        assert!(lost.next().is_none());
        assert_eq!(finding.key.class, "expired-before-consumption");
        assert_eq!(
            (finding.key.group.as_str(), finding.key.topic.as_str()),
            (wanted["group"].as_str().unwrap_or(""), wanted["topic"].as_str().unwrap_or(""))
        );
        for (queue, range) in wanted["ranges"].as_object().context("ranges")? {
            let range = (range[0].as_u64().context("from")?, range[1].as_u64().context("to")?);
            assert_eq!(finding.offsets[&queue.parse()?], [range]);
        }
    }
    assert_eq!(ids(&alone, "expired-before-consumption"), Ids::new());
    assert_eq!(ids(&both, "expired-before-consumption"), wanted_ids);
    let before = scenario.inspect(&["before"], |_| ())?;
    assert_unharmed(&before, &["behind"]);
    assert_behind(&scenario, &before, "before")?;
    assert_eq!(ids(&before, "behind"), scenario.expected_ids("behind", "before")?);
    Ok(())
}

#[test]
fn a_killed_broker_has_lost_nothing() -> Result<()> {
    let scenario = Scenario::open("killed")?;
    for folder in ["killed", "restarted"] {
        let report = scenario.inspect(&[folder], |_| ())?;
        assert_unharmed(&report, &["behind", "unindexed"]);
        assert_behind(&scenario, &report, folder)?;
        assert_eq!(count(&report, "duplicate"), 0);
    }
    let sent = scenario.sent_list(true)?;
    let report = scenario.inspect(&["restarted"], |options| options.sent = Some(sent))?;
    assert_unharmed(&report, &["behind", "send-unknown"]);
    assert_eq!(ids(&report, "send-unknown"), scenario.expected_ids("unknown-outcome", "restarted")?);
    // the copy before is behind the copy after: that is said, and is no loss
    let both = scenario.inspect(&["killed", "restarted"], |_| ())?;
    assert!(!both.has_losses(), "{:#?}", both.findings);
    let more = both.stores[1].records - both.stores[0].records;
    assert_eq!((count(&both, "undecided"), both.undecided), (more, more));
    Ok(())
}

#[test]
fn what_a_reset_skipped_is_named_by_two_snapshots_and_the_trace() -> Result<()> {
    let scenario = Scenario::open("skipped-by-reset")?;
    let wanted = scenario.expected("skipped", "after")?;
    let report = scenario.inspect(&["before", "after"], |_| ())?;
    let skipped: Vec<&Finding> = of(&report, "skipped-by-offset-reset").collect();
    assert_eq!(skipped.len(), 1, "{skipped:#?}");
    let finding = skipped[0];
    assert_eq!(ids(&report, "skipped-by-offset-reset"), scenario.expected_ids("skipped", "after")?);
    assert_eq!(
        (finding.key.group.as_str(), finding.key.state),
        (wanted["group"].as_str().unwrap_or(""), State::Suspected)
    );
    for (queue, range) in wanted["offsets"].as_object().context("offsets")? {
        let range = (range[0].as_u64().context("from")?, range[1].as_u64().context("last")? + 1);
        assert_eq!(finding.offsets[&queue.parse()?], [range]);
    }
    assert_eq!((report.lost, report.suspected), (0, finding.count));
    for folder in ["before", "after"] {
        let report = scenario.inspect(&[folder], |_| ())?;
        assert_unharmed(&report, &["behind"]);
        assert_behind(&scenario, &report, folder)?;
    }
    assert_eq!(
        ids(&scenario.inspect(&["before"], |_| ())?, "behind")
            .intersection(&scenario.expected_ids("behind", "before")?)
            .count(),
        90
    );
    Ok(())
}

#[test]
fn every_duplicate_is_named_with_its_places_and_its_cause() -> Result<()> {
    let scenario = Scenario::open("duplicates")?;
    let report = scenario.inspect(&["store"], |_| ())?;
    assert_unharmed(&report, &["behind", "duplicate"]);
    let places = scenario.expected("duplicate-stored", "store")?["places"].as_object().context("places")?;
    assert_eq!(ids(&report, "duplicate"), places.keys().cloned().collect());
    let details: BTreeSet<String> =
        of(&report, "duplicate").flat_map(|finding| finding.details.clone()).collect();
    for (id, places) in places {
        let list: Vec<String> = places
            .as_array()
            .into_iter()
            .flatten()
            .map(|place| {
                format!("{} queue {} offset {}", place[0].as_str().unwrap_or(""), place[1], place[2])
            })
            .collect();
        let detail = format!("{id}: {}", list.join("; "));
        assert!(details.contains(&detail), "{detail}");
    }
    assert!(
        of(&report, "duplicate").all(|finding| finding.key.cause.starts_with("sent again by its producer"))
    );
    Ok(())
}

#[test]
fn lists_of_clients_name_what_was_never_stored_and_never_processed() -> Result<()> {
    let scenario = Scenario::open("healthy-single")?;
    let sent = scenario.sent_list(false)?;
    let mut text = fs::read_to_string(&sent)?;
    text.push_str(
        "{\"id\":\"NEVER-STORED-1\",\"topic\":\"Orders\"}\n{\"id\":\"TOLD-SO\",\"outcome\":\"failed\"}\n",
    );
    fs::write(&sent, text)?;
    // what the group handled, less three of them
    let handled: Vec<&str> = scenario
        .lines("consumed")
        .filter(|line| line["group"] == "cg_ship" && line["topic"] == "Orders")
        .filter_map(|line| line["id"].as_str())
        .collect();
    let dead = scenario.expected_ids("dead-letter", "store")?;
    let left_out: Ids =
        handled.iter().filter(|id| !dead.contains(**id)).take(3).map(|id| (*id).to_owned()).collect();
    let mut csv = "id,topic\n".to_owned();
    for id in handled.iter().filter(|id| !left_out.contains(**id)) {
        csv.push_str(&format!("{id},Orders\n"));
    }
    let processed = scenario.folder.path().join("processed.csv");
    fs::write(&processed, csv)?;
    let report = scenario
        .inspect(&["store"], |options| (options.sent, options.processed) = (Some(sent), Some(processed)))?;
    assert_eq!(ids(&report, "never-stored"), ["NEVER-STORED-1".to_owned()].into());
    assert_eq!(ids(&report, "send-unknown"), ["TOLD-SO".to_owned()].into());
    assert_eq!(ids(&report, "never-processed"), left_out);
    assert_eq!((report.lost, report.suspected), (4, 0));
    Ok(())
}

/// Length, time of the last change, and bytes by path.
type Files = BTreeMap<PathBuf, (u64, SystemTime, Vec<u8>)>;

fn tree(folder: &Path) -> Result<Files> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = path.metadata()?;
        if metadata.is_dir() {
            found.insert(path.clone(), (0, metadata.modified()?, Vec::new()));
            found.extend(tree(&path)?);
        } else {
            found.insert(path.clone(), (metadata.len(), metadata.modified()?, fs::read(&path)?));
        }
    }
    Ok(found)
}

#[test]
fn nothing_is_written_into_a_store_and_no_scratch_is_taken_there() -> Result<()> {
    let scenario = Scenario::open("power-cut")?;
    let before = tree(scenario.folder.path())?;
    scenario.inspect(&["cut", "restarted"], |_| ())?;
    assert_eq!(before, tree(scenario.folder.path())?);
    let inside = scenario.store("cut").join("commitlog");
    let options = Options::new(vec![scenario.store("cut")], inside);
    let refused = inspect(&options, &mut |_, _| ());
    assert!(
        matches!(&refused, Err(InspectError::Options(what)) if what.contains("inside the store")),
        "{refused:?}"
    );
    let none = Options::new(vec![scenario.store("cut").join("config")], TempDir::new()?.path().to_owned());
    assert!(matches!(inspect(&none, &mut |_, _| ()), Err(InspectError::Path { .. })));
    Ok(())
}
