//! Folders, disks and configurations that are not as they should be, against the real process: a clear error or a recovery by
//! itself, and nothing lost either way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::clients::Job;
use tests::clients::Sdk::{PythonGrpc, PythonRemoting};
use tests::config::Options;
use tests::raw::RawClient;
use tests::stand::{self, Role, Stand};
use tests::wait;

use crate::scenario::{bodies, consume, send};

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
const STOP: Duration = Duration::from_secs(20);
/// Listening on these, a second process does not fail for a port.
const OTHER_PORTS: [&str; 10] = [
    "--set",
    "listen.name_server=127.0.0.1:0",
    "--set",
    "listen.remoting=127.0.0.1:0",
    "--set",
    "listen.grpc=127.0.0.1:0",
    "--set",
    "listen.broker_http=127.0.0.1:0",
    "--set",
    "listen.feed=127.0.0.1:0",
];

/// Every file below a folder with its content.
fn contents(folder: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(contents(&path)?);
        } else {
            found.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(found)
}

/// The broker does not start, says why, and has changed nothing.
fn ensure_refused(stand: &Stand, words: &[&str]) -> Result<()> {
    let before = contents(&stand.data_dir())?;
    let (status, said) = stand.refused(Role::Broker, &[])?;
    ensure!(status.code() == Some(1), "ended with {status}: {said}");
    for word in words {
        ensure!(said.contains(word), "does not say `{word}`: {said}");
    }
    ensure!(before == contents(&stand.data_dir())?, "it changed a folder that it refused");
    Ok(())
}

#[test]
fn folders_of_others_are_refused_unchanged() -> Result<()> {
    stand::with(Options::default(), |stand| {
        stand.start(Role::Broker)?.terminate(STOP)?;
        let marker = stand.data_dir().join("broker/LOSSTRACE");
        let text = fs::read_to_string(&marker)?;
        ensure!(text.contains("format 1"), "an unknown marker: {text}");

        fs::write(&marker, text.replace("format 1", "format 99"))?;
        ensure_refused(stand, &["99", "version"])?;
        fs::write(&marker, text.replace("kind broker", "kind kitchen"))?;
        ensure_refused(stand, &["another kind"])?;
        fs::write(&marker, &text[..text.len() / 2])?;
        ensure_refused(stand, &["marker"])?;
        fs::remove_file(&marker)?;
        ensure_refused(stand, &["not a losstrace data folder"])?;

        fs::write(&marker, text)?;
        stand.start(Role::Broker)?.terminate(STOP)?;
        Ok(())
    })
}

#[test]
fn a_second_broker_or_agent_on_one_folder_does_not_start() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let mut product = stand.up()?;
        stand.create_topic(TOPIC)?;
        let (status, said) = stand.refused(Role::Broker, &OTHER_PORTS)?;
        ensure!(status.code() == Some(1) && said.contains("use"), "ended with {status}: {said}");
        let (status, said) = stand.refused(Role::Agent, &["--set", "listen.agent_http=127.0.0.1:0"])?;
        ensure!(status.code() == Some(1) && said.contains("use"), "ended with {status}: {said}");
        send(stand, PythonGrpc, &Job::produce(TOPIC, "still-", 3))?;
        product.check_alive()
    })
}

