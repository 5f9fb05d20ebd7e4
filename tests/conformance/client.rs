//! Owns one client connection of a replay: blocking, with everything that arrived kept until it is asked for.

use bytes::BytesMut;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use wire::command::Command;
use wire::frame::FrameDecoder;

pub(crate) struct Client {
    stream: TcpStream,
    bytes: BytesMut,
    arrived: Vec<Command>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
        stream.set_nodelay(true).unwrap();
        Client { stream, bytes: BytesMut::new(), arrived: Vec::new() }
    }

    pub(crate) fn send(&mut self, command: &Command) {
        let mut bytes = BytesMut::new();
        command.encode(&mut bytes);
        self.stream.write_all(&bytes).expect("the broker reads");
    }

    /// The answer with this number, when it comes in time.
    pub(crate) fn answer(&mut self, opaque: i32, patience: Duration) -> Option<Command> {
        self.take(patience, |command| command.is_response() && command.opaque == opaque)
    }

    /// Waits for an answer without taking it.
    pub(crate) fn await_answer(&mut self, opaque: i32, patience: Duration) {
        if let Some(answer) = self.answer(opaque, patience) {
            self.arrived.push(answer);
        }
    }

    /// Asks and waits.
    pub(crate) fn ask(&mut self, command: &Command) -> Command {
        self.send(command);
        let answer = self.answer(command.opaque, Duration::from_secs(10));
        answer.unwrap_or_else(|| panic!("no answer to {} {:?}", command.code_name(), command.fields))
    }

    /// The first command that fits, when it comes in time.
    pub(crate) fn take(&mut self, patience: Duration, fits: impl Fn(&Command) -> bool) -> Option<Command> {
        #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
        let deadline = Instant::now() + patience;
        loop {
            if let Some(index) = self.arrived.iter().position(&fits) {
                return Some(self.arrived.remove(index));
            }
            #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.read(left) {
                return None;
            }
        }
    }

    /// What is left when nothing comes any more for a moment.
    pub(crate) fn rest(&mut self) -> Vec<Command> {
        while self.read(Duration::from_millis(100)) {}
        std::mem::take(&mut self.arrived)
    }

    /// Reads once; false when nothing came.
    fn read(&mut self, patience: Duration) -> bool {
        if patience.is_zero() {
            return false;
        }
        self.stream.set_read_timeout(Some(patience)).unwrap();
        let mut chunk = [0; 16 * 1024];
        let read = match self.stream.read(&mut chunk) {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            Err(error) => panic!("the broker closed the connection: {error}"),
        };
        assert!(read > 0, "the broker closed the connection");
        self.bytes.extend_from_slice(&chunk[..read]);
        while let Some(frame) = FrameDecoder::default().decode(&mut self.bytes).unwrap() {
            self.arrived.push(Command::decode(frame).unwrap());
        }
        true
    }
}
