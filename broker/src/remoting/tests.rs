//! The edge with a core of the test's own: what each request becomes, what each answer becomes, what a connection survives.

mod answers;
mod connections;
mod requests;

use super::listener::Edge;
use super::session::Session;
use super::{Clock, Limits, RemotingConfig, RemotingStats, Role, Serving, dispatch, serve};
use crate::api::{Advertised, ConnectionId, Request};
use crate::handle::CoreHandle;
use bytes::BytesMut;
use lifecycle::clock::Now;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use wire::command::Command;
use wire::frame::{FrameDecoder, HeaderType};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn config(limits: Limits) -> RemotingConfig {
    RemotingConfig {
        advertised: Advertised {
            broker_name: "broker-a".into(),
            cluster: "DefaultCluster".into(),
            remoting: "127.0.0.1:10911".parse().unwrap(),
            broker_id: 0,
        },
        region: "DefaultRegion".into(),
        trace_on: true,
        auto_create_topic: true,
        default_queue_nums: 8,
        master: Default::default(),
        limits,
    }
}

fn clock() -> Clock {
    Arc::new(|| Now { mono_ms: 5_000, wall_ms: 1_000_000 })
}

/// A session without a socket, and the core it talks to.
fn session(role: Role) -> (Session, CoreHandle) {
    let core = CoreHandle::new();
    let edge = Arc::new(Edge::new(role, core.clone(), config(Limits::default()), clock()));
    (Session::new(edge, ConnectionId(7), "127.0.0.1:50000".parse().unwrap()), core)
}

/// What the core is asked when this command comes; answers are lost.
fn requests_of(command: Command) -> Vec<Request> {
    let (mut session, core) = session(Role::Broker);
    dispatch::dispatch(&mut session, command, 100);
    let mut requests = Vec::new();
    core.drain(&mut requests);
    requests
}

/// What the client is answered when `core` does this with the request.
fn answer_of(command: Command, core: impl FnOnce(Request)) -> Command {
    let (mut session, handle) = session(Role::Broker);
    dispatch::dispatch(&mut session, command, 100);
    let mut requests = Vec::new();
    handle.drain(&mut requests);
    assert!(requests.len() <= 1);
    if let Some(request) = requests.pop() {
        core(request);
    }
    let mut answers = answers_in(&session);
    assert_eq!(answers.len(), 1, "exactly one answer");
    answers.remove(0)
}

fn answers_in(session: &Session) -> Vec<Command> {
    let mut bytes = BytesMut::from(&session.outbox.take()[..]);
    let mut answers = Vec::new();
    while let Some(frame) = FrameDecoder::default().decode(&mut bytes).unwrap() {
        answers.push(Command::decode(frame).unwrap());
    }
    assert!(bytes.is_empty());
    answers
}

/// A request as a client makes it.
fn request(code: i32, fields: &[(&str, &str)]) -> Command {
    let with_field = |command: Command, (name, value): &(&str, &str)| command.with_field(name, value);
    fields.iter().fold(Command::request(code, 11), with_field)
}

fn send_fields() -> Vec<(&'static str, &'static str)> {
    vec![
        ("a", "pg"),
        ("b", "T"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "1"),
        ("f", "0"),
        ("g", "1795378583532"),
        ("h", "7"),
        ("i", "KEYS\u{1}k\u{2}WAIT\u{1}true"),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
        ("n", "broker-a"),
    ]
}

fn send_request() -> Command {
    request(310, &send_fields()).with_body("hello")
}

/// A served port.
struct Port {
    address: SocketAddr,
    core: CoreHandle,
    stats: Arc<RemotingStats>,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

impl Port {
    async fn open(role: Role, limits: Limits) -> Port {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (core, stats, shutdown) =
            (CoreHandle::new(), Arc::<RemotingStats>::default(), CancellationToken::new());
        let serving = Serving {
            role,
            core: core.clone(),
            config: config(limits),
            clock: clock(),
            stats: stats.clone(),
        };
        let served = tokio::spawn(serve(listener, serving, shutdown.clone()));
        Port { address, core, stats, shutdown, served }
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), read: BytesMut::new() }
    }

    /// The next requests of the core, at least one.
    async fn requests(&self) -> Vec<Request> {
        let mut requests = Vec::new();
        let wait = async {
            while requests.is_empty() {
                self.core.arrived().await;
                self.core.drain(&mut requests);
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("a request in time");
        requests
    }

    /// A core that does this with every request.
    fn answer_with(&self, mut answer: impl FnMut(Request) + Send + 'static) {
        let core = self.core.clone();
        tokio::spawn(async move {
            let mut requests = Vec::new();
            loop {
                core.arrived().await;
                core.drain(&mut requests);
                requests.drain(..).for_each(&mut answer);
            }
        });
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.served).await.expect("connections close").unwrap();
    }
}

struct Client {
    stream: TcpStream,
    read: BytesMut,
}

impl Client {
    async fn send(&mut self, command: &Command) {
        let mut bytes = BytesMut::new();
        command.encode(&mut bytes);
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> Command {
        self.receive_or_end().await.expect("the connection is open")
    }

    /// `None`: the broker closed the connection.
    async fn receive_or_end(&mut self) -> Option<Command> {
        loop {
            if let Some(frame) = FrameDecoder::default().decode(&mut self.read).unwrap() {
                return Some(Command::decode(frame).unwrap());
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.read));
            match read.await.expect("an answer in time") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

/// Waits until a counter reaches a value.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

fn binary(command: Command) -> Command {
    Command { header_type: HeaderType::Rocketmq, ..command }
}
