//! The JSON header: one pass over the text into a `Command`, no tree in between, because every request passes here.
//!
//! Owns: what we accept (numbers, booleans and ordinals where Java's parser accepts them) and the exact text we write: keys
//! in alphabetical order, no spaces, UTF-8 unescaped, as fastjson writes them. Called by: `command`.
//!
//! Decision: a scanner of our own, which points into the header instead of copying each name and value. Because a send's
//! header then decodes in 12,100 instructions instead of the 15,100 that visitors of the general parser took (measured);
//! a value no client puts into a header is still skipped by that parser. Revisit when JSON is no longer the default.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::IgnoredAny;

use super::{Command, CommandError, Language};
use crate::{
    fields::{FieldValue, Fields, Piece},
    frame::HeaderType,
};

/// Room for the header of a usual answer.
const USUAL_HEADER_LEN: usize = 512;

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
            let name = self.piece()?;
            self.expect(b':')?;
            // A null value is as good as none.
            if !self.null()? {
                fields.push_pieces(name, self.field_value()?);
            }
        }
        Ok(fields)
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
    fn int(&mut self) -> Result<i32, CommandError> {
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
    fn piece(&mut self) -> Result<Piece, CommandError> {
        self.expect(b'"')?;
        let start = self.at;
        if self.plain_run()? == b'"' {
            self.at += 1;
            return Ok(Piece::Source(start..self.at - 1));
        }
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
        self.at += plain_run(&bytes[self.at..]);
        bytes.get(self.at).copied().ok_or(self.error("the end of a text"))
    }

    fn escape(&mut self) -> Result<char, CommandError> {
        let error = self.error("an escape");
        let letter = *self.text.as_bytes().get(self.at + 1).ok_or(error.clone())?;
        self.at += 2;
        Ok(match letter {
            b'"' | b'\\' | b'/' => char::from(letter),
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

pub(super) fn encode(command: &Command, out: &mut BytesMut) {
    // Built as text and copied once: a String takes small pieces at half the cost.
    let mut text = String::with_capacity(USUAL_HEADER_LEN);
    int(&mut text, "{\"code\":", command.code);
    if let Some(fields) = &command.fields {
        text.push_str(",\"extFields\":{");
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                text.push(',');
            }
            string(&mut text, name);
            text.push(':');
            string(&mut text, value);
        }
        text.push('}');
    }
    int(&mut text, ",\"flag\":", command.flag);
    text.push_str(",\"language\":");
    string(&mut text, command.language.name());
    int(&mut text, ",\"opaque\":", command.opaque);
    if let Some(remark) = &command.remark {
        text.push_str(",\"remark\":");
        string(&mut text, remark);
    }
    text.push_str(",\"serializeTypeCurrentRPC\":");
    string(&mut text, HeaderType::Json.name());
    int(&mut text, ",\"version\":", command.version);
    text.push('}');
    out.put_slice(text.as_bytes());
}

fn int(out: &mut String, before: &str, value: i32) {
    out.push_str(before);
    value.append_to(out);
}

/// Bytes before the first that JSON escapes or that ends a text: a quote, a backslash, a control character.
#[inline]
fn plain_run(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    // Sets the high bit of the lowest byte below `limit`; of later ones perhaps too.
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGHS;
    let mut run = 0;
    for word in bytes.chunks_exact(8) {
        let Ok(word) = word.try_into().map(u64::from_le_bytes) else { break };
        let quote = below(word ^ (ONES * u64::from(b'"')), 1);
        let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
        let stops = below(word, 0x20) | quote | backslash;
        if stops != 0 {
            return run + stops.trailing_zeros() as usize / 8;
        }
        run += 8;
    }
    let is_stop = |byte: &u8| *byte == b'"' || *byte == b'\\' || *byte < 0x20;
    run + bytes[run..].iter().position(is_stop).unwrap_or(bytes.len() - run)
}

/// Quotes text, escaping what JSON must escape; runs without an escape are copied whole.
fn string(out: &mut String, text: &str) {
    out.push('"');
    let mut rest = text;
    loop {
        let (run, after) = rest.split_at(plain_run(rest.as_bytes()));
        out.push_str(run);
        let Some(&byte) = after.as_bytes().first() else { break };
        rest = &after[1..];
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0C => out.push_str("\\f"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push_str("\\u00");
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    out.push('"');
}
