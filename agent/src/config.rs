//! Owns the agent's part of the configuration: one typed tree with defaults, checked once, all problems at once. Never reads
//! files or the environment: the binary does.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The agent's settings.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// Folder of the ledger, the evidence log, the verdict log and the raw frames. Back it up with the verdict log in it; the
    /// ledger below it can be deleted at any time.
    pub data_dir: PathBuf,
    /// Where the HTTP API, the page and the metrics are served. Loopback, because there is no authentication.
    pub http_listen: SocketAddr,
    /// The name under which positions are confirmed to brokers; two agents on one broker need two names.
    pub reader: String,
    /// Brokers to follow over gRPC. Empty in `up`, where the broker is in the same process.
    pub feeds: Vec<FeedConfig>,
    /// When state is made durable.
    pub checkpoint: CheckpointConfig,
    /// Limits of the agent's own logs.
    pub logs: LogsConfig,
    /// When the judge may speak.
    pub judge: JudgeConfig,
}

/// One broker to follow.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedConfig {
    /// Label of its metrics; stays the same when the address changes.
    pub name: String,
    /// `http://host:port` of its feed; of a replica group those of all members, of which the master's answers.
    pub urls: Vec<String>,
}

/// When state is made durable.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CheckpointConfig {
    /// After this many facts: bounds the work a restart repeats.
    pub facts: u64,
    /// After this long: bounds the age of what a restart finds.
    pub interval_ms: u64,
    /// At most so often when a verdict waits: 100 ms keep the time to a confirmed verdict below a second.
    pub verdict_interval_ms: u64,
}

/// Limits of the agent's own logs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogsConfig {
    /// Most bytes of the evidence log; beyond it the oldest reports go, and a rebuilt ledger will lack them.
    pub evidence_bytes_max: u64,
    /// Most bytes of frames kept above the brokers' flushed positions.
    pub raw_frames_bytes_max: u64,
}

/// When the judge may speak. Barriers come from the sources; these are times no evidence can shorten.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgeConfig {
    /// A group without member and move for so long is idle: what expires then is a ticket, not a page. Must exceed retention.
    pub idle_after_ms: u64,
    /// A delayed message or a retry may leave the schedule so long after it was due.
    pub timer_slack_ms: u64,
    /// A send whose outcome its producer does not know may still be on its way so long after the report.
    pub send_unknown_ms: u64,
    /// The broker may take so long after a restart to make a lost copy again.
    pub copy_remade_ms: u64,
    /// A retry may lie in the retry topic so long while the group has members and none fetches from its queue.
    pub retry_unread_ms: u64,
    /// An unread message is near its end when retention deletes it within this time.
    pub near_expiry_ms: u64,
}

impl Default for AgentConfig {
    fn default() -> Self {
        AgentConfig {
            data_dir: PathBuf::from("data/agent"),
            http_listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            reader: "agent".to_owned(),
            feeds: Vec::new(),
            checkpoint: CheckpointConfig::default(),
            logs: LogsConfig::default(),
            judge: JudgeConfig::default(),
        }
    }
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        CheckpointConfig { facts: 50_000, interval_ms: 1_000, verdict_interval_ms: 100 }
    }
}

impl Default for LogsConfig {
    fn default() -> Self {
        LogsConfig { evidence_bytes_max: 1 << 30, raw_frames_bytes_max: 64 << 20 }
    }
}

impl Default for JudgeConfig {
    fn default() -> Self {
        JudgeConfig {
            idle_after_ms: 7 * 24 * 3_600_000,
            timer_slack_ms: 30_000,
            send_unknown_ms: 10_000,
            copy_remade_ms: 30_000,
            retry_unread_ms: 120_000,
            near_expiry_ms: 6 * 3_600_000,
        }
    }
}

/// Most members of one replica group: a master and 16 replicas.
pub const FEED_URLS_MAX: usize = 17;
/// Most feeds one agent follows.
pub const FEEDS_MAX: usize = 64;

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Path of the setting, e.g. `agent.checkpoint.facts`.
    pub key: String,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

