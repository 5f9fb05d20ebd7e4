//! Owns the settings of the binary: file < environment < flags, unknown keys are errors, and every problem is told at once,
//! each with the path of its key.
//!
//! Environment: `LOSSTRACE_SECTION__KEY`, nested as deep as the file is (`LOSSTRACE_BROKER__FLUSH_DISK_TYPE=SYNC_FLUSH`,
//! `LOSSTRACE_AGENT__CHECKPOINT__FACTS=5000`). Names without `__` are left alone, because container platforms set some of
//! their own.

use crate::cli::Common;
use agent::config::AgentConfig;
use agent::telemetry::{LogFormat, check_level};
use broker::config::BrokerRole;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

const ENV_PREFIX: &str = "LOSSTRACE_";
/// Deeper keys do not exist, so deeper nesting is not looked into.
const DEPTH_MAX: usize = 4;
/// RocketMQ's haListenPort.
const REPLICATION_PORT: u16 = 10912;
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where it listens. Loopback everywhere, because nothing asks who you are.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Listen {
    pub name_server: SocketAddr,
    pub remoting: SocketAddr,
    pub grpc: SocketAddr,
    pub agent_http: SocketAddr,
    pub broker_http: SocketAddr,
    pub feed: SocketAddr,
    /// Where a master takes replicas, and members hear each other. A SYNC_MASTER has one by default, others only when it is set.
    pub replication: Option<SocketAddr>,
}

impl Default for Listen {
    fn default() -> Self {
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Listen {
            name_server: at(9876),
            remoting: at(10911),
            grpc: at(8081),
            agent_http: at(9464),
            broker_http: at(9465),
            feed: at(9466),
            replication: None,
        }
    }
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Log {
    pub format: LogFormat,
    /// A level, or directives such as `info,agent=debug`.
    pub level: String,
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, level: "info".to_owned() }
    }
}

/// Where spans go; nowhere unless an endpoint is set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Otlp {
    /// `http://host:4317`, gRPC.
    pub endpoint: Option<String>,
}

/// Everything, checked.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Settings {
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub broker: broker::config::Config,
    pub agent: AgentConfig,
    pub log: Log,
    pub otlp: Otlp,
    /// Where broker or agent notes what a power cut would take back; from the command line only.
    pub undo_log: Option<PathBuf>,
}

/// One thing that is wrong, and where.
#[derive(Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub key: String,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

fn problem(key: impl Into<String>, text: impl fmt::Display) -> Problem {
    // A parser's message may have several lines; a problem is one.
    let text = text.to_string();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Problem { key: key.into(), text: lines.join("; ") }
}

