//! Rules about the project itself, checked on its files: layers, sizes, names, and that dashboards, code and runbooks
//! speak of the same things. Each rule is a function from the tree to its violations, and each is shown to catch a
//! planted one.

#![allow(clippy::disallowed_methods, reason = "reads the checkout, as a tool does")]

#[path = "tidy/boards.rs"]
mod boards;
#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/names.rs"]
mod names;
#[path = "tidy/tree.rs"]
mod tree;

use anyhow::Result;
use tests::checkout;
use tree::{Tree, before_tests};

const FILE_LINES_WARN: usize = 500;
const FILE_LINES_MAX: usize = 700;
/// The project's own names at the top; dotfiles are free, and `target` and `data` are made by running it.
const TOP: [&str; 9] =
    ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "agent", "broker", "dashboards", "tests", "target"];
const TOP_MADE: [&str; 1] = ["data"];

fn check(rule: impl Fn(&Tree) -> Vec<String>) -> Result<()> {
    let violations = rule(&Tree::read(checkout())?);
    anyhow::ensure!(violations.is_empty(), "{} violations:\n{}", violations.len(), violations.join("\n"));
    Ok(())
}

/// Lines before the tests: what a stranger has to read.
fn long_files(tree: &Tree, lines_max: usize) -> Vec<String> {
    let sources = ["agent/", "broker/", "tests/"].into_iter().flat_map(|folder| tree.under(folder, ".rs"));
    let sizes = sources.map(|(path, text)| (path, before_tests(text).lines().count()));
    let long = sizes.filter(|(_, lines)| *lines > lines_max);
    long.map(|(path, lines)| format!("{path}: {lines} lines before its tests, at most {lines_max}")).collect()
}

fn strangers_at_the_top(tree: &Tree) -> Vec<String> {
    let allowed = |name: &str| name.starts_with('.') || TOP.contains(&name) || TOP_MADE.contains(&name);
    let strangers = tree.top.iter().filter(|name| !allowed(name));
    strangers.map(|name| format!("{name}: not one of the names at the top level")).collect()
}

#[test]
fn files_are_short_enough_to_read() -> Result<()> {
    for warning in long_files(&Tree::read(checkout())?, FILE_LINES_WARN) {
        eprintln!("warning: {warning}");
    }
    check(|tree| long_files(tree, FILE_LINES_MAX))
}

#[test]
fn a_long_file_is_found() {
    let text = "x\n".repeat(11) + "#[cfg(test)]\nmod tests {\n";
    let tree = Tree::of(&[("broker/src/a.rs", &text)]);
    assert_eq!(long_files(&tree, 10).len(), 1);
    assert!(long_files(&tree, 11).is_empty());
}

#[test]
fn the_top_level_holds_the_allowed_names() -> Result<()> {
    check(strangers_at_the_top)
}

#[test]
fn a_stranger_at_the_top_is_found() {
    let top = ["scripts", "agent", ".ci"].map(String::from).to_vec();
    assert_eq!(strangers_at_the_top(&Tree { top, ..Tree::default() }).len(), 1);
}

#[test]
fn crates_depend_downwards_only() -> Result<()> {
    check(layers::crate_dependencies)
}

#[test]
fn modules_use_downwards_only() -> Result<()> {
    check(layers::module_uses)
}

#[test]
fn only_named_files_touch_files_sockets_and_environment() -> Result<()> {
    check(layers::operating_system)
}

#[test]
fn names_say_what_a_thing_is() -> Result<()> {
    check(names::banned)
}

#[test]
fn the_project_speaks_only_of_itself() -> Result<()> {
    check(names::foreign)
}

#[test]
fn every_metric_in_dashboards_exists_in_code() -> Result<()> {
    check(boards::unknown_metrics)
}

#[test]
fn every_alert_has_a_runbook_section_and_a_test() -> Result<()> {
    check(boards::alerts)
}
