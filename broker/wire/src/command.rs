//! A remoting command: one request or response, its header decoded, its body still bytes.
//!
//! Owns: the header's fixed part, in both header types (`json`, `binary`), and the shape of a response. Never interprets
//! `extFields` or bodies (`header`, `body` do). Called by: the remoting edge.

mod binary;
mod json;

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};

use crate::{
    code,
    fields::{DIGITS_MAX, FieldValue, Fields, decimal},
    frame::{Frame, HeaderType},
};

/// Bit 0 of `flag`: a response.
pub const FLAG_RESPONSE: i32 = 1;
/// Bit 1 of `flag`: the sender wants no response, not even an error.
pub const FLAG_ONEWAY: i32 = 2;

/// The version we answer with: 4.9.8 (`MQVersion.Version.V4_9_8`), the release whose behaviour we match. Clients switch
/// features on by it.
pub const VERSION: i32 = 409;

/// Room for the length words and the header of a usual answer.
const USUAL_HEAD_LEN: usize = 512;

/// The peer's language. We answer as `JAVA`: older clients know no other broker and some fail on a name they do not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Language {
    Java,
    Cpp,
    Dotnet,
    Python,
    Delphi,
    Erlang,
    Ruby,
    /// Also what a name or number we do not know becomes.
    Other,
    Http,
    Go,
    Php,
    Oms,
    Rust,
    NodeJs,
}

/// In the order of the Java enum `LanguageCode`: the index is the byte of the binary header.
const LANGUAGES: [(Language, &str); 14] = [
    (Language::Java, "JAVA"),
    (Language::Cpp, "CPP"),
    (Language::Dotnet, "DOTNET"),
    (Language::Python, "PYTHON"),
    (Language::Delphi, "DELPHI"),
    (Language::Erlang, "ERLANG"),
    (Language::Ruby, "RUBY"),
    (Language::Other, "OTHER"),
    (Language::Http, "HTTP"),
    (Language::Go, "GO"),
    (Language::Php, "PHP"),
    (Language::Oms, "OMS"),
    (Language::Rust, "RUST"),
    (Language::NodeJs, "NODE_JS"),
];