/// Reads file and environment.
pub(crate) fn load(common: &Common) -> Result<Settings, Vec<Problem>> {
    let file = match &common.config {
        Some(path) => read(path).map_err(|problem| vec![problem])?,
        None => Table::new(),
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    settle(file, &environment, common)
}

fn read(path: &Path) -> Result<Table, Problem> {
    let key = path.display().to_string();
    let size = std::fs::metadata(path).map_err(|error| problem(key.clone(), error))?.len();
    if size > FILE_BYTES_MAX {
        return Err(problem(key, format!("has {size} bytes, at most {FILE_BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| problem(key.clone(), error))?;
    text.parse::<Table>().map_err(|error| problem(key, error))
}

/// Layers the three, checks everything.
fn settle(
    mut table: Table,
    environment: &BTreeMap<String, String>,
    common: &Common,
) -> Result<Settings, Vec<Problem>> {
    let mut problems = Vec::new();
    for (name, value) in environment {
        let Some(path) = name.strip_prefix(ENV_PREFIX).filter(|path| path.contains("__")) else { continue };
        let path: Vec<String> = path.split("__").map(str::to_lowercase).collect();
        if let Err(text) = put(&mut table, &path, scalar(value)) {
            problems.push(problem(name.clone(), text));
        }
    }
    for setting in &common.set {
        match setting.split_once('=') {
            Some((key, value)) => {
                let path: Vec<String> = key.split('.').map(str::to_owned).collect();
                if let Err(text) = put(&mut table, &path, scalar(value)) {
                    problems.push(problem(format!("--set {key}"), text));
                }
            }
            None => problems.push(problem(format!("--set {setting}"), "must be KEY=VALUE")),
        }
    }
    let data_dir = table.remove("data_dir").map(|value| value.as_str().map(PathBuf::from));
    if data_dir == Some(None) {
        problems.push(problem("data_dir", "must be text"));
    }
    let data_dir = common.data_dir.clone().or(data_dir.flatten()).unwrap_or_else(|| PathBuf::from("data"));
    let mut settings = Settings {
        listen: section(&mut table, "listen", &mut problems),
        broker: section(&mut table, "broker", &mut problems),
        agent: agent_section(&mut table, &mut problems),
        log: section(&mut table, "log", &mut problems),
        otlp: section(&mut table, "otlp", &mut problems),
        undo_log: None,
        data_dir,
    };
    for key in table.keys() {
        let known = "data_dir, [listen], [broker], [agent], [log] and [otlp]";
        problems.push(problem(key.clone(), format!("unknown; there are {known}")));
    }
    complete(&mut settings);
    check(&settings, &mut problems);
    problems.sort();
    problems.dedup();
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

/// What a TOML file could hold (a number, a boolean, a list, quoted text), else the text itself.
fn scalar(text: &str) -> Value {
    match format!("v = {text}").parse::<Table>().map(|mut table| table.remove("v")) {
        Ok(Some(value)) if !text.contains('\n') => value,
        _ => Value::String(text.to_owned()),
    }
}

fn put(table: &mut Table, path: &[String], value: Value) -> Result<(), &'static str> {
    match path {
        [] => Err("has no key"),
        [key, ..] if key.is_empty() => Err("has an empty part"),
        [key] => {
            table.insert(key.clone(), value);
            Ok(())
        }
        [key, rest @ ..] => {
            let inner = table.entry(key.clone()).or_insert_with(|| Value::Table(Table::new()));
            put(inner.as_table_mut().ok_or("is below a key that is no section")?, rest, value)
        }
    }
}

/// Reads one section. Each setting is tried alone first, so that one wrong setting does not hide the next.
fn section<T: DeserializeOwned + Default>(table: &mut Table, name: &str, problems: &mut Vec<Problem>) -> T {
    let content = match table.remove(name) {
        None => return T::default(),
        Some(Value::Table(content)) => content,
        Some(_) => {
            problems.push(problem(name, "must be a section"));
            return T::default();
        }
    };
    let before = problems.len();
    try_each::<T>(&content, &mut vec![name.to_owned()], problems);
    match Value::Table(content).try_into() {
        Ok(section) => section,
        Err(error) => {
            if problems.len() == before {
                problems.push(problem(name, error));
            }
            T::default()
        }
    }
}

fn try_each<T: DeserializeOwned>(content: &Table, path: &mut Vec<String>, problems: &mut Vec<Problem>) {
    for (key, value) in content {
        path.push(key.clone());
        match value {
            Value::Table(inner) if path.len() < DEPTH_MAX && !inner.is_empty() => {
                try_each::<T>(inner, path, problems);
            }
            value => {
                // the section with nothing but this setting; the first part of the path is the section's own name
                let alone =
                    path.iter().skip(1).rev().fold(value.clone(), |inner, key| {
                        Value::Table(Table::from_iter([(key.clone(), inner)]))
                    });
                if let Err(error) = alone.try_into::<T>() {
                    problems.push(problem(path.join("."), error.message()));
                }
            }
        }
        path.pop();
    }
}

/// The agent's folder and address are settings of the whole, so that there is one way to say them.
fn agent_section(table: &mut Table, problems: &mut Vec<Problem>) -> AgentConfig {
    if let Some(Value::Table(content)) = table.get_mut("agent") {
        for (key, instead) in [("data_dir", "data_dir"), ("http_listen", "listen.agent_http")] {
            if content.remove(key).is_some() {
                problems.push(problem(format!("agent.{key}"), format!("unknown; set {instead}")));
            }
        }
    }
    section(table, "agent", problems)
}

fn complete(settings: &mut Settings) {
    settings.agent.data_dir = settings.data_dir.join("agent");
    settings.agent.http_listen = settings.listen.agent_http;
    if settings.broker.broker_role == BrokerRole::SyncMaster {
        let address = SocketAddr::from(([127, 0, 0, 1], REPLICATION_PORT));
        settings.listen.replication.get_or_insert(address);
    }
}

fn check(settings: &Settings, problems: &mut Vec<Problem>) {
    if settings.data_dir.as_os_str().is_empty() {
        problems.push(problem("data_dir", "must not be empty"));
    }
    let Listen { name_server, remoting, grpc, agent_http, broker_http, feed, replication } = settings.listen;
    let mut doors = vec![
        ("name_server", name_server),
        ("remoting", remoting),
        ("grpc", grpc),
        ("agent_http", agent_http),
        ("broker_http", broker_http),
        ("feed", feed),
    ];
    doors.extend(replication.map(|address| ("replication", address)));
    if replication.is_none() && !settings.broker.members.is_empty() {
        problems.push(problem("listen.replication", "a member of a replica group needs one, for the others"));
    }
    for (index, (name, address)) in doors.iter().enumerate() {
        for (other, _) in doors.iter().take(index).filter(|(_, other)| other == address && other.port() != 0)
        {
            problems.push(problem(format!("listen.{name}"), format!("{address} is also listen.{other}")));
        }
    }
    let broker = settings.broker.problems().into_iter();
    problems.extend(broker.map(|found| problem(format!("broker.{}", found.key), found.what)));
    problems.extend(settings.agent.validate().into_iter().map(|found| problem(found.key, found.text)));
    if let Err(error) = check_level(&settings.log.level) {
        problems.push(problem("log.level", error.to_string().trim_start_matches("log.level: ")));
    }
    if let Some(endpoint) = &settings.otlp.endpoint
        && !endpoint.starts_with("http://")
    {
        problems.push(problem("otlp.endpoint", format!("`{endpoint}` must be http://host:port (gRPC)")));
    }
}

#[cfg(test)]
mod tests;
