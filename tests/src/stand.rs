//! One product under test: its folder, ports and configuration, and the processes started on them. Owns the data of
//! one test; several processes may come and go on it, which is what crash tests are about.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::api::{AgentApi, BrokerApi};
use crate::config::Options;
use crate::ports::Ports;
use crate::process::{Process, tail};
use crate::{admin, profile_dir, wait};

const READY_LIMIT: Duration = Duration::from_secs(30);
/// Set to keep a failed test's folder, with the logs of every process and SDK in it.
const KEEP: &str = "LOSSTRACE_TEST_KEEP";

/// The parts of the product that a process can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Broker and agent in one process.
    Up,
    Broker,
    Agent,
}

impl Role {
    fn command(self) -> &'static str {
        match self {
            Role::Up => "up",
            Role::Broker => "broker",
            Role::Agent => "agent",
        }
    }
}

/// Folder, ports and configuration of one product.
#[derive(Debug)]
pub struct Stand {
    pub ports: Ports,
    pub options: Options,
    folder: TempDir,
    number: AtomicUsize,
}

/// Runs a test body on a stand, and shows the product's logs when it fails.
pub fn with(options: Options, body: impl FnOnce(&Stand) -> Result<()>) -> Result<()> {
    let stand = Stand::new(options)?;
    let result = body(&stand);
    result.with_context(|| stand.story())
}

impl Stand {
    pub fn new(options: Options) -> Result<Stand> {
        let mut folder = tempfile::Builder::new().prefix("losstrace-test-").tempdir()?;
        if std::env::var_os(KEEP).is_some() {
            folder.disable_cleanup(true);
        }
        let ports = Ports::claim()?;
        let stand = Stand { ports, options, folder, number: AtomicUsize::new(0) };
        fs::write(stand.config(), stand.options.toml(&stand.ports))?;
        Ok(stand)
    }

    /// Starts one part and waits until it says that it is ready.
    pub fn start(&self, role: Role) -> Result<Process> {
        let name = role.command();
        // One log per role, appended to over restarts: its story reads from top to bottom.
        let log = self.folder().join(format!("{name}.log"));
        let mut command = self.losstrace()?;
        command.arg(name).arg("--data-dir").arg(self.data_dir()).arg("--config").arg(self.config());
        if self.options.power_cuts {
            command.arg("--undo-log").arg(self.undo_log(role));
        }
        let mut process = Process::spawn(name, &mut command, log)?;
        if role != Role::Agent {
            wait::until_ok("the broker to be ready", READY_LIMIT, || {
                process.check_alive()?;
                self.broker_api().ready()
            })?;
        }
        if role != Role::Broker {
            wait::until_ok("the agent to be ready", READY_LIMIT, || {
                process.check_alive()?;
                self.agent_api().ready()
            })?;
        }
        Ok(process)
    }

    /// Starts one part that must end by itself, with more flags; returns how it ended, and everything it said.
    pub fn refused(&self, role: Role, flags: &[&str]) -> Result<(ExitStatus, String)> {
        let log = self.folder().join(format!("refused-{}.log", self.next_number()));
        let mut command = self.losstrace()?;
        command.arg(role.command()).arg("--data-dir").arg(self.data_dir());
        command.arg("--config").arg(self.config()).args(flags);
        let status =
            Process::spawn("what must not start", &mut command, log.clone())?.wait_end(READY_LIMIT)?;
        Ok((status, fs::read_to_string(log)?))
    }

    /// Broker and agent in one process, ready.
    pub fn up(&self) -> Result<Process> {
        self.start(Role::Up)
    }

    /// A query command run to its end, such as `why ID` or `losses --output json`, against the running agent.
    pub fn query(&self, arguments: &[&str]) -> Result<Output> {
        let server = format!("http://{}", self.ports.agent_http.address());
        Ok(self.losstrace()?.args(arguments).args(["--server", &server]).output()?)
    }

    pub fn agent_api(&self) -> AgentApi {
        AgentApi::new(&self.ports.agent_http.address())
    }

    pub fn broker_api(&self) -> BrokerApi {
        BrokerApi::new(&self.ports.broker_http.address())
    }

    /// Creates a topic of four queues, as an operator would before traffic starts.
    pub fn create_topic(&self, topic: &str) -> Result<()> {
        admin::create_topic(&self.ports.remoting.address(), topic, 4)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder().join("data")
    }

    /// Where a process notes what a power cut would take back, with `Options::power_cuts`.
    pub fn undo_log(&self, role: Role) -> PathBuf {
        self.folder().join("undo").join(role.command())
    }

    pub fn config(&self) -> PathBuf {
        self.folder().join("losstrace.toml")
    }

    /// A number that no other file or process of this stand has.
    pub fn next_number(&self) -> usize {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    pub fn losstrace(&self) -> Result<Command> {
        let mut command = Command::new(binary()?);
        // A developer's own settings must not reach the product under test.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("LOSSTRACE_"))
        {
            command.env_remove(key);
        }
        Ok(command)
    }

    pub fn story(&self) -> String {
        let mut parts =
            vec![format!("the product's folder: {} (kept when {KEEP} is set)", self.folder().display())];
        for role in [Role::Up, Role::Broker, Role::Agent] {
            let log = self.folder().join(format!("{}.log", role.command()));
            if log.exists() {
                parts.push(tail(&log));
            }
        }
        parts.join("\n")
    }
}

/// The product's binary of the same build as this test. Tests never fall back to another one.
pub fn binary() -> Result<PathBuf> {
    let path = profile_dir()?.join("losstrace");
    ensure!(
        path.is_file(),
        "{} is not there: `cargo test` builds no binaries of other packages, so build it first \
         (cargo build -p agent, with the same profile), or run everything with tests/run",
        path.display()
    );
    Ok(path)
}
