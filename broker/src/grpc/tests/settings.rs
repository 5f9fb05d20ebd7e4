//! What each SDK is told, and how long its calls are held.

use super::super::GrpcConfig;
use super::super::caller::Caller;
use super::super::proto::settings::PubSub;
use super::super::proto::*;
use super::super::receive::{hold_ms, invisible_ms, queue_id};
use super::super::settings::{declared, language, merged};
use super::super::time::{duration, duration_ms};
use lifecycle::identity::Name;
use retry_policy::Strategy;

fn producer_settings(topics: &[&str]) -> Settings {
    let topics = topics.iter().filter_map(|topic| super::resource(topic)).collect();
    let publishing = Publishing { topics, ..Publishing::default() };
    let access_point = Some(Endpoints { scheme: 1, addresses: Vec::new() });
    Settings { pub_sub: Some(PubSub::Publishing(publishing)), access_point, ..Settings::default() }
}

fn policy(settings: Settings, language: Language) -> RetryPolicy {
    merged(settings, language, false, &GrpcConfig::default()).backoff_policy.unwrap()
}

fn delays(policy: &RetryPolicy) -> (Option<u64>, Option<u64>) {
    match policy.strategy.as_ref().unwrap() {
        Strategy::ExponentialBackoff(backoff) => {
            (backoff.initial.as_ref().and_then(duration_ms), backoff.max.as_ref().and_then(duration_ms))
        }
        Strategy::CustomizedBackoff(backoff) => {
            (backoff.next.first().and_then(duration_ms), backoff.next.last().and_then(duration_ms))
        }
    }
}

#[test]
fn producers_of_every_language_get_exponential_pauses_and_a_body_limit() {
    for language in
        [Language::Unspecified, Language::Java, Language::Python, Language::NodeJs, Language::Rust]
    {
        let policy = policy(producer_settings(&["t"]), language);
        assert!(matches!(policy.strategy, Some(Strategy::ExponentialBackoff(_))), "{language:?}");
        assert_eq!((policy.max_attempts, delays(&policy)), (3, (Some(10), Some(1_000))));
        let told = merged(producer_settings(&["t"]), language, false, &GrpcConfig::default());
        let Some(PubSub::Publishing(publishing)) = told.pub_sub else { panic!("the same kind comes back") };
        assert_eq!(publishing.max_body_size, 4 * 1024 * 1024 - 64 * 1024);
        assert!(!publishing.validate_message_type);
        assert_eq!(
            (told.metric, told.access_point),
            (Some(Metric::default()), producer_settings(&[]).access_point)
        );
    }
}

#[test]
fn consumers_get_the_pauses_their_sdk_understands() {
    for language in
        [Language::Unspecified, Language::Java, Language::Python, Language::Golang, Language::Rust]
    {
        let policy = policy(super::consumer_settings("t"), language);
        let Some(Strategy::CustomizedBackoff(backoff)) = &policy.strategy else { panic!("{language:?}") };
        assert_eq!((policy.max_attempts, backoff.next.len()), (17, 18));
        assert_eq!(delays(&policy), (Some(1_000), Some(7_200_000)));
    }
    let node = policy(super::consumer_settings("t"), Language::NodeJs);
    let Some(Strategy::ExponentialBackoff(backoff)) = &node.strategy else { panic!("Node") };
    // this SDK reads the seconds as milliseconds
    assert_eq!(backoff.initial.as_ref().map(|initial| initial.seconds), Some(1_000));
    assert_eq!(backoff.max.as_ref().map(|max| max.seconds), Some(7_200_000));
}

#[test]
fn consumers_get_batch_and_poll_time() {
    let told = merged(super::consumer_settings("t"), Language::Python, true, &GrpcConfig::default());
    let Some(PubSub::Subscription(subscription)) = told.pub_sub else { panic!("the same kind comes back") };
    assert_eq!((subscription.fifo, subscription.receive_batch_size), (Some(true), Some(32)));
    assert_eq!(subscription.long_polling_timeout, Some(duration(20_000)));
    assert_eq!((subscription.group, subscription.subscriptions.len()), (super::resource("g"), 1));
}

