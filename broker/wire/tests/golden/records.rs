//! Stored messages and ids.

use std::{collections::BTreeSet, fs, net::SocketAddr};

use serde_json::Value;
use wire::{
    header::send::SendMessage,
    ids::{OffsetMessageId, UniqKey},
    message::{StoredMessage, batch_items, records},
    properties,
};

use crate::{folder, transcripts, unhex};

#[test]
fn records_in_answers_decode_intact_and_encode_to_the_same_bytes() {
    let lines = transcripts();
    let mut seen = 0;
    for line in lines.iter().filter(|line| !line.body_is_cut) {
        let command = line.command();
        let of = match command.is_response() {
            true => line.json["re_name"].as_str().unwrap(),
            false => command.code_name(),
        };
        let has_records = ["PULL_MESSAGE", "QUERY_MESSAGE", "VIEW_MESSAGE_BY_ID", "CHECK_TRANSACTION_STATE"];
        if !has_records.contains(&of) {
            continue;
        }
        let mut again = Vec::new();
        for record in records(&command.body) {
            let record = record.unwrap_or_else(|error| panic!("{}: {error}", line.place()));
            assert!(record.body_is_intact(), "{}", line.place());
            record.encode(&mut again).unwrap();
            seen += 1;
        }
        assert_eq!(again, command.body, "{}", line.place());
    }
    assert!(seen > 100, "only {seen} records");
}

#[test]
fn batches_split_into_their_messages() {
    let mut sizes = Vec::new();
    for line in transcripts().iter().filter(|line| line.json["name"] == "SEND_BATCH_MESSAGE") {
        let command = line.command();
        let mut again = Vec::new();
        let mut count = 0;
        for item in batch_items(&command.body) {
            let item = item.unwrap();
            assert!(UniqKey::parse(item.properties.get(properties::UNIQ_KEY).unwrap()).is_ok());
            item.encode(&mut again).unwrap();
            count += 1;
        }
        assert_eq!(again, command.body);
        sizes.push(count);
    }
    assert_eq!(sizes, [4, 1]);
}

#[test]
fn ids_in_answers_parse_and_print_the_same() {
    let mut seen = 0;
    for line in transcripts() {
        let command = line.command();
        let ids = match command.is_response() {
            true => command.field("msgId").unwrap_or_default(),
            false => command.field("offsetMsgId").unwrap_or_default(),
        };
        for id in ids.split(',').filter(|id| !id.is_empty()) {
            let parsed = OffsetMessageId::parse(id).unwrap();
            assert_eq!(parsed.to_string(), id);
            assert!(parsed.host.ip().is_loopback());
            seen += 1;
        }
        if let Ok(send) = SendMessage::decode(&command)
            && let Some(key) = send.properties.get(properties::UNIQ_KEY)
        {
            assert_eq!(UniqKey::parse(key).unwrap().to_string(), key);
            seen += 1;
        }
    }
    assert!(seen > 100, "only {seen} ids");
}

#[test]
fn stored_records_have_the_fields_the_transcript_lists() {
    let mut seen = 0;
    for line in fs::read_to_string(folder().join("stored-records.ndjson")).unwrap().lines() {
        let json: Value = serde_json::from_str(line).unwrap();
        if json["kind"] != "commit-log-record" {
            continue;
        }
        seen += 1;
        check_stored_record(&json);
    }
    assert_eq!(seen, 25);
}

fn check_stored_record(json: &Value) {
    let bytes = unhex(json["hex"].as_str().unwrap());
    let (message, len) = StoredMessage::decode(&bytes).unwrap();
    let what = &json["what"];
    assert_eq!(len as u64, json["len"], "{what}");
    assert!(message.body_is_intact(), "{what}");
    let field = |name: &str| {
        let fields = json["fields"].as_array().unwrap();
        &fields.iter().find(|field| field["name"] == name).unwrap_or_else(|| panic!("{name}"))["value"]
    };
    let int = |name: &str| field(name).as_i64().unwrap();
    let host = |name: &str| -> SocketAddr { field(name).as_str().unwrap().parse().unwrap() };
    assert_eq!(i64::from(message.body_crc), int("bodyCrc"), "{what}");
    assert_eq!(i64::from(message.queue_id), int("queueId"), "{what}");
    assert_eq!(i64::from(message.flag), int("flag"), "{what}");
    assert_eq!(message.queue_offset as i64, int("queueOffset"), "{what}");
    assert_eq!(message.commitlog_offset as i64, int("physicalOffset"), "{what}");
    assert_eq!(format!("{:#x}", message.sys_flag.0), json["sys_flag"].as_str().unwrap(), "{what}");
    assert_eq!(message.born_timestamp_ms, int("bornTimestamp"), "{what}");
    assert_eq!(message.born_host, host("bornHost"), "{what}");
    assert_eq!(message.store_timestamp_ms, int("storeTimestamp"), "{what}");
    assert_eq!(message.store_host, host("storeHost"), "{what}");
    assert_eq!(i64::from(message.reconsume_times), int("reconsumeTimes"), "{what}");
    assert_eq!(message.prepared_transaction_offset as i64, int("preparedTransactionOffset"), "{what}");
    assert_eq!(message.body.len() as i64, int("bodyLength"), "{what}");
    assert_eq!(message.topic, json["topic"].as_str().unwrap(), "{what}");
    let props = json["props"].as_object().unwrap();
    // A batch item has WAIT twice: its own and the batch's.
    let names: BTreeSet<&str> = message.properties.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), props.len(), "{what}");
    for (name, value) in props {
        assert_eq!(message.properties.get(name), value.as_str(), "{what} {name}");
    }
    let mut again = Vec::new();
    message.encode(&mut again).unwrap();
    assert_eq!(again, bytes, "{what}");
}
