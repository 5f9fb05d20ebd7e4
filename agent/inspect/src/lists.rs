//! Owns the lists clients give: what they sent, what they processed. NDJSON or CSV with a header, refused at the first line that
//! is not understood. Pure over a reader; one line is held at a time.

use serde::Deserialize;
use std::io::{self, BufRead, Read};

/// Longest line, in bytes.
const LINE_LEN_MAX: u64 = 1 << 20;

/// One line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// The client's id of the message.
    pub id: String,
    #[serde(default)]
    pub topic: Option<String>,
    /// What the client was told: `SEND_OK` or `ok`; anything else is no promise. Without it, `ok`.
    #[serde(default, alias = "status")]
    pub outcome: Option<String>,
    #[serde(default)]
    pub queue: Option<u32>,
    #[serde(default)]
    pub offset: Option<u64>,
}

impl Entry {
    /// Whether the client was told that the message is stored.
    pub fn is_ok(&self) -> bool {
        self.outcome.as_deref().is_none_or(|outcome| {
            ["", "ok", "send_ok", "flush_disk_timeout", "flush_slave_timeout", "slave_not_available"]
                .iter()
                .any(|ok| outcome.eq_ignore_ascii_case(ok))
        })
    }
}

/// Why a list is refused.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("line {line}: {what}")]
    Line { line: u64, what: String },
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Gives every entry and its line number to `each`; how many there were.
///
/// # Errors
/// At the first line that is not understood, and those of `each` and the reader.
pub fn read(
    list: impl BufRead,
    each: &mut dyn FnMut(u64, Entry) -> io::Result<()>,
) -> Result<u64, ListError> {
    let mut lines = Lines { list, line: 0, text: Vec::new() };
    let mut header: Option<Vec<String>> = None;
    let mut is_json = None;
    let mut count = 0;
    while lines.advance()? {
        let line = lines.line;
        let wrong = |what: String| ListError::Line { line, what };
        let text = str::from_utf8(&lines.text).map_err(|_| wrong("not UTF-8".to_owned()))?.trim();
        if text.is_empty() {
            continue;
        }
        let entry = if *is_json.get_or_insert(text.starts_with('{')) {
            serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?
        } else {
            let values = values(text).map_err(|what| wrong(what.to_owned()))?;
            match &header {
                None => {
                    if !values.iter().any(|name| name == "id") {
                        return Err(wrong("the header has no column `id`".to_owned()));
                    }
                    header = Some(values);
                    continue;
                }
                Some(names) if names.len() != values.len() => {
                    let (wanted, given) = (names.len(), values.len());
                    return Err(wrong(format!("{given} values under a header of {wanted}")));
                }
                Some(names) => entry(names, values).map_err(wrong)?,
            }
        };
        if entry.id.is_empty() || entry.id.bytes().any(|byte| byte < b' ') {
            return Err(wrong("no id, or one with control characters".to_owned()));
        }
        count += 1;
        each(line, entry)?;
    }
    Ok(count)
}

fn entry(names: &[String], values: Vec<String>) -> Result<Entry, String> {
    let mut entry = Entry::default();
    for (name, value) in names.iter().zip(values) {
        let number = |value: &str| value.parse::<u64>().map_err(|_| format!("{name} `{value}` is no offset"));
        match name.as_str() {
            "id" => entry.id = value,
            _ if value.is_empty() => {}
            "topic" => entry.topic = Some(value),
            "outcome" | "status" => entry.outcome = Some(value),
            "queue" => {
                entry.queue =
                    Some(number(&value)?.try_into().map_err(|_| format!("queue `{value}` is too large"))?);
            }
            "offset" => entry.offset = Some(number(&value)?),
            _ => {}
        }
    }
    Ok(entry)
}

/// The values of one line of CSV; a quoted one may hold commas and doubled quotes, not line breaks.
fn values(line: &str) -> Result<Vec<String>, &'static str> {
    let mut values = Vec::new();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut value = String::new();
            let mut tail = quoted;
            loop {
                let (text, after) = tail.split_once('"').ok_or("a quoted value does not end")?;
                value.push_str(text);
                tail = after;
                match tail.strip_prefix('"') {
                    Some(after) => {
                        value.push('"');
                        tail = after;
                    }
                    None => break,
                }
            }
            values.push(value);
            match tail.strip_prefix(',') {
                Some(after) => rest = after,
                None if tail.is_empty() => return Ok(values),
                None => return Err("text behind a quoted value"),
            }
        } else {
            match rest.split_once(',') {
                Some((value, after)) => {
                    values.push(value.trim().to_owned());
                    rest = after;
                }
                None => {
                    values.push(rest.trim().to_owned());
                    return Ok(values);
                }
            }
        }
    }
}

struct Lines<R> {
    list: R,
    line: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn advance(&mut self) -> Result<bool, ListError> {
        self.text.clear();
        self.line += 1;
        let read = (&mut self.list).take(LINE_LEN_MAX).read_until(b'\n', &mut self.text)? as u64;
        if read == LINE_LEN_MAX && self.text.last() != Some(&b'\n') {
            return Err(ListError::Line { line: self.line, what: "longer than 1 MiB".to_owned() });
        }
        Ok(read > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Result<Vec<(u64, Entry)>, String> {
        let mut found = Vec::new();
        let result = read(text.as_bytes(), &mut |line, entry| {
            found.push((line, entry));
            Ok(())
        });
        result.map(|_| found).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_say_the_same() {
        let csv = all("id,topic,queue,offset,status\nA,\"x,\"\"y\",1,2,SEND_OK\n\nB,,,,\n").unwrap();
        let json = all(
            "{\"id\":\"A\",\"topic\":\"x,\\\"y\",\"queue\":1,\"offset\":2,\"status\":\"SEND_OK\"}\n\n{\"id\":\"B\"}",
        );
        assert_eq!(
            csv.iter().map(|(_, entry)| entry).collect::<Vec<_>>(),
            json.unwrap().iter().map(|(_, e)| e).collect::<Vec<_>>()
        );
        assert_eq!(csv[1].0, 4);
    }

    #[test]
    fn the_first_bad_line_is_named() {
        for (text, wanted) in [
            ("topic\nx", "line 1: the header has no column `id`"),
            ("id,queue\nA,1\nB", "line 3: 1 values under a header of 2"),
            ("id,queue\nA,x", "line 2: queue `x` is no offset"),
            ("{\"id\":\"A\"}\n{\"id\":\"\"}", "line 2: no id, or one with control characters"),
            ("id\n\"A", "line 2: a quoted value does not end"),
        ] {
            assert_eq!(all(text).unwrap_err(), wanted);
        }
        assert!(all("{\"id\":\"A\"}\nB").unwrap_err().starts_with("line 2: "));
    }
}
