//! The shipped rules and dashboards: promtool proves the rules, and every query of every panel is asked of a real
//! Prometheus that holds a real product's data.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::config::Options;
use tests::{checkout, stand, wait};

use crate::exposition::{SCRAPE_LIMIT, prometheus, traffic};

/// What Grafana would put in; longest names first, because some begin like others.
const VARIABLES: [(&str, &str); 7] = [
    ("$__rate_interval", "1m"),
    ("$__interval", "15s"),
    ("$__range", "5m"),
    ("$instance", ".+"),
    ("$topic", ".+"),
    ("$group", ".+"),
    ("$job", "losstrace"),
];

/// Panels that are empty while all is well: nothing is unread, so nothing is near its expiry.
const EMPTY_WHEN_WELL: [&str; 1] = ["losstrace_retention_margin_seconds"];

fn files(folder: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let folder = checkout().join("dashboards").join(folder);
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.retain(|path| path.to_string_lossy().ends_with(ending));
    files.sort();
    ensure!(!files.is_empty(), "{} holds no {ending}", folder.display());
    Ok(files)
}

fn promtool(arguments: &[&str], files: &[PathBuf]) -> Result<()> {
    let output = Command::new("promtool")
        .args(arguments)
        .args(files)
        .output()
        .context("cannot start promtool: run tests/install first")?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "promtool {arguments:?}: {}\n{said}", output.status);
    Ok(())
}

#[test]
fn rules_are_linted_and_their_tests_pass() -> Result<()> {
    let rules: Vec<PathBuf> =
        ["rules.yml", "alerts.yml"].map(|name| checkout().join("dashboards/prometheus").join(name)).into();
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &rules)?;
    promtool(&["test", "rules"], &files("prometheus/tests", ".yml")?)
}

#[test]
fn every_panel_shows_something_on_real_data() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _product = stand.up()?;
        let prometheus = prometheus(stand)?;
        traffic(stand)?;
        let queries = all_queries()?;
        wait::until_ok("every panel's query to have data", SCRAPE_LIMIT, || {
            for (panel, query) in &queries {
                let samples = prometheus.query(query).with_context(|| format!("panel {panel}: {query}"))?;
                // A comparison hides what is zero on purpose.
                let may_be_empty =
                    query.trim_end().ends_with("> 0") || EMPTY_WHEN_WELL.iter().any(|m| query.contains(m));
                ensure!(may_be_empty || !samples.is_empty(), "panel {panel} is empty: {query}");
            }
            Ok(())
        })
    })
}

/// Title and query of every panel's target, as Prometheus would be asked.
fn all_queries() -> Result<Vec<(String, String)>> {
    let mut queries = Vec::new();
    for path in files("grafana", ".json")? {
        let board: Value =
            serde_json::from_str(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())?;
        let before = queries.len();
        collect(&board, &name_of(&path), &mut queries);
        ensure!(queries.len() > before, "{} has no query", path.display());
    }
    Ok(queries)
}

fn collect(json: &Value, title: &str, queries: &mut Vec<(String, String)>) {
    match json {
        Value::Object(fields) => {
            let title = fields.get("title").and_then(Value::as_str).unwrap_or(title);
            if let Some(query) = fields.get("expr").and_then(Value::as_str) {
                let filled =
                    VARIABLES.iter().fold(query.to_owned(), |q, (name, value)| q.replace(name, value));
                queries.push((title.to_owned(), filled));
            }
            fields.values().for_each(|value| collect(value, title, queries));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, title, queries)),
        _ => {}
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
