//! Ports on loopback that no other test holds, although each test is its own process. Owns a lock file per port for
//! as long as the test lives, so a product that is killed and started again finds its ports free.

use std::fs::{self, File};
use std::net::TcpListener;

use anyhow::{Context, Result, bail};

/// Below the range from which the kernel takes the local ports of outgoing connections.
const FIRST: u16 = 21_000;
const LAST: u16 = 31_999;

/// One claimed port; dropping it gives it back.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _claim: File,
}

impl Port {
    pub fn claim() -> Result<Port> {
        let folder = std::env::temp_dir().join("losstrace-test-ports");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let span = LAST - FIRST + 1;
        // Start at a place of its own per process, so that parallel tests seldom meet.
        let start =
            u16::try_from(std::process::id() % u32::from(span)).context("a remainder below the span")?;
        for step in 0..span {
            let number = FIRST + (start.wrapping_mul(7) % span + step) % span;
            let claim = File::create(folder.join(number.to_string()))?;
            if claim.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Ok(Port { number, _claim: claim });
            }
        }
        bail!("no free port between {FIRST} and {LAST}")
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

/// The ports of one product: what `config` writes under `[listen]`.
#[derive(Debug)]
pub struct Ports {
    pub name_server: Port,
    pub remoting: Port,
    pub grpc: Port,
    pub agent_http: Port,
    pub broker_http: Port,
    pub feed: Port,
}

impl Ports {
    pub fn claim() -> Result<Ports> {
        Ok(Ports {
            name_server: Port::claim()?,
            remoting: Port::claim()?,
            grpc: Port::claim()?,
            agent_http: Port::claim()?,
            broker_http: Port::claim()?,
            feed: Port::claim()?,
        })
    }
}
