//! The JSON header: one pass over the text into a `Command`, no tree in between, because every request passes here.
//!
//! Owns: what we accept (numbers, booleans and ordinals where Java's parser accepts them) and the exact text we write: keys
//! in alphabetical order, no spaces, UTF-8 unescaped, as fastjson writes them. Called by: `command`.
//!
//! Decision: a scanner of our own, which points into the header instead of copying each name and value: a send's header
//! decodes in a fifth of the instructions that visitors of the general parser took (measured). A value no client puts into a
//! header is still skipped by that parser. Revisit when JSON is no longer the default.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::de::IgnoredAny;

use super::{Command, CommandError, Language};
use crate::{
    fields::{DIGITS_MAX, Fields, Piece, decimal},
    frame::HeaderType,
    scan::run_of_json_text,
};

pub(super) fn decode(header: &[u8], body: Bytes) -> Result<Command, CommandError> {
    let text = std::str::from_utf8(header).map_err(|_| CommandError::NotUtf8 { part: "header" })?;
    let mut scanner = Scanner { text, at: 0 };
    let mut command = Command {
        code: 0,
        language: Language::Other,
        version: 0,
        opaque: 0,
        flag: 0,
        remark: None,
        fields: None,
        header_type: HeaderType::Json,
        body,
    };
    let mut has_code = false;
    let mut map = scanner.open_map()?;
    while map.next(&mut scanner)? {
        let key = scanner.string()?;
        scanner.expect(b':')?;
        has_code |= key == "code";
        scanner.header_value(&key, &mut command)?;
    }
    match (scanner.peek(), has_code) {
        (Some(_), _) => Err(scanner.error("the end")),
        (None, false) => Err(CommandError::Json { at: 0, expected: "a code" }),
        (None, true) => Ok(command),
    }
}

/// Bytes at which a text ends or is interrupted. Most texts of a header are short, so they are looked at byte by byte (a vector
/// search costs more than it saves: measured).
const ENDS_PLAIN_TEXT: [bool; 256] = {
    let mut ends = [false; 256];
    let mut control = 0;
    while control < 0x20 {
        ends[control] = true;
        control += 1;
    }
    ends[b'"' as usize] = true;
    ends[b'\\' as usize] = true;
    ends
};

/// Reads JSON text from left to right.
struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

/// Where a scanner is in a map.
struct Map {
    is_first: bool,
}

impl Map {
    /// Steps to the next key; false at the end of the map.
    fn next(&mut self, scanner: &mut Scanner<'_>) -> Result<bool, CommandError> {
        match (scanner.peek(), self.is_first) {
            (Some(b'}'), _) => {
                scanner.at += 1;
                return Ok(false);
            }
            (Some(b','), false) => scanner.at += 1,
            (_, true) => self.is_first = false,
            _ => return Err(scanner.error("a comma or the end of a map")),
        }
        Ok(true)
    }
}

impl<'a> Scanner<'a> {
    fn header_value(&mut self, key: &str, command: &mut Command) -> Result<(), CommandError> {
        match key {
            "code" => command.code = self.int()?,
            "version" => command.version = self.int()?,
            "opaque" => command.opaque = self.int()?,
            "flag" => command.flag = self.int()?,
            "language" => command.language = self.language()?,
            "remark" if !self.null()? => command.remark = Some(Cow::Owned(self.string()?.into_owned())),
            "extFields" if !self.null()? => command.fields = Some(self.fields()?),
            "remark" | "extFields" => {}
            _ => self.skip_value()?,
        }
        Ok(())
    }

    /// By name, or by number as fastjson also accepts enums.
    fn language(&mut self) -> Result<Language, CommandError> {
        if self.null()? {
            return Ok(Language::Other);
        }
        if self.peek() != Some(b'"') {
            let number = self.int()?;
            return Ok(u8::try_from(number).map_or(Language::Other, Language::from_byte));
        }
        Ok(Language::from_name(&self.string()?))
    }

    fn fields(&mut self) -> Result<Fields, CommandError> {
        let mut fields = Fields::over(self.text);
        let mut map = self.open_map()?;
        while map.next(self)? {
            if let Some((name, value)) = self.plain_field() {
                fields.push_source(name, value);
                continue;
            }
            let name = self.piece()?;
            self.expect(b':')?;
            // A null value is as good as none.
            if !self.null()? {
                fields.push_pieces(name, self.field_value()?);
            }
        }
        Ok(fields)
    }

    /// A name and its text, without white space and escapes: what nearly every field is. Anything else is left where it is.
    #[inline]
    fn plain_field(&mut self) -> Option<(Range<usize>, Range<usize>)> {
        let start = self.at;
        let name = self.plain_text()?;
        if self.text.as_bytes().get(self.at) == Some(&b':') {
            self.at += 1;
            if let Some(value) = self.plain_text() {
                return Some((name, value));
            }
        }
        self.at = start;
        None
    }

