//! Runs the real SDKs: owns one client process, its event stream and its end. The programs are in `tests/clients`,
//! what they need was put under `target/clients` by `tests/install`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::process::tail;
use crate::stand::Stand;
use crate::{checkout, target_dir, wait};

/// Longer than the 30 s after which a client gives up on its SDK's shutdown.
const END_LIMIT: Duration = Duration::from_secs(45);

/// The SDKs that can be installed: two languages, two protocols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    PythonGrpc,
    NodeGrpc,
    PythonRemoting,
    NodeRemoting,
}

impl Sdk {
    pub fn is_grpc(self) -> bool {
        matches!(self, Sdk::PythonGrpc | Sdk::NodeGrpc)
    }

    fn script(self) -> &'static str {
        match self {
            Sdk::PythonGrpc => "py_grpc.py",
            Sdk::NodeGrpc => "node_grpc.mjs",
            Sdk::PythonRemoting => "py_remoting.py",
            Sdk::NodeRemoting => "node_remoting.mjs",
        }
    }

    fn command(self) -> Result<Command> {
        let installed = target_dir()?.join("clients");
        let (program, modules) = match self {
            Sdk::PythonGrpc => (installed.join("py_grpc/bin/python"), None),
            Sdk::PythonRemoting => (installed.join("py_remoting/bin/python"), None),
            Sdk::NodeGrpc | Sdk::NodeRemoting => (PathBuf::from("node"), Some(installed.join("node"))),
        };
        let needed = modules.as_deref().map_or(program.clone(), |node| node.join("node_modules"));
        ensure!(needed.exists(), "{} is not there: run tests/install first", needed.display());
        let mut command = Command::new(program);
        command.arg(checkout().join("tests/clients").join(self.script()));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(node) = modules {
            command.env("LOSSTRACE_NODE_CLIENTS", node);
        }
        Ok(command)
    }
}

/// What a client has to do. Field by field the `Job` of `tests/clients/events.py`.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    pub mode: &'static str,
    pub endpoint: String,
    pub topic: String,
    pub group: String,
    pub count: u32,
    pub prefix: String,
    pub tag: Option<String>,
    pub timeout_s: u32,
    pub interval_ms: u32,
    pub consumer: &'static str,
    pub oneway: bool,
    pub fail_bodies: Option<String>,
    pub attempts: u32,
    pub max_reconsume: Option<u32>,
}

impl Job {
    /// `count` messages with bodies and keys `prefix0`, `prefix1`, ….
    pub fn produce(topic: &str, prefix: &str, count: u32) -> Job {
        Job { mode: "produce", count, prefix: prefix.to_owned(), ..Job::consume(topic, "test-producers", 0) }
    }

    /// Until `count` distinct bodies were consumed; 0: until stopped.
    pub fn consume(topic: &str, group: &str, count: u32) -> Job {
        Job {
            mode: "consume",
            endpoint: String::new(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            count,
            prefix: String::new(),
            tag: None,
            timeout_s: 120,
            interval_ms: 0,
            consumer: "push",
            oneway: false,
            fail_bodies: None,
            attempts: 1,
            max_reconsume: None,
        }
    }
}

/// One line of a client. Which fields are there depends on `event`.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Event {
    pub event: String,
    /// When it was said, seconds since 1970.
    #[serde(default)]
    pub at: f64,
    #[serde(default)]
    pub ok: bool,
    pub id: Option<String>,
    pub body: Option<String>,
    pub error: Option<String>,
    pub status: Option<String>,
    pub attempt: Option<u32>,
    pub offset: Option<i64>,
    pub queue: Option<i64>,
    pub tag: Option<String>,
    #[serde(default)]
    pub keys: Vec<String>,
}

impl Event {
    /// A line that cannot be read is an error of the run: dropped events would make a test blind.
    fn read(line: &str) -> Event {
        serde_json::from_str(line).unwrap_or_else(|error| Event {
            event: String::from("error"),
            error: Some(format!("{error} in `{line}`")),
            ..Event::default()
        })
    }
}

/// Everything a client said, with the questions tests ask of it.
#[derive(Debug, Clone, Default)]
pub struct Events(pub Vec<Event>);

impl Events {
    fn of<'a>(&'a self, event: &'a str, ok: bool) -> impl Iterator<Item = &'a Event> {
        self.0.iter().filter(move |line| line.event == event && line.ok == ok)
    }

    /// Body → id of the successful send.
    pub fn sent(&self) -> BTreeMap<String, String> {
        let pairs = self.of("sent", true).filter_map(|line| Some((line.body.clone()?, line.id.clone()?)));
        pairs.collect()
    }

    /// Body, id and time of each successful send.
    pub fn sent_when(&self) -> impl Iterator<Item = (&str, &str, f64)> {
        self.of("sent", true).filter_map(|line| Some((line.body.as_deref()?, line.id.as_deref()?, line.at)))
    }

    /// Bodies of sends that were reported as failed, with the error.
    pub fn send_failures(&self) -> Vec<String> {
        let failed = self.of("sent", false);
        failed
            .map(|line| format!("{:?}: {:?}", line.body, line.error.as_ref().or(line.status.as_ref())))
            .collect()
    }

