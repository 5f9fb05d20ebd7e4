//! Owns client message ids as SDKs make them: their shape decides what the journal costs. One sequence per client, as if each
//! client were a process of its own.

use super::options::{Ids, Protocol};

/// Makes the ids of one client.
pub(crate) struct IdSequence {
    ids: Ids,
    protocol: Protocol,
    client: u32,
    next: u32,
    random: u64,
}

impl IdSequence {
    pub(crate) fn new(ids: Ids, protocol: Protocol, client: u32) -> IdSequence {
        let random = 0x9E37_79B9_7F4A_7C15 ^ (u64::from(client) << 32);
        IdSequence { ids, protocol, client, next: 0, random }
    }

    /// The next id; `elapsed_ms` since the client started.
    pub(crate) fn next(&mut self, elapsed_ms: u64) -> String {
        self.next = self.next.wrapping_add(1);
        let Self { client, next, .. } = self;
        match (self.ids, self.protocol) {
            (Ids::Random, _) => {
                let (high, low) = (self.draw(), self.draw());
                format!("{high:016X}{low:016X}")
            }
            // MessageClientIDSetter of the 4.x client: address, process, class loader, ms since the month began, counter
            (Ids::Sdk, Protocol::Remoting) => {
                format!(
                    "7F000001{:04X}18B4AAC2{:08X}{:04X}",
                    *client & 0xFFFF,
                    elapsed_ms as u32,
                    *next & 0xFFFF
                )
            }
            // MessageIdCodec of the 5.x clients: version, MAC address, process, seconds since 2021, counter
            (Ids::Sdk, Protocol::Grpc) => {
                let seconds = 0x0B1E_0000 + (elapsed_ms / 1000) as u32;
                format!("0102420A00{client:04X}{:04X}{seconds:08X}{next:08X}", *client & 0xFFFF)
            }
        }
    }

    /// xorshift64*: repeatable, good enough to defeat any dictionary.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ids_have_the_length_of_their_protocol_and_differ() {
        for (ids, protocol, len) in [
            (Ids::Sdk, Protocol::Remoting, 32),
            (Ids::Sdk, Protocol::Grpc, 34),
            (Ids::Random, Protocol::Remoting, 32),
        ] {
            let mut seen = BTreeSet::new();
            for client in 0..3 {
                let mut sequence = IdSequence::new(ids, protocol, client);
                for n in 0..1000 {
                    let id = sequence.next(n / 10);
                    assert_eq!(id.len(), len, "{id}");
                    assert!(seen.insert(id));
                }
            }
        }
    }
}
