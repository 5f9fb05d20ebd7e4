//! One libFuzzer binary for all decoders: `LOSSTRACE_FUZZ_TARGET` names the one to run. Built and started by `tests/fuzz/run`.

#![no_main]

mod decoders;

use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static DECODER: LazyLock<decoders::Decoder> = LazyLock::new(|| {
    let wanted = std::env::var("LOSSTRACE_FUZZ_TARGET").unwrap_or_default();
    match decoders::ALL.iter().find(|(name, _)| *name == wanted) {
        Some((_, decoder)) => *decoder,
        None => {
            let names: Vec<&str> = decoders::ALL.iter().map(|(name, _)| *name).collect();
            panic!("LOSSTRACE_FUZZ_TARGET={wanted} is none of: {}", names.join(" "));
        }
    }
});

fuzz_target!(|bytes: &[u8]| {
    DECODER(bytes);
});
