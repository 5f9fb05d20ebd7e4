//! Names with a meaning in the protocol: system topics, the topics of a group, and what a name may be.
//!
//! Owns: the spellings. Called by: the broker and its edges.

/// `Validators.TOPIC_MAX_LENGTH`
pub const MAX_TOPIC_LEN: usize = 127;
/// `Validators.CHARACTER_MAX_LENGTH`
pub const MAX_GROUP_LEN: usize = 255;

pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";

/// `TopicValidator.AUTO_CREATE_TOPIC_KEY_TOPIC`: its route stands in for a topic that does not exist yet.
pub const AUTO_CREATE_TOPIC: &str = "TBW102";
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
pub const TRANS_HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const TRANS_OP_HALF_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
pub const TRANS_CHECK_MAX_TIME_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
pub const TRACE_TOPIC: &str = "RMQ_SYS_TRACE_TOPIC";
pub const SELF_TEST_TOPIC: &str = "SELF_TEST_TOPIC";
pub const BENCHMARK_TOPIC: &str = "BenchmarkTest";
pub const OFFSET_MOVED_EVENT_TOPIC: &str = "OFFSET_MOVED_EVENT";
/// Follows the cluster's name: the topic of request-reply answers.
pub const REPLY_TOPIC_SUFFIX: &str = "_REPLY_TOPIC";

/// The producer every Java client holds for its own sends; it heartbeats but sends nothing by itself.
pub const CLIENT_INNER_PRODUCER: &str = "CLIENT_INNER_PRODUCER";
pub const TOOLS_CONSUMER: &str = "TOOLS_CONSUMER";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("name is blank")]
    Blank,
    #[error("name of {len} bytes is longer than {max}")]
    TooLong { len: usize, max: usize },
    #[error("name contains {character:?}, allowed are letters, digits and % | - _")]
    Character { character: char },
}

pub fn check_topic(topic: &str) -> Result<(), NameError> {
    check(topic, MAX_TOPIC_LEN)
}

pub fn check_group(group: &str) -> Result<(), NameError> {
    check(group, MAX_GROUP_LEN)
}

fn check(name: &str, max: usize) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Blank);
    }
    if name.len() > max {
        return Err(NameError::TooLong { len: name.len(), max });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '-' | '_');
    match name.chars().find(|c| !allowed(*c)) {
        Some(character) => Err(NameError::Character { character }),
        None => Ok(()),
    }
}

pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(check_topic("%RETRY%g-1_a|B"), Ok(()));
        assert_eq!(check_topic(""), Err(NameError::Blank));
        assert_eq!(check_topic(&"t".repeat(127)), Ok(()));
        assert_eq!(check_topic(&"t".repeat(128)), Err(NameError::TooLong { len: 128, max: 127 }));
        assert_eq!(check_group(&"g".repeat(255)), Ok(()));
        assert_eq!(check_group("a b"), Err(NameError::Character { character: ' ' }));
        assert_eq!(check_group("ä"), Err(NameError::Character { character: 'ä' }));
        assert_eq!(retry_topic("g"), "%RETRY%g");
        assert_eq!(dlq_topic("g"), "%DLQ%g");
    }
}