    /// A quoted string that starts here and has no escapes, or nothing.
    #[inline]
    fn plain_text(&mut self) -> Option<Range<usize>> {
        let (quote, text) = self.text.as_bytes().get(self.at..)?.split_first()?;
        let len = text.iter().position(|byte| ENDS_PLAIN_TEXT[usize::from(*byte)])?;
        if *quote != b'"' || text[len] != b'"' {
            return None;
        }
        let start = self.at + 1;
        self.at = start + len + 1;
        Some(start..start + len)
    }

    /// Text, a number or a boolean, as text.
    fn field_value(&mut self) -> Result<Piece, CommandError> {
        match self.peek() {
            Some(b'"') => self.piece(),
            Some(b'-' | b'0'..=b'9') => {
                let start = self.at;
                self.number()?;
                Ok(Piece::Source(start..self.at))
            }
            _ => {
                let literal = ["true", "false"].into_iter().find(|word| self.rest().starts_with(word));
                let start = self.at;
                self.at += literal.ok_or(self.error("text, a number or a boolean"))?.len();
                Ok(Piece::Source(start..self.at))
            }
        }
    }

    /// An integer, also as text or with a fraction of zero.
    #[inline]
    fn int(&mut self) -> Result<i32, CommandError> {
        self.peek();
        match plain_int(&self.text.as_bytes()[self.at..]) {
            Some((value, len)) => {
                self.at += len;
                Ok(value)
            }
            None => self.unusual_int(),
        }
    }

    fn unusual_int(&mut self) -> Result<i32, CommandError> {
        let start = self.at;
        let error = CommandError::Json { at: start, expected: "an integer of 32 bits" };
        if self.peek() == Some(b'"') {
            return self.string()?.parse().map_err(|_| error);
        }
        let number = self.number()?;
        match number.parse::<i32>() {
            Ok(value) => Ok(value),
            Err(_) => {
                let value: f64 = number.parse().map_err(|_| error.clone())?;
                let fits =
                    value.fract() == 0.0 && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&value);
                if fits { Ok(value as i32) } else { Err(error) }
            }
        }
    }

    fn number(&mut self) -> Result<&'a str, CommandError> {
        self.peek();
        let rest = self.rest();
        let is_part = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
        let len = rest.bytes().position(|byte| !is_part(&byte)).unwrap_or(rest.len());
        let number = &rest[..len];
        let is_plain = !number.starts_with('0') && number.bytes().all(|byte| byte.is_ascii_digit());
        if len == 0 || !(is_plain || serde_json::from_str::<f64>(number).is_ok()) {
            return Err(self.error("a number"));
        }
        self.at += len;
        Ok(number)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, CommandError> {
        Ok(match self.piece()? {
            Piece::Source(range) => Cow::Borrowed(&self.text[range]),
            Piece::Unescaped(text) => Cow::Owned(text),
        })
    }

    /// A quoted string: where it is, or, if it has escapes, what it means.
    #[inline]
    fn piece(&mut self) -> Result<Piece, CommandError> {
        self.peek();
        if let Some(range) = self.plain_text() {
            return Ok(Piece::Source(range));
        }
        self.expect(b'"')?;
        let start = self.at;
        self.plain_run()?;
        self.unescaped(start)
    }

    /// The rest of a text whose first escape the scanner stands at.
    fn unescaped(&mut self, start: usize) -> Result<Piece, CommandError> {
        let mut text = String::with_capacity(2 * (self.at - start) + 64);
        text.push_str(&self.text[start..self.at]);
        loop {
            let start = self.at;
            let stop = self.plain_run()?;
            text.push_str(&self.text[start..self.at]);
            match stop {
                b'"' => {
                    self.at += 1;
                    return Ok(Piece::Unescaped(text));
                }
                b'\\' => text.push(self.escape()?),
                _ => return Err(self.error("no bare control character")),
            }
        }
    }

    /// Steps to the next byte that ends or interrupts a text, and returns it.
    #[inline]
    fn plain_run(&mut self) -> Result<u8, CommandError> {
        let bytes = self.text.as_bytes();
        self.at += run_of_json_text(&bytes[self.at..]);
        match bytes.get(self.at) {
            Some(byte) => Ok(*byte),
            None => Err(self.error("the end of a text")),
        }
    }

    fn escape(&mut self) -> Result<char, CommandError> {
        let error = CommandError::Json { at: self.at, expected: "an escape" };
        let Some(letter) = self.text.as_bytes().get(self.at + 1) else { return Err(error) };
        self.at += 2;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(*letter),
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'u' => self.unicode().ok_or(error)?,
            _ => return Err(error),
        })
    }

    /// Four digits, or twice four with an escape between for what is outside the basic plane.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex4()?;
        if !(0xD800..0xDC00).contains(&first) {
            return char::from_u32(u32::from(first));
        }
        self.at += self.rest().starts_with("\\u").then_some(2)?;
        let second = self.hex4()?;
        char::decode_utf16([first, second]).next()?.ok()
    }

    fn hex4(&mut self) -> Option<u16> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)? as u16))
    }

    /// A value that means nothing to us.
    fn skip_value(&mut self) -> Result<(), CommandError> {
        if self.peek() == Some(b'"') {
            return self.piece().map(drop);
        }
        let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => self.at += values.byte_offset(),
            _ => return Err(self.error("a value")),
        }
        Ok(())
    }

    fn open_map(&mut self) -> Result<Map, CommandError> {
        self.expect(b'{')?;
        Ok(Map { is_first: true })
    }

    /// Takes a null.
    #[inline]
    fn null(&mut self) -> Result<bool, CommandError> {
        let is_null = self.peek() == Some(b'n');
        if is_null {
            if !self.rest().starts_with("null") {
                return Err(self.error("null"));
            }
            self.at += 4;
        }
        Ok(is_null)
    }

    #[inline]
    fn expect(&mut self, byte: u8) -> Result<(), CommandError> {
        if self.peek() != Some(byte) {
            return Err(self.error(match byte {
                b'"' => "a text",
                b':' => "a colon",
                _ => "a map",
            }));
        }
        self.at += 1;
        Ok(())
    }

    /// The next byte that is no white space.
    #[inline]
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.as_bytes().get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn error(&self, expected: &'static str) -> CommandError {
        CommandError::Json { at: self.at, expected }
    }
}

