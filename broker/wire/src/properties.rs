//! A message's properties: `name 0x01 value 0x02 name 0x01 value`, read and changed as text, without a map.
//!
//! Owns: the separators, the tolerance of Java's parser, and the property names that mean something. Called by: the broker
//! when it stores a message, the filters, the agent's evidence.

use crate::scan::run_above;

pub const NAME_VALUE_SEPARATOR: char = '\u{1}';
pub const PROPERTY_SEPARATOR: char = '\u{2}';
/// Most bytes a record has room for (a signed 16-bit length).
pub const MAX_PROPERTIES_LEN: usize = 32_767;

/// Room left behind text that a broker adds properties to.
const ROOM_FOR_MORE: usize = 64;

/// Keys of a message, separated by one space.
pub const KEYS: &str = "KEYS";
pub const KEY_SEPARATOR: char = ' ';
pub const TAGS: &str = "TAGS";
/// `false`: the producer waits for neither flush nor replica.
pub const WAIT: &str = "WAIT";
pub const DELAY: &str = "DELAY";
pub const RETRY_TOPIC: &str = "RETRY_TOPIC";
pub const REAL_TOPIC: &str = "REAL_TOPIC";
pub const REAL_QID: &str = "REAL_QID";
pub const TRAN_MSG: &str = "TRAN_MSG";
pub const PGROUP: &str = "PGROUP";
pub const MIN_OFFSET: &str = "MIN_OFFSET";
pub const MAX_OFFSET: &str = "MAX_OFFSET";
pub const ORIGIN_MESSAGE_ID: &str = "ORIGIN_MESSAGE_ID";
pub const RECONSUME_TIME: &str = "RECONSUME_TIME";
pub const MAX_RECONSUME_TIMES: &str = "MAX_RECONSUME_TIMES";
pub const MSG_REGION: &str = "MSG_REGION";
pub const TRACE_ON: &str = "TRACE_ON";
/// The client's id of the message.
pub const UNIQ_KEY: &str = "UNIQ_KEY";
pub const CONSUME_START_TIME: &str = "CONSUME_START_TIME";
pub const CHECK_IMMUNITY_TIME_IN_SECONDS: &str = "CHECK_IMMUNITY_TIME_IN_SECONDS";
pub const TRANSACTION_ID: &str = "__transactionId__";
pub const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";
pub const TRAN_PREPARED_QUEUE_OFFSET: &str = "TRAN_PREPARED_QUEUE_OFFSET";
pub const CLUSTER: &str = "CLUSTER";
pub const INSTANCE_ID: &str = "INSTANCE_ID";
pub const POP_CK: &str = "POP_CK";
pub const FIRST_POP_TIME: &str = "1ST_POP_TIME";
pub const SHARDING_KEY: &str = "__SHARDINGKEY";
pub const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
pub const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
pub const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
pub const TIMER_OUT_MS: &str = "TIMER_OUT_MS";
pub const BORN_HOST: &str = "__BORNHOST";
pub const BORN_TIMESTAMP: &str = "BORN_TIMESTAMP";
pub const TRACE_CONTEXT: &str = "TRACE_CONTEXT";
pub const DLQ_ORIGIN_TOPIC: &str = "DLQ_ORIGIN_TOPIC";
pub const DLQ_ORIGIN_MESSAGE_ID: &str = "DLQ_ORIGIN_MESSAGE_ID";
pub const INNER_NUM: &str = "INNER_NUM";
pub const CORRELATION_ID: &str = "CORRELATION_ID";
pub const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
pub const TTL: &str = "TTL";
pub const MSG_TYPE: &str = "MSG_TYPE";

/// Properties as they came, borrowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Properties<'a>(pub &'a str);

impl<'a> Properties<'a> {
    /// Name and value of each property. As Java reads them: a part without a separator, with an empty name or an empty
    /// value, is no property.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        Parts { rest: Some(self.0) }.filter_map(|part| {
            let name = &part.text[..part.name_end?];
            let value = &part.text[part.name_end? + 1..];
            (!name.is_empty() && !value.is_empty()).then_some((name, value))
        })
    }

    /// The value of a name; of a name given twice, the last, as in Java's map.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.iter().filter(|(key, _)| *key == name).last().map(|(_, value)| value)
    }

    /// What a broker looks at when it stores the message, in one pass.
    pub fn known(self) -> Known<'a> {
        let mut known = Known::default();
        for (name, value) in self.iter() {
            match name {
                UNIQ_KEY => known.unique_key = Some(value),
                KEYS => known.keys = Some(value),
                TAGS => known.tags = Some(value),
                WAIT => known.wait = Some(value),
                DELAY => known.delay = Some(value),
                TRAN_MSG => known.transaction = Some(value),
                _ => {}
            }
        }
        known
    }

    /// The keys a message can be found by.
    pub fn keys(self) -> impl Iterator<Item = &'a str> {
        Known { keys: self.get(KEYS), ..Known::default() }.keys()
    }
}