    /// Body → deliveries that the listener answered with success.
    pub fn consumed(&self) -> BTreeMap<String, usize> {
        count(self.of("received", true))
    }

    /// Body → deliveries that the listener refused.
    pub fn refused(&self) -> BTreeMap<String, usize> {
        count(self.of("received", false))
    }

    /// Body → ids under which it was delivered, in order.
    pub fn delivered_ids(&self) -> BTreeMap<String, Vec<String>> {
        let mut ids: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in self.0.iter().filter(|line| line.event == "received") {
            if let (Some(body), Some(id)) = (&line.body, &line.id) {
                ids.entry(body.clone()).or_default().push(id.clone());
            }
        }
        ids
    }
}

fn count<'a>(lines: impl Iterator<Item = &'a Event>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for body in lines.filter_map(|line| line.body.clone()) {
        *counts.entry(body).or_default() += 1;
    }
    counts
}

/// A running client. Dropping it kills it.
#[derive(Debug)]
pub struct Client {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    events: Arc<Mutex<Events>>,
    reader: Option<JoinHandle<()>>,
    errors: PathBuf,
}

impl Client {
    pub fn start(stand: &Stand, sdk: Sdk, job: &Job) -> Result<Client> {
        // a job may name its own: the name servers of several members
        let endpoint = match sdk.is_grpc() {
            _ if !job.endpoint.is_empty() => job.endpoint.clone(),
            true => stand.ports.grpc.address(),
            false => stand.ports.name_server.address(),
        };
        let job = Job { endpoint, ..job.clone() };
        let name = format!("{sdk:?}-{}-{}", job.mode, stand.next_number());
        // SDKs write logs below HOME: give each client one of its own, beside what it says.
        let home = stand.folder().join(&name);
        fs::create_dir_all(&home)?;
        let errors = home.join("stderr.log");
        let mut child = sdk
            .command()?
            .arg(serde_json::to_string(&job)?)
            .env("HOME", &home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors)?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().context("standard output is a pipe")?).lines();
        let events = Arc::new(Mutex::new(Events::default()));
        let sink = Arc::clone(&events);
        let reader = thread::spawn(move || {
            for line in lines.map_while(std::io::Result::ok) {
                // A native SDK may print on its own; only JSON lines are ours.
                if line.starts_with('{') {
                    lock(&sink).0.push(Event::read(&line));
                }
            }
        });
        Ok(Client { name, child, stdin, events, reader: Some(reader), errors })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn events(&self) -> Events {
        lock(&self.events).clone()
    }

    /// Waits until the events satisfy `enough`; fails at once when the client has ended before that.
    pub fn wait_for(&mut self, what: &str, limit: Duration, enough: impl Fn(&Events) -> bool) -> Result<()> {
        let mut ended = false;
        wait::until(&format!("{}: {what}", self.name), limit, || {
            if enough(&self.events()) {
                return Ok(Some(true));
            }
            // One more look after its end: the reader may be a line behind.
            if ended {
                return Ok(Some(false));
            }
            if self.child.try_wait()?.is_some() {
                self.join_reader();
                ended = true;
            }
            Ok(None)
        })
        .and_then(|found| {
            ensure!(found, "{} ended before {what}", self.name);
            Ok(())
        })
        .with_context(|| self.story())
    }

    /// Waits until the SDK has started.
    pub fn wait_ready(&mut self) -> Result<()> {
        self.wait_for("its start", Duration::from_secs(40), |events| {
            events.0.iter().any(|line| line.event == "ready")
        })
    }

    /// Waits for the client's own end, which its job must bring about.
    pub fn finish(mut self, limit: Duration) -> Result<Events> {
        let status = wait::until(&format!("{} to finish", self.name), limit, || Ok(self.child.try_wait()?))
            .with_context(|| self.story())?;
        self.join_reader();
        let events = self.events();
        if !status.success() || events.0.iter().any(|line| line.event == "error") {
            bail!("{} failed ({status}): {}", self.name, self.story());
        }
        Ok(events)
    }

    /// Asks the client to shut its SDK down properly, and waits for that.
    pub fn stop(mut self) -> Result<Events> {
        drop(self.stdin.take());
        self.finish(END_LIMIT)
    }

    /// `kill -9`: the consumer that dies with messages in its hands.
    pub fn kill(mut self) -> Result<Events> {
        self.child.kill()?;
        self.child.wait()?;
        self.join_reader();
        Ok(self.events())
    }

    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            // It only reads and parses; a panic in there would be a bug of this file.
            reader.join().expect("the reader of a client's events does not panic");
        }
    }

    /// What is known when something went wrong.
    fn story(&self) -> String {
        let events = self.events();
        let from = events.0.len().saturating_sub(8);
        let last: Vec<String> = events.0.iter().skip(from).map(|line| format!("{line:?}")).collect();
        format!("{} events, the last:\n{}\n{}", events.0.len(), last.join("\n"), tail(&self.errors))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both fail only when the client is gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn lock(events: &Mutex<Events>) -> MutexGuard<'_, Events> {
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Event;

    #[test]
    fn an_unreadable_line_is_an_error_of_the_run() {
        assert_eq!(Event::read("{\"event\":\"ready\"}").event, "ready");
        assert_eq!(Event::read("{\"event\":\"sent\",\"queue\":\"1\"}").event, "error");
    }
}
