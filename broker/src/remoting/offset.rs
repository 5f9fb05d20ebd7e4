//! Owns offsets: a group's position (14, 15) and a queue's ends and times (29 to 32). Called by `dispatch`.

use super::ask::{Ask, Rejection};
use super::session::Session;
use crate::api::{FindOffset, OffsetAt, QueueOfGroup, Refusal, Request, UpdateOffset};
use wire::code::response;
use wire::command::Command;
use wire::header::offset::{
    QueryConsumerOffset, QueueQuery, SearchOffset, UpdateConsumerOffset, offset_response, timestamp_response,
};

/// The queue of a request; a negative one is refused as one that does not exist.
pub(super) fn queue_id(topic: &str, queue_id: i32) -> Result<u32, Rejection> {
    u32::try_from(queue_id)
        .map_err(|_| Refusal::QueueNotFound { topic: topic.to_owned(), queue_id: queue_id.into() }.into())
}

/// Code 14.
pub(super) fn query(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_query(session, command), |(queue, set_zero), ask| {
        let reply = Box::new(move |answer| match answer {
            Err(Refusal::OffsetNotFound) if set_zero => answer_offset(ask, 0),
            answer => ask.take(answer, |offset, ask| answer_offset(ask, offset)),
        });
        session.submit(Request::QueryOffset(queue, reply));
    });
}

fn read_query(session: &mut Session, command: &Command) -> Result<(QueueOfGroup, bool), Rejection> {
    let header = QueryConsumerOffset::decode(command)?;
    let queue = QueueOfGroup {
        group: session.name(header.consumer_group),
        topic: session.name(header.topic),
        queue_id: queue_id(header.topic, header.queue_id)?,
    };
    Ok((queue, header.set_zero_if_not_found == Some(true)))
}

fn answer_offset(ask: Ask, offset: u64) {
    let answer = offset_response(&ask.request, offset);
    ask.answer(answer);
}

/// Code 15.
pub(super) fn update(session: &mut Session, command: &Command, ask: Ask) {
    ask.read(read_update(session, command), |update, ask| {
        let reply = Box::new(move |answer| ask.take(answer, |(), ask| ask.succeed()));
        session.submit(Request::UpdateOffset(update, reply));
    });
}

fn read_update(session: &mut Session, command: &Command) -> Result<UpdateOffset, Rejection> {
    let header = UpdateConsumerOffset::decode(command)?;
    let offset = u64::try_from(header.commit_offset).map_err(|_| {
        let remark = format!("offset {} cannot be committed", header.commit_offset);
        Rejection::new(response::INVALID_PARAMETER, remark)
    })?;
    let queue = QueueOfGroup {
        group: session.name(header.consumer_group),
        topic: session.name(header.topic),
        queue_id: queue_id(header.topic, header.queue_id)?,
    };
    Ok(UpdateOffset { queue, offset, client: session.client.clone(), connection: session.id })
}

/// Code 29. A time before 1970 is the beginning.
pub(super) fn search(session: &mut Session, command: &Command, ask: Ask) {
    let read = SearchOffset::decode(command).map_err(Rejection::from).and_then(|header| {
        let what = OffsetAt::Time(u64::try_from(header.timestamp_ms).unwrap_or_default());
        find_offset(session, (header.topic, header.queue_id), what)
    });
    ask.read(read, |find, ask| submit_find(session, find, ask));
}

/// Code 30.
pub(super) fn max(session: &mut Session, command: &Command, ask: Ask) {
    let read = read_end(session, command, OffsetAt::Max);
    ask.read(read, |find, ask| submit_find(session, find, ask));
}

/// Code 31.
pub(super) fn min(session: &mut Session, command: &Command, ask: Ask) {
    let read = read_end(session, command, OffsetAt::Min);
    ask.read(read, |find, ask| submit_find(session, find, ask));
}

/// Code 32.
pub(super) fn earliest(session: &mut Session, command: &Command, ask: Ask) {
    let read = read_end(session, command, OffsetAt::EarliestStoreTime);
    ask.read(read, |find, ask| {
        let reply = Box::new(move |answer| {
            ask.take(answer, |time_ms: u64, ask| {
                // u64::MAX: the queue is empty
                let answer = timestamp_response(&ask.request, i64::try_from(time_ms).unwrap_or(-1));
                ask.answer(answer);
            });
        });
        session.submit(Request::FindOffset(find, reply));
    });
}

fn read_end(session: &mut Session, command: &Command, what: OffsetAt) -> Result<FindOffset, Rejection> {
    let header = QueueQuery::decode(command)?;
    find_offset(session, (header.topic, header.queue_id), what)
}

fn find_offset(
    session: &mut Session,
    (topic, queue): (&str, i32),
    what: OffsetAt,
) -> Result<FindOffset, Rejection> {
    Ok(FindOffset { topic: session.name(topic), queue_id: queue_id(topic, queue)?, what })
}

fn submit_find(session: &Session, find: FindOffset, ask: Ask) {
    let reply = Box::new(move |answer| ask.take(answer, |offset, ask| answer_offset(ask, offset)));
    session.submit(Request::FindOffset(find, reply));
}
