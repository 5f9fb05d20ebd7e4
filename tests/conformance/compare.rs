//! Owns the comparison of two answers, field by field: what differs is named by a path. Never says which differences are fine.

use crate::fastjson;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use wire::code::request;
use wire::command::Command;
use wire::message::{StoredMessage, records};

/// One thing that is not the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Request code.
    pub(crate) request: i32,
    /// Code of their answer; -1: there was none.
    pub(crate) theirs_code: i32,
    /// `code`, `remark`, `ext.msgId`, `body[].storeTimestamp`, `body.offsetTable.…`; list places are left out.
    pub(crate) path: String,
    /// Absent: not there.
    pub(crate) theirs: Option<String>,
    /// Absent: not there.
    pub(crate) ours: Option<String>,
}

/// A real broker's answer to one request, and ours. `known_len` of their body is real.
pub(crate) struct Answers<'a> {
    pub(crate) request: &'a Command,
    pub(crate) theirs: &'a Command,
    pub(crate) known_len: usize,
    pub(crate) ours: &'a Command,
}

pub(crate) fn differences(answers: &Answers<'_>) -> Vec<Difference> {
    let mut found =
        Found { request: answers.request.code, theirs_code: answers.theirs.code, list: Vec::new() };
    let Answers { theirs, ours, .. } = answers;
    found.check("code", theirs.code, ours.code);
    found.check("flag", theirs.flag, ours.flag);
    found.check("language", theirs.language.name(), ours.language.name());
    found.check("version", theirs.version, ours.version);
    found.check("header type", theirs.header_type.name(), ours.header_type.name());
    found.check_options("remark", theirs.remark.as_deref(), ours.remark.as_deref());
    found.check("ext", theirs.fields.is_some(), ours.fields.is_some());
    found.check_maps("ext.", &fields(theirs), &fields(ours));
    match answers.request.code {
        request::PULL_MESSAGE | request::QUERY_MESSAGE | request::VIEW_MESSAGE_BY_ID => {
            found.check_records(answers);
        }
        _ => found.check_json(answers),
    }
    found.list
}

