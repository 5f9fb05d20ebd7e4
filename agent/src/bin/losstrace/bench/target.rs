//! Owns the process that is measured: a fresh broker in a temporary folder (removed at the end), or one that runs already; and
//! the readings of what it costs. Never makes load.

use super::options::{BenchOptions, Protocol};
use crate::cli::Common;
use anyhow::{Context, Result, bail, ensure};
use broker::http::RoleReport;
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a broker may take to start, and to stop.
const START_MAX: Duration = Duration::from_secs(20);
const STOP_MAX: Duration = Duration::from_secs(15);
/// Linux counts CPU time for user space in hundredths of a second, whatever its own clock.
const TICK: Duration = Duration::from_millis(10);

/// What is measured, and how it is reached.
pub(crate) struct Target {
    pub remoting: SocketAddr,
    pub grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    pid: Option<u32>,
    child: Option<Child>,
    folder: Option<PathBuf>,
    /// Follows it.
    replica: Option<Box<Target>>,
}

/// What a process has used so far, and what the broker itself counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    pub user: Duration,
    pub system: Duration,
    /// CPU of the clients, which is this process.
    pub clients: Duration,
    /// CPU of each kind of thread, by the name's beginning.
    pub threads: BTreeMap<String, Duration>,
    /// Write calls (files; sockets only where the system counts them).
    pub write_calls: u64,
    pub read_calls: u64,
    pub counters: BTreeMap<String, f64>,
    /// CPU of its replica, where it has one of its own.
    pub replica: Option<Duration>,
}

impl Target {
    /// What `--address` names.
    pub(crate) fn attach(options: &BenchOptions, remoting: SocketAddr) -> Target {
        let (grpc, http, pid) = (options.grpc_address, options.http_address, options.pid);
        Target { remoting, grpc, http, pid, child: None, folder: None, replica: None }
    }

    /// Starts a broker of its own with these settings on top of the command line's.
    pub(crate) fn start(options: &BenchOptions, common: &Common, settings: &[String]) -> Result<Target> {
        let folder = make_folder(options.scratch.as_deref())?;
        let ports = free_addresses::<5>()?;
        let [remoting, name_server, grpc, http, feed] = ports;
        let mut command = Command::new(std::env::current_exe().context("where is this binary?")?);
        command.arg("broker").arg("--data-dir").arg(&folder);
        if let Some(path) = &common.config {
            command.arg("--config").arg(path);
        }
        let doors = [
            ("remoting", remoting),
            ("name_server", name_server),
            ("grpc", grpc),
            ("broker_http", http),
            ("feed", feed),
        ];
        let doors = doors.map(|(name, address)| format!("listen.{name}=\"{address}\""));
        let flush = format!("broker.flush_disk_type={}", options.flush.text());
        let quiet = "log.level=warn".to_owned();
        for setting in [quiet, flush].iter().chain(&doors).chain(&common.set).chain(settings) {
            command.arg("--set").arg(setting);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        let child = child.context("cannot start a broker")?;
        let (grpc, pid) = (Some(grpc), Some(child.id()));
        let mut target = Target {
            remoting,
            grpc,
            http: Some(http),
            pid,
            child: Some(child),
            folder: Some(folder),
            replica: None,
        };
        target.wait_until_ready(&format!("http://{http}/readyz"))?;
        Ok(target)
    }

    /// Starts a master and a replica that follows it, on one machine and one disk. `role` is the master's.
    pub(crate) fn start_replicated(options: &BenchOptions, common: &Common, role: &str) -> Result<Target> {
        let [replication] = free_addresses::<1>()?;
        let master = [format!("broker.broker_role={role}"), format!("listen.replication=\"{replication}\"")];
        let mut target = Target::start(options, common, &master)?;
        let replica = [
            "broker.broker_role=SLAVE".to_owned(),
            "broker.replica_id=bench".to_owned(),
            format!("broker.master_address=\"{replication}\""),
        ];
        let replica = Target::start(options, common, &replica)?;
        let deadline = Instant::now() + START_MAX;
        // it knows its master's epoch once it follows
        while replica.role()?.epoch == 0 {
            ensure!(Instant::now() < deadline, "the replica does not follow after {START_MAX:?}");
            pause();
        }
        target.replica = Some(Box::new(replica));
        Ok(target)
    }

    fn role(&self) -> Result<RoleReport> {
        let http = self.http.context("a broker of its own has an HTTP port")?;
        let text = ureq::get(format!("http://{http}/role")).call()?.body_mut().read_to_string()?;
        Ok(serde_json::from_str(&text)?)
    }

    /// How many bytes of log its replica lacks, at most; `None` without one.
    pub(crate) fn lag_bytes(&self) -> Result<Option<u64>> {
        let Some(replica) = &self.replica else { return Ok(None) };
        // asked first: what is stored between the two answers counts as missing
        let has = replica.role()?.log_end;
        Ok(Some(self.role()?.log_end.saturating_sub(has)))
    }

    /// Starts the bare echo in a process of its own.
    pub(crate) fn start_echo(protocol: Protocol) -> Result<Target> {
        let [address] = free_addresses::<1>()?;
        let mut command = Command::new(std::env::current_exe().context("where is this binary?")?);
        command.arg("bench").arg("--echo-at").arg(address.to_string());
        command.arg("--protocol").arg(protocol.text());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let (grpc, pid) = (Some(address), Some(child.id()));
        let target = Target {
            remoting: address,
            grpc,
            http: None,
            pid,
            child: Some(child),
            folder: None,
            replica: None,
        };
        let deadline = Instant::now() + START_MAX;
        while std::net::TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "the echo does not listen after {START_MAX:?}");
            pause();
        }
        Ok(target)
    }

    fn wait_until_ready(&mut self, url: &str) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while ureq::get(url).call().is_err() {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                bail!("the broker ended before it was ready: {status}");
            }
            ensure!(Instant::now() < deadline, "the broker is not ready after {START_MAX:?}");
            pause();
        }
        Ok(())
    }

    /// Whether it is a broker; an echo has no topics.
    pub(crate) fn has_topics(&self) -> bool {
        self.child.is_none() || self.folder.is_some()
    }

    /// The folder of a broker of its own.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    pub(crate) fn read(&self) -> Result<Reading> {
        let mut reading = Reading::default();
        if let Some(http) = self.http {
            let text = ureq::get(format!("http://{http}/metrics")).call()?.body_mut().read_to_string()?;
            reading.counters = counters(&text);
        }
        if let Some(pid) = self.pid {
            read_process(pid, &mut reading).with_context(|| format!("process {pid}"))?;
        }
        if let Some(pid) = self.replica.as_ref().and_then(|replica| replica.pid) {
            let mut replica = Reading::default();
            read_process(pid, &mut replica).context("the replica")?;
            reading.replica = Some(replica.user + replica.system);
        }
        let mut clients = Reading::default();
        read_process(std::process::id(), &mut clients).context("this process")?;
        reading.clients = clients.user + clients.system;
        Ok(reading)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            stop(child);
        }
        if let Some(folder) = &self.folder
            && let Err(error) = std::fs::remove_dir_all(folder)
        {
            eprintln!("losstrace: {} stays: {error}", folder.display());
        }
    }
}