/// An integer as nearly everybody writes it: a sign and up to nine digits; and how long it is.
fn plain_int(bytes: &[u8]) -> Option<(i32, usize)> {
    let is_negative = bytes.first() == Some(&b'-');
    let digits = &bytes[usize::from(is_negative)..];
    let mut value = 0i32;
    let mut len = 0;
    while let Some(byte @ b'0'..=b'9') = digits.get(len).copied()
        && len < 9
    {
        value = value * 10 + i32::from(byte - b'0');
        len += 1;
    }
    let is_whole = matches!(digits.get(len), Some(b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r'));
    let is_plain = is_whole && (digits.first() != Some(&b'0') || len == 1) && len > 0;
    is_plain.then_some((if is_negative { -value } else { value }, len + usize::from(is_negative)))
}

/// What stands before the fields; they follow, each by [`field`], when there are any at all.
pub(super) fn begin(command: &Command, has_fields: bool, out: &mut Vec<u8>) {
    int(out, b"{\"code\":", command.code);
    if has_fields {
        out.extend_from_slice(b",\"extFields\":{");
    }
}

/// One field.
#[inline]
pub(super) fn field(name: &str, value: &str, is_first: bool, out: &mut Vec<u8>) {
    if !is_first {
        out.push(b',');
    }
    string(out, name);
    out.push(b':');
    string(out, value);
}

/// One field that has nothing to escape.
#[inline]
pub(super) fn plain_field(name: &str, value: &[u8], is_first: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(if is_first { b"\"" } else { b",\"" });
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":\"");
    out.extend_from_slice(value);
    out.push(b'"');
}

/// What stands behind the fields.
pub(super) fn end(command: &Command, has_fields: bool, out: &mut Vec<u8>) {
    if has_fields {
        out.push(b'}');
    }
    int(out, b",\"flag\":", command.flag);
    out.extend_from_slice(b",\"language\":");
    string(out, command.language.name());
    int(out, b",\"opaque\":", command.opaque);
    if let Some(remark) = &command.remark {
        out.extend_from_slice(b",\"remark\":");
        string(out, remark);
    }
    out.extend_from_slice(b",\"serializeTypeCurrentRPC\":");
    string(out, HeaderType::Json.name());
    int(out, b",\"version\":", command.version);
    out.push(b'}');
}

fn int(out: &mut Vec<u8>, before: &[u8], value: i32) {
    out.extend_from_slice(before);
    if value < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(decimal(value.unsigned_abs().into(), &mut [0; DIGITS_MAX]));
}

/// Quotes text, escaping what JSON must escape; runs without an escape are copied whole.
fn string(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    out.push(b'"');
    loop {
        let (run, after) = rest.split_at(run_of_json_text(rest));
        out.extend_from_slice(run);
        let Some((byte, after)) = after.split_first() else { break };
        rest = after;
        match *byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0C => out.extend_from_slice(b"\\f"),
            byte => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.push(b'"');
}
