//! Owns sends: 10 and 310 (one message, long and short field names) and 320 (several). Called by `dispatch`; this is the hottest
//! path of the edge. Bodies are slices of the chunk that was read, stored as the client compressed them.

use super::ask::{Ask, Rejection};
use super::listener::Edge;
use super::session::Session;
use crate::api::{Answer, NewMessage, QueueChoice, Refusal, Request, SendMessages, StoredAt};
use bytes::Bytes;
use wire::code::{request, response};
use wire::command::Command;
use wire::header::send::{SendMessage, SendMessageResponse, Trace};
use wire::ids::OffsetMessageId;
use wire::message::batch_items;
use wire::name::AUTO_CREATE_TOPIC;
use wire::sys_flag::TransactionType;

/// Most messages of one batch.
const BATCH_MAX: usize = 10_000;

/// Codes 10, 310, 320.
pub(super) fn send(session: &mut Session, command: &Command, ask: Ask) {
    let ask = with_trace_if_send(session, ask);
    ask.read(read(session, command), |messages, ask| {
        let edge = session.edge.clone();
        let reply = Box::new(move |stored| answer(&edge, stored, ask));
        session.submit(Request::Send(messages, reply));
    });
}

/// Every answer to a send tells the client about tracing, errors too.
pub(super) fn with_trace_if_send(session: &Session, ask: Ask) -> Ask {
    match ask.request.code {
        request::SEND_MESSAGE | request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE => {
            let config = &session.edge.config;
            ask.with_trace(config.region.clone(), config.trace_on)
        }
        _ => ask,
    }
}

fn read(session: &mut Session, command: &Command) -> Result<SendMessages, Rejection> {
    let header = SendMessage::decode(command)?;
    if header.sys_flag.transaction() != TransactionType::None {
        // as Apache's broker under rejectTransactionMessage: a half message must never be delivered as a whole one
        return Err(Rejection::new(
            response::NO_PERMISSION,
            "transaction messages are not supported by this broker",
        ));
    }
    let messages = match header.batch {
        true => batch(session, command, &header)?,
        false => vec![message(session, &header, command.body.clone())],
    };
    Ok(SendMessages {
        client: session.client.clone(),
        connection: session.id,
        topic: session.name(header.topic),
        queue: match u32::try_from(header.queue_id) {
            Ok(queue_id) => QueueChoice::Given(queue_id),
            Err(_) => QueueChoice::Any,
        },
        create_with_queues: create_with_queues(&session.edge, &header),
        one_way: command.is_oneway(),
        messages,
    })
}

/// A client that found no route for its topic used the one of `TBW102`, and says so.
fn create_with_queues(edge: &Edge, header: &SendMessage<'_>) -> Option<u32> {
    let config = &edge.config;
    let asks = config.auto_create_topic && header.default_topic == AUTO_CREATE_TOPIC;
    let wanted = u32::try_from(header.default_topic_queues).unwrap_or_default();
    asks.then(|| wanted.min(config.default_queue_nums).max(1))
}

fn message(session: &Session, header: &SendMessage<'_>, body: Bytes) -> NewMessage {
    NewMessage {
        body,
        properties: Bytes::copy_from_slice(header.properties.0.as_bytes()),
        flag: header.flag,
        sys_flag: header.sys_flag.0,
        born_timestamp_ms: u64::try_from(header.born_timestamp_ms).unwrap_or_default(),
        born_host: session.peer,
        reconsume_times: header.reconsume_times,
        max_reconsume_times: header.max_reconsume_times.filter(|times| *times >= 0),
        deliver_at_ms: None,
        message_type: None,
    }
}

/// The messages of a batch have bodies, flags and properties of their own; the rest is the batch's.
fn batch(
    session: &Session,
    command: &Command,
    header: &SendMessage<'_>,
) -> Result<Vec<NewMessage>, Rejection> {
    let illegal = |remark: String| Rejection::new(response::MESSAGE_ILLEGAL, remark);
    let mut messages = Vec::new();
    for item in batch_items(&command.body) {
        let item = item.map_err(|error| illegal(format!("batch cannot be read: {error}")))?;
        if messages.len() == BATCH_MAX {
            return Err(illegal(format!("batch holds more than {BATCH_MAX} messages")));
        }
        messages.push(NewMessage {
            flag: item.flag,
            properties: Bytes::copy_from_slice(item.properties.0.as_bytes()),
            ..message(session, header, command.body.slice_ref(item.body))
        });
    }
    match messages.is_empty() {
        true => Err(illegal("batch holds no message".to_owned())),
        false => Ok(messages),
    }
}

fn answer(edge: &Edge, stored: Answer<Vec<StoredAt>>, ask: Ask) {
    ask.take(stored, |stored, ask| {
        let worst = stored.iter().map(|stored| stored.status).max();
        let (Some(first), Some(status)) = (stored.first(), worst) else {
            return ask.reject(Refusal::StorageFailed("nothing was stored".to_owned()));
        };
        let msg_id = offset_ids(edge, &stored);
        let config = &edge.config;
        let response = SendMessageResponse {
            msg_id: &msg_id,
            queue_id: i32::try_from(first.queue_id).unwrap_or_default(),
            queue_offset: first.queue_offset,
            transaction_id: None,
        };
        let trace = Trace { region: &config.region, on: config.trace_on };
        ask.answer_encoded(|request, bytes| {
            response.append_to(bytes, request, status.remoting_code(), trace)
        });
    });
}

/// `offsetMsgId` of each message, separated by commas.
fn offset_ids(edge: &Edge, stored: &[StoredAt]) -> String {
    const ID_LEN: usize = 33;
    let host = edge.config.advertised.remoting;
    let mut ids = String::with_capacity(stored.len() * ID_LEN);
    for (index, stored) in stored.iter().enumerate() {
        if index > 0 {
            ids.push(',');
        }
        OffsetMessageId { host, commitlog_offset: stored.commitlog_offset }.append_to(&mut ids);
    }
    ids
}
