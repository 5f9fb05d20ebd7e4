//! Owns `/metrics/topics`: details of a few topics, which would cost too many series for all of them.

use crate::http::Shared;
use crate::http::params::text;
use crate::http::plain::TEXT;
use crate::http::problem::Problem;
use crate::report::views::{GroupTopicRow, TopicRow};
use axum::extract::{RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};
use std::collections::BTreeSet;

/// Most topics in one request.
pub const TOPICS_MAX: usize = 100;

type Topic = (&'static str, &'static str, fn(&TopicRow) -> u64);
type Group = (&'static str, &'static str, fn(&GroupTopicRow) -> Option<u64>);

const TOPIC: [Topic; 4] = [
    ("losstrace_topic_retained_messages", "Messages still in the store.", |row| row.retained),
    ("losstrace_topic_unflushed_messages", "Messages not on disk yet.", |row| row.unflushed),
    ("losstrace_topic_expired_messages", "Messages deleted by retention so far.", |row| row.expired),
    ("losstrace_topic_open_losses", "Messages of open losses.", |row| row.open_losses),
];

const GROUP: [Group; 7] = [
    ("losstrace_group_owed_messages", "Messages the group owes or owed.", |row| Some(row.book.owed)),
    ("losstrace_group_settled_messages", "Messages the group has settled.", |row| Some(row.book.settled)),
    ("losstrace_group_in_flight_messages", "Messages neither settled nor lost.", |row| {
        Some(row.book.in_flight)
    }),
    ("losstrace_group_undecided_messages", "Messages the evidence does not decide.", |row| {
        Some(row.book.undecided)
    }),
    ("losstrace_group_lost_messages", "Messages lost for the group.", |row| Some(row.book.lost)),
    ("losstrace_group_lag_messages", "Messages stored and neither settled nor passed.", |row| Some(row.lag)),
    ("losstrace_group_retention_margin_seconds", "Time until the oldest unread message is deleted.", |row| {
        row.retention_margin_seconds
    }),
];

/// `/metrics/topics?topic=A&topic=B`.
pub async fn metrics(State(door): State<Shared>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    let wanted = topics(query.as_deref().unwrap_or(""))?;
    door.desk.ready().map_err(Problem::busy)?;
    let topics = door.desk.topics().await?.data;
    let groups = door.desk.groups().await?.data;
    let registry = Registry::new();
    let failed = |error: prometheus::Error| Problem::busy(error.to_string());
    for (name, help, value) in TOPIC {
        let family = family(&registry, name, help, &["topic"]).map_err(failed)?;
        for row in topics.iter().filter(|row| wanted.contains(&row.topic)) {
            // A topic that was deleted and made again has two rows: one series shows both.
            family.with_label_values(&[&row.topic]).add(clamp(value(row)));
        }
    }
    for (name, help, value) in GROUP {
        let family = family(&registry, name, help, &["topic", "group"]).map_err(failed)?;
        for group in &groups {
            for row in group.topics.iter().filter(|row| wanted.contains(&row.topic)) {
                if let Some(value) = value(row) {
                    family.with_label_values(&[&row.topic, &group.group]).add(clamp(value));
                }
            }
        }
    }
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text).map_err(failed)?;
    Ok(([(header::CONTENT_TYPE, TEXT)], text).into_response())
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn family(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// A key that comes more than once is not what serde reads, so the query is read here.
fn topics(query: &str) -> Result<BTreeSet<String>, Problem> {
    let mut topics = BTreeSet::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("topic", value)) => topics.insert(text("topic", &percent_decoded(value)?)?.to_owned()),
            _ => return Err(Problem::bad_request(format!("`{pair}`: only topic=NAME is known here"))),
        };
        if topics.len() > TOPICS_MAX {
            return Err(Problem::bad_request(format!("topic: at most {TOPICS_MAX} in one request")));
        }
    }
    if topics.is_empty() {
        return Err(Problem::bad_request("topic: name at least one, as in /metrics/topics?topic=orders"));
    }
    Ok(topics)
}

fn percent_decoded(value: &str) -> Result<String, Problem> {
    let wrong = || Problem::bad_request(format!("`{value}` is not percent-encoded UTF-8"));
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit =
                    || rest.next().and_then(|digit| char::from(digit).to_digit(16)).ok_or_else(wrong);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            other => other,
        };
        bytes.push(decoded);
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_query_names_one_to_a_hundred_topics() {
        let names = |query: &str| topics(query).map(|names| names.into_iter().collect::<Vec<_>>());
        assert_eq!(names("topic=b&topic=%25DLQ%25a+b&topic=b"), Ok(vec!["%DLQ%a b".into(), "b".into()]));
        let many = |count: usize| (0..count).map(|n| format!("topic={n}")).collect::<Vec<_>>().join("&");
        assert_eq!(names(&many(100)).unwrap().len(), 100);
        for wrong in ["", "topic=", "topic", "group=a", "topic=%2", "topic=%zz", "topic=%ff", &many(101)] {
            assert_eq!(names(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query in ".{0,60}") {
            drop(topics(&query));
        }

        #[test]
        fn encoded_text_comes_back(value in "\\PC{0,20}") {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
            prop_assert_eq!(percent_decoded(&encoded).unwrap(), value);
        }
    }
}
