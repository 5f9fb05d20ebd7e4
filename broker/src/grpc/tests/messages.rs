//! Messages: what is refused, and what a consumer reads of what a producer wrote.

use super::super::GrpcConfig;
use super::super::caller::Caller;
use super::super::message::{Handout, from_record};
use super::super::proto::*;
use super::super::send::{Rules, read};
use super::super::time::{duration, timestamp};
use super::fake_core::record;
use crate::api::{ConnectionId, MessageType as Type, NewMessage, QueueChoice, SendMessages};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::{GzEncoder, ZlibEncoder};
use lifecycle::identity::Name;
use proptest::prelude::*;
use std::io::Write;

const NOW_MS: u64 = 1_790_000_000_000;

fn caller() -> Caller {
    Caller {
        client: Name::from("c"),
        language: Language::Python,
        address: "10.1.2.3:4567".parse().unwrap(),
        timeout_ms: None,
    }
}

fn send(messages: Vec<Message>) -> Result<SendMessages, Code> {
    let config = GrpcConfig::default();
    let rules = Rules { config: &config, now_ms: NOW_MS };
    read(SendMessageRequest { messages }, &caller(), ConnectionId(1), rules).map_err(|refused| refused.code)
}

fn one(change: impl FnOnce(&mut Message, &mut SystemProperties)) -> Message {
    let mut message = super::message("t", "id", "body");
    let mut system = message.system_properties.take().unwrap();
    system.message_type = MessageType::Unspecified.into();
    change(&mut message, &mut system);
    message.system_properties = Some(system);
    message
}

fn refused(change: impl FnOnce(&mut Message, &mut SystemProperties)) -> Code {
    send(vec![one(change)]).unwrap_err()
}

fn accepted(change: impl FnOnce(&mut Message, &mut SystemProperties)) -> NewMessage {
    send(vec![one(change)]).unwrap().messages.remove(0)
}

fn handout() -> Handout {
    Handout {
        topic: Name::from("t"),
        namespace: String::new(),
        receipt_handle: "handle".to_owned(),
        attempt: 2,
        invisible_ms: 30_000,
        body_plain_max: GrpcConfig::default().body_max_bytes,
    }
}

#[test]
fn limits_of_a_message() {
    assert_eq!(refused(|message, _| message.topic = super::resource("a b")), Code::IllegalTopic);
    assert_eq!(refused(|_, system| system.message_id = " ".to_owned()), Code::IllegalMessageId);
    assert_eq!(refused(|_, system| system.message_id = "i".repeat(256)), Code::IllegalMessageId);
    accepted(|_, system| system.message_id = "i".repeat(255));
    assert_eq!(refused(|_, system| system.tag = Some("a|b".to_owned())), Code::IllegalMessageTag);
    assert_eq!(refused(|_, system| system.tag = Some(String::new())), Code::IllegalMessageTag);
    assert_eq!(refused(|_, system| system.keys = vec!["\u{1}".to_owned()]), Code::IllegalMessageKey);
    assert_eq!(refused(|_, system| system.message_group = Some("g".repeat(64))), Code::IllegalMessageGroup);
    accepted(|_, system| system.message_group = Some("g".repeat(63)));
    assert_eq!(refused(|_, system| system.trace_context = Some("\n".to_owned())), Code::BadRequest);
    assert_eq!(refused(|message, _| message.body = Bytes::new()), Code::MessageBodyEmpty);
    let max = GrpcConfig::default().body_max_bytes;
    assert_eq!(refused(|message, _| message.body = vec![1; max + 1].into()), Code::MessageBodyTooLarge);
    accepted(|message, _| message.body = vec![1; max].into());
}

#[test]
fn limits_of_user_properties() {
    let with = |pairs: Vec<(String, String)>| {
        let message = one(|message, _| message.user_properties = pairs.into_iter().collect());
        send(vec![message]).map(drop)
    };
    let named = |name: &str, value: &str| with(vec![(name.to_owned(), value.to_owned())]);
    assert_eq!(named("UNIQ_KEY", "x"), Err(Code::IllegalMessagePropertyKey));
    assert_eq!(named("TIMER_DELIVER_MS", "1"), Err(Code::IllegalMessagePropertyKey));
    assert_eq!(named("a", ""), Err(Code::IllegalMessagePropertyKey));
    assert_eq!(named("a", "b\u{2}TAGS\u{1}c"), Err(Code::IllegalMessagePropertyKey));
    assert_eq!(named("a\u{1}b", "c"), Err(Code::IllegalMessagePropertyKey));
    assert_eq!(named("a", &"x".repeat(16 * 1024)), Err(Code::MessagePropertiesTooLarge));
    assert_eq!(named("a", &"x".repeat(16 * 1024 - 1)), Ok(()));
    let many = |count: usize| with((0..count).map(|n| (format!("p{n}"), "v".to_owned())).collect());
    assert_eq!(many(129), Err(Code::MessagePropertiesTooLarge));
    assert_eq!(many(128), Ok(()));
    let keys = one(|_, system| system.keys = vec!["k".repeat(1_000); 32]);
    assert_eq!(send(vec![keys]).unwrap_err(), Code::MessagePropertiesTooLarge);
}

