//! The binary header (`SerializeType.ROCKETMQ`).
//!
//! Owns: its layout, drawn below. Called by: `command`.
//!
//! ```text
//! i16 code | u8 language | i16 version | i32 opaque | i32 flag
//! | i32 length, remark | i32 length, ( i16 length, name | i32 length, value )*
//! ```

use std::borrow::Cow;

use bytes::{BufMut, Bytes};

use super::{Command, CommandError, Language};
use crate::{fields::Fields, frame::HeaderType};

pub(super) fn decode(header: &[u8], body: Bytes) -> Result<Command, CommandError> {
    let mut rest = header;
    let code = i32::from(i16::from_be_bytes(take_array(&mut rest, "code")?));
    let [language] = take_array(&mut rest, "language")?;
    let version = i32::from(i16::from_be_bytes(take_array(&mut rest, "version")?));
    let opaque = i32::from_be_bytes(take_array(&mut rest, "opaque")?);
    let flag = i32::from_be_bytes(take_array(&mut rest, "flag")?);
    let remark = take_long(&mut rest, "remark")?;
    let remark = match remark.is_empty() {
        true => None,
        false => Some(Cow::Owned(text(remark, "remark")?.to_owned())),
    };
    let fields = take_long(&mut rest, "extFields")?;
    // Bytes after the last field are ignored, as Java does.
    Ok(Command {
        code,
        language: Language::from_byte(language),
        version,
        opaque,
        flag,
        remark,
        fields: decode_fields(fields)?,
        header_type: HeaderType::Rocketmq,
        body,
    })
}

fn decode_fields(mut rest: &[u8]) -> Result<Option<Fields>, CommandError> {
    if rest.is_empty() {
        return Ok(None);
    }
    let mut fields = Fields::with_text_capacity(rest.len());
    while !rest.is_empty() {
        let name_len = i16::from_be_bytes(take_array(&mut rest, "field name")?);
        let name = take(&mut rest, i32::from(name_len), "field name")?;
        let value = take_long(&mut rest, "field value")?;
        fields.push(text(name, "field name")?, text(value, "field value")?);
    }
    Ok(Some(fields))
}

/// Whether the command has a binary form at all.
pub(super) fn fits(command: &Command) -> bool {
    let names_fit = |fields: &Fields| fields.iter().all(|(name, _)| name.len() <= i16::MAX as usize);
    i16::try_from(command.code).is_ok()
        && i16::try_from(command.version).is_ok()
        && command.fields.as_ref().is_none_or(names_fit)
}

/// What stands before the fields; they follow, each by [`field`]. The caller has asked [`fits`].
pub(super) fn begin(command: &Command, out: &mut Vec<u8>) {
    out.put_i16(command.code as i16);
    out.put_u8(command.language.byte());
    out.put_i16(command.version as i16);
    out.put_i32(command.opaque);
    out.put_i32(command.flag);
    put_long(out, command.remark.as_deref().unwrap_or_default());
    out.put_u32(0);
}

/// One field.
pub(super) fn field(name: &str, value: &[u8], out: &mut Vec<u8>) {
    out.put_u16(name.len() as u16);
    out.put_slice(name.as_bytes());
    out.put_u32(value.len() as u32);
    out.put_slice(value);
}

/// Notes how long the fields are, which start at `fields_at`.
pub(super) fn end(fields_at: usize, out: &mut [u8]) {
    let fields_len = (out.len() - fields_at) as u32;
    out[fields_at - 4..fields_at].copy_from_slice(&fields_len.to_be_bytes());
}

fn put_long(out: &mut Vec<u8>, text: &str) {
    out.put_u32(text.len() as u32);
    out.put_slice(text.as_bytes());
}

fn take_array<const N: usize>(rest: &mut &[u8], part: &'static str) -> Result<[u8; N], CommandError> {
    let (bytes, after) = rest.split_first_chunk::<N>().ok_or(CommandError::Truncated { part })?;
    *rest = after;
    Ok(*bytes)
}

fn take<'a>(rest: &mut &'a [u8], len: i32, part: &'static str) -> Result<&'a [u8], CommandError> {
    let (bytes, after) = usize::try_from(len)
        .ok()
        .and_then(|len| rest.split_at_checked(len))
        .ok_or(CommandError::Truncated { part })?;
    *rest = after;
    Ok(bytes)
}

fn take_long<'a>(rest: &mut &'a [u8], part: &'static str) -> Result<&'a [u8], CommandError> {
    let len = i32::from_be_bytes(take_array(rest, part)?);
    take(rest, len, part)
}

fn text<'a>(bytes: &'a [u8], part: &'static str) -> Result<&'a str, CommandError> {
    std::str::from_utf8(bytes).map_err(|_| CommandError::NotUtf8 { part })
}
