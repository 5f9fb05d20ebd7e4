//! Owns the network between one broker's feed and the agent: a relay on loopback that can be cut, so that it is certain what the agent
//! has not received.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const CHUNK: usize = 64 * 1024;

/// The relay. Its threads end with the process.
pub(super) struct Link {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    is_cut: bool,
    /// Both ends of every connection.
    streams: Vec<TcpStream>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn start(listen: SocketAddr, target: SocketAddr) -> Result<Link> {
        let listener = TcpListener::bind(listen).with_context(|| format!("cannot listen on {listen}"))?;
        let state = Arc::new(Mutex::new(State::default()));
        let accepted = state.clone();
        std::thread::Builder::new().name("demo-link".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                // a refused connection is a closed one: what is not relayed is dropped
                drop(connect(&accepted, stream, target));
            }
        })?;
        Ok(Link { state })
    }

    /// Nothing passes any more, in either direction; what was on its way is lost.
    pub(super) fn cut(&self) {
        let mut state = lock(&self.state);
        state.is_cut = true;
        for stream in state.streams.drain(..) {
            // fails when the other side was first
            stream.shutdown(Shutdown::Both).ok();
        }
    }

    /// New connections pass again.
    pub(super) fn mend(&self) {
        lock(&self.state).is_cut = false;
    }
}

fn connect(state: &Arc<Mutex<State>>, near: TcpStream, target: SocketAddr) -> Result<()> {
    let far = TcpStream::connect(target)?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let ways = [(near.try_clone()?, far.try_clone()?), (far.try_clone()?, near.try_clone()?)];
    {
        let mut state = lock(state);
        if state.is_cut {
            return Ok(());
        }
        state.streams.extend([near, far]);
    }
    for (from, to) in ways {
        let state = state.clone();
        std::thread::Builder::new().name("demo-link".into()).spawn(move || {
            relay(&state, &from, &to);
            to.shutdown(Shutdown::Both).ok();
            from.shutdown(Shutdown::Both).ok();
        })?;
    }
    Ok(())
}

fn relay(state: &Mutex<State>, mut from: &TcpStream, mut to: &TcpStream) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        if lock(state).is_cut || to.write_all(chunk.get(..count).unwrap_or_default()).is_err() {
            return;
        }
    }
}
