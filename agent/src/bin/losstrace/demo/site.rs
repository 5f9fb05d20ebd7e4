//! Owns the demo's small site: two brokers and an agent, three processes with a folder and ports each, and a link between the first
//! broker and the agent that can be cut.

use super::agent::Api;
use super::grpc::GrpcClient;
use super::link::Link;
use super::process::{Folder, Ports, Process, until};
use super::remoting::Client;
use anyhow::{Context, Result, ensure};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use store::disk_undo::{UndoDisk, UndoReport};

/// A start on a busy machine.
const START_MAX: Duration = Duration::from_secs(20);
/// The broker whose power is cut: nothing reaches its disk by itself while the demo runs, so what a power cut takes does not depend
/// on the moment. These are the slowest flushes that the settings allow.
const POWER_CUT: &str = "flush_disk_type = \"ASYNC_FLUSH\"\n\
    flush_interval_ms = 60000\n\
    journal_flush_interval_ms = 10000\n\
    snapshot_interval_ms = 600000\n\
    max_body_bytes = 65536\n\
    segment_bytes = 1048576\n";
/// The broker that deletes soon: small segments, kept for a moment.
const SHORT_RETENTION: &str = "flush_disk_type = \"ASYNC_FLUSH\"\n\
    flush_interval_ms = 100\n\
    max_body_bytes = 8192\n\
    segment_bytes = 163840\n\
    retention_ms = 1500\n\
    retention_interval_ms = 200\n";
/// One retry, a moment after the failure; then the dead letters.
const RETRIES: &str = "retry_max = 1\n\
    delay_levels_ms = [200, 200, 200, 200]\n";

/// One broker: its folder and doors outlive its process.
pub(super) struct Broker {
    pub(super) name: &'static str,
    folder: PathBuf,
    remoting: SocketAddr,
    grpc: SocketAddr,
    feed: SocketAddr,
    process: Option<Process>,
}

/// Everything that runs.
pub(super) struct Site {
    pub(super) power_cut: Broker,
    pub(super) short_retention: Broker,
    agent: Process,
    pub(super) api: Api,
    pub(super) link: Link,
    // last: removed after the processes have ended
    _folder: Folder,
}

impl Broker {
    fn new(name: &'static str, settings: &str, (folder, ports): (&Folder, &mut Ports)) -> Result<Broker> {
        let folder = folder.path.join(name);
        fs::create_dir_all(&folder)?;
        let (remoting, feed) = (ports.take()?, ports.take()?);
        let (name_server, grpc, http, agent_http) =
            (ports.take()?, ports.take()?, ports.take()?, ports.take()?);
        let text = format!(
            "[listen]\nname_server = \"{name_server}\"\nremoting = \"{remoting}\"\ngrpc = \"{grpc}\"\n\
             broker_http = \"{http}\"\nagent_http = \"{agent_http}\"\nfeed = \"{feed}\"\n\
             [broker]\nbroker_name = \"{name}\"\n{settings}{RETRIES}"
        );
        fs::write(folder.join("losstrace.toml"), text)?;
        let mut broker = Broker { name, folder, remoting, grpc, feed, process: None };
        broker.start()?;
        Ok(broker)
    }

    /// Starts its process and waits until it serves.
    pub(super) fn start(&mut self) -> Result<()> {
        let undo_log = self.folder.join("undo");
        let mut process =
            Process::start("broker", &self.folder, &["--undo-log".as_ref(), undo_log.as_path()])?;
        until(&format!("{} to serve", self.name), START_MAX, || {
            process.check_alive()?;
            self.client("demo-start").map(drop)
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// A clean stop.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.process.take().context("the broker does not run")?.stop()
    }

    /// kill -9, and everything that was not synced is gone from the disk.
    pub(super) fn cut_power(&mut self) -> Result<UndoReport> {
        self.process.take().context("the broker does not run")?.kill()?;
        Ok(UndoDisk::undo(&self.folder.join("data/broker"), &self.folder.join("undo"))?)
    }

    pub(super) fn client(&self, name: &str) -> Result<Client> {
        Client::connect(self.remoting, name)
    }

    /// A client of the 5.x protocol.
    pub(super) fn grpc_client(&self, name: &str) -> Result<GrpcClient> {
        GrpcClient::connect(self.grpc, name)
    }

    /// The bytes of its commit log, as they are on the disk.
    pub(super) fn commit_log(&self) -> Result<Vec<u8>> {
        let folder = self.folder.join("data/broker/commitlog");
        let mut files = Vec::new();
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            files.push(entry?.path());
        }
        files.sort();
        let mut bytes = Vec::new();
        for file in files {
            bytes.extend(fs::read(&file).with_context(|| file.display().to_string())?);
        }
        Ok(bytes)
    }
}

impl Site {
    pub(super) fn start(keep: bool) -> Result<Site> {
        let folder = Folder::new(keep)?;
        let mut ports = Ports::new();
        let power_cut = Broker::new("demo-a", POWER_CUT, (&folder, &mut ports))?;
        let short_retention = Broker::new("demo-b", SHORT_RETENTION, (&folder, &mut ports))?;
        let relay = ports.take()?;
        let link = Link::start(relay, power_cut.feed)?;
        let agent_folder = folder.path.join("agent");
        fs::create_dir_all(&agent_folder)?;
        let http = ports.take()?;
        let text = format!(
            "[listen]\nagent_http = \"{http}\"\n\
             [[agent.feeds]]\nname = \"demo-a\"\nurls = [\"http://{relay}\"]\n\
             [[agent.feeds]]\nname = \"demo-b\"\nurls = [\"http://{}\"]\n",
            short_retention.feed
        );
        fs::write(agent_folder.join("losstrace.toml"), text)?;
        let agent = Process::start("agent", &agent_folder, &[])?;
        let mut site = Site { power_cut, short_retention, agent, api: Api::new(http), link, _folder: folder };
        site.until_agent("the agent to follow both brokers", Site::agent_is_up)?;
        Ok(site)
    }

    fn agent_is_up(&self) -> Result<()> {
        let (sources, _) = self.api.sources()?;
        let up = sources.iter().filter(|source| source.kind == "broker" && source.up).count();
        ensure!(up == 2, "{up} of 2 brokers are up: {sources:?}");
        self.api.ready()
    }

    /// Waits until the agent shows something; ends early when the agent has ended.
    pub(super) fn until_agent<T>(&mut self, what: &str, look: impl Fn(&Site) -> Result<T>) -> Result<T> {
        until(what, START_MAX, || {
            self.agent.check_alive()?;
            look(self)
        })
    }

    /// Waits until the agent has heard of so many messages of a topic.
    pub(super) fn until_agent_has(&mut self, broker: &str, topic: &str, count: u64) -> Result<()> {
        self.until_agent(&format!("the agent to have {count} messages of {topic}"), |site| {
            let topics = site.api.topics()?;
            let found = topics.iter().find(|row| row.broker == broker && row.topic == topic);
            let stored = found.map_or(0, |row| row.stored);
            ensure!(stored >= count, "it has {stored}");
            Ok(())
        })
    }
}
