//! Golden transcripts: conversations of real RocketMQ 4.9.8 clients with a real broker, the client's side of each played
//! against this broker, every answer compared field by field. What differs must be listed, with a reason, in [`accepted`].

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may stop at what it did not expect, and shows what it accepted"
)]

mod accepted;
mod client;
mod compare;
mod fastjson;
mod given;
mod replay;
mod server;
mod slow_disk;
mod transcript;

use accepted::ACCEPTED;
use broker::config::{Config, FlushDiskType};
use compare::Difference;
use replay::Replay;
use server::Server;
use std::time::Duration;

/// The settings of the broker that was recorded.
fn config() -> Config {
    Config {
        broker_name: "broker-a".into(),
        cluster: "DefaultCluster".into(),
        delay_levels_ms: (1..=18).map(|level| level * 1_000).collect(),
        ..Config::default()
    }
}

fn check(transcript: &str) {
    check_with(transcript, config(), Duration::ZERO);
}

fn check_with(transcript: &str, config: Config, sync_time: Duration) {
    let lines = transcript::read(transcript);
    let server = Server::start(config, sync_time);
    let found = Replay::new(server.addresses).run(&lines);
    judge(transcript, &found);
}

/// Every difference is listed, and what is listed for this conversation occurs.
fn judge(transcript: &str, found: &[Difference]) {
    let is_listed =
        |difference: &&Difference| ACCEPTED.iter().any(|accepted| accepted.covers(transcript, difference));
    let (listed, unlisted): (Vec<_>, Vec<_>) = found.iter().partition(is_listed);
    for difference in &listed {
        let accepted = ACCEPTED.iter().find(|accepted| accepted.covers(transcript, difference));
        println!("accepted: {difference:?}\n      as: {}", accepted.map_or("", |accepted| accepted.reason));
    }
    let unused: Vec<_> = ACCEPTED
        .iter()
        .filter(|accepted| accepted.transcript == transcript)
        .filter(|accepted| !found.iter().any(|difference| accepted.covers(transcript, difference)))
        .map(|accepted| (accepted.path, accepted.reason))
        .collect();
    assert!(unlisted.is_empty(), "{transcript}: {} not listed:\n{unlisted:#?}", unlisted.len());
    assert!(unused.is_empty(), "{transcript}: listed, but does not occur:\n{unused:#?}");
}

/// Segments of 1 MiB that are deleted within moments.
fn expiring() -> Config {
    Config {
        segment_bytes: 1024 * 1024,
        max_body_bytes: 65_536,
        retention_ms: 1_000,
        retention_interval_ms: 100,
        ..config()
    }
}

#[test]
fn offset_moved_below_min() {
    check_with("offset-moved-below-min", expiring(), Duration::ZERO);
}

#[test]
fn producer_sync() {
    check("producer-sync");
}

#[test]
fn producer_sync_rocketmq_header() {
    check("producer-sync.rocketmq-header");
}

#[test]
fn producer_async() {
    check("producer-async");
}

#[test]
fn producer_oneway() {
    check("producer-oneway");
}

#[test]
fn producer_batch() {
    check("producer-batch");
}

#[test]
fn producer_compressed() {
    check("producer-compressed");
}

#[test]
fn producer_delay_level() {
    check("producer-delay-level");
}

#[test]
fn producer_ordered() {
    check("producer-ordered");
}

#[test]
fn topic_read_only() {
    let config = Config { auto_create_topics: false, ..config() };
    check_with("topic-read-only", config, Duration::ZERO);
}

#[test]
fn push_consumer_clustering() {
    check("push-consumer-clustering");
}

#[test]
fn push_consumer_clustering_rocketmq_header() {
    check("push-consumer-clustering.rocketmq-header");
}

#[test]
fn push_consumer_long_poll() {
    check("push-consumer-long-poll");
}

#[test]
fn push_consumer_tags() {
    check("push-consumer-tags");
}

#[test]
fn push_consumer_reconsume_later() {
    check("push-consumer-reconsume-later");
}

#[test]
fn consumer_two_members() {
    check("consumer-two-members");
}

#[test]
fn pull_consumer() {
    check("pull-consumer");
}

#[test]
fn offset_moved() {
    check("offset-moved");
}

#[test]
fn offset_moved_push() {
    check_with("offset-moved-push", expiring(), Duration::ZERO);
}

#[test]
fn trace_producer() {
    check("trace-producer");
}

#[test]
fn trace_consumer() {
    check("trace-consumer");
}

#[test]
fn unknown_topic_autocreate_on() {
    check("unknown-topic-autocreate-on");
}

#[test]
fn unknown_topic_consumer() {
    check("unknown-topic-consumer");
}

#[test]
fn unregister_shutdown() {
    check("unregister-shutdown");
}

#[test]
fn mqadmin_cluster_list() {
    check("mqadmin-clusterList");
}

#[test]
fn mqadmin_topic_list() {
    check("mqadmin-topicList");
}

#[test]
fn mqadmin_topic_route() {
    check("mqadmin-topicRoute");
}

#[test]
fn mqadmin_topic_status() {
    check("mqadmin-topicStatus");
}

#[test]
fn mqadmin_update_topic() {
    check("mqadmin-updateTopic");
}

#[test]
fn mqadmin_consumer_progress() {
    check("mqadmin-consumerProgress");
}

#[test]
fn mqadmin_consumer_connection() {
    check("mqadmin-consumerConnection");
}

#[test]
fn mqadmin_query_msg_by_id() {
    check("mqadmin-queryMsgById");
}

#[test]
fn mqadmin_query_msg_by_unique_key() {
    check("mqadmin-queryMsgByUniqueKey");
}

#[test]
fn mqadmin_query_msg_by_key() {
    check("mqadmin-queryMsgByKey");
}

#[test]
fn send_too_large() {
    check_with("send-too-large", Config { max_body_bytes: 65_536, ..config() }, Duration::ZERO);
}

#[test]
fn unknown_topic_autocreate_off() {
    check_with(
        "unknown-topic-autocreate-off",
        Config { auto_create_topics: false, ..config() },
        Duration::ZERO,
    );
}

#[test]
fn unknown_group_autocreate_off() {
    let config = Config { auto_create_groups: false, auto_create_topics: false, ..config() };
    check_with("unknown-group-autocreate-off", config, Duration::ZERO);
}

#[test]
fn send_status_flush_disk_timeout() {
    let config = Config { flush_disk_type: FlushDiskType::Sync, sync_flush_timeout_ms: 1, ..config() };
    check_with("send-status-flush-disk-timeout", config, Duration::from_millis(500));
}

#[test]
fn send_status_flush_slave_timeout() {
    check("send-status-flush-slave-timeout");
}

#[test]
fn send_status_slave_not_available() {
    let config = Config { auto_create_topics: false, ..config() };
    check_with("send-status-slave-not-available", config, Duration::ZERO);
}
