//! The dashboards and rules by themselves, without a product: the conventions that make a Grafana dashboard work on any
//! installation, the queries' syntax, and that every rule has a unit test that would miss it. What the queries answer on real
//! data is asked in `e2e`.

#![allow(clippy::disallowed_methods, reason = "reads the checkout, as a tool does")]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tests::checkout;

/// Kinds of panels that show data.
const DATA_PANELS: [&str; 3] = ["timeseries", "stat", "table"];
/// Units in use; Grafana knows them by these names.
const UNITS: [&str; 5] = ["short", "cps", "s", "bytes", "percentunit"];
const SCHEMA_VERSION: u64 = 39;

fn folder() -> PathBuf {
    checkout().join("dashboards")
}

fn board() -> Result<Value> {
    let path = folder().join("grafana/losstrace-overview.json");
    Ok(serde_json::from_str(&fs::read_to_string(&path).with_context(|| path.display().to_string())?)?)
}

fn promtool(arguments: &[&str], files: &[PathBuf]) -> Result<Output> {
    let mut command = Command::new("promtool");
    command.args(arguments).args(files);
    command.output().context("cannot start promtool: run tests/install first")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn array<'a>(json: &'a Value, pointer: &str) -> &'a [Value] {
    json.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(json: &'a Value, pointer: &str) -> &'a str {
    json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Everything that is wrong with a dashboard.
fn lint(board: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut must = |fine: bool, what: String| {
        if !fine {
            wrong.push(what);
        }
    };
    must(!text(board, "/uid").is_empty(), "no uid".into());
    must(board["schemaVersion"] == SCHEMA_VERSION, format!("schemaVersion is not {SCHEMA_VERSION}"));
    must(board["editable"] == false, "editable: a provisioned dashboard is not".into());
    must(board.get("__inputs").is_none(), "__inputs: not for provisioning".into());
    let variable = |name: &str| {
        array(board, "/templating/list").iter().find(|variable| text(variable, "/name") == name).cloned()
    };
    let datasource = variable("datasource").unwrap_or_default();
    must(text(&datasource, "/type") == "datasource", "no variable datasource".into());
    must(text(&datasource, "/label") == "Data Source", "variable datasource: label".into());
    for name in ["job", "instance", "topic", "group"] {
        let variable = variable(name).unwrap_or_default();
        let mut need = |fine: bool, what: &str| must(fine, format!("variable {name}: {what}"));
        need(text(&variable, "/query/query").starts_with("label_values("), "no label_values() query");
        need(text(&variable, "/datasource/uid") == "${datasource}", "not on $datasource");
        need(variable["multi"] == true && variable["includeAll"] == true, "not multi with All");
        need(text(&variable, "/allValue") == ".+", "allValue is not .+");
        need(variable["refresh"] == 2, "does not reload when the time changes");
    }
    let panels = array(board, "/panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    must(ids.len() == panels.len() && !ids.contains(&None), "panel ids are not unique numbers".into());
    for (index, panel) in panels.iter().enumerate() {
        for earlier in panels.iter().take(index) {
            must(!overlap(panel, earlier), format!("{}: over {}", panel["title"], earlier["title"]));
        }
        if text(panel, "/type") != "row" {
            for problem in lint_panel(panel) {
                must(false, format!("{}: {problem}", panel["title"]));
            }
        }
    }
    wrong
}

fn overlap(a: &Value, b: &Value) -> bool {
    let at = |panel: &Value, side: &str| panel["gridPos"][side].as_u64().unwrap_or(0);
    let apart = |low: &str, size: &str| {
        at(a, low) + at(a, size) <= at(b, low) || at(b, low) + at(b, size) <= at(a, low)
    };
    !apart("x", "w") && !apart("y", "h")
}

fn lint_panel(panel: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut must = |fine: bool, what: &str| {
        if !fine {
            wrong.push(what.to_owned());
        }
    };
    must(DATA_PANELS.contains(&text(panel, "/type")), "unknown kind of panel");
    must(
        !text(panel, "/title").is_empty() && !text(panel, "/description").is_empty(),
        "title or description",
    );
    must(text(panel, "/datasource/uid") == "${datasource}", "not on $datasource");
    must(UNITS.contains(&text(panel, "/fieldConfig/defaults/unit")), "unit");
    let right = panel["gridPos"]["x"].as_u64().zip(panel["gridPos"]["w"].as_u64());
    must(right.is_some_and(|(x, w)| x + w <= 24), "wider than the grid");
    let targets = array(panel, "/targets");
    must(!targets.is_empty(), "no query");
    for target in targets {
        must(text(target, "/datasource/uid") == "${datasource}", "query not on $datasource");
        for problem in lint_query(text(target, "/expr")) {
            must(false, &problem);
        }
    }
    wrong
}

/// Rules on one query: every selector is bound to job and instance, every counter is in a rate, every rate adapts.
fn lint_query(query: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = 0;
    for prefix in ["losstrace_", "process_"] {
        for (at, _) in query.match_indices(prefix) {
            if query[..at].ends_with(is_name) {
                continue;
            }
            names += 1;
            let rest = &query[at..];
            let name = &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())];
            let behind = &rest[name.len()..];
            let selector = &behind[..behind.find('}').map_or(0, |end| end + 1)];
            if !(selector.starts_with('{')
                && selector.contains("job=~\"$job\"")
                && selector.contains("instance=~\"$instance\""))
            {
                wrong.push(format!("{name} is not bound to $job and $instance"));
            }
            let in_rate = ["rate(", "irate(", "increase("].iter().any(|f| query[..at].ends_with(f));
            let counts = name.ends_with("_total") || name.ends_with("_bucket");
            if counts != in_rate {
                wrong.push(format!("{name}: a counter belongs into rate or increase, a gauge does not"));
            }
            let window = &behind[selector.len()..];
            if in_rate && !(window.starts_with("[$__rate_interval]") || window.starts_with("[$__range]")) {
                wrong.push(format!("{name}: the window is not $__rate_interval"));
            }
        }
    }
    if names == 0 {
        wrong.push(format!("no metric in `{query}`"));
    }
    wrong
}

#[test]
fn the_dashboard_keeps_the_conventions() -> Result<()> {
    let wrong = lint(&board()?);
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_dashboard_that_breaks_a_convention_is_found() -> Result<()> {
    let good = board()?;
    let first = |board: &Value| {
        array(board, "/panels").iter().position(|panel| !array(panel, "/targets").is_empty()).unwrap_or(0)
    };
    let panel = format!("/panels/{}", first(&good));
    for (pointer, value) in [
        ("/uid".to_owned(), Value::from("")),
        ("/schemaVersion".to_owned(), Value::from("39")),
        ("/templating/list/1/allValue".to_owned(), Value::from(".*")),
        ("/templating/list/2/refresh".to_owned(), Value::from(1)),
        (format!("{panel}/datasource/uid"), Value::from("prometheus")),
        (format!("{panel}/description"), Value::from("")),
        (format!("{panel}/fieldConfig/defaults/unit"), Value::from("msgs")),
        (format!("{panel}/targets"), Value::Array(vec![])),
        (format!("{panel}/gridPos/w"), Value::from(24)),
        (format!("{panel}/targets/0/expr"), Value::from("losstrace_open_losses")),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(&pointer).with_context(|| pointer.clone())? = value;
        ensure!(!lint(&bad).is_empty(), "{pointer} was changed, and nothing was found");
    }
    let bound = "{job=~\"$job\", instance=~\"$instance\"}";
    for query in [
        format!("sum(losstrace_x_total{bound})"),
        format!("rate(losstrace_x{bound}[$__rate_interval])"),
        format!("rate(losstrace_x_total{bound}[5m])"),
        "sum(losstrace_x{job=~\"$job\"})".to_owned(),
        "1 + 1".to_owned(),
    ] {
        ensure!(!lint_query(&query).is_empty(), "{query} passes");
    }
    Ok(())
}

/// Prometheus's own parser reads every query, as the expression of a rule.
#[test]
fn every_query_is_promql() -> Result<()> {
    let board = board()?;
    let queries = array(&board, "/panels").iter().flat_map(|panel| array(panel, "/targets"));
    let mut rules = String::from("groups:\n- name: queries\n  rules:\n");
    let mut count = 0;
    for query in queries.map(|target| text(target, "/expr")) {
        let filled = query.replace("$__rate_interval", "1m").replace("$__range", "1h").replace('$', "");
        rules.push_str(&format!("  - record: query:{count}\n    expr: {}\n", Value::from(filled)));
        count += 1;
    }
    ensure!(count > 20, "only {count} queries");
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("queries.yml");
    fs::write(&path, rules)?;
    let output = promtool(&["check", "rules"], &[path])?;
    ensure!(output.status.success(), "{}", said(&output));
    Ok(())
}

/// The name of a rule, and where its lines are.
struct Rule {
    file: &'static str,
    name: String,
    lines: std::ops::Range<usize>,
}

fn rules(file: &'static str) -> Result<Vec<Rule>> {
    let text = fs::read_to_string(folder().join("prometheus").join(file))?;
    let lines: Vec<&str> = text.lines().collect();
    let mut rules: Vec<Rule> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let name = trimmed.strip_prefix("- alert: ").or_else(|| trimmed.strip_prefix("- record: "));
        if let Some(last) = rules.last_mut()
            && (name.is_some() || trimmed.starts_with("- name: "))
            && last.lines.end == usize::MAX
        {
            last.lines.end = at;
        }
        if let Some(name) = name {
            rules.push(Rule { file, name: name.to_owned(), lines: at..usize::MAX });
        }
    }
    if let Some(last) = rules.last_mut() {
        last.lines.end = lines.len();
    }
    Ok(rules)
}

/// A copy of rules and tests in which one rule says something else.
fn without(rule: &Rule, folder: &Path) -> Result<Vec<PathBuf>> {
    let source = self::folder().join("prometheus");
    fs::create_dir_all(folder.join("tests"))?;
    for file in ["rules.yml", "alerts.yml"] {
        let text = fs::read_to_string(source.join(file))?;
        let lines = text.lines().enumerate();
        let kept: Vec<String> = lines
            .map(|(at, line)| {
                let it = file == rule.file && rule.lines.contains(&at) && line.contains(&rule.name);
                if it { line.replace(&rule.name, &format!("{}_gone", rule.name)) } else { line.to_owned() }
            })
            .collect();
        fs::write(folder.join(file), kept.join("\n"))?;
    }
    let mut tests = Vec::new();
    for entry in fs::read_dir(source.join("tests"))? {
        let path = entry?.path();
        let copy = folder.join("tests").join(path.file_name().context("a file has a name")?);
        fs::copy(&path, &copy)?;
        tests.push(copy);
    }
    Ok(tests)
}

#[test]
fn every_rule_is_missed_by_a_test_when_it_is_gone() -> Result<()> {
    let rules: Vec<Rule> = rules("rules.yml")?.into_iter().chain(rules("alerts.yml")?).collect();
    ensure!(rules.len() >= 14, "only {} rules", rules.len());
    for rule in &rules {
        let folder = tempfile::tempdir()?;
        let tests = without(rule, folder.path())?;
        let output = promtool(&["test", "rules"], &tests)?;
        ensure!(!output.status.success(), "no test misses {}", rule.name);
        ensure!(said(&output).contains("FAILED"), "{}: {}", rule.name, said(&output));
    }
    Ok(())
}