#[test]
fn the_type_follows_from_the_fields() {
    let in_an_hour = || Some(timestamp(NOW_MS + 3_600_000));
    let group = || Some("order-7".to_owned());
    assert_eq!(accepted(|_, _| ()).message_type, Some(Type::Normal));
    assert_eq!(accepted(|_, system| system.message_group = group()).message_type, Some(Type::Fifo));
    let delayed = accepted(|_, system| system.delivery_timestamp = in_an_hour());
    assert_eq!((delayed.message_type, delayed.deliver_at_ms), (Some(Type::Delay), Some(NOW_MS + 3_600_000)));

    let typed = |message_type: MessageType, group: Option<String>, at: Option<prost_types::Timestamp>| {
        refused(|_, system| {
            system.message_type = message_type.into();
            system.message_group = group;
            system.delivery_timestamp = at;
        })
    };
    assert_eq!(typed(MessageType::Transaction, None, None), Code::NotImplemented);
    assert_eq!(typed(MessageType::Lite, None, None), Code::Unsupported);
    assert_eq!(typed(MessageType::Fifo, None, None), Code::IllegalMessageGroup);
    assert_eq!(typed(MessageType::Delay, None, None), Code::IllegalDeliveryTime);
    assert_eq!(typed(MessageType::Normal, group(), None), Code::MessagePropertyConflictWithType);
    assert_eq!(typed(MessageType::Unspecified, group(), in_an_hour()), Code::MessagePropertyConflictWithType);
    let far = timestamp(NOW_MS + GrpcConfig::default().delay_max_ms + 1);
    assert_eq!(typed(MessageType::Delay, None, Some(far)), Code::IllegalDeliveryTime);
    let early = prost_types::Timestamp { seconds: -1, nanos: 0 };
    assert_eq!(typed(MessageType::Delay, None, Some(early)), Code::IllegalDeliveryTime);
}

#[test]
fn messages_of_one_request_share_topic_and_group() {
    let grouped = |group: &str| one(|_, system| system.message_group = Some(group.to_owned()));
    let queue = |messages| send(messages).map(|send| send.queue);
    let first = queue(vec![grouped("a"), grouped("a")]).unwrap();
    assert!(matches!(first, QueueChoice::ByKey(_)));
    assert_eq!(queue(vec![grouped("a")]), Ok(first));
    assert_ne!(queue(vec![grouped("b")]), Ok(first));
    assert_eq!(queue(vec![one(|_, _| ())]), Ok(QueueChoice::Any));
    assert_eq!(queue(vec![grouped("a"), grouped("b")]), Err(Code::IllegalMessageGroup));
    let elsewhere = one(|message, _| message.topic = super::resource("u"));
    assert_eq!(queue(vec![one(|_, _| ()), elsewhere]), Err(Code::BadRequest));
    assert_eq!(queue(Vec::new()), Err(Code::BadRequest));
    assert_eq!(queue(vec![one(|_, _| ()); 1_025]), Err(Code::BadRequest));
}

#[test]
fn gzip_is_stored_plain() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(b"plain").unwrap();
    let body = gzip.finish().unwrap();
    let packed = |body: Vec<u8>| {
        one(|message, system| {
            message.body = body.into();
            system.body_encoding = Encoding::Gzip.into();
        })
    };
    assert_eq!(&send(vec![packed(body)]).unwrap().messages[0].body[..], b"plain");
    assert_eq!(send(vec![packed(b"plain".to_vec())]).unwrap_err(), Code::MessageCorrupted);
}

