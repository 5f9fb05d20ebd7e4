//! Owns reading a golden transcript: frames of a real client, name server and broker, in the order they were seen. Never
//! judges them.

use bytes::BytesMut;
use serde_json::Value;
use std::path::PathBuf;
use wire::command::Command;
use wire::frame::FrameDecoder;

/// Which server the client talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Server {
    NameServer,
    Broker,
}

/// One frame of a client's conversation.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) connection: u64,
    pub(crate) server: Server,
    pub(crate) from_client: bool,
    pub(crate) command: Command,
    /// On an answer: the line of its request.
    pub(crate) answers: Option<u64>,
    /// How much of the body is real: the transcript holds only the start of a long one, here its rest is zeros.
    pub(crate) body_known_len: usize,
}

/// The frames between the client and the two servers we stand for. What brokers say to the name server, and slaves, are
/// left out.
pub(crate) fn read(name: &str) -> Vec<Line> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/remoting");
    let path = folder.join(format!("{name}.ndjson"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines: Vec<Line> = text.lines().filter_map(parse).collect();
    assert!(!lines.is_empty(), "{name} holds no frame of a client");
    lines
}

fn parse(text: &str) -> Option<Line> {
    let json: Value = serde_json::from_str(text).unwrap();
    let header = unhex(json["header_hex"].as_str()?);
    let server = match json["server"].as_str()? {
        "namesrv" => Server::NameServer,
        "broker" | "broker-vip" => Server::Broker,
        _ => return None,
    };
    if json["client"].is_string() {
        return None;
    }
    let mut body = unhex(json["body_hex"].as_str().unwrap());
    let body_known_len = body.len();
    let body_len = json["body_len"].as_u64().unwrap() as usize;
    body.resize(body_len, 0);
    let header_type = match json["serialize"].as_str().unwrap() {
        "JSON" => 0u32,
        "ROCKETMQ" => 1,
        other => panic!("header type {other}"),
    };
    let mut raw = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
    raw.extend_from_slice(&((header_type << 24) | header.len() as u32).to_be_bytes());
    raw.extend_from_slice(&header);
    raw.extend_from_slice(&body);
    let frame = FrameDecoder::default().decode(&mut BytesMut::from(&raw[..])).unwrap().unwrap();
    Some(Line {
        number: json["n"].as_u64().unwrap(),
        connection: json["conn"].as_u64().unwrap(),
        server,
        from_client: json["dir"] == "c2s",
        command: Command::decode(frame).unwrap(),
        answers: json["re"].as_u64(),
        body_known_len,
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}
