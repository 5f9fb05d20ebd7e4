use super::*;
use crate::fold::Books;
use crate::fold::class::Class;
use crate::judge::Judge;
use crate::judge::verdict::VerdictState;
use crate::metrics::observed::ObservedSource;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

fn metrics() -> Metrics {
    Metrics::new(Registry::new(), "1.2.3").unwrap()
}

fn judge() -> Judge {
    Judge::new(Default::default(), Box::new(uuid::Uuid::nil))
}

fn series(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

fn full() -> Observed {
    Observed {
        messages: STAGES.map(|stage| (stage, 7)).to_vec(),
        topics: vec![("orders".into(), 7), ("a\"b\\c\nd".into(), 1)],
        lost: vec![("never-stored", 3)],
        open_losses: vec![
            ("orders".into(), "billing".into(), 2),
            ("orders".into(), "audit".into(), 0),
            ("orders".into(), String::new(), 1),
        ],
        incidents_open: vec![("never-stored", 1)],
        verdicts: vec![("never-stored", "confirmed", 1)],
        undecided_messages: 4,
        sources: vec![ObservedSource {
            source: "broker-a".into(),
            up: true,
            lag_seconds: 0.5,
            ..Default::default()
        }],
        in_flight: vec![("unacked", 5)],
        dlq_messages: vec![("billing".into(), 2)],
        retention_margins: vec![("orders".into(), "billing".into(), 60.5)],
        near_expiry_seconds: 21_600.0,
        exposed: vec![("unflushed", 9)],
        findings: vec![("async-flush", 1)],
        ..Default::default()
    }
}

/// The names here are the labels of users' alerts; the judge's own are in its code. They must not drift apart.
#[test]
fn the_closed_sets_are_those_of_books_and_judge() {
    let sorted = |mut names: Vec<&'static str>| {
        names.sort_unstable();
        names
    };
    assert_eq!(VERDICTS.to_vec(), Class::ALL.map(Class::text).to_vec());
    let losses = Class::ALL.into_iter().filter(|class| class.is_loss()).map(Class::text).collect();
    assert_eq!(sorted(LOSSES.to_vec()), sorted(losses));
    assert_eq!(STATES.to_vec(), VerdictState::ALL.map(VerdictState::text).to_vec());
    assert_eq!(FINDINGS, crate::report::numbers::FINDINGS);
    let shown = crate::report::numbers::numbers(&Books::default(), &judge(), 1);
    let names = |rows: &ByLabel| rows.iter().map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names(&shown.messages), STAGES);
    assert_eq!(names(&shown.in_flight), IN_FLIGHT);
    assert_eq!(names(&shown.duplicates), DUPLICATE_CAUSES);
    assert_eq!(names(&shown.answers), DURABILITIES);
    assert_eq!(names(&shown.exposed), RISKS);
    assert_eq!(names(&shown.findings), FINDINGS);
}

#[test]
fn every_series_of_a_closed_set_is_there_before_anything_happened() {
    let series = series(&metrics().render(&Observed::default()).unwrap());
    let mut wanted = Vec::new();
    wanted.extend(STAGES.map(|stage| format!("losstrace_messages_total{{stage=\"{stage}\"}}")));
    for verdict in VERDICTS {
        wanted.push(format!("losstrace_incidents_open{{verdict=\"{verdict}\"}}"));
        wanted.extend(
            STATES
                .map(|state| format!("losstrace_verdicts_total{{state=\"{state}\",verdict=\"{verdict}\"}}")),
        );
    }
    wanted.extend(LOSSES.map(|verdict| format!("losstrace_messages_lost_total{{verdict=\"{verdict}\"}}")));
    wanted.extend(IN_FLIGHT.map(|stage| format!("losstrace_in_flight_messages{{stage=\"{stage}\"}}")));
    wanted.extend(DURABILITIES.map(|class| format!("losstrace_answers_total{{durability=\"{class}\"}}")));
    wanted.extend(DUPLICATE_CAUSES.map(|cause| format!("losstrace_duplicates_total{{cause=\"{cause}\"}}")));
    wanted.extend(RISKS.map(|risk| format!("losstrace_exposed_messages{{risk=\"{risk}\"}}")));
    wanted.extend(FINDINGS.map(|finding| format!("losstrace_exposure_findings{{finding=\"{finding}\"}}")));
    for name in [
        "dlq_arrivals_total",
        "dlq_write_failures_total",
        "messages_skipped_total",
        "ledger_rebuilds_total",
        "series_dropped_total",
        "undecided_messages",
        "detection_delay_seconds_count",
        "checkpoint_seconds_count",
    ] {
        wanted.push(format!("losstrace_{name}"));
    }
    for name in wanted {
        assert_eq!(series.get(&name), Some(&0.0), "{name}");
    }
    assert_eq!(series.get("losstrace_build_info{version=\"1.2.3\"}"), Some(&1.0));
    assert!(series.keys().any(|name| name.starts_with("process_resident_memory_bytes")));
}