#[test]
fn a_remoting_message_is_readable() {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(b"from 4.x").unwrap();
    let properties = "KEYS\u{1}a b\u{2}TAGS\u{1}x\u{2}WAIT\u{1}true\u{2}mine\u{1}1\u{2}DLQ_ORIGIN_TOPIC\u{1}o\u{2}\
                      DLQ_ORIGIN_MESSAGE_ID\u{1}i";
    let message = NewMessage {
        body: zlib.finish().unwrap().into(),
        properties: Bytes::from_static(properties.as_bytes()),
        sys_flag: 1,
        ..accepted(|_, _| ())
    };
    let read = from_record(&record("t", &message, 5), handout()).unwrap();
    let system = read.system_properties.unwrap();
    assert_eq!(&read.body[..], b"from 4.x");
    assert_eq!(system.body_encoding(), Encoding::Identity);
    // no client named it, so it has the id the broker gave it
    assert_eq!(system.message_id, "7F00000100002A9F0000000000001388");
    assert_eq!((system.keys, system.tag.as_deref()), (vec!["a".to_owned(), "b".to_owned()], Some("x")));
    assert_eq!(read.user_properties.into_iter().collect::<Vec<_>>(), [("mine".to_owned(), "1".to_owned())]);
    assert_eq!((system.queue_id, system.queue_offset), (3, Some(5)));
    assert_eq!((system.born_host.as_str(), system.store_host.as_str()), ("10.1.2.3:4567", "127.0.0.1:10911"));
    let dead = DeadLetterQueue { topic: "o".to_owned(), message_id: "i".to_owned() };
    assert_eq!(system.dead_letter_queue, Some(dead));
}

fn text(max: usize) -> impl Strategy<Value = String> {
    proptest::string::string_regex(&format!("[a-zäß€😀0-9_.-]{{1,{max}}}")).unwrap()
}

fn any_message() -> impl Strategy<Value = Message> {
    let place = prop_oneof![
        Just((None, None)),
        text(15).prop_map(|group| (Some(group), None)),
        (0..86_400_000u64).prop_map(|delay| (None, Some(timestamp(NOW_MS + delay)))),
    ];
    let user = proptest::collection::btree_map(text(20), text(40), 0..10);
    let keys = proptest::collection::vec(text(20), 0..4);
    let optional = (proptest::option::of(text(20)), proptest::option::of(text(40)), text(60));
    let body = proptest::collection::vec(any::<u8>(), 1..100);
    (place, user, keys, optional, body, 0..NOW_MS).prop_map(|(place, user, keys, optional, body, born)| {
        let (tag, trace_context, message_id) = optional;
        Message {
            topic: super::resource("t"),
            user_properties: user,
            system_properties: Some(SystemProperties {
                message_id,
                tag,
                keys,
                trace_context,
                message_type: match &place {
                    (None, None) => MessageType::Normal,
                    (Some(_), _) => MessageType::Fifo,
                    (None, Some(_)) => MessageType::Delay,
                }
                .into(),
                born_timestamp: Some(timestamp(born)),
                born_host: "host-of-the-client".to_owned(),
                body_encoding: Encoding::Identity.into(),
                message_group: place.0,
                delivery_timestamp: place.1,
                ..SystemProperties::default()
            }),
            body: body.into(),
        }
    })
}

proptest! {
    /// What the broker adds is known; everything else comes back as it was sent.
    #[test]
    fn a_consumer_reads_what_a_producer_wrote(message in any_message()) {
        let stored = send(vec![message.clone()]).unwrap().messages.remove(0);
        let read = from_record(&record("t", &stored, 9), handout()).unwrap();
        let added = read.system_properties.clone().unwrap();
        let mut expected = message;
        expected.system_properties = expected.system_properties.map(|system| SystemProperties {
            body_digest: added.body_digest.clone(),
            receipt_handle: Some("handle".to_owned()),
            delivery_attempt: Some(2),
            invisible_duration: Some(duration(30_000)),
            store_timestamp: Some(timestamp(1_700_000_000_123)),
            store_host: "127.0.0.1:10911".to_owned(),
            queue_id: 3,
            queue_offset: Some(9),
            ..system
        });
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn any_record_never_panics(bytes: Vec<u8>) {
        prop_assert!(from_record(&bytes.into(), handout()).is_err());
    }

    #[test]
    fn a_damaged_record_never_panics(message in any_message(), at in any::<prop::sample::Index>(), byte: u8) {
        let stored = send(vec![message]).unwrap().messages.remove(0);
        let mut bytes = record("t", &stored, 9).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        // whatever is read, every SDK can take it
        if let Ok(read) = from_record(&bytes.into(), handout()) {
            let system = read.system_properties.unwrap();
            prop_assert_ne!(system.body_encoding(), Encoding::Unspecified);
            prop_assert_eq!(system.body_digest.unwrap().checksum.len(), 32);
        }
    }
}