/// Killed while it made its folder or wrote into it: the rest of a file, or files that were never filled.
#[test]
fn a_half_written_folder_is_completed_or_cut_and_told() -> Result<()> {
    stand::with(Options::default(), |stand| {
        // killed before the marker had its name
        fs::create_dir_all(stand.data_dir().join("broker"))?;
        fs::write(stand.data_dir().join("broker/LOSSTRACE.new"), "losstr")?;
        let pair = [stand.start(Role::Broker)?, stand.start(Role::Agent)?];
        stand.create_topic(TOPIC)?;
        let sent = send(stand, PythonGrpc, &Job::produce(TOPIC, "order-", 20))?;
        consume(stand, PythonGrpc, &Job::consume(TOPIC, GROUP, 0), &bodies(&sent))?;
        for process in pair {
            process.kill()?;
        }
        // half of a record at the end of the log, half a frame at the journal's, and segments without content
        for (folder, tail) in [("commitlog", &b"\x00\x00\x01\x00half"[..]), ("journal", b"\x7f\x00ha")] {
            let dir = stand.data_dir().join("broker").join(folder);
            let mut names: Vec<PathBuf> =
                fs::read_dir(&dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
            names.sort();
            let last = names.last().with_context(|| format!("nothing in {}", dir.display()))?;
            fs::File::options().append(true).open(last)?.write_all(tail)?;
        }
        fs::write(stand.data_dir().join("broker/journal/00000000000000000099"), b"")?;
        let pair = [stand.start(Role::Broker)?, stand.start(Role::Agent)?];
        let agent = stand.agent_api();
        agent.wait_complete()?;
        agent.wait_balance(TOPIC, GROUP, |balance| balance.check(20, 0))?;
        ensure!(agent.incidents()?.is_empty(), "{:?}", agent.incidents()?);
        for process in pair {
            process.terminate(STOP)?;
        }
        Ok(())
    })
}

/// The ledger is moved aside, built again from the feed, and counted; the books are as before.
#[test]
fn a_corrupt_ledger_is_moved_aside_and_built_again() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let _broker = stand.start(Role::Broker)?;
        let agent = stand.start(Role::Agent)?;
        stand.create_topic(TOPIC)?;
        let sent = send(stand, PythonGrpc, &Job::produce(TOPIC, "order-", 30))?;
        consume(stand, PythonGrpc, &Job::consume(TOPIC, GROUP, 0), &bodies(&sent))?;
        let api = stand.agent_api();
        api.wait_complete()?;
        let books = api.wait_balance(TOPIC, GROUP, |balance| balance.check(30, 0))?;
        let before = api.metrics()?;
        ensure!(
            before.sum("losstrace_ledger_rebuilds_total", &[]) == 0.0,
            "rebuilt before anything happened"
        );
        agent.terminate(STOP)?;

        let ledger = stand.data_dir().join("agent/ledger");
        for (path, mut bytes) in contents(&ledger)? {
            let (from, to) = (bytes.len() / 4, bytes.len() / 2);
            bytes[from..to].iter_mut().for_each(|byte| *byte ^= 0x5a);
            fs::write(path, bytes)?;
        }
        let agent = stand.start(Role::Agent)?;
        api.wait_complete()?;
        ensure!(api.wait_balance(TOPIC, GROUP, |balance| balance.check(30, 0))? == books, "other books");
        let after = api.metrics()?;
        ensure!(after.sum("losstrace_ledger_rebuilds_total", &[]) == 1.0, "the rebuild is not counted");
        ensure!(before.stepped_back(&after).is_empty(), "{:?}", before.stepped_back(&after));
        let aside = fs::read_dir(stand.data_dir().join("agent"))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.starts_with("ledger.corrupt-"));
        ensure!(aside.count() == 1, "the damaged ledger is not kept beside the new one");
        agent.terminate(STOP)?;
        Ok(())
    })
}

/// One run tells all that is wrong, each with its key, and starts nothing.
#[test]
fn every_problem_of_a_configuration_is_told_at_once() -> Result<()> {
    stand::with(Options::default(), |stand| {
        let text = "colour = 'red'\n[listen]\ngrpc = 'here'\n[broker]\nretry_max = -1\n[agent.checkpoint]\nfact = 3\n";
        fs::write(stand.config(), text)?;
        let (status, said) = stand.refused(Role::Up, &["--set", "log.format=xml"])?;
        ensure!(status.code() == Some(2), "ended with {status}: {said}");
        for key in ["colour", "listen.grpc", "broker.retry_max", "agent.checkpoint.fact", "log.format"] {
            ensure!(
                said.lines().any(|line| line.trim().starts_with(&format!("{key}: "))),
                "no {key} in {said}"
            );
        }
        fs::write(stand.config(), [0xff, 0xfe, 0x00])?;
        let (status, said) = stand.refused(Role::Up, &[])?;
        ensure!(status.code() == Some(2) && said.contains("losstrace.toml"), "ended with {status}: {said}");
        ensure!(!stand.data_dir().exists(), "a folder was made for a configuration that is wrong");
        Ok(())
    })
}

/// A file system of its own, as large as said; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: PathBuf, mebibytes: u64) -> Result<SmallDisk> {
        fs::create_dir_all(&at)?;
        let size = format!("size={mebibytes}m");
        let output = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&at).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "a full disk cannot be shown without a small file system: run the tests as root, or allow `mount -t tmpfs` ({said})"
        );
        Ok(SmallDisk(at))
    }

    /// Takes every byte that is left.
    fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.0.join("filler"))?;
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.0.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // lazily: a broker that the test leaves behind may still hold files
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

