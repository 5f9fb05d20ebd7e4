//! The JSON header: one pass over the text into a `Command`, no tree in between, because every request passes here.
//!
//! Owns: what we accept (numbers, booleans and ordinals where Java's parser accepts them) and the exact text we write: keys
//! in alphabetical order, no spaces, UTF-8 unescaped, as fastjson writes them. Called by: `command`.

use std::{borrow::Cow, fmt, fmt::Write};

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::{Command, CommandError, Language};
use crate::{fields::Fields, frame::HeaderType, lenient};

pub(super) fn decode(header: &[u8], body: Bytes) -> Result<Command, CommandError> {
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
    let mut json = serde_json::Deserializer::from_slice(header);
    let seed = HeaderSeed { command: &mut command, text_len: header.len() };
    seed.deserialize(&mut json)
        .and_then(|()| json.end())
        .map_err(|error| CommandError::Json { reason: error.to_string() })?;
    Ok(command)
}

struct HeaderSeed<'a> {
    command: &'a mut Command,
    text_len: usize,
}

impl<'de> DeserializeSeed<'de> for HeaderSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for HeaderSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_code = false;
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Code => {
                    self.command.code = map.next_value_seed(lenient::IntSeed::new())?;
                    has_code = true;
                }
                Key::Version => self.command.version = map.next_value_seed(lenient::IntSeed::new())?,
                Key::Opaque => self.command.opaque = map.next_value_seed(lenient::IntSeed::new())?,
                Key::Flag => self.command.flag = map.next_value_seed(lenient::IntSeed::new())?,
                Key::Language => self.command.language = map.next_value_seed(LanguageSeed)?,
                Key::Remark => {
                    self.command.remark = map.next_value::<Option<String>>()?.map(Cow::Owned);
                }
                Key::Fields => {
                    self.command.fields = map.next_value_seed(FieldsSeed { text_len: self.text_len })?;
                }
                Key::Ignored => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match has_code {
            true => Ok(()),
            false => Err(A::Error::missing_field("code")),
        }
    }
}

enum Key {
    Code,
    Language,
    Version,
    Opaque,
    Flag,
    Remark,
    Fields,
    Ignored,
}

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Key, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a header key")
            }

            fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "code" => Key::Code,
                    "language" => Key::Language,
                    "version" => Key::Version,
                    "opaque" => Key::Opaque,
                    "flag" => Key::Flag,
                    "remark" => Key::Remark,
                    "extFields" => Key::Fields,
                    _ => Key::Ignored,
                })
            }
        }
        json.deserialize_identifier(KeyVisitor)
    }
}

/// A language by name, or by number as fastjson also accepts enums.
struct LanguageSeed;

impl<'de> DeserializeSeed<'de> for LanguageSeed {
    type Value = Language;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Language, D::Error> {
        json.deserialize_any(self)
    }
}

impl Visitor<'_> for LanguageSeed {
    type Value = Language;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a language name or number")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Language, E> {
        Ok(Language::from_name(name))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Language, E> {
        Ok(u8::try_from(number).map_or(Language::Other, Language::from_byte))
    }

    fn visit_unit<E: Error>(self) -> Result<Language, E> {
        Ok(Language::Other)
    }
}

struct FieldsSeed {
    text_len: usize,
}

impl<'de> DeserializeSeed<'de> for FieldsSeed {
    type Value = Option<Fields>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Option<Fields>, D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldsSeed {
    type Value = Option<Fields>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("extFields as a map")
    }

    fn visit_unit<E: Error>(self) -> Result<Option<Fields>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Fields>, A::Error> {
        let mut fields = Fields::with_text_capacity(self.text_len);
        while map.next_key_seed(FieldText { fields: &mut fields, part: Part::Name })?.is_some() {
            map.next_value_seed(FieldText { fields: &mut fields, part: Part::Value })?;
        }
        Ok(Some(fields))
    }
}

#[derive(Clone, Copy)]
enum Part {
    Name,
    Value,
}

/// Writes one name or value straight into the fields' text.
struct FieldText<'a> {
    fields: &'a mut Fields,
    part: Part,
}

impl<'de> DeserializeSeed<'de> for FieldText<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        match self.part {
            Part::Name => json.deserialize_str(self),
            Part::Value => json.deserialize_any(self),
        }
    }
}

impl Visitor<'_> for FieldText<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number or a boolean")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        match self.part {
            Part::Name => self.fields.push_name(text),
            Part::Value => self.fields.push_value(text),
        }
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_str(&value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.visit_str(&value.to_string())
    }

    /// A null value is as good as none.
    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.fields.pop_name();
        Ok(())
    }
}

pub(super) fn encode(command: &Command, out: &mut BytesMut) {
    int(out, "{\"code\":", command.code);
    if let Some(fields) = &command.fields {
        out.put_slice(b",\"extFields\":{");
        for (index, (name, value)) in fields.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            string(out, name);
            out.put_u8(b':');
            string(out, value);
        }
        out.put_u8(b'}');
    }
    int(out, ",\"flag\":", command.flag);
    out.put_slice(b",\"language\":");
    string(out, command.language.name());
    int(out, ",\"opaque\":", command.opaque);
    if let Some(remark) = &command.remark {
        out.put_slice(b",\"remark\":");
        string(out, remark);
    }
    out.put_slice(b",\"serializeTypeCurrentRPC\":");
    string(out, HeaderType::Json.name());
    int(out, ",\"version\":", command.version);
    out.put_u8(b'}');
}

fn int(out: &mut BytesMut, before: &str, value: i32) {
    write!(out, "{before}{value}").expect("a growing buffer takes any text");
}

/// Quotes text, escaping what JSON must escape; runs without an escape are copied whole.
fn string(out: &mut BytesMut, text: &str) {
    out.put_u8(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.put_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.put_slice(b"\\\""),
            b'\\' => out.put_slice(b"\\\\"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            b'\t' => out.put_slice(b"\\t"),
            0x08 => out.put_slice(b"\\b"),
            0x0C => out.put_slice(b"\\f"),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.put_slice(b"\\u00");
                out.put_u8(HEX[usize::from(byte >> 4)]);
                out.put_u8(HEX[usize::from(byte & 15)]);
            }
        }
    }
    out.put_slice(&bytes[copied..]);
    out.put_u8(b'"');
}
