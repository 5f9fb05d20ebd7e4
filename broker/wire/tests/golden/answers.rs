//! What we write must be what the real broker wrote.

use std::collections::{BTreeMap, BTreeSet};

use wire::{
    code::{request, response},
    command::Command,
    frame::HeaderType,
    header::{
        admin::ResetOffset,
        client::notify_consumer_ids_changed,
        offset::{offset_response, timestamp_response},
        pull::{PullMessage, PullMessageResponse, PullStatus},
        query::QueryMessageResponse,
        send::{PushReply, SendMessage, SendMessageResponse, Trace, is_send_status},
        transaction::CheckTransactionState,
    },
    ids::OffsetMessageId,
};

use crate::{Line, exchanges, owned_fields, transcripts};

#[test]
fn send_answers_are_the_brokers_own() {
    let lines = transcripts();
    let mut seen = BTreeMap::<i32, usize>::new();
    for (request, response, line) in exchanges(&lines) {
        let is_send = matches!(request.code, request::SEND_MESSAGE_V2 | request::SEND_BATCH_MESSAGE);
        if !is_send {
            continue;
        }
        *seen.entry(response.code).or_default() += 1;
        let trace = Trace { region: "DefaultRegion", on: true };
        let ours = if is_send_status(response.code) {
            let answer = SendMessageResponse {
                msg_id: response.field("msgId").unwrap(),
                queue_id: response.field("queueId").unwrap().parse().unwrap(),
                queue_offset: response.field("queueOffset").unwrap().parse().unwrap(),
                transaction_id: response.field("transactionId"),
            };
            answer.encode(&request, response.code, trace)
        } else {
            trace.put(Command::error_to(&request, response.code, response.remark.clone().unwrap()))
        };
        assert_same(&ours, &response, line);
    }
    let codes: Vec<i32> = seen.into_keys().collect();
    assert_eq!(codes, [0, 10, 11, 12, 13]);
}

/// JSON: the same bytes. Binary: the same fields, in whatever order Java's hash map had.
fn assert_same(ours: &Command, theirs: &Command, line: &Line) {
    match theirs.header_type {
        HeaderType::Json => assert_eq!(ours.encode_header(), theirs.encode_header(), "{}", line.place()),
        HeaderType::Rocketmq => assert_same_but_for_order(ours, theirs, line),
    }
}

fn assert_same_but_for_order(ours: &Command, theirs: &Command, line: &Line) {
    assert_eq!(owned_fields(ours), owned_fields(theirs), "{}", line.place());
    assert_eq!(ours.encode_header().len(), theirs.encode_header().len(), "{}", line.place());
}

#[test]
fn pull_answers_are_the_brokers_own() {
    use PullStatus::*;
    let known = [
        Found,
        NoMatchedMessage,
        MessageWasRemoving,
        OffsetFoundNull,
        OffsetOverflowBadly,
        OffsetOverflowOne,
        OffsetTooSmall,
        NoMatchedLogicQueue,
        NoMessageInQueue,
        OffsetReset,
    ];
    let lines = transcripts();
    let mut seen = BTreeSet::new();
    for (request, response, line) in exchanges(&lines) {
        if request.code != request::PULL_MESSAGE || response.field("maxOffset").is_none() {
            continue;
        }
        let pull = PullMessage::decode(&request).unwrap();
        let remark = response.remark.as_deref().unwrap();
        let status = *known.iter().find(|status| status.remark() == remark).unwrap();
        let number = |name: &str| response.field(name).unwrap().parse().unwrap();
        let answer = PullMessageResponse {
            status,
            suggest_which_broker_id: number("suggestWhichBrokerId"),
            next_begin_offset: number("nextBeginOffset"),
            min_offset: number("minOffset"),
            max_offset: number("maxOffset"),
        };
        seen.insert(status.remark());
        assert_same(&answer.encode(&request, pull.queue_offset), &response, line);
    }
    assert!(seen.len() >= 5, "{seen:?}");
}

#[test]
fn other_answers_and_our_own_requests_are_the_brokers_own() {
    let lines = transcripts();
    let mut seen = BTreeSet::new();
    for (request, response, line) in exchanges(&lines) {
        let number = |name: &str| response.field(name).unwrap().parse::<u64>().unwrap();
        let ours = match (request.code, response.code) {
            (
                request::QUERY_CONSUMER_OFFSET
                | request::GET_MAX_OFFSET
                | request::GET_MIN_OFFSET
                | request::SEARCH_OFFSET_BY_TIMESTAMP,
                response::SUCCESS,
            ) => offset_response(&request, number("offset")),
            (request::GET_EARLIEST_MSG_STORETIME, response::SUCCESS) => {
                timestamp_response(&request, number("timestamp") as i64)
            }
            (request::QUERY_MESSAGE, response::SUCCESS) => QueryMessageResponse {
                index_last_update_timestamp_ms: number("indexLastUpdateTimestamp") as i64,
                index_last_update_commitlog_offset: number("indexLastUpdatePhyoffset"),
            }
            .encode(&request, true),
            _ => continue,
        };
        seen.insert(request.code);
        assert_same(&ours, &response, line);
    }
    assert_eq!(seen, BTreeSet::from([12, 14, 29, 30, 31, 32]));

    let mut sent = BTreeSet::new();
    for line in &lines {
        let theirs = line.command();
        let field = |name: &str| theirs.field(name).unwrap();
        let ours = match theirs.code {
            _ if theirs.is_response() => continue,
            request::NOTIFY_CONSUMER_IDS_CHANGED => {
                notify_consumer_ids_changed(theirs.opaque, field("consumerGroup"))
            }
            request::CHECK_TRANSACTION_STATE => {
                let offset_id = OffsetMessageId::parse(field("offsetMsgId")).unwrap();
                assert_eq!(offset_id.commitlog_offset.to_string(), field("commitLogOffset"));
                CheckTransactionState {
                    commitlog_offset: offset_id.commitlog_offset,
                    tran_state_table_offset: field("tranStateTableOffset").parse().unwrap(),
                    msg_id: field("msgId"),
                    transaction_id: field("transactionId"),
                    offset_msg_id: field("offsetMsgId"),
                }
                .encode(theirs.opaque)
            }
            request::RESET_CONSUMER_CLIENT_OFFSET => {
                ResetOffset::decode(&theirs).unwrap().to_client(theirs.opaque)
            }
            request::PUSH_REPLY_MESSAGE_TO_CLIENT => PushReply {
                send: SendMessage::decode(&theirs).unwrap(),
                born_host: field("bornHost"),
                store_host: field("storeHost"),
                store_timestamp_ms: field("storeTimestamp").parse().unwrap(),
            }
            .encode(theirs.opaque),
            _ => continue,
        };
        sent.insert(theirs.code);
        assert_same_but_for_order(&ours, &theirs, line);
    }
    assert_eq!(sent, BTreeSet::from([39, 40, 220, 326]));
}