#[test]
fn the_language_in_the_settings_wins() {
    let mut settings = producer_settings(&[]);
    assert_eq!(language(&settings, Language::NodeJs), Language::NodeJs);
    settings.user_agent = Some(Ua { language: Language::Java.into(), ..Ua::default() });
    assert_eq!(language(&settings, Language::NodeJs), Language::Java);
    settings.user_agent = Some(Ua { language: 99, ..Ua::default() });
    assert_eq!(language(&settings, Language::Python), Language::Python);
}

#[test]
fn what_settings_declare() {
    let of = |settings: &Settings| declared(settings, 7).map_err(|refused| refused.code);
    let producer = of(&producer_settings(&["a", "b"])).unwrap();
    assert_eq!((producer.producer_topics, producer.consumer), (vec![Name::from("a"), Name::from("b")], None));
    let consumer = of(&super::consumer_settings("t")).unwrap().consumer.unwrap();
    assert_eq!((&*consumer.subscriptions[0].expression, consumer.subscriptions[0].version), ("*", 7));
    assert_eq!(of(&producer_settings(&["a b"])), Err(Code::IllegalTopic));
    assert_eq!(of(&producer_settings(&["t"; 1_001])), Err(Code::BadRequest));
    let mut sql = super::consumer_settings("t");
    let Some(PubSub::Subscription(subscription)) = &mut sql.pub_sub else { panic!("a consumer") };
    let filter = FilterExpression { r#type: FilterType::Sql.into(), expression: "a > 1".to_owned() };
    subscription.subscriptions[0].expression = Some(filter);
    assert_eq!(of(&sql), Err(Code::IllegalFilterExpression));
    assert_eq!(of(&Settings::default()), Ok(Default::default()));
}

#[test]
fn how_long_a_receive_is_held() {
    let config = GrpcConfig::default();
    let check = |poll: Option<u64>, timeout_ms: Option<u64>, expected: u64| {
        let request = ReceiveMessageRequest {
            long_polling_timeout: poll.map(duration),
            ..ReceiveMessageRequest::default()
        };
        let client = Name::from("c");
        let caller =
            Caller { client, language: Language::Rust, address: "127.0.0.1:1".parse().unwrap(), timeout_ms };
        assert_eq!(hold_ms(&request, &caller, &config), expected, "{poll:?} {timeout_ms:?}");
    };
    check(Some(15_000), None, 15_000);
    check(Some(40_000), Some(40_000), 20_000);
    check(Some(15_000), Some(15_000), 14_500);
    check(Some(15_000), Some(18_000), 15_000);
    check(None, Some(3_000), 2_500);
    check(None, None, 20_000);
    check(Some(0), Some(3_000), 100);
    check(Some(5_000), Some(600), 300);
    check(Some(5_000), Some(0), 0);
}

#[test]
fn lease_and_batch_of_a_receive() {
    let config = GrpcConfig::default();
    let lease = |auto_renew, invisible: Option<u64>| {
        let invisible_duration = invisible.map(duration);
        let request =
            ReceiveMessageRequest { auto_renew, invisible_duration, ..ReceiveMessageRequest::default() };
        invisible_ms(&request, &config).map_err(|refused| refused.code)
    };
    assert_eq!(lease(true, None), Ok(60_000));
    assert_eq!(lease(false, Some(10_000)), Ok(10_000));
    assert_eq!(lease(false, Some(9_999)), Err(Code::IllegalInvisibleTime));
    assert_eq!(lease(false, Some(12 * 3_600_000 + 1)), Err(Code::IllegalInvisibleTime));
    assert_eq!(lease(false, None), Err(Code::IllegalInvisibleTime));
    let queue = |auto_renew, id| {
        let queue = MessageQueue { id, ..MessageQueue::default() };
        queue_id(&ReceiveMessageRequest {
            auto_renew,
            message_queue: Some(queue),
            ..ReceiveMessageRequest::default()
        })
    };
    assert_eq!([queue(true, -1), queue(true, 2), queue(false, 2)], [None, Some(2), None]);
    let batch = |batch_size| {
        super::super::receive::batch_size(&ReceiveMessageRequest {
            batch_size,
            ..ReceiveMessageRequest::default()
        })
    };
    assert_eq!([-1, 0, 1, 32, 64].map(batch), [1, 1, 1, 32, 32]);
}