impl Language {
    pub fn name(self) -> &'static str {
        LANGUAGES[self as usize].1
    }

    pub fn byte(self) -> u8 {
        self as u8
    }

    pub fn from_name(name: &str) -> Language {
        let known = LANGUAGES.iter().find(|(_, known)| *known == name);
        known.map_or(Language::Other, |(language, _)| *language)
    }

    pub fn from_byte(byte: u8) -> Language {
        let known = LANGUAGES.get(usize::from(byte));
        known.map_or(Language::Other, |(language, _)| *language)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Request or response code, see [`crate::code`].
    pub code: i32,
    pub language: Language,
    pub version: i32,
    /// The request's number, chosen by its sender; each end of a connection counts its own.
    pub opaque: i32,
    pub flag: i32,
    pub remark: Option<Cow<'static, str>>,
    /// `extFields`. Absent and empty differ in JSON; the binary header writes both as nothing and is read as absent.
    pub fields: Option<Fields>,
    pub header_type: HeaderType,
    pub body: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("header is not the JSON of a command: no {expected} at byte {at}")]
    Json { at: usize, expected: &'static str },
    #[error("binary header ends inside {part}")]
    Truncated { part: &'static str },
    #[error("{part} is not UTF-8")]
    NotUtf8 { part: &'static str },
}

impl Command {
    /// Reads a frame's header. An error leaves the connection usable, but the sender cannot be answered: its `opaque` is
    /// unknown.
    pub fn decode(frame: Frame) -> Result<Command, CommandError> {
        match frame.header_type {
            HeaderType::Json => json::decode(&frame.header, frame.body),
            HeaderType::Rocketmq => binary::decode(&frame.header, frame.body),
        }
    }

    /// A request of our own: JSON, as Apache's broker sends them on every connection.
    pub fn request(code: i32, opaque: i32) -> Command {
        Command {
            code,
            language: Language::Java,
            version: VERSION,
            opaque,
            flag: 0,
            remark: None,
            fields: None,
            header_type: HeaderType::Json,
            body: Bytes::new(),
        }
    }

    /// A request that asks for no response.
    pub fn oneway(code: i32, opaque: i32) -> Command {
        Command { flag: FLAG_ONEWAY, ..Command::request(code, opaque) }
    }

    /// A response: same opaque and header type as the request.
    pub fn response_to(request: &Command, code: i32) -> Command {
        Command {
            flag: FLAG_RESPONSE,
            header_type: request.header_type,
            ..Command::request(code, request.opaque)
        }
    }

    /// A failure and the reason a human reads. Never for a one-way request: the caller asks [`Command::is_oneway`] first.
    pub fn error_to(request: &Command, code: i32, remark: impl Into<Cow<'static, str>>) -> Command {
        Command::response_to(request, code).with_remark(remark)
    }

    pub fn with_remark(mut self, remark: impl Into<Cow<'static, str>>) -> Command {
        self.remark = Some(remark.into());
        self
    }

    pub fn with_field(mut self, name: &str, value: impl FieldValue) -> Command {
        self.fields.get_or_insert_with(Fields::new).push(name, value);
        self
    }

    /// `"extFields":{}`: some clients look into the map without asking whether it is there.
    pub fn with_empty_fields(mut self) -> Command {
        self.fields.get_or_insert_with(Fields::new);
        self
    }

    pub fn with_body(mut self, body: impl Into<Bytes>) -> Command {
        self.body = body.into();
        self
    }

    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }

    /// A value of `extFields`.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.as_ref()?.get(name)
    }

    /// The Java name of the code, for logs and metric labels (a closed set: an unknown code has one name).
    pub fn code_name(&self) -> &'static str {
        match self.is_response() {
            true => code::response_name(self.code),
            false => code::request_name(self.code),
        }
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut BytesMut) {
        let mut head = Vec::with_capacity(USUAL_HEAD_LEN);
        self.encode_head(self.body.len(), &mut head);
        out.put_slice(&head);
        out.put_slice(&self.body);
    }

    /// Appends the frame up to its body of `body_len` bytes, which the caller writes itself (a pull answer's records go to
    /// the socket from where they lie). `self.body` is not looked at.
    pub fn encode_head(&self, body_len: usize, out: &mut Vec<u8>) {
        self.encode_head_with(body_len, self.fields.is_some(), out, |writer| {
            for (name, value) in self.fields.iter().flat_map(Fields::iter) {
                writer.put(name, value);
            }
        });
    }

    /// As [`Command::encode_head`], with fields that are written straight into the frame instead of those of `self`: the answer
    /// to a send is encoded so, for half the cost. Names are below 32 KiB.
    pub fn encode_head_with(
        &self,
        body_len: usize,
        has_fields: bool,
        out: &mut Vec<u8>,
        fields: impl FnOnce(&mut FieldWriter<'_>),
    ) {
        let start = out.len();
        out.extend_from_slice(&[0; 8]);
        let header_type = match self.header_type {
            HeaderType::Rocketmq if binary::fits(self) => HeaderType::Rocketmq,
            // A code above 32767 or an over-long name has no binary form; every client reads JSON.
            _ => HeaderType::Json,
        };
        match header_type {
            HeaderType::Json => json::begin(self, has_fields, out),
            HeaderType::Rocketmq => binary::begin(self, out),
        }
        let fields_at = out.len();
        fields(&mut FieldWriter { header_type, is_first: true, out });
        match header_type {
            HeaderType::Json => json::end(self, has_fields, out),
            HeaderType::Rocketmq => binary::end(fields_at, out),
        }
        let header_len = out.len() - start - 8;
        let length = u32::try_from(4 + header_len + body_len).expect("a frame is below 4 GiB");
        assert!(header_len < 1 << 24, "a header's length has 24 bits");
        let type_word = (u32::from(header_type.byte()) << 24) | header_len as u32;
        out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        out[start + 4..start + 8].copy_from_slice(&type_word.to_be_bytes());
    }

    /// The header alone, without its length words.
    pub fn encode_header(&self) -> Bytes {
        let mut out = Vec::with_capacity(USUAL_HEAD_LEN);
        self.encode_head(0, &mut out);
        Bytes::from(out).slice(8..)
    }
}

/// Writes fields into a frame.
pub struct FieldWriter<'a> {
    header_type: HeaderType,
    is_first: bool,
    out: &'a mut Vec<u8>,
}

impl FieldWriter<'_> {
    /// Writes one field.
    #[inline]
    pub fn put(&mut self, name: &str, value: &str) {
        let is_first = std::mem::replace(&mut self.is_first, false);
        match self.header_type {
            HeaderType::Json => json::field(name, value, is_first, self.out),
            HeaderType::Rocketmq => binary::field(name, value.as_bytes(), self.out),
        }
    }

    /// Writes a field of letters and digits, of which nothing is ever escaped.
    #[inline]
    pub(crate) fn put_plain(&mut self, name: &str, value: &[u8]) {
        debug_assert!(
            name.bytes()
                .chain(value.iter().copied())
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b',')
        );
        let is_first = std::mem::replace(&mut self.is_first, false);
        match self.header_type {
            HeaderType::Json => json::plain_field(name, value, is_first, self.out),
            HeaderType::Rocketmq => binary::field(name, value, self.out),
        }
    }

    /// Writes a number.
    pub(crate) fn put_number(&mut self, name: &str, value: u64) {
        self.put_plain(name, decimal(value, &mut [0; DIGITS_MAX]));
    }
}

#[cfg(test)]
mod tests;
