use super::*;
use std::path::Path;
use store::disk_sim::SimDisk;

const DIR: &str = "/agent/verdicts";

fn run(n: u8) -> Incarnation {
    Incarnation([n; 16])
}

fn record(text: &str) -> Record {
    Record { kind: RecordKind::Verdict, body: text.as_bytes().to_vec() }
}

#[derive(Debug)]
struct History {
    records: Vec<Record>,
    damage: Vec<String>,
}

fn open(disk: &SimDisk, n: u8, witness: Option<Witness>) -> (VerdictLog, History) {
    let opening = Opening { disk: Arc::new(disk.clone()), dir: DIR.into(), incarnation: run(n), witness };
    let mut records = Vec::new();
    let (log, damage) = VerdictLog::open(opening, |record| records.push(record)).unwrap();
    (log, History { records, damage })
}

fn texts(history: &History) -> Vec<String> {
    history.records.iter().map(|record| String::from_utf8(record.body.clone()).unwrap()).collect()
}

#[test]
fn what_was_said_is_read_again_over_runs_and_power_cuts() {
    let disk = SimDisk::new();
    let mut witness = None;
    let mut said = Vec::new();
    for n in 1..6 {
        let (mut log, history) = open(&disk, n, witness);
        assert_eq!((texts(&history), history.damage), (said.clone(), Vec::<String>::new()));
        for text in ["a", "b"] {
            let text = format!("{text}{n}");
            log.append(&[record(&text), Record { kind: RecordKind::LedgerRebuilt, body: vec![] }]).unwrap();
            said.extend([text, String::new()]);
        }
        witness = Some(log.end());
        disk.power_cut(u64::from(n));
    }
}

#[test]
fn restarts_without_a_verdict_leave_no_files() {
    let disk = SimDisk::new();
    for n in 1..20 {
        drop(open(&disk, n, None));
        disk.kill();
    }
    assert!(disk.list(Path::new(DIR)).unwrap().len() <= 1);
}

#[test]
fn every_changed_bit_of_a_record_is_noticed() {
    let clean = || {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk, 1, None);
        log.append(&[record("first"), record("second"), record("third")]).unwrap();
        (disk, log.end())
    };
    let (disk, _) = clean();
    let name = disk.list(Path::new(DIR)).unwrap().remove(0);
    let path = Path::new(DIR).join(&name.name);
    for offset in 0..name.len {
        let (disk, end) = clean();
        assert!(disk.flip_bit(&path, offset, (offset % 8) as u8));
        let (_, history) = open(&disk, 2, Some(end));
        let intact = texts(&history) == ["first", "second", "third"];
        // the header's creation time is for people only, and covered by the header's checksum like the rest
        assert!(!history.damage.is_empty() || intact, "byte {offset}: {history:?}");
        if offset >= EMPTY_HEADER {
            assert!(!history.damage.is_empty(), "byte {offset} of the records changed unnoticed");
        }
    }
}

const EMPTY_HEADER: u64 = 44;

#[test]
fn a_log_rewritten_by_somebody_is_noticed_by_the_chain_or_the_witness() {
    // valid frames, valid checksums, another story
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, 1, None);
    log.append(&[record("lost"), record("confirmed")]).unwrap();
    let end = log.end();
    let forged = SimDisk::new();
    let (mut other, _) = open(&forged, 1, None);
    other.append(&[record("fine"), record("confirmed")]).unwrap();
    let (_, history) = open(&forged, 2, Some(end));
    assert!(history.damage.iter().any(|text| text.contains("ledger rests on")), "{history:?}");

    // one record taken out of the middle, every frame checksummed anew
    let forged = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(forged.clone());
    let (mut journal, _) = Journal::open(disk, JournalConfig::new(DIR.into()), run(1), 0).unwrap();
    let first = encode(&record("a"), &[0; HASH_BYTES]);
    let second = encode(&record("b"), &Sha256::digest(&first).into());
    let third = encode(&record("c"), &Sha256::digest(&second).into());
    journal.append(&first, true).unwrap();
    journal.append(&third, true).unwrap();
    journal.write().unwrap();
    let (_, history) = open(&forged, 2, None);
    assert_eq!(texts(&history), ["a", "c"]);
    assert!(history.damage.iter().any(|text| text.contains("does not follow")), "{history:?}");
}

#[test]
fn an_end_cut_off_is_noticed_by_the_witness() {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, 1, None);
    log.append(&[record("a")]).unwrap();
    let short = disk.list(Path::new(DIR)).unwrap().remove(0);
    log.append(&[record("b")]).unwrap();
    let end = log.end();
    let file = disk.open(&Path::new(DIR).join(&short.name), store::disk::OpenMode::Existing).unwrap();
    file.truncate(short.len).unwrap();
    let (mut log, history) = open(&disk, 2, Some(end));
    assert_eq!(texts(&history), ["a"]);
    assert!(history.damage.iter().any(|text| text.contains("1 records are missing")), "{history:?}");
    log.append(&[record("c")]).unwrap();
    let (_, history) = open(&disk, 3, Some(log.end()));
    assert_eq!((texts(&history).len(), history.damage.len()), (2, 0), "the log goes on behind the damage");
}

#[test]
fn nothing_is_said_before_it_is_durable() {
    for effects in 0..12 {
        let disk = SimDisk::new();
        let (mut log, _) = open(&disk, 1, None);
        log.append(&[record("before")]).unwrap();
        let faults = store::disk_sim::SimFaults { die_after_effects: Some(effects), ..Default::default() };
        disk.set_faults(faults);
        let told = log.append(&[record("now")]).is_ok();
        disk.power_cut(effects);
        disk.set_faults(Default::default());
        let (_, history) = open(&disk, 2, None);
        let texts = texts(&history);
        assert!(texts == ["before"] || texts == ["before", "now"]);
        assert!(!told || texts.len() == 2, "told and lost after {effects} effects");
    }
}

proptest::proptest! {
    #[test]
    fn records_and_witnesses_survive_and_no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..90)) {
        let record = Record { kind: RecordKind::Verdict, body: bytes.clone() };
        proptest::prop_assert_eq!(decode(&encode(&record, &[7; HASH_BYTES])), Some((record, [7; HASH_BYTES])));
        if let Some((record, before)) = decode(&bytes) {
            proptest::prop_assert_eq!(encode(&record, &before), bytes.clone());
        }
        if let Some(witness) = Witness::decode(&bytes) {
            proptest::prop_assert_eq!(witness.encode(), bytes);
        }
    }
}
