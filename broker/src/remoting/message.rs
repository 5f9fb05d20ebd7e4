//! Owns finding single messages: by commit-log offset (33) and by key (12). Called by `dispatch`.

use super::ask::{Ask, Rejection};
use super::session::Session;
use crate::api::{Answer, FoundMessage, Query, QueryAnswer, Refusal, Request};
use bytes::Bytes;
use wire::code::response;
use wire::command::Command;
use wire::header::query::{QueryMessage, QueryMessageResponse, ViewMessage};
use wire::message::StoredMessage;

/// Most messages one search by key answers with (RocketMQ: maxMsgsNumBatch).
const FOUND_MAX: u32 = 64;

/// Code 33. Whatever the offset points at, only a record that really starts there is shown.
pub(super) fn by_offset(session: &Session, command: &Command, ask: Ask) {
    ask.read(ViewMessage::decode(command).map_err(Into::into), |view, ask| {
        let missing = Rejection::new(
            response::SYSTEM_ERROR,
            format!("no message starts at commit-log offset {}", view.commitlog_offset),
        );
        let Ok(offset) = u64::try_from(view.commitlog_offset) else {
            return ask.reject(missing);
        };
        let reply = Box::new(move |answer| match answer {
            Ok(QueryAnswer::Record(record)) => {
                let answer = ask.response(response::SUCCESS);
                ask.answer_with(answer, &[record]);
            }
            Ok(_) | Err(Refusal::MessageNotFound | Refusal::BadParameter(_)) => ask.reject(missing),
            Err(refusal) => ask.reject(refusal),
        });
        session.submit(Request::Query(Query::ByOffset(offset), reply));
    });
}

/// Code 12.
pub(super) fn by_key(session: &mut Session, command: &Command, ask: Ask) {
    let query = QueryMessage::decode(command).map(|header| Query::ByKey {
        topic: Some(session.name(header.topic)),
        key: header.key.to_owned(),
        unique: header.unique_key,
        max: u32::try_from(header.max_num).unwrap_or(FOUND_MAX).clamp(1, FOUND_MAX),
        begin_ms: u64::try_from(header.begin_timestamp_ms).unwrap_or_default(),
        end_ms: u64::try_from(header.end_timestamp_ms).unwrap_or_default(),
    });
    ask.read(query.map_err(Into::into), |query, ask| {
        session.submit(Request::Query(query, Box::new(move |answer| answer_found(answer, ask))));
    });
}

fn answer_found(answer: Answer<QueryAnswer>, ask: Ask) {
    let mut found = match answer {
        Ok(QueryAnswer::Messages(found)) => found,
        Ok(_) | Err(Refusal::MessageNotFound) => Vec::new(),
        Err(refusal) => return ask.reject(refusal),
    };
    // the newest were chosen; clients get them in the order they were stored
    found.sort_by_key(|message| message.commitlog_offset);
    let records: Vec<Bytes> = found.iter().map(|message| message.record.clone()).collect();
    let answer = latest(&found).encode(&ask.request, !records.is_empty());
    ask.answer_with(answer, &records);
}

/// How far the index reaches, told by the last message found: clients only show it.
fn latest(found: &[FoundMessage]) -> QueryMessageResponse {
    let last = found.last();
    let stored = last.and_then(|message| StoredMessage::decode(&message.record).ok());
    QueryMessageResponse {
        index_last_update_timestamp_ms: stored.map_or(0, |(message, _)| message.store_timestamp_ms),
        index_last_update_commitlog_offset: last.map_or(0, |message| message.commitlog_offset),
    }
}