/// Values of the properties a broker looks at when it stores a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known<'a> {
    pub unique_key: Option<&'a str>,
    pub keys: Option<&'a str>,
    pub tags: Option<&'a str>,
    pub wait: Option<&'a str>,
    pub delay: Option<&'a str>,
    pub transaction: Option<&'a str>,
}

impl<'a> Known<'a> {
    /// The keys a message can be found by.
    pub fn keys(self) -> impl Iterator<Item = &'a str> {
        let keys = self.keys.unwrap_or_default();
        keys.split(KEY_SEPARATOR).filter(|key| !key.is_empty())
    }
}

/// Cuts properties at their separators.
struct Parts<'a> {
    rest: Option<&'a str>,
}

/// What stands between two separators.
struct Part<'a> {
    text: &'a str,
    /// Where its first separator of name and value is.
    name_end: Option<usize>,
}

impl<'a> Iterator for Parts<'a> {
    type Item = Part<'a>;

    #[inline]
    fn next(&mut self) -> Option<Part<'a>> {
        let rest = self.rest?;
        let mut name_end = None;
        let mut at = 0;
        loop {
            at += run_above(&rest.as_bytes()[at..], 3);
            match rest.as_bytes().get(at) {
                Some(1) => {
                    name_end.get_or_insert(at);
                    at += 1;
                }
                Some(2) => {
                    self.rest = Some(&rest[at + 1..]);
                    return Some(Part { text: &rest[..at], name_end });
                }
                Some(_) => at += 1,
                None => {
                    self.rest = None;
                    return Some(Part { text: rest, name_end });
                }
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertyError {
    #[error("property name is empty or contains a separator")]
    Name,
    #[error("value of property {name} is empty or contains a separator")]
    Value { name: String },
}

/// Properties being prepared for storage: changed in place, what is not touched keeps its bytes and its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertiesBuf(String);

impl PropertiesBuf {
    /// Takes text as received; one separator at its end is dropped, as the broker does before it stores.
    pub fn new(text: impl Into<String>) -> PropertiesBuf {
        let mut text = text.into();
        if text.ends_with(PROPERTY_SEPARATOR) {
            text.pop();
        }
        PropertiesBuf(text)
    }

    pub fn view(&self) -> Properties<'_> {
        Properties(&self.0)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Bytes in the record.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_string(self) -> String {
        self.0
    }

    /// Takes text as received, but for the properties of these names.
    pub fn without(text: &str, names: &[&str]) -> PropertiesBuf {
        PropertiesBuf(text_without(text.strip_suffix(PROPERTY_SEPARATOR).unwrap_or(text), names))
    }

    /// Replaces every value of the name by one, written last.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        check(name, value)?;
        self.remove(name);
        self.add(name, value)
    }

    /// Writes a property behind the others; of this name there is none yet.
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        check(name, value)?;
        if !self.0.is_empty() {
            self.0.push(PROPERTY_SEPARATOR);
        }
        self.0.push_str(name);
        self.0.push(NAME_VALUE_SEPARATOR);
        self.0.push_str(value);
        Ok(())
    }

    /// True when the name was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let is_named = |part: Part<'_>| part.name_end.is_some_and(|end| part.text[..end] == *name);
        let is_there = (Parts { rest: Some(&self.0) }).any(is_named);
        if is_there {
            self.0 = text_without(&self.0, &[name]);
        }
        is_there
    }
}

fn check(name: &str, value: &str) -> Result<(), PropertyError> {
    let has_separator = |text: &str| text.bytes().any(|byte| byte == 1 || byte == 2);
    if name.is_empty() || has_separator(name) {
        return Err(PropertyError::Name);
    }
    if value.is_empty() || has_separator(value) {
        return Err(PropertyError::Value { name: name.to_owned() });
    }
    Ok(())
}

