//! Owns what a configuration promises and cannot keep, without a broker that runs. What a running one shows besides is the agent's to say.

use crate::config::Settings;
use agent::report::exposure::{ASYNC_REPLICATION, SCRUB_OFF, SYNC_ALONE, remedy};
use agent::report::views::ExposureFinding;
use broker::config::{BrokerRole, FlushDiskType};
use std::net::SocketAddr;

/// A consumer that is down for a night and a morning must find its messages still there.
const RETENTION_SHORT_MS: u64 = 24 * 3_600_000;

/// Every finding about these settings, in no order.
pub(crate) fn of_configuration(settings: &Settings) -> Vec<ExposureFinding> {
    let broker = &settings.broker;
    let name = &broker.broker_name;
    let finding = |finding: &str, severity: &str, setting: String, text: &str| ExposureFinding {
        finding: finding.to_owned(),
        severity: severity.to_owned(),
        broker: name.clone(),
        topic: String::new(),
        group: String::new(),
        messages: 0,
        setting,
        text: text.to_owned(),
        remedy: remedy(finding).to_owned(),
    };
    let mut found = Vec::new();
    if !broker.journal {
        let text = "nothing is tracked: whatever is lost, nobody can say so";
        found.push(finding("untracked", "critical", "broker.journal=false".to_owned(), text));
    }
    if broker.flush_disk_type == FlushDiskType::Async {
        let text =
            "SEND_OK means that the operating system has the message: a power cut takes what was not flushed";
        let setting = format!("broker.flush_disk_type={}", broker.flush_disk_type.text());
        found.push(finding("async-flush", "warning", setting, text));
    }
    if broker.scrub_interval_ms == 0 {
        found.push(finding("scrub-off", "warning", "broker.scrub_interval_ms=0".to_owned(), SCRUB_OFF));
    }
    if broker.members.is_empty() && settings.listen.replication.is_none() {
        let text = "one copy only: a lost disk takes every message, whatever SEND_OK said";
        found.push(finding("single-copy", "warning", String::new(), text));
    }
    if broker.broker_role == BrokerRole::SyncMaster && broker.in_sync_replicas == 1 {
        let setting = "broker.in_sync_replicas=1".to_owned();
        found.push(finding("sync-without-replicas", "critical", setting, SYNC_ALONE));
    }
    if broker.broker_role == BrokerRole::AsyncMaster && !broker.members.is_empty() {
        let setting = "broker.broker_role=ASYNC_MASTER".to_owned();
        found.push(finding("async-replication", "warning", setting, ASYNC_REPLICATION));
    }
    let text =
        "losstrace up keeps the evidence on the broker's disk: what destroys the one takes the other too";
    found.push(finding("shared-disk", "warning", format!("data_dir={}", settings.data_dir.display()), text));
    if broker.retention_ms < RETENTION_SHORT_MS {
        let text = "a consumer that is down for longer loses what it has not read";
        let setting = format!("broker.retention_ms={}", broker.retention_ms);
        found.push(finding("short-retention", "warning", setting, text));
    }
    if broker.retry_max == 0 {
        let text = "a message that fails once is a dead letter";
        found.push(finding("no-retry", "warning", "broker.retry_max=0".to_owned(), text));
    }
    if broker.auto_create_topics {
        let text = "a topic name with a typo is a new topic: it is sent to, and nobody reads it";
        found.push(finding("auto-create", "info", "broker.auto_create_topics=true".to_owned(), text));
    }
    found.extend(open_doors(settings).map(|(door, address)| {
        let text = "anybody who reaches this address may send, read and delete";
        finding("open-door", "warning", format!("listen.{door}={address}"), text)
    }));
    found
}

fn open_doors(settings: &Settings) -> impl Iterator<Item = (&'static str, SocketAddr)> {
    let listen = &settings.listen;
    let mut doors = vec![
        ("name_server", listen.name_server),
        ("remoting", listen.remoting),
        ("grpc", listen.grpc),
        ("agent_http", listen.agent_http),
        ("broker_http", listen.broker_http),
        ("feed", listen.feed),
    ];
    doors.extend(listen.replication.map(|address| ("replication", address)));
    doors.into_iter().filter(|(_, address)| !address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(change: impl FnOnce(&mut Settings)) -> Vec<String> {
        let mut settings =
            crate::config::load(&crate::cli::Common::default()).expect("the defaults are fine");
        change(&mut settings);
        let findings = of_configuration(&settings);
        assert!(findings.iter().all(|row| !row.remedy.is_empty() && !row.text.is_empty()), "{findings:?}");
        findings.into_iter().map(|row| row.finding).collect()
    }

    #[test]
    fn every_setting_that_weakens_a_promise_is_named_with_a_remedy() {
        assert_eq!(found(|_| ()), ["async-flush", "single-copy", "shared-disk", "auto-create"]);
        let strict = |settings: &mut Settings| {
            settings.broker.flush_disk_type = FlushDiskType::Sync;
            settings.broker.auto_create_topics = false;
        };
        assert_eq!(found(strict), ["single-copy", "shared-disk"]);
        let member = SocketAddr::from(([127, 0, 0, 1], 10912));
        let group = |settings: &mut Settings| {
            strict(settings);
            settings.broker.members = vec![member];
        };
        assert_eq!(found(group), ["async-replication", "shared-disk"]);
        let alone = |settings: &mut Settings| {
            strict(settings);
            settings.listen.replication = Some(member);
            (settings.broker.broker_role, settings.broker.in_sync_replicas) = (BrokerRole::SyncMaster, 1);
        };
        assert_eq!(found(alone), ["sync-without-replicas", "shared-disk"]);
        let careless = |settings: &mut Settings| {
            settings.broker.journal = false;
            settings.broker.retry_max = 0;
            settings.broker.retention_ms = RETENTION_SHORT_MS - 1;
            settings.listen.grpc = SocketAddr::from(([0, 0, 0, 0], 8081));
        };
        let all = found(careless);
        for expected in ["untracked", "no-retry", "short-retention", "open-door"] {
            assert!(all.iter().any(|name| name == expected), "{expected} in {all:?}");
        }
    }
}