/// Somebody else fills the broker's disk to the last byte: sends are refused, reads go on, and when there is room again so do sends.
#[test]
fn a_full_disk_refuses_sends_serves_reads_and_recovers_by_itself() -> Result<()> {
    const NOT_AVAILABLE: Option<u64> = Some(14);
    // the percentages would refuse sends before the disk is full; here it shall really be full
    let broker = "segment_bytes = 4194304\nmax_body_bytes = 1048576\nretention_interval_ms = 200\n\
                  disk_clean_percent = 100\ndisk_refuse_percent = 100\nsnapshot_interval_ms = 500\n";
    stand::with(Options { broker: broker.to_owned(), ..Options::default() }, |stand| {
        let disk = SmallDisk::mount(stand.data_dir().join("broker"), 48)?;
        let mut product = [stand.start(Role::Broker)?, stand.start(Role::Agent)?];
        stand.create_topic(TOPIC)?;
        let before = send(stand, PythonGrpc, &Job::produce(TOPIC, "before-", 20))?;
        let mut client = RawClient::connect(&stand.ports.remoting.address())?;

        disk.fill()?;
        // at once what needs another block; soon also what would fit into the last one
        for body in [&[b'x'; 64 * 1024][..], b"small"] {
            wait::until_ok("sends to be refused", Duration::from_secs(10), || {
                let answer = client.send_message(TOPIC, body)?;
                ensure!(answer.code() == NOT_AVAILABLE, "answered {}", answer.header);
                ensure!(answer.remark().contains("disk"), "does not say why: {}", answer.remark());
                Ok(())
            })?;
        }
        for _ in 0..200 {
            let answer = client.send_message(TOPIC, b"refused")?;
            ensure!(answer.code() == NOT_AVAILABLE, "answered {}", answer.header);
        }
        let job = Job { attempts: 1, ..Job::produce(TOPIC, "refused-", 2) };
        let events =
            tests::clients::Client::start(stand, PythonGrpc, &job)?.finish(Duration::from_secs(60))?;
        ensure!(events.sent().is_empty() && !events.send_failures().is_empty(), "an SDK was not refused");
        // a group that starts now reads, acknowledges and commits on a disk without a free byte
        for (sdk, group) in [(PythonGrpc, "new-readers"), (PythonRemoting, "old-readers")] {
            consume_known(stand, (sdk, group), &before)?;
        }

        disk.free()?;
        wait::until_ok("sends to be taken again", Duration::from_secs(10), || {
            let answer = client.send_message(TOPIC, b"taken")?;
            ensure!(answer.code() == Some(0), "answered {}", answer.header);
            Ok(())
        })?;
        let after = send(stand, PythonGrpc, &Job::produce(TOPIC, "after-", 20))?;
        consume_known(stand, (PythonGrpc, "new-readers"), &after)?;
        let agent = stand.agent_api();
        agent.wait_complete()?;
        for id in before.values().chain(after.values()) {
            ensure!(agent.message(id)?.first_break().is_none(), "{:?}", agent.message(id)?);
        }
        ensure!(agent.losses()?.is_empty(), "losses where sends were refused: {:?}", agent.losses()?);
        ensure!(
            agent.metrics()?.sum("losstrace_messages_total", &[("stage", "refused")]) >= 200.0,
            "not counted"
        );
        for process in &mut product {
            process.check_alive()?;
        }
        let [broker, _agent] = product;
        broker.kill()?;
        // nothing that was answered is missing after a restart either
        let _broker = stand.start(Role::Broker)?;
        agent.wait_complete()?;
        ensure!(agent.losses()?.is_empty(), "losses after the restart: {:?}", agent.losses()?);
        Ok(())
    })
}

/// Consumes until these were consumed; there may be others.
fn consume_known(
    stand: &Stand,
    (sdk, group): (tests::clients::Sdk, &str),
    sent: &BTreeMap<String, String>,
) -> Result<()> {
    let mut consumer = tests::clients::Client::start(stand, sdk, &Job::consume(TOPIC, group, 0))?;
    consumer.wait_for("what was sent", Duration::from_secs(60), |events| {
        let consumed = events.consumed();
        sent.keys().all(|body| consumed.contains_key(body))
    })?;
    consumer.stop()?;
    Ok(())
}