fn text_without(text: &str, names: &[&str]) -> String {
    let is_kept = |part: &Part<'_>| part.name_end.is_none_or(|end| !names.contains(&&part.text[..end]));
    let mut kept = String::with_capacity(text.len() + ROOM_FOR_MORE);
    for (index, part) in (Parts { rest: Some(text) }).filter(is_kept).enumerate() {
        if index > 0 {
            kept.push(PROPERTY_SEPARATOR);
        }
        kept.push_str(part.text);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn reads_like_java() {
        let text =
            "KEYS\u{1}k1 k2\u{2}nothing\u{2}\u{1}v\u{2}e\u{1}\u{2}a\u{1}b\u{1}c\u{2}KEYS\u{1}k3  k4\u{2}";
        let entries: Vec<_> = Properties(text).iter().collect();
        assert_eq!(entries, [("KEYS", "k1 k2"), ("a", "b\u{1}c"), ("KEYS", "k3  k4")]);
        assert_eq!(Properties(text).keys().collect::<Vec<_>>(), ["k3", "k4"]);
        assert_eq!(Properties("").iter().count(), 0);
        assert_eq!(Properties("a\u{1}b").get("A"), None);
    }

    #[test]
    fn knows_what_it_finds_by_name() {
        let text = "KEYS\u{1}k1 k2\u{2}WAIT\u{1}\u{2}TAGS\u{1}t\u{2}UNIQ_KEY\u{1}1\u{2}DELAY\u{1}3\u{2}x\u{1}y\u{2}UNIQ_KEY\u{1}2\u{2}TRAN_MSG\u{1}true";
        let properties = Properties(text);
        let known = properties.known();
        let by_name = Known {
            unique_key: properties.get(UNIQ_KEY),
            keys: properties.get(KEYS),
            tags: properties.get(TAGS),
            wait: properties.get(WAIT),
            delay: properties.get(DELAY),
            transaction: properties.get(TRAN_MSG),
        };
        assert_eq!(known, by_name);
        assert_eq!((known.unique_key, known.wait), (Some("2"), None));
        assert!(known.keys().eq(properties.keys()));
    }

    #[test]
    fn removes_wherever_it_stands() {
        let check = |before: &str, after: &str, removed: bool| {
            let mut text = PropertiesBuf::new(before);
            assert_eq!(text.remove("WAIT"), removed);
            assert_eq!(text.as_str(), after);
        };
        check("WAIT\u{1}true", "", true);
        check("WAIT\u{1}true\u{2}a\u{1}b", "a\u{1}b", true);
        check("a\u{1}b\u{2}WAIT\u{1}true", "a\u{1}b", true);
        check("a\u{1}b\u{2}WAIT\u{1}true\u{2}", "a\u{1}b", true);
        check("a\u{1}b\u{2}WAIT\u{1}true\u{2}c\u{1}d\u{2}WAIT\u{1}x", "a\u{1}b\u{2}c\u{1}d", true);
        check("WAITING\u{1}true\u{2}x\u{1}WAIT\u{1}", "WAITING\u{1}true\u{2}x\u{1}WAIT\u{1}", false);
    }

    #[test]
    fn sets_only_what_reads_back() {
        let mut text = PropertiesBuf::new("a\u{1}b\u{2}CLUSTER\u{1}old\u{2}");
        assert_eq!(text.set(CLUSTER, "new"), Ok(()));
        assert_eq!(text.as_str(), "a\u{1}b\u{2}CLUSTER\u{1}new");
        assert_eq!(text.set("", "x"), Err(PropertyError::Name));
        assert_eq!(text.set("a\u{2}", "x"), Err(PropertyError::Name));
        let value_error = Err(PropertyError::Value { name: "a".to_owned() });
        assert_eq!(text.set("a", "x\u{2}y\u{1}z"), value_error);
        assert_eq!(text.set("a", ""), value_error);
        assert_eq!(text.as_str(), "a\u{1}b\u{2}CLUSTER\u{1}new");
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(
            text in "[abé\u{1}\u{2}]{0,24}",
            changes in prop::collection::vec(("[abé]{1,2}", prop::option::of("[abé]{1,3}")), 0..8),
        ) {
            let mut model: BTreeMap<String, String> = BTreeMap::new();
            for (name, value) in Properties(&text).iter() {
                model.insert(name.to_owned(), value.to_owned());
            }
            let mut buf = PropertiesBuf::new(text.clone());
            let mut removed = buf.clone();
            removed.remove("a");
            removed.remove("b");
            prop_assert_eq!(PropertiesBuf::without(&text, &["a", "b"]), removed);
            for (name, value) in changes {
                match value {
                    Some(value) => {
                        buf.set(&name, &value).unwrap();
                        model.insert(name, value);
                    }
                    None => {
                        buf.remove(&name);
                        model.remove(&name);
                    }
                }
                let seen: BTreeMap<String, String> =
                    buf.view().iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
                prop_assert_eq!(&seen, &model);
            }
        }
    }
}
