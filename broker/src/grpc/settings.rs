//! Owns what a client is told to do: its settings with the open fields filled in, shaped for what each SDK understands. And what
//! its settings declare: the topics it produces to, or the group it consumes in.

use super::GrpcConfig;
use super::names;
use super::proto::settings::PubSub;
use super::proto::{
    ClientType, Code, CustomizedBackoff, ExponentialBackoff, FilterExpression, FilterType, Language, Metric,
    RetryPolicy, Settings, retry_policy,
};
use super::status::{Refused, refuse};
use super::time::duration;
use crate::api::{ConsumerDeclaration, StartPolicy, Subscription};
use lifecycle::fact::ConsumeModel;
use lifecycle::identity::Name;

/// Most topics one client may produce to or subscribe to.
pub(super) const TOPICS_PER_CLIENT_MAX: usize = 1_000;
/// Messages a push consumer asks for at once (RocketMQ's value).
const RECEIVE_BATCH_SIZE: i32 = 32;
/// Send attempts and pauses of a producer (RocketMQ's values).
const SEND_ATTEMPTS_MAX: i32 = 3;
const SEND_BACKOFF_FIRST_MS: u64 = 10;
const SEND_BACKOFF_MAX_MS: u64 = 1_000;
const BACKOFF_MULTIPLIER: f32 = 2.0;

/// What settings declare.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Declared {
    pub(super) producer_topics: Vec<Name>,
    pub(super) consumer: Option<ConsumerDeclaration>,
}

/// The language in the settings, or else the one of the call's metadata.
pub(super) fn language(settings: &Settings, metadata: Language) -> Language {
    match settings.user_agent.as_ref().map(|agent| agent.language()) {
        None | Some(Language::Unspecified) => metadata,
        Some(language) => language,
    }
}

/// A copy of the client's settings with everything the server decides. `fifo`: its consumer is to work in order.
pub(super) fn merged(
    mut settings: Settings,
    language: Language,
    fifo: bool,
    config: &GrpcConfig,
) -> Settings {
    let is_consumer = match settings.pub_sub.as_mut() {
        Some(PubSub::Publishing(publishing)) => {
            // 0 would make the SDK refuse every send; the configuration is far below 2 GiB
            publishing.max_body_size = i32::try_from(config.body_max_bytes).unwrap_or(i32::MAX);
            // Checked here instead: a message the SDK refuses by itself has burnt an id that nobody can account for.
            publishing.validate_message_type = false;
            false
        }
        Some(PubSub::Subscription(subscription)) => {
            subscription.fifo = Some(fifo);
            subscription.receive_batch_size = Some(RECEIVE_BATCH_SIZE);
            subscription.long_polling_timeout = Some(duration(config.long_polling_ms));
            true
        }
        None => false,
    };
    settings.backoff_policy = Some(match (is_consumer, language) {
        (false, _) => producer_backoff(),
        (true, Language::NodeJs) => node_consumer_backoff(config),
        (true, _) => consumer_backoff(config),
    });
    // present but off: no SDK can send its metrics here
    settings.metric = Some(Metric { on: false, endpoints: None });
    settings
}

/// Exponential: the Node SDK crashes on anything else.
fn producer_backoff() -> RetryPolicy {
    exponential(
        SEND_ATTEMPTS_MAX,
        ExponentialBackoff {
            initial: Some(duration(SEND_BACKOFF_FIRST_MS)),
            max: Some(duration(SEND_BACKOFF_MAX_MS)),
            multiplier: BACKOFF_MULTIPLIER,
        },
    )
}

/// One delay after the other: the only form the Python SDK understands.
fn consumer_backoff(config: &GrpcConfig) -> RetryPolicy {
    let next = config.backoff_ms.iter().map(|ms| duration(*ms)).collect();
    RetryPolicy {
        max_attempts: config.attempts_max,
        strategy: Some(retry_policy::Strategy::CustomizedBackoff(CustomizedBackoff { next })),
    }
}

/// The Node SDK (1.0.8) understands the exponential form only, and takes its seconds for milliseconds: with the true numbers a
/// failing message is handed out again after a few milliseconds, and its attempts are used up in a moment. So the number of
/// milliseconds is written where seconds belong.
fn node_consumer_backoff(config: &GrpcConfig) -> RetryPolicy {
    let as_node_reads = |ms: Option<&u64>| ms.map(|ms| duration(ms.saturating_mul(1_000)));
    exponential(
        config.attempts_max,
        ExponentialBackoff {
            initial: as_node_reads(config.backoff_ms.first()),
            max: as_node_reads(config.backoff_ms.last()),
            multiplier: BACKOFF_MULTIPLIER,
        },
    )
}

fn exponential(max_attempts: i32, backoff: ExponentialBackoff) -> RetryPolicy {
    RetryPolicy { max_attempts, strategy: Some(retry_policy::Strategy::ExponentialBackoff(backoff)) }
}

/// What the settings declare; `version` is noted with each subscription.
pub(super) fn declared(settings: &Settings, version: u64) -> Result<Declared, Refused> {
    match settings.pub_sub.as_ref() {
        None => Ok(Declared::default()),
        Some(PubSub::Publishing(publishing)) => {
            check_topic_count(publishing.topics.len())?;
            let topics = publishing.topics.iter().map(|topic| names::topic(Some(topic)));
            Ok(Declared { producer_topics: topics.collect::<Result<_, _>>()?, consumer: None })
        }
        Some(PubSub::Subscription(declared)) => {
            check_topic_count(declared.subscriptions.len())?;
            let entries = declared.subscriptions.iter().map(|entry| {
                subscription(names::topic(entry.topic.as_ref())?, entry.expression.as_ref(), version)
            });
            let push = matches!(settings.client_type(), ClientType::PushConsumer);
            let consumer =
                consumer(names::group(declared.group.as_ref())?, push, entries.collect::<Result<_, _>>()?);
            Ok(Declared { producer_topics: Vec::new(), consumer: Some(consumer) })
        }
    }
}

fn check_topic_count(count: usize) -> Result<(), Refused> {
    if count > TOPICS_PER_CLIENT_MAX {
        return refuse(
            Code::BadRequest,
            format!("{count} topics are over the limit of {TOPICS_PER_CLIENT_MAX} for one client"),
        );
    }
    Ok(())
}

/// A group as every gRPC consumer joins it: by leases, from the end when it is new.
pub(super) fn consumer(group: Name, push: bool, subscriptions: Vec<Subscription>) -> ConsumerDeclaration {
    ConsumerDeclaration { group, model: ConsumeModel::Lease, push, start: StartPolicy::Last, subscriptions }
}

/// A subscription; no expression means all.
pub(super) fn subscription(
    topic: Name,
    filter: Option<&FilterExpression>,
    version: u64,
) -> Result<Subscription, Refused> {
    let text = filter.map(|filter| filter.expression.trim()).unwrap_or_default();
    let expression = Name::from(if text.is_empty() { "*" } else { text });
    match filter.map(|filter| filter.r#type()) {
        None | Some(FilterType::Unspecified | FilterType::Tag) => {
            Ok(Subscription { topic, expression, version, expression_type: Name::from("TAG") })
        }
        Some(FilterType::Sql) => {
            refuse(Code::IllegalFilterExpression, "only tag expressions are supported, not SQL")
        }
    }
}