fn fields(command: &Command) -> BTreeMap<String, String> {
    let fields = command.fields.iter().flat_map(|fields| fields.iter());
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

struct Found {
    request: i32,
    theirs_code: i32,
    list: Vec<Difference>,
}

impl Found {
    fn check(&mut self, path: &str, theirs: impl ToString, ours: impl ToString) {
        let (theirs, ours) = (theirs.to_string(), ours.to_string());
        self.check_options(path, Some(&theirs), Some(&ours));
    }

    fn check_options(&mut self, path: &str, theirs: Option<&str>, ours: Option<&str>) {
        if theirs != ours {
            let (theirs, ours) = (theirs.map(str::to_owned), ours.map(str::to_owned));
            let Found { request, theirs_code, .. } = *self;
            self.list.push(Difference { request, theirs_code, path: path.to_owned(), theirs, ours });
        }
    }

    fn check_maps(
        &mut self,
        prefix: &str,
        theirs: &BTreeMap<String, String>,
        ours: &BTreeMap<String, String>,
    ) {
        let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
        for name in names {
            let get = |map: &BTreeMap<String, String>| map.get(name).cloned();
            let (theirs, ours) = (get(theirs), get(ours));
            self.check_options(&format!("{prefix}{name}"), theirs.as_deref(), ours.as_deref());
        }
    }

    fn check_json(&mut self, answers: &Answers<'_>) {
        let (theirs, ours) = (&answers.theirs.body, &answers.ours.body);
        let known = &theirs[..answers.known_len.min(theirs.len())];
        if known.len() < theirs.len() {
            // only their first half is known: nothing to compare with
            return;
        }
        let read = |body: &[u8]| fastjson::parse(std::str::from_utf8(body).ok()?);
        match (read(theirs), read(ours)) {
            (Some(theirs), Some(ours)) => self.check_values("body", &theirs, &ours),
            _ => self.check("body", String::from_utf8_lossy(theirs), String::from_utf8_lossy(ours)),
        }
    }

    fn check_values(&mut self, path: &str, theirs: &Value, ours: &Value) {
        match (theirs, ours) {
            (Value::Object(theirs), Value::Object(ours)) => {
                let names: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
                for name in names {
                    let path = format!("{path}.{name}");
                    match (theirs.get(name), ours.get(name)) {
                        (Some(theirs), Some(ours)) => self.check_values(&path, theirs, ours),
                        (theirs, ours) => {
                            let text = |value: Option<&Value>| value.map(Value::to_string);
                            self.check_options(&path, text(theirs).as_deref(), text(ours).as_deref());
                        }
                    }
                }
            }
            (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
                for (theirs, ours) in sorted(theirs).into_iter().zip(sorted(ours)) {
                    self.check_values(&format!("{path}[]"), theirs, ours);
                }
            }
            _ if theirs == ours => {}
            _ => self.check(path, theirs, ours),
        }
    }

    fn check_records(&mut self, answers: &Answers<'_>) {
        let known = &answers.theirs.body[..answers.known_len.min(answers.theirs.body.len())];
        let is_cut = known.len() < answers.theirs.body.len();
        let theirs: Vec<_> = records(known).map_while(Result::ok).collect();
        let ours: Vec<_> = match records(&answers.ours.body).collect() {
            Ok(ours) => ours,
            Err(error) => return self.check("body", "records", error),
        };
        if !is_cut {
            self.check("body.length", theirs.len(), ours.len());
        }
        for (theirs, ours) in theirs.iter().zip(&ours) {
            self.check_maps("body[].", &record_fields(theirs), &record_fields(ours));
        }
    }
}

/// Lists of the protocol are sets in Java: their order means nothing.
fn sorted(list: &[Value]) -> Vec<&Value> {
    let mut list: Vec<&Value> = list.iter().collect();
    list.sort_by_key(|value| value.to_string());
    list
}

/// Every field of a stored record by name, each property on its own.
fn record_fields(record: &StoredMessage<'_>) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::from([
        ("version", format!("{:?}", record.version)),
        ("bodyCrc", record.body_crc.to_string()),
        ("queueId", record.queue_id.to_string()),
        ("flag", record.flag.to_string()),
        ("queueOffset", record.queue_offset.to_string()),
        ("commitLogOffset", record.commitlog_offset.to_string()),
        ("sysFlag", record.sys_flag.0.to_string()),
        ("bornTimestamp", record.born_timestamp_ms.to_string()),
        ("bornHost.ip", record.born_host.ip().to_string()),
        ("bornHost.port", record.born_host.port().to_string()),
        ("storeTimestamp", record.store_timestamp_ms.to_string()),
        ("storeHost", record.store_host.to_string()),
        ("reconsumeTimes", record.reconsume_times.to_string()),
        ("preparedTransactionOffset", record.prepared_transaction_offset.to_string()),
        ("body", format!("{:02x?}", record.body)),
        ("topic", record.topic.to_owned()),
    ])
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect::<BTreeMap<_, _>>();
    for (name, value) in record.properties.iter() {
        fields.insert(format!("properties.{name}"), value.to_owned());
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript;
    use wire::fields::Fields;

    /// The paths that differ when one answer of a transcript is compared with a changed copy of itself.
    fn paths(transcript: &str, code: i32, change: impl FnOnce(&mut Command)) -> Vec<String> {
        let lines = transcript::read(transcript);
        let asked = |line: &&transcript::Line| line.from_client && line.command.code == code;
        let request = lines.iter().find(asked).unwrap();
        let answer = lines.iter().find(|line| line.answers == Some(request.number)).unwrap();
        let mut ours = answer.command.clone();
        change(&mut ours);
        let answers = Answers {
            request: &request.command,
            theirs: &answer.command,
            known_len: answer.body_known_len,
            ours: &ours,
        };
        differences(&answers).into_iter().map(|difference| difference.path).collect()
    }

    #[test]
    fn an_answer_is_like_itself_whatever_the_order_of_its_fields() {
        for (transcript, code) in
            [("push-consumer-clustering", 11), ("mqadmin-topicStatus", 202), ("producer-sync", 310)]
        {
            let turned = |ours: &mut Command| {
                let fields: Vec<_> = ours.fields.iter().flat_map(|fields| fields.iter()).collect();
                let turned: Fields = fields.into_iter().rev().collect();
                ours.fields = ours.fields.is_some().then_some(turned);
            };
            assert_eq!(paths(transcript, code, turned), Vec::<String>::new());
        }
    }

    #[test]
    fn every_part_that_differs_is_named() {
        let check = |transcript: &str, code: i32, change: fn(&mut Command), expected: &[&str]| {
            assert_eq!(paths(transcript, code, change), expected);
        };
        check("producer-sync", 310, |ours| ours.code = 10, &["code"]);
        check("producer-sync", 310, |ours| ours.remark = Some("x".into()), &["remark"]);
        check(
            "producer-sync",
            310,
            |ours| ours.fields = None,
            &["ext", "ext.MSG_REGION", "ext.TRACE_ON", "ext.msgId", "ext.queueId", "ext.queueOffset"],
        );
        check(
            "producer-sync",
            105,
            |ours| ours.body = r#"{"queueDatas":[]}"#.into(),
            &["body.brokerDatas", "body.filterServerTable", "body.queueDatas"],
        );
        // the first record's queue id, its last property byte, the whole last record
        check("push-consumer-clustering", 11, |ours| flip_at(ours, 15), &["body[].queueId"]);
        check("push-consumer-clustering", 11, |ours| flip_at(ours, 195), &["body[].properties.n"]);
        let shorter = |ours: &mut Command| ours.body.truncate(2 * 196);
        assert_eq!(paths("push-consumer-clustering", 11, shorter), ["body.length"]);
    }

    fn flip_at(ours: &mut Command, at: usize) {
        let mut body = ours.body.to_vec();
        body[at] ^= 1;
        ours.body = body.into();
    }
}
