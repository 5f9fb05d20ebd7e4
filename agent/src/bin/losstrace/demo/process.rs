//! Owns the demo's child processes: this same binary as broker and as agent, each with its own folder, log and ports. Dropping one
//! kills it, whatever happened.

use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(25);
const STOP_MAX: Duration = Duration::from_secs(20);
/// Below the range from which systems take the local ports of outgoing connections, so that a restart finds its port free.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 31_999;

/// Somebody wants the demo to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGTERM and SIGINT end every wait with an error, so that the children are stopped on the way out.
pub(super) fn heed_signals() -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("demo-signals".into()).spawn(move || {
        runtime.block_on(async {
            let (Ok(mut terminate), Ok(mut interrupt)) =
                (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
            else {
                return;
            };
            tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
            INTERRUPTED.store(true, Ordering::Relaxed);
        });
    })?;
    Ok(())
}

/// Looks until there is something to see; what the last look lacked is the error.
pub(super) fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        let error = match look() {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        if Instant::now() >= end {
            return Err(error.context(format!("waited {} s for {what}", limit.as_secs())));
        }
        std::thread::sleep(POLL);
    }
}

/// Ports on loopback that are free now, each given once.
#[derive(Debug)]
pub(super) struct Ports {
    next: u16,
}

impl Ports {
    pub(super) fn new() -> Ports {
        // parallel demos start at different places
        let span = u32::from(LAST_PORT - FIRST_PORT);
        let start = std::process::id().wrapping_mul(61) % span;
        Ports { next: FIRST_PORT + u16::try_from(start).unwrap_or(0) }
    }

    pub(super) fn take(&mut self) -> Result<SocketAddr> {
        for _ in FIRST_PORT..=LAST_PORT {
            let address = SocketAddr::from(([127, 0, 0, 1], self.next));
            self.next = if self.next == LAST_PORT { FIRST_PORT } else { self.next + 1 };
            if TcpListener::bind(address).is_ok() {
                return Ok(address);
            }
        }
        bail!("no free port between {FIRST_PORT} and {LAST_PORT}")
    }
}

/// A folder for one demo, removed at the end unless it is to be kept.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) keep: bool,
}

impl Folder {
    pub(super) fn new(keep: bool) -> Result<Folder> {
        let path = std::env::temp_dir().join(format!("losstrace-demo-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Folder { path, keep })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.keep {
            println!("kept: {}", self.path.display());
        } else if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("losstrace: cannot remove {}: {error}", self.path.display());
        }
    }
}

/// One child.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts this binary as `role`, with its configuration and data in `folder`.
    pub(super) fn start(role: &str, folder: &Path, more: &[&Path]) -> Result<Process> {
        let log = folder.join("log");
        let output = File::options().create(true).append(true).open(&log)?;
        let errors = output.try_clone()?;
        let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
        command.arg(role).arg("--data-dir").arg(folder.join("data"));
        command.arg("--config").arg(folder.join("losstrace.toml")).args(more);
        // the user's own settings are not the demo's
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("LOSSTRACE_"))
        {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command.spawn().with_context(|| format!("cannot start {role}"))?;
        Ok(Process { name: role.to_owned(), child, log })
    }

    /// `kill -9`: no code of the child runs any more.
    pub(super) fn kill(mut self) -> Result<()> {
        self.check_alive()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, then its own end.
    pub(super) fn stop(mut self) -> Result<()> {
        self.check_alive()?;
        // the standard library knows only SIGKILL, and every shell has `kill` built in
        let kill = format!("kill -TERM {}", self.child.id());
        ensure!(Command::new("sh").arg("-c").arg(kill).status()?.success(), "cannot send SIGTERM");
        let status = until(&format!("the {} to stop", self.name), STOP_MAX, || {
            self.child.try_wait()?.context("it still runs")
        })?;
        ensure!(status.success(), "the {} did not stop cleanly ({status}):\n{}", self.name, self.log_end());
        Ok(())
    }

    pub(super) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the {} ended by itself ({status}):\n{}", self.name, self.log_end()),
        }
    }

    fn log_end(&self) -> String {
        const LINES: usize = 20;
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // both fail only when it is gone already
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
