use super::*;
use proptest::prelude::*;
use std::path::Path;
use store::disk_sim::{SimDisk, SimFaults};

const DIR: &str = "/agent/raw";

fn sources(n: u64) -> Vec<RawSource> {
    let position = |sequence| Position { incarnation: Incarnation([n as u8; 16]), sequence };
    let frames =
        (1..=n).map(|k| (position(k), Bytes::from(vec![k as u8; (k * 37 % 600) as usize]))).collect();
    vec![RawSource { name: "broker-a".into(), frames }, RawSource { name: "broker-b".into(), frames: vec![] }]
}

fn open(disk: &SimDisk) -> (RawFrames, Vec<RawSource>) {
    RawFrames::open(Arc::new(disk.clone()), DIR.into()).unwrap()
}

#[test]
fn the_newest_image_is_read_again() {
    let disk = SimDisk::new();
    let (mut raw, found) = open(&disk);
    assert_eq!(found, vec![]);
    for n in [5, 40, 3, 1] {
        raw.write(&encode_body(&sources(n))).unwrap();
        disk.power_cut(n);
        assert_eq!(open(&disk).1, sources(n));
    }
}

#[test]
fn nothing_to_keep_costs_nothing() {
    let disk = SimDisk::new();
    let (mut raw, _) = open(&disk);
    raw.write(&encode_body(&[])).unwrap();
    assert_eq!(disk.counters().writes, 0);
    raw.write(&encode_body(&sources(2))).unwrap();
    raw.write(&encode_body(&[])).unwrap();
    let writes = disk.counters().writes;
    raw.write(&encode_body(&[])).unwrap();
    assert_eq!(disk.counters().writes, writes);
    assert_eq!(open(&disk).1, vec![], "what was dropped stays dropped");
}

#[test]
fn a_spoilt_slot_leaves_the_one_before() {
    let disk = SimDisk::new();
    let (mut raw, _) = open(&disk);
    raw.write(&encode_body(&sources(7))).unwrap();
    raw.write(&encode_body(&sources(9))).unwrap();
    let path = Path::new(DIR).join(slot_name(2));
    let len = disk.list(Path::new(DIR)).unwrap().iter().find(|entry| entry.name == slot_name(2)).unwrap().len;
    for offset in (0..len).filter(|offset| ![6, 7].contains(offset)) {
        disk.flip_bit(&path, offset, 3);
        assert_eq!(open(&disk).1, sources(7), "byte {offset}");
        disk.flip_bit(&path, offset, 3);
    }
    assert_eq!(open(&disk).1, sources(9));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_power_cut_leaves_the_last_image_or_the_one_being_written(effects in 0u64..30, seed in any::<u64>()) {
        let disk = SimDisk::new();
        let (mut raw, _) = open(&disk);
        disk.set_faults(SimFaults { die_after_effects: Some(effects), ..Default::default() });
        let mut last = Vec::new();
        let mut trying = Vec::new();
        for n in 1..8 {
            trying = sources(n * 5);
            if raw.write(&encode_body(&trying)).is_err() { break; }
            last = trying.clone();
        }
        disk.power_cut(seed);
        disk.set_faults(SimFaults::default());
        let found = open(&disk).1;
        prop_assert!(found == last || found == trying);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(decode_slot(&bytes));
        drop(decode_body(&bytes));
        let mut slot = encode_header(3, &bytes);
        slot.extend_from_slice(&bytes);
        if let Some((serial, sources)) = decode_slot(&slot) {
            prop_assert_eq!(serial, 3);
            prop_assert!(sources.len() <= bytes.len());
        }
    }
}
