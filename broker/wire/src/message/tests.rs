use super::*;
use proptest::prelude::*;

fn plain<'a>() -> StoredMessage<'a> {
    StoredMessage {
        version: RecordVersion::V1,
        body_crc: body_crc(b"body"),
        queue_id: 1,
        flag: 7,
        queue_offset: 2,
        commitlog_offset: 3,
        sys_flag: SysFlag(0),
        born_timestamp_ms: 4,
        born_host: "127.0.0.1:5".parse().unwrap(),
        store_timestamp_ms: 6,
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
        body: b"body",
        topic: "T",
        properties: Properties("a\u{1}b"),
    }
}

fn encoded(message: &StoredMessage<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    assert_eq!(message.encode(&mut out), Ok(out.len()));
    assert_eq!(out.len(), message.encoded_len());
    out
}

#[test]
fn offsets_can_be_patched_in_place() {
    let mut bytes = encoded(&plain());
    bytes[QUEUE_OFFSET_AT..QUEUE_OFFSET_AT + 8].copy_from_slice(&41u64.to_be_bytes());
    bytes[COMMITLOG_OFFSET_AT..COMMITLOG_OFFSET_AT + 8].copy_from_slice(&42u64.to_be_bytes());
    bytes[SYS_FLAG_AT..SYS_FLAG_AT + 4].copy_from_slice(&8u32.to_be_bytes());
    let (message, _) = StoredMessage::decode(&bytes).unwrap();
    assert_eq!((message.queue_offset, message.commitlog_offset, message.sys_flag.0), (41, 42, 8));
}

#[test]
fn says_what_is_wrong() {
    let good = encoded(&plain());
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: RecordError| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert_eq!(StoredMessage::decode(&bytes).unwrap_err(), expected);
    };
    let size = good.len();
    check(&|b| b.truncate(size - 1), RecordError::Truncated { field: "record" });
    check(&|b| b.truncate(3), RecordError::Truncated { field: "total size" });
    check(&|b| b[4] = 0, RecordError::Magic { magic: 0x00A3_20A7 });
    check(&|b| b[4..8].copy_from_slice(&MAGIC_BLANK.to_be_bytes()), RecordError::Blank { len: size as u32 });
    check(&|b| b[3] -= 1, RecordError::Size { stated: size - 1, actual: size });
    // The length of the body, after everything fixed.
    check(&|b| b[84] = 0xFF, RecordError::Length { field: "body", length: -16_777_212 });
    check(&|b| b[92] = 0x80, RecordError::Length { field: "topic", length: -128 });
    check(&|b| b[93] = 0xC3, RecordError::NotUtf8 { field: "topic" });
    check(&|b| b[52] = 1, RecordError::Length { field: "born host", length: 0x0100_0005 });
}

#[test]
fn a_damaged_body_decodes_but_is_not_intact() {
    let mut bytes = encoded(&plain());
    assert!(StoredMessage::decode(&bytes).unwrap().0.body_is_intact());
    bytes[88] ^= 1;
    assert!(!StoredMessage::decode(&bytes).unwrap().0.body_is_intact());
}

#[test]
fn encoder_refuses_what_has_no_room_and_appends_nothing() {
    let long_topic = "t".repeat(128);
    let long_properties = "p".repeat(32_768);
    let mut out = b"kept".to_vec();
    let topic = StoredMessage { topic: &long_topic, ..plain() };
    assert_eq!(topic.encode(&mut out), Err(EncodeError::Topic { len: 128, max: 127 }));
    let properties = StoredMessage { properties: Properties(&long_properties), ..plain() };
    assert_eq!(properties.encode(&mut out), Err(EncodeError::Properties { len: 32_768 }));
    assert_eq!(out, b"kept");
    let version = RecordVersion::for_topic(&long_topic);
    let v2 = StoredMessage { version, ..topic };
    let bytes = encoded(&v2);
    assert_eq!(StoredMessage::decode(&bytes).unwrap(), (v2, bytes.len()));
}

#[test]
fn address_family_bits_follow_the_hosts() {
    let message = StoredMessage {
        sys_flag: SysFlag(SysFlag::STORE_HOST_V6),
        born_host: "[::1]:9".parse().unwrap(),
        ..plain()
    };
    let bytes = encoded(&message);
    let (decoded, _) = StoredMessage::decode(&bytes).unwrap();
    assert_eq!(decoded.sys_flag.0, SysFlag::BORN_HOST_V6);
    assert_eq!(decoded.born_host, message.born_host);
}

