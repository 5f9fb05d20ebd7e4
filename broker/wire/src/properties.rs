//! A message's properties: `name 0x01 value 0x02 name 0x01 value`, read and changed as text, without a map.
//!
//! Owns: the separators, the tolerance of Java's parser, and the property names that mean something. Called by: the broker
//! when it stores a message, the filters, the agent's evidence.

pub const NAME_VALUE_SEPARATOR: char = '\u{1}';
pub const PROPERTY_SEPARATOR: char = '\u{2}';
/// Most bytes a record has room for (a signed 16-bit length).
pub const MAX_PROPERTIES_LEN: usize = 32_767;

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
    pub fn iter(self) -> impl DoubleEndedIterator<Item = (&'a str, &'a str)> {
        self.0.split(PROPERTY_SEPARATOR).filter_map(parse)
    }

    /// The value of a name; of a name given twice, the last, as in Java's map.
    pub fn get(self, name: &str) -> Option<&'a str> {
        self.iter().rev().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The keys a message can be found by.
    pub fn keys(self) -> impl Iterator<Item = &'a str> {
        let keys = self.get(KEYS).unwrap_or_default();
        keys.split(KEY_SEPARATOR).filter(|key| !key.is_empty())
    }
}

fn parse(part: &str) -> Option<(&str, &str)> {
    let (name, value) = part.split_once(NAME_VALUE_SEPARATOR)?;
    (!name.is_empty() && !value.is_empty()).then_some((name, value))
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

    /// Replaces every value of the name by one, written last.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), PropertyError> {
        let separator = |c| c == NAME_VALUE_SEPARATOR || c == PROPERTY_SEPARATOR;
        if name.is_empty() || name.contains(separator) {
            return Err(PropertyError::Name);
        }
        if value.is_empty() || value.contains(separator) {
            return Err(PropertyError::Value { name: name.to_owned() });
        }
        self.remove(name);
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
        let mut removed = false;
        let mut start = 0;
        while start <= self.0.len() {
            let rest = &self.0[start..];
            let part_len = rest.find(PROPERTY_SEPARATOR).unwrap_or(rest.len());
            let part = &rest[..part_len];
            let is_named = part.strip_prefix(name).is_some_and(|rest| rest.starts_with(NAME_VALUE_SEPARATOR));
            if !is_named {
                start += part_len + 1;
                continue;
            }
            removed = true;
            let end = start + part_len;
            if end < self.0.len() {
                self.0.drain(start..=end);
            } else {
                // The last part goes with the separator before it.
                self.0.truncate(start.saturating_sub(1));
                break;
            }
        }
        removed
    }
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
