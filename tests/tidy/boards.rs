//! Dashboards, rules and alerts name metrics that exist, and every alert can be acted upon.

use std::collections::BTreeSet;

use crate::tree::Tree;

const BOARDS: &str = "dashboards/";
const RULES: &str = "dashboards/prometheus/";
const RULE_TESTS: &str = "dashboards/prometheus/tests/";
const RUNBOOKS: &str = "dashboards/runbooks.md";
const PREFIXES: [&str; 2] = ["losstrace_", "rocketmq_"];
/// What the text format adds to a histogram's name.
const SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

pub(crate) fn unknown_metrics(tree: &Tree) -> Vec<String> {
    // Texts count here: a metric's name is a text in the code.
    let sources = ["agent/src/", "broker/"].into_iter().flat_map(|folder| tree.under(folder, ".rs"));
    let known: BTreeSet<&str> = sources.flat_map(|(_, text)| metric_names(text)).collect();
    let mut violations = Vec::new();
    for ending in [".yml", ".yaml", ".json"] {
        for (path, text) in tree.under(BOARDS, ending).filter(|(path, _)| !path.starts_with(RULE_TESTS)) {
            let unknown = metric_names(text).into_iter().filter(|name| !exists(name, &known));
            violations.extend(unknown.map(|name| format!("{path}: {name} is in no source")));
        }
    }
    violations
}

pub(crate) fn alerts(tree: &Tree) -> Vec<String> {
    let runbooks = tree.files.get(RUNBOOKS).map(String::as_str).unwrap_or_default();
    let sections: BTreeSet<&str> =
        runbooks.lines().filter_map(|line| line.strip_prefix("## ")).map(str::trim).collect();
    let tested: BTreeSet<&str> =
        tree.under(RULE_TESTS, ".yml").flat_map(|(_, text)| values(text, "alertname:")).collect();
    let mut violations = Vec::new();
    let mut names = BTreeSet::new();
    for (path, text) in tree.under(RULES, ".yml").filter(|(path, _)| !path.starts_with(RULE_TESTS)) {
        for name in values(text, "- alert:") {
            names.insert(name);
            if !sections.contains(name) {
                violations.push(format!("{path}: {name} has no section in {RUNBOOKS}"));
            }
            if !tested.contains(name) {
                violations.push(format!("{path}: {name} is in no rule test"));
            }
            let link = format!("{RUNBOOKS}#{}", name.to_lowercase());
            if !values(text, "runbook_url:").any(|url| url == link) {
                violations.push(format!("{path}: {name} does not link {link}"));
            }
        }
    }
    if names.is_empty() {
        violations.push(format!("{RULES} holds no alert"));
    }
    let orphans = sections.iter().filter(|name| name.starts_with("Losstrace") && !names.contains(*name));
    violations.extend(orphans.map(|name| format!("{RUNBOOKS}: section {name} belongs to no alert")));
    violations
}

/// What stands behind a key, on every line that has it.
fn values<'a>(text: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
    let behind = text.lines().filter_map(move |line| {
        line.trim().trim_start_matches("- ").strip_prefix(key.trim_start_matches("- "))
    });
    behind.map(|value| value.trim().trim_matches(['"', '\'']))
}

/// Names of metrics in a text; not those of recording rules, which hold colons.
fn metric_names(text: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c: char| !is_name(c));
    words
        .filter(|word| !word.contains(':') && PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
        .filter(|word| !word.ends_with('_'))
        .collect()
}

fn exists(name: &str, known: &BTreeSet<&str>) -> bool {
    known.contains(name)
        || SUFFIXES.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|n| known.contains(n)))
}

#[cfg(test)]
mod tests {
    use super::{alerts, unknown_metrics};
    use crate::tree::Tree;

    const RULE: &str = "groups:\n- rules:\n  - alert: LosstraceX\n    expr: losstrace_a_total > 0\n    \
                        annotations:\n      runbook_url: dashboards/runbooks.md#losstracex\n";

    #[test]
    fn a_metric_without_code_is_found() {
        let tree = Tree::of(&[
            (
                "dashboards/prometheus/alerts.yml",
                "expr: job:losstrace_z:sum + losstrace_a_total + losstrace_b\n",
            ),
            ("dashboards/grafana/x.json", "\"expr\": \"losstrace_h_seconds_bucket{le=\\\"1\\\"}\""),
            ("agent/src/metrics.rs", "opts(\"losstrace_a_total\"); opts(\"losstrace_h_seconds\");"),
        ]);
        let found = unknown_metrics(&tree);
        assert_eq!(found, ["dashboards/prometheus/alerts.yml: losstrace_b is in no source"]);
    }

    #[test]
    fn an_alert_needs_section_link_and_test() {
        let rule_test = "alert_rule_test:\n- alertname: LosstraceX\n";
        let complete = Tree::of(&[
            ("dashboards/prometheus/alerts.yml", RULE),
            ("dashboards/prometheus/tests/a.yml", rule_test),
            ("dashboards/runbooks.md", "## LosstraceX\n"),
        ]);
        assert!(alerts(&complete).is_empty(), "{:?}", alerts(&complete));
        let bare = Tree::of(&[
            ("dashboards/prometheus/alerts.yml", "- alert: LosstraceX\n"),
            ("dashboards/runbooks.md", "## LosstraceY\n"),
        ]);
        assert_eq!(alerts(&bare).len(), 4, "{:?}", alerts(&bare));
    }
}
