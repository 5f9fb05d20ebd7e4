//! Measures what an inspection costs: `cargo run --release -p inspect --example measure -- DIR MEBIBYTES`. Makes a store of that
//! size below DIR, reads its log plainly, walks it, inspects it whole, prints the rates and the peak of memory, and removes it.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement reads the clock and speaks to its terminal"
)]

use inspect::files::NumberedFiles;
use inspect::scan::scan;
use inspect::window::Segments;
use inspect::{Options, inspect};
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;
use wire::message::{MAGIC_BLANK, RecordVersion, StoredMessage, body_crc};
use wire::properties::Properties;
use wire::sys_flag::SysFlag;

const FILE_LEN: u64 = 256 << 20;
const BODY_LEN: usize = 1_024;
const QUEUES: usize = 8;
/// Rounds of each measurement; the best counts.
const ROUNDS: usize = 3;
const MEBIBYTE: f64 = 1_048_576.0;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1);
    let dir = words.next().ok_or("DIR MEBIBYTES")?;
    let mebibytes: u64 = words.next().ok_or("DIR MEBIBYTES")?.parse()?;
    let folder = tempfile::tempdir_in(&dir)?;
    let store = folder.path().join("store");
    let records = generate(&store, mebibytes << 20)?;
    let log = NumberedFiles::list(&store.join("commitlog"))?;
    let bytes = log.len() as f64;
    println!("store: {records} records, {:.0} MiB", bytes / MEBIBYTE);
    let read = best(|| {
        let mut buffer = vec![0; 4 << 20];
        let mut sum = 0;
        for (index, segment) in log.segments().iter().enumerate() {
            let mut at = 0;
            while at < segment.len {
                let read = log.read_at(index, at, &mut buffer)?;
                sum += read;
                at += read as u64;
            }
        }
        Ok(sum as u64)
    })?;
    println!("plain read: {:.2} GB/s", bytes / read / 1e9);
    let walked = best(|| {
        let mut ids = 0;
        let found = scan(
            &log,
            &mut |record, intact| {
                ids += u64::from(intact && record.named().unique_key.is_some());
                Ok(())
            },
            &mut |_| (),
        )?;
        Ok(found.records.min(ids))
    })?;
    println!(
        "walk of the log, checksums and ids: {:.2} GB/s, {:.0} % of plain read",
        bytes / walked / 1e9,
        100.0 * read / walked
    );
    println!("peak memory before the inspection: {}", peak()?);
    let scratch = tempfile::tempdir_in(&dir)?;
    let started = Instant::now();
    let report = inspect(&Options::new(vec![store], scratch.path().to_owned()), &mut |_, _| ())?;
    let whole = started.elapsed().as_secs_f64();
    let spilled = report.scratch_bytes as f64 / MEBIBYTE;
    println!("inspection: {:.2} GB/s, {whole:.1} s, {spilled:.0} MiB of scratch", bytes / whole / 1e9);
    println!(
        "found: {} records, losses: {}",
        report.stores.iter().map(|store| store.records).sum::<u64>(),
        report.has_losses()
    );
    println!("peak memory: {}", peak()?);
    Ok(())
}

fn best(mut round: impl FnMut() -> std::io::Result<u64>) -> std::io::Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        if round()? == 0 {
            return Err(std::io::Error::other("nothing was read"));
        }
        best = best.min(started.elapsed().as_secs_f64());
    }
    Ok(best)
}

fn peak() -> Result<String, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().to_owned())
}

fn generate(store: &Path, len: u64) -> Result<u64, Box<dyn Error>> {
    fs::create_dir_all(store.join("commitlog"))?;
    let host = SocketAddr::from(([127, 0, 0, 1], 10911));
    let mut body: Vec<u8> = (0..BODY_LEN).map(|n| (n * 31 % 251) as u8).collect();
    let mut queues = Vec::new();
    for queue in 0..QUEUES {
        let folder = store.join("consumequeue/Orders").join(queue.to_string());
        fs::create_dir_all(&folder)?;
        queues.push(BufWriter::new(File::create(folder.join(format!("{:020}", 0)))?));
    }
    let (mut position, mut count) = (0, 0u64);
    let mut record = Vec::new();
    while position < len {
        let base = position;
        let mut file = BufWriter::with_capacity(
            1 << 20,
            File::create(store.join("commitlog").join(format!("{base:020}")))?,
        );
        let file_len = FILE_LEN.min(len - base);
        loop {
            body.splice(..8, count.to_be_bytes());
            let queue = count as usize % QUEUES;
            let properties = format!(
                "KEYS\u{1}key-{count}\u{2}UNIQ_KEY\u{1}7F00000155E34E0E2F2A70A8{count:08X}\u{2}CLUSTER\u{1}DefaultCluster\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA"
            );
            record.clear();
            let message = StoredMessage {
                version: RecordVersion::V1,
                body_crc: body_crc(&body),
                queue_id: queue as i32,
                flag: 0,
                queue_offset: count / QUEUES as u64,
                commitlog_offset: position,
                sys_flag: SysFlag(0),
                born_timestamp_ms: 1_700_000_000_000 + count as i64,
                born_host: host,
                store_timestamp_ms: 1_700_000_000_000 + count as i64,
                store_host: host,
                reconsume_times: 0,
                prepared_transaction_offset: 0,
                body: &body,
                topic: "Orders",
                properties: Properties(&properties),
            };
            let size = message.encode(&mut record)? as u64;
            if position + size + 8 > base + file_len {
                let rest = base + file_len - position;
                file.write_all(&(rest as u32).to_be_bytes())?;
                file.write_all(&MAGIC_BLANK.to_be_bytes())?;
                position = base + file_len;
                break;
            }
            file.write_all(&record)?;
            let unit = queues.get_mut(queue).ok_or("queue")?;
            unit.write_all(&position.to_be_bytes())?;
            unit.write_all(&(size as u32).to_be_bytes())?;
            unit.write_all(&2_598_919i64.to_be_bytes())?;
            position += size;
            count += 1;
        }
        file.into_inner().map_err(|error| error.into_error())?.set_len(file_len)?;
    }
    queues.iter_mut().try_for_each(Write::flush)?;
    Ok(count)
}