#[test]
fn what_was_observed_is_what_is_shown() {
    let metrics = metrics();
    metrics.observe_checkpoint(0.02);
    let series = series(&metrics.render(&full()).unwrap());
    for (name, value) in [
        ("losstrace_messages_total{stage=\"acked\"}", 7.0),
        ("losstrace_topic_messages_total{topic=\"orders\"}", 7.0),
        ("losstrace_topic_messages_total{topic=\"a\\\"b\\\\c\\nd\"}", 1.0),
        ("losstrace_messages_lost_total{verdict=\"never-stored\"}", 3.0),
        ("losstrace_open_losses{group=\"billing\",topic=\"orders\"}", 2.0),
        ("losstrace_open_losses{group=\"audit\",topic=\"orders\"}", 0.0),
        ("losstrace_open_losses{group=\"__none__\",topic=\"orders\"}", 1.0),
        ("losstrace_verdicts_total{state=\"confirmed\",verdict=\"never-stored\"}", 1.0),
        ("losstrace_source_up{source=\"broker-a\"}", 1.0),
        ("losstrace_evidence_complete{source=\"broker-a\"}", 0.0),
        ("losstrace_source_lag_seconds{source=\"broker-a\"}", 0.5),
        ("losstrace_evidence_gaps_total{source=\"broker-a\"}", 0.0),
        ("losstrace_dlq_messages{group=\"billing\"}", 2.0),
        ("losstrace_retention_margin_seconds{group=\"billing\",topic=\"orders\"}", 60.5),
        ("losstrace_exposed_messages{risk=\"unflushed\"}", 9.0),
        ("losstrace_checkpoint_seconds_count", 1.0),
    ] {
        assert_eq!(series.get(name), Some(&value), "{name}");
    }
}

#[test]
fn counters_never_step_back_and_gauges_return_to_zero() {
    let metrics = metrics();
    metrics.render(&full()).unwrap();
    let series = series(&metrics.render(&Observed::default()).unwrap());
    assert_eq!(series["losstrace_messages_total{stage=\"acked\"}"], 7.0);
    assert_eq!(series["losstrace_messages_lost_total{verdict=\"never-stored\"}"], 3.0);
    assert_eq!(series["losstrace_topic_messages_total{topic=\"orders\"}"], 7.0);
    assert_eq!(series["losstrace_open_losses{group=\"billing\",topic=\"orders\"}"], 0.0);
    assert_eq!(series["losstrace_incidents_open{verdict=\"never-stored\"}"], 0.0);
    assert_eq!(series["losstrace_dlq_messages{group=\"billing\"}"], 0.0);
    assert!(!series.keys().any(|name| name.starts_with("losstrace_retention_margin")));
}

/// The worst case of the design: 10,000 topics, 1,000 groups, everything owed, everything unread.
#[test]
fn the_series_budget_holds_and_nothing_is_lost_in_it() {
    let mut observed = full();
    observed.topics = (0..12_000).map(|n| (format!("topic-{n:05}"), 1)).collect();
    observed.open_losses =
        (0..40_000).map(|n| (format!("topic-{:05}", n / 4), format!("group-{n:05}"), 1)).collect();
    observed.dlq_messages = (0..1_200).map(|n| (format!("group-{n:05}"), 1)).collect();
    observed.retention_margins =
        (0..5_000).rev().map(|n| ("t".into(), format!("g{n}"), f64::from(n))).collect();
    let metrics = metrics();
    let before = series(&metrics.render(&observed).unwrap());
    assert!(before.len() <= 50_000, "{} series", before.len());
    let sum = |family: &str| -> f64 {
        let prefix = format!("{family}{{");
        before.iter().filter(|(name, _)| name.starts_with(&prefix)).map(|(_, value)| value).sum()
    };
    assert_eq!(sum("losstrace_topic_messages_total"), 12_000.0);
    assert_eq!(sum("losstrace_open_losses"), 40_000.0);
    assert_eq!(sum("losstrace_dlq_messages"), 1_200.0);
    assert_eq!(before["losstrace_open_losses{group=\"__other__\",topic=\"__other__\"}"], 10_000.0);
    assert_eq!(before["losstrace_topic_messages_total{topic=\"__other__\"}"], 2_000.0);
    assert_eq!(before["losstrace_series_dropped_total"], 12_200.0);
    // the smallest margins, not the first ones
    assert!(before.contains_key("losstrace_retention_margin_seconds{group=\"g0\",topic=\"t\"}"));
    assert!(!before.contains_key("losstrace_retention_margin_seconds{group=\"g1000\",topic=\"t\"}"));

    // for good: what came too late stays in __other__, even when the first ones are gone
    observed.open_losses.drain(..30_000);
    let after = series(&metrics.render(&observed).unwrap());
    assert_eq!(after["losstrace_open_losses{group=\"__other__\",topic=\"__other__\"}"], 10_000.0);
    assert_eq!(after["losstrace_open_losses{group=\"group-00000\",topic=\"topic-00000\"}"], 0.0);
    assert_eq!(after["losstrace_series_dropped_total"], 12_200.0);
}

#[test]
fn promtool_has_nothing_to_complain_about() {
    let metrics = metrics();
    metrics.observe_detection_delay(0.2);
    let text = metrics.render(&full()).unwrap();
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed (Debian package prometheus); tests/install installs it");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
#[should_panic(expected = "not in its closed set")]
fn a_label_outside_its_closed_set_is_a_bug() {
    drop(metrics().render(&Observed { messages: vec![("eaten", 1)], ..Default::default() }));
}