#[test]
fn tag_codes_are_java_hash_codes() {
    assert_eq!(tag_code(""), 0);
    assert_eq!(tag_code("TagA"), 2_598_919);
    // Overflows into the negative.
    assert_eq!(tag_code("GSync#order-1").wrapping_abs(), 1_055_098_225);
    // Outside the basic plane: two UTF-16 units, 0xD83D and 0xDE00.
    assert_eq!(tag_code("😀"), 0xD83D * 31 + 0xDE00);
}

#[test]
fn batch_items_stop_at_the_first_bad_one() {
    let mut body = Vec::new();
    let item = BatchItem { flag: 3, body: b"one", properties: Properties("a\u{1}b") };
    item.encode(&mut body).unwrap();
    let good = body.len();
    item.encode(&mut body).unwrap();
    body[good + 3] += 1;
    item.encode(&mut body).unwrap();
    let items: Vec<_> = batch_items(&body).collect();
    assert_eq!(items[0], Ok(item));
    assert_eq!(items[1], Err(RecordError::Size { stated: good + 1, actual: good }));
    assert_eq!(items.len(), 2);
}

fn any_host() -> impl Strategy<Value = SocketAddr> {
    any::<(IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

#[derive(Clone, Debug)]
struct Owned {
    numbers: (u32, i32, i32, u64, u64, i32, i64, i64, i32, u64),
    hosts: (SocketAddr, SocketAddr),
    body: Vec<u8>,
    topic: String,
    properties: String,
}

impl Owned {
    fn message(&self) -> StoredMessage<'_> {
        let n = self.numbers;
        StoredMessage {
            version: RecordVersion::for_topic(&self.topic),
            body_crc: n.0,
            queue_id: n.1,
            flag: n.2,
            queue_offset: n.3,
            commitlog_offset: n.4,
            sys_flag: SysFlag(n.5).with_hosts(self.hosts.0, self.hosts.1),
            born_timestamp_ms: n.6,
            born_host: self.hosts.0,
            store_timestamp_ms: n.7,
            store_host: self.hosts.1,
            reconsume_times: n.8,
            prepared_transaction_offset: n.9,
            body: &self.body,
            topic: &self.topic,
            properties: Properties(&self.properties),
        }
    }
}

fn any_message() -> impl Strategy<Value = Owned> {
    let body = prop::collection::vec(any::<u8>(), 0..60);
    (
        any::<(u32, i32, i32, u64, u64, i32, i64, i64, i32, u64)>(),
        any_host(),
        any_host(),
        body,
        ".{0,100}",
        ".{0,60}",
    )
        .prop_map(|(numbers, born, store, body, topic, properties)| Owned {
            numbers,
            hosts: (born, store),
            body,
            topic,
            properties,
        })
}

/// Whatever decodes must be written back to the same bytes; nothing follows an error.
fn check_any(bytes: &[u8]) {
    let mut again = Vec::new();
    let mut errors = 0;
    for record in records(bytes) {
        match record {
            Ok(record) => {
                record.encode(&mut again).unwrap();
            }
            Err(_) => errors += 1,
        }
    }
    assert!(bytes.starts_with(&again));
    assert_eq!(errors, usize::from(again.len() < bytes.len()));
    let batch_len: usize = batch_items(bytes).flatten().map(|item| item.body.len()).sum();
    assert!(batch_len <= bytes.len());
}

proptest! {
    #[test]
    fn records_round_trip(messages in prop::collection::vec(any_message(), 0..4)) {
        let mut out = Vec::new();
        for message in &messages {
            message.message().encode(&mut out).unwrap();
        }
        let decoded: Vec<_> = records(&out).collect();
        let expected: Vec<_> = messages.iter().map(|message| Ok(message.message())).collect();
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn damaged_records_never_panic(message in any_message(), at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encoded(&message.message());
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check_any(&bytes);
        check_any(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), has_magic in any::<bool>()) {
        let mut bytes = bytes;
        if has_magic && bytes.len() > 8 {
            bytes[..3].fill(0);
            bytes[4..8].copy_from_slice(&MAGIC_V1.to_be_bytes());
        }
        check_any(&bytes);
    }

    #[test]
    fn batches_round_trip(items in prop::collection::vec((any::<i32>(), prop::collection::vec(any::<u8>(), 0..20), ".{0,20}"), 0..5)) {
        let mut out = Vec::new();
        for (flag, body, properties) in &items {
            BatchItem { flag: *flag, body, properties: Properties(properties) }.encode(&mut out).unwrap();
        }
        let decoded: Vec<_> = batch_items(&out).map(|item| item.unwrap()).collect();
        prop_assert_eq!(decoded.len(), items.len());
        for (item, (flag, body, properties)) in decoded.iter().zip(&items) {
            prop_assert_eq!(item.flag, *flag);
            prop_assert_eq!(item.body, &body[..]);
            prop_assert_eq!(item.properties.0, properties);
        }
    }
}