/// Asks it to stop, and ends it when it does not.
fn stop(child: &mut Child) {
    let asked = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
    let deadline = Instant::now() + STOP_MAX;
    while asked.as_ref().is_ok_and(|status| status.success()) && Instant::now() < deadline {
        match child.try_wait() {
            Ok(Some(_)) => return,
            Ok(None) => pause(),
            Err(_) => break,
        }
    }
    // it may have ended by itself
    drop(child.kill());
    drop(child.wait());
}

fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

fn make_folder(scratch: Option<&Path>) -> Result<PathBuf> {
    let parent = scratch.map_or_else(std::env::temp_dir, Path::to_path_buf);
    let folder = parent.join(format!("losstrace-bench-{}", uuid::Uuid::now_v7().simple()));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

/// Free now; held together, so that they differ.
fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut held = Vec::with_capacity(N);
    for _ in 0..N {
        held.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    for (address, listener) in addresses.iter_mut().zip(&held) {
        *address = listener.local_addr()?;
    }
    Ok(addresses)
}

/// Metrics by name; series of one name are added up.
fn counters(text: &str) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let name = series.split('{').next().unwrap_or(series);
        *found.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap_or_default();
    }
    found
}

fn read_process(pid: u32, reading: &mut Reading) -> Result<()> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // the name in parentheses may hold anything; utime and stime are the 12th and 13th fields behind it
    let fields = stat.rsplit_once(')').context("no process name in stat")?.1;
    let ticks = |index: usize| fields.split_whitespace().nth(index).and_then(|text| text.parse::<u32>().ok());
    reading.user = TICK * ticks(11).context("no utime in stat")?;
    reading.system = TICK * ticks(12).context("no stime in stat")?;
    for line in std::fs::read_to_string(format!("/proc/{pid}/io"))?.lines() {
        match line.split_once(": ") {
            Some(("syscw", count)) => reading.write_calls = count.parse()?,
            Some(("syscr", count)) => reading.read_calls = count.parse()?,
            _ => {}
        }
    }
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        // a thread may end between the listing and here
        let read = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
        let on_cpu = read("schedstat").split(' ').next().and_then(|text| text.parse::<u64>().ok());
        let used = reading.threads.entry(read("comm").trim().to_owned()).or_default();
        *used += Duration::from_nanos(on_cpu.unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_one_name_are_added_up() {
        let found = counters("# HELP a b\na{x=\"1 2\"} 3\na{x=\"2\"} 4\nb 1.5\nnonsense\n");
        assert_eq!(found, BTreeMap::from([("a".to_owned(), 7.0), ("b".to_owned(), 1.5)]));
    }

    #[test]
    fn this_process_uses_cpu() {
        let mut reading = Reading::default();
        let mut sum = 0u64;
        for n in 0..30_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(n * n));
        }
        read_process(std::process::id(), &mut reading).unwrap();
        assert!(sum > 0 && reading.user + reading.system > Duration::ZERO);
        assert!(reading.threads.values().any(|used| *used > Duration::ZERO), "{reading:?}");
        assert!(reading.read_calls > 0);
    }
}
