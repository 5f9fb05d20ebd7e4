use super::{
    RequestError,
    offset::{QueryConsumerOffset, SearchOffset},
    pull::{PullMessage, PullStatus},
    send::{SendBack, SendMessage, SendMessageResponse, Trace},
    transaction::{EndTransaction, TransactionOutcome},
};
use crate::{
    code::{request, response},
    command::Command,
};

fn command(code: i32, fields: &[(&str, &str)]) -> Command {
    let mut command = Command::request(code, 1);
    command.fields = Some(fields.iter().copied().collect());
    command
}

const SEND_V1: [(&str, &str); 8] = [
    ("producerGroup", "g"),
    ("topic", "T"),
    ("defaultTopic", "TBW102"),
    ("defaultTopicQueueNums", "4"),
    ("queueId", "-1"),
    ("sysFlag", "1"),
    ("bornTimestamp", "1795378856626"),
    ("flag", "7"),
];

#[test]
fn send_with_long_names_and_defaults() {
    let command = command(request::SEND_MESSAGE, &SEND_V1);
    let send = SendMessage::decode(&command).unwrap();
    assert_eq!((send.producer_group, send.topic, send.default_topic), ("g", "T", "TBW102"));
    assert_eq!((send.default_topic_queues, send.queue_id, send.sys_flag.0, send.flag), (4, -1, 1, 7));
    assert_eq!(send.born_timestamp_ms, 1_795_378_856_626);
    assert_eq!((send.reconsume_times, send.max_reconsume_times), (0, None));
    assert_eq!(send.properties.0, "");
    assert!(!send.unit_mode && !send.batch);
}

#[test]
fn send_with_letters_numbers_of_javascript_and_the_batch_code() {
    let fields = [
        ("a", "g"),
        ("b", "T"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1"),
        ("h", "0"),
        ("i", "KEYS\u{1}k"),
        ("j", "2"),
        ("k", "TRUE"),
        ("l", "16"),
        ("m", "1"),
        ("n", "broker-a"),
        ("z", "?"),
    ];
    let v2 = command(request::SEND_MESSAGE_V2, &fields);
    let send = SendMessage::decode(&v2).unwrap();
    assert_eq!((send.reconsume_times, send.max_reconsume_times), (2, Some(16)));
    assert_eq!(send.properties.get("KEYS"), Some("k"));
    assert!(send.unit_mode && send.batch);
    let batch = command(request::SEND_BATCH_MESSAGE, &fields[..9]);
    assert!(SendMessage::decode(&batch).unwrap().batch);
}

#[test]
fn errors_name_request_and_field() {
    for (left_out, _) in SEND_V1 {
        let rest: Vec<_> = SEND_V1.into_iter().filter(|(name, _)| *name != left_out).collect();
        let error = SendMessage::decode(&command(request::SEND_MESSAGE, &rest)).unwrap_err();
        assert_eq!(error, RequestError::Missing { request: "SEND_MESSAGE", field: left_out });
    }
    let mut fields = SEND_V1;
    let long = "9".repeat(100);
    fields[6].1 = &long;
    let error = SendMessage::decode(&command(request::SEND_MESSAGE, &fields)).unwrap_err();
    let expected =
        RequestError::Invalid { request: "SEND_MESSAGE", field: "bornTimestamp", value: "9".repeat(64) };
    assert_eq!(error, expected);
    let error = PullMessage::decode(&Command::request(request::PULL_MESSAGE, 1)).unwrap_err();
    assert_eq!(error.to_string(), "PULL_MESSAGE lacks the field consumerGroup");
    let bad = command(request::CONSUMER_SEND_MSG_BACK, &[("offset", "x y")]);
    let error = SendBack::decode(&bad).unwrap_err();
    assert_eq!(error.to_string(), "CONSUMER_SEND_MSG_BACK has no readable offset: \"x y\"");
}

#[test]
fn an_empty_queue_moves_only_a_client_that_asked_beyond_its_start() {
    assert_eq!(PullStatus::NoMessageInQueue.code(0), response::PULL_NOT_FOUND);
    assert_eq!(PullStatus::NoMessageInQueue.code(5), response::PULL_OFFSET_MOVED);
    assert_eq!(PullStatus::NoMatchedLogicQueue.code(0), response::PULL_NOT_FOUND);
    assert_eq!(PullStatus::NoMatchedLogicQueue.code(5), response::PULL_OFFSET_MOVED);
    assert_eq!(PullStatus::OffsetOverflowOne.code(5), response::PULL_NOT_FOUND);
    assert_eq!(PullStatus::OffsetOverflowBadly.code(5), response::PULL_OFFSET_MOVED);
    assert_eq!(PullStatus::MessageWasRemoving.code(5), response::PULL_RETRY_IMMEDIATELY);
}

#[test]
fn transaction_outcomes() {
    let end = |bits: &str| {
        let fields = [
            ("producerGroup", "g"),
            ("tranStateTableOffset", "1"),
            ("commitLogOffset", "2"),
            ("commitOrRollback", bits),
        ];
        EndTransaction::decode(&command(request::END_TRANSACTION, &fields)).map(|end| end.outcome)
    };
    assert_eq!(end("8"), Ok(TransactionOutcome::Commit));
    assert_eq!(end("12"), Ok(TransactionOutcome::Rollback));
    assert_eq!(end("0"), Ok(TransactionOutcome::Unknown));
    assert!(matches!(end("4"), Err(RequestError::Invalid { field: "commitOrRollback", .. })));
}

#[test]
fn fields_of_5x_clients() {
    let base = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0"), ("setZeroIfNotFound", "false")];
    let query = command(request::QUERY_CONSUMER_OFFSET, &base);
    assert_eq!(QueryConsumerOffset::decode(&query).unwrap().set_zero_if_not_found, Some(false));
    let query = command(request::QUERY_CONSUMER_OFFSET, &base[..3]);
    assert_eq!(QueryConsumerOffset::decode(&query).unwrap().set_zero_if_not_found, None);
    let fields = [("topic", "T"), ("queueId", "0"), ("timestamp", "-1"), ("boundaryType", "UPPER")];
    let search = command(request::SEARCH_OFFSET_BY_TIMESTAMP, &fields);
    assert!(SearchOffset::decode(&search).unwrap().upper_boundary);
}

#[test]
fn an_answer_to_a_send_written_straight_is_the_same() {
    use crate::frame::HeaderType;
    let trace = Trace { region: "Default\"Region", on: true };
    for header_type in [HeaderType::Json, HeaderType::Rocketmq] {
        for (queue_id, transaction_id) in [(3, None), (-1, Some("tx")), (0, Some(""))] {
            let request = Command { header_type, ..Command::request(310, 77) };
            let response =
                SendMessageResponse { msg_id: "0A", queue_id, queue_offset: 1_234, transaction_id };
            let mut straight = vec![1, 2];
            response.append_to(&mut straight, &request, 10, trace);
            let mut usual = bytes::BytesMut::from(&[1, 2][..]);
            response.encode(&request, 10, trace).encode(&mut usual);
            assert_eq!(straight, usual);
        }
    }
}