impl AgentConfig {
    /// Checks everything; an empty list means that it can run.
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        problems.unless(!self.data_dir.as_os_str().is_empty(), "data_dir", "must not be empty");
        problems.unless(is_label(&self.reader), "reader", "must be 1 to 64 letters, digits, '-', '_' or '.'");
        problems.unless(self.feeds.len() <= FEEDS_MAX, "feeds", "at most 64");
        for (index, feed) in self.feeds.iter().enumerate() {
            let key = |field: &str| format!("feeds[{index}].{field}");
            let unique = self.feeds.iter().filter(|other| other.name == feed.name).count() == 1;
            problems.unless(
                is_label(&feed.name),
                &key("name"),
                "must be 1 to 64 letters, digits, '-', '_' or '.'",
            );
            problems.unless(unique, &key("name"), "must be unique");
            problems.unless(
                (1..=FEED_URLS_MAX).contains(&feed.urls.len()),
                &key("urls"),
                "must be 1 to 17 addresses",
            );
            problems.unless(
                feed.urls.iter().all(|url| url.starts_with("http://") || url.starts_with("https://")),
                &key("urls"),
                "must start with http:// or https://",
            );
        }
        let CheckpointConfig { facts, interval_ms, verdict_interval_ms } = self.checkpoint;
        let within = |value: u64, low: u64, high: u64| (low..=high).contains(&value);
        problems.unless(within(facts, 1_000, 1_000_000), "checkpoint.facts", "must be 1000 to 1000000");
        problems.unless(within(interval_ms, 100, 60_000), "checkpoint.interval_ms", "must be 100 to 60000");
        problems.unless(
            within(verdict_interval_ms, 10, interval_ms.max(10)),
            "checkpoint.verdict_interval_ms",
            "must be 10 to checkpoint.interval_ms",
        );
        problems.unless(
            self.logs.evidence_bytes_max >= 64 << 20,
            "logs.evidence_bytes_max",
            "must be at least 67108864",
        );
        problems.unless(
            within(self.logs.raw_frames_bytes_max, 1 << 20, 1 << 30),
            "logs.raw_frames_bytes_max",
            "must be 1048576 to 1073741824",
        );
        let judge = &self.judge;
        problems.unless(
            judge.idle_after_ms > judge.timer_slack_ms,
            "judge.idle_after_ms",
            "must exceed judge.timer_slack_ms",
        );
        problems.unless(
            within(judge.retry_unread_ms, 1_000, judge.idle_after_ms.max(1_000)),
            "judge.retry_unread_ms",
            "must be 1000 to judge.idle_after_ms",
        );
        problems.unless(judge.near_expiry_ms > 0, "judge.near_expiry_ms", "must not be 0");
        problems.0
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn unless(&mut self, fine: bool, key: &str, text: &str) {
        if !fine {
            self.0.push(Problem { key: format!("agent.{key}"), text: text.to_owned() });
        }
    }
}

fn is_label(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_survive_a_file() {
        let config = AgentConfig::default();
        assert_eq!(config.validate(), vec![]);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<AgentConfig>(&text).unwrap(), config);
        assert_eq!(toml::from_str::<AgentConfig>("").unwrap(), config);
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(toml::from_str::<AgentConfig>("chekpoint = 3").is_err());
        assert!(toml::from_str::<AgentConfig>("[checkpoint]\nfact = 3").is_err());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let mut config = AgentConfig { reader: "a b".into(), ..Default::default() };
        config.checkpoint.facts = 1;
        config.checkpoint.verdict_interval_ms = 2_000;
        let feed = |name: &str, url: &str| FeedConfig { name: name.into(), urls: vec![url.into()] };
        config.feeds = vec![feed("a", "http://x"), feed("a", "x:1")];
        let keys: Vec<String> = config.validate().into_iter().map(|problem| problem.key).collect();
        assert_eq!(
            keys,
            [
                "agent.reader",
                "agent.feeds[0].name",
                "agent.feeds[1].name",
                "agent.feeds[1].urls",
                "agent.checkpoint.facts",
                "agent.checkpoint.verdict_interval_ms",
            ]
        );
    }
}
