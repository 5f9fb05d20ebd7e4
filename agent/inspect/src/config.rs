//! Owns the files of a store's `config/` folder that say what was promised and how far everybody is. Pure: text in, values out.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Offset by (topic, group), then by queue.
pub type GroupOffsets = BTreeMap<(String, String), BTreeMap<u32, u64>>;

#[derive(Deserialize)]
struct Offsets {
    #[serde(rename = "offsetTable", default)]
    table: BTreeMap<String, BTreeMap<u32, i64>>,
}

#[derive(Deserialize)]
struct Delays {
    #[serde(rename = "offsetTable", default)]
    table: BTreeMap<u32, i64>,
}

#[derive(Deserialize)]
struct Topics {
    #[serde(rename = "topicConfigTable")]
    table: BTreeMap<String, serde_json::Value>,
}

/// Reads `consumerOffset.json`. A negative offset is none.
///
/// # Errors
/// What is wrong with the text.
pub fn group_offsets(text: &str) -> Result<GroupOffsets, serde_json::Error> {
    let offsets: Offsets = serde_json::from_str(&quoted(text))?;
    let mut found = GroupOffsets::new();
    for (name, queues) in offsets.table {
        let Some((topic, group)) = name.split_once('@') else { continue };
        let queues = queues.into_iter().filter_map(|(queue, at)| Some((queue, u64::try_from(at).ok()?)));
        found.insert((topic.to_owned(), group.to_owned()), queues.collect());
    }
    Ok(found)
}

/// Reads `delayOffset.json`: how far each level of the schedule was delivered, by its queue.
///
/// # Errors
/// What is wrong with the text.
pub fn delay_offsets(text: &str) -> Result<BTreeMap<u32, u64>, serde_json::Error> {
    let delays: Delays = serde_json::from_str(&quoted(text))?;
    let levels = delays.table.into_iter();
    Ok(levels.filter_map(|(level, at)| Some((level.checked_sub(1)?, u64::try_from(at).ok()?))).collect())
}

/// Reads the names in `topics.json`.
///
/// # Errors
/// What is wrong with the text.
pub fn topics(text: &str) -> Result<BTreeSet<String>, serde_json::Error> {
    let topics: Topics = serde_json::from_str(&quoted(text))?;
    Ok(topics.table.into_keys().collect())
}

/// The broker's JSON writer leaves numbers that are names unquoted: quotes them.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let (mut in_text, mut escaped) = (false, false);
    let mut digits = String::new();
    let mut after_opening = false;
    for c in text.chars() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if after_opening && c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        if !digits.is_empty() {
            if c == ':' {
                out.push_str(&format!("\"{digits}\""));
            } else {
                out.push_str(&digits);
            }
            digits.clear();
        }
        out.push(c);
        in_text = c == '"';
        after_opening = matches!(c, '{' | ',') || after_opening && c.is_whitespace();
    }
    out.push_str(&digits);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_numbers_as_names_are_understood() {
        let text = "{\n\t\"offsetTable\":{\"a,1:b@g\":{0:57,\n\t1:-1},\"x@h\":{\"2\":7}}}";
        let found = group_offsets(text).unwrap();
        assert_eq!(found[&("a,1:b".to_owned(), "g".to_owned())], [(0, 57)].into());
        assert_eq!(found[&("x".to_owned(), "h".to_owned())], [(2, 7)].into());
        assert_eq!(delay_offsets("{\"offsetTable\":{3:6}}").unwrap(), [(2, 6)].into());
        assert!(group_offsets("{\"offsetTable\":{0:").is_err());
    }
}
