//! One child process with its output in a file. Owns the child: dropping it kills it, so no test leaves one behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

const LOG_TAIL_LINES: usize = 40;

/// A running child; its standard output and error are appended to `log`.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn spawn(name: &str, command: &mut Command, log: PathBuf) -> Result<Process> {
        let out = File::options().create(true).append(true).open(&log)?;
        let err = out.try_clone()?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start {name} ({:?})", command.get_program()))?;
        Ok(Process { name: name.to_owned(), child, log })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the end of its log, when the child has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended by itself ({status}):\n{}", self.name, tail(&self.log)),
        }
    }

    /// `kill -9`: no code of the child runs any more.
    pub fn kill(mut self) -> Result<()> {
        self.check_alive()?;
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, as a supervisor does it, then waits for the child's own end.
    pub fn terminate(mut self, limit: Duration) -> Result<ExitStatus> {
        self.check_alive()?;
        // The standard library sends SIGKILL only, and every shell has `kill` built in.
        let sent = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", self.child.id())).status()?;
        if !sent.success() {
            bail!("cannot send SIGTERM to {}", self.name);
        }
        let what = format!("{} to end after SIGTERM", self.name);
        wait::until(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// Waits for the child's own end, which must come.
    pub fn wait_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait::until(&format!("{} to end by itself", self.name), limit, || Ok(self.child.try_wait()?))
    }

    /// Resident memory now, bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
        Ok(kib * 1024)
    }

    /// Processor time used so far, in ticks of 10 ms (user and system).
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // the name in parentheses may hold spaces; user and system time are fields 14 and 15 of the line
        let (_, rest) = stat.rsplit_once(')').context("no process name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks = |at: usize| -> Result<u64> { Ok(fields.get(at).context("a short line")?.parse()?) };
        Ok(ticks(11)? + ticks(12)?)
    }

    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the child is gone already, which is what is wanted.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The last lines of a log, for messages about failures.
pub fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LOG_TAIL_LINES);
    format!("--- {} ---\n{}", log.display(), lines.get(from..).unwrap_or_default().join("\n"))
}
