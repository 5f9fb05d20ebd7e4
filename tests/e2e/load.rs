//! Load that crash tests run under: real SDKs that send and consume without end. Owns their processes, and what it means that
//! they run; never judges the product.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::clients::{Client, Events, Job, Sdk};
use tests::metrics::Metrics;
use tests::stand::Stand;

/// A kill counts only when it hits a stream of messages: every producer has had so many answered since the last one.
/// SDKs wait for seconds before they connect again, so this is counted and not timed.
pub(crate) const ANSWERED_PER_ROUND: usize = 40;
const RESUME_LIMIT: Duration = Duration::from_secs(40);
/// What was in a dead consumer's hands comes back when its lease ends.
const DRAIN_LIMIT: Duration = Duration::from_secs(100);

/// Producer and consumer of one protocol on a topic of their own.
pub(crate) struct Load {
    pub(crate) topic: &'static str,
    pub(crate) producer: Client,
    pub(crate) consumer: Client,
}

impl Load {
    pub(crate) fn start(stand: &Stand, sdk: Sdk, (topic, group): (&'static str, &str)) -> Result<Load> {
        stand.create_topic(topic)?;
        let job =
            Job { interval_ms: 4, timeout_s: 200, ..Job::produce(topic, &format!("{topic}-"), 1_000_000) };
        let mut producer = Client::start(stand, sdk, &job)?;
        let mut consumer =
            Client::start(stand, sdk, &Job { timeout_s: 200, ..Job::consume(topic, group, 0) })?;
        consumer.wait_ready()?;
        producer.wait_for("the first send", Duration::from_secs(40), |events| !events.sent().is_empty())?;
        Ok(Load { topic, producer, consumer })
    }

    /// Waits until the stream flows: this many sends were answered beyond `from`. Returns how many now are.
    pub(crate) fn wait_flow(&mut self, from: usize) -> Result<usize> {
        let enough = from + ANSWERED_PER_ROUND;
        self.producer.wait_for("sends to flow", RESUME_LIMIT, |events| events.sent().len() >= enough)?;
        Ok(self.producer.events().sent().len())
    }

    /// Stops sending, waits until all that was answered OK is consumed, checks the books, and only then stops consuming: an
    /// acknowledgement that a kill cut off is made up for by another delivery, which needs a consumer.
    pub(crate) fn drain(self, check: impl FnOnce(&str, &Events) -> Result<()>) -> Result<()> {
        let Load { topic, producer, mut consumer, .. } = self;
        let sent = producer.stop()?;
        let answered: BTreeSet<String> = sent.sent().into_keys().collect();
        consumer.wait_for("everything that was answered", DRAIN_LIMIT, |events| {
            let consumed = events.consumed();
            answered.iter().all(|body| consumed.contains_key(body))
        })?;
        check(topic, &sent).with_context(|| format!("topic {topic}"))?;
        consumer.stop()?;
        Ok(())
    }
}

/// No counter of the agent may be lower than somebody has seen it.
pub(crate) fn check_counters(before: &Metrics, after: &Metrics) -> Result<()> {
    let back = before.stepped_back(after);
    ensure!(back.is_empty(), "counters stepped back: {back:?}");
    Ok(())
}
