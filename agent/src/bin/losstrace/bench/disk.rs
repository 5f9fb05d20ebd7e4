//! Owns the disk's own flush rate: append 4 KiB, fdatasync, again. What SYNC_FLUSH is measured against.

use anyhow::Result;
use hdrhistogram::Histogram;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

const BLOCK_BYTES: usize = 4096;
/// Longest flush told apart, microseconds.
const FLUSH_MAX_US: u64 = 600_000_000;

/// One series of flushes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FlushRate {
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
}

/// Flushes into a growing file in `folder` for as long as given; the file is removed.
pub(crate) fn flush_rate(folder: &Path, time: Duration) -> Result<FlushRate> {
    let path = folder.join("flush-rate");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let block = [7u8; BLOCK_BYTES];
    let mut times = Histogram::<u64>::new_with_bounds(1, FLUSH_MAX_US, 3)?;
    let start = Instant::now();
    while start.elapsed() < time {
        let before = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.saturating_record(before.elapsed().as_micros() as u64);
    }
    let per_second = times.len() as f64 / start.elapsed().as_secs_f64();
    drop(file);
    std::fs::remove_file(&path)?;
    Ok(FlushRate { per_second, p50_us: times.value_at_quantile(0.5), p99_us: times.value_at_quantile(0.99) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rate_belong_together() {
        let folder = tempfile::tempdir().unwrap();
        let rate = flush_rate(folder.path(), Duration::from_millis(50)).unwrap();
        assert!(rate.per_second > 0.0 && rate.p50_us > 0 && rate.p50_us <= rate.p99_us, "{rate:?}");
        // half of all flushes took at least the median
        assert!(rate.p50_us as f64 * rate.per_second <= 2.2e6, "{rate:?}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
