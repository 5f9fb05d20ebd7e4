//! Real conversations of 4.9.8 clients, admin tool, broker and name server: every frame must decode, write itself back
//! byte for byte, and read as the request or body it is. What our response types write must be what the real broker wrote.

#![allow(clippy::unwrap_used, reason = "a test may stop at what it did not expect")]

mod answers;
mod bodies;
mod frames;
mod records;
mod requests;

use std::{collections::BTreeMap, fs, path::PathBuf};

use bytes::BytesMut;
use serde_json::Value;
use wire::{command::Command, frame::FrameDecoder};

/// One line of a transcript.
pub(crate) struct Line {
    pub(crate) file: String,
    pub(crate) json: Value,
    pub(crate) raw: Vec<u8>,
    /// The body was cut in the transcript; its end is zeros here.
    pub(crate) body_is_cut: bool,
}

impl Line {
    pub(crate) fn parse(file: &str, text: &str) -> Option<Line> {
        let json: Value = serde_json::from_str(text).unwrap();
        let header = unhex(json["header_hex"].as_str()?);
        let mut body = unhex(json["body_hex"].as_str().unwrap());
        let body_len = json["body_len"].as_u64().unwrap() as usize;
        let body_is_cut = body.len() < body_len;
        body.resize(body_len, 0);
        let header_type: u32 = match json["serialize"].as_str().unwrap() {
            "JSON" => 0,
            "ROCKETMQ" => 1,
            other => panic!("{other}"),
        };
        let mut raw = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
        raw.extend_from_slice(&((header_type << 24) | header.len() as u32).to_be_bytes());
        raw.extend_from_slice(&header);
        raw.extend_from_slice(&body);
        Some(Line { file: file.to_owned(), json, raw, body_is_cut })
    }

    pub(crate) fn command(&self) -> Command {
        let mut buf = BytesMut::from(&self.raw[..]);
        let frame = FrameDecoder::default().decode(&mut buf).unwrap().unwrap();
        assert!(buf.is_empty());
        Command::decode(frame).unwrap()
    }

    pub(crate) fn place(&self) -> String {
        format!("{} line {}", self.file, self.json["n"])
    }

    pub(crate) fn number(&self) -> u64 {
        self.json["n"].as_u64().unwrap()
    }
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    text.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) * 16 + digit(pair[1])).collect()
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/remoting")
}

pub(crate) fn transcripts() -> Vec<Line> {
    let folder = folder();
    let mut files: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "ndjson"))
        .collect();
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).unwrap();
        lines.extend(text.lines().filter_map(|line| Line::parse(&name, line)));
    }
    assert!(lines.len() > 2000, "only {} frames found", lines.len());
    lines
}

/// Requests with their responses.
pub(crate) fn exchanges(lines: &[Line]) -> Vec<(Command, Command, &Line)> {
    let mut requests = BTreeMap::new();
    let mut pairs = Vec::new();
    for line in lines {
        match line.json["re"].as_u64() {
            None => {
                requests.insert((&line.file, line.number()), line.command());
            }
            Some(re) => {
                let request = requests[&(&line.file, re)].clone();
                pairs.push((request, line.command(), line));
            }
        }
    }
    pairs
}

pub(crate) fn owned_fields(command: &Command) -> BTreeMap<String, String> {
    let fields = command.fields.iter().flat_map(|fields| fields.iter());
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
