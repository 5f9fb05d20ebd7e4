//! The named text values of a header (`extFields`), in the order received.
//!
//! Owns: their storage, two allocations for a whole header because every send carries thirteen of them. Never interprets a
//! value (`header` does). Called by: `command` and `header`.

use std::ops::Range;

/// Text of a usual answer, so that it grows once.
const FIRST_RESERVE: usize = 160;

/// An ordered list of names and values. A name given twice counts with its last value, as in Java's map.
#[derive(Clone, Default)]
pub struct Fields {
    /// Holds every name and value, and in a header read from JSON everything between them: copying the header whole is
    /// cheaper than copying its pieces.
    text: String,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    name: Span,
    value: Span,
}

/// Where in `text` something is; a header is far below 4 GiB.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl From<Range<usize>> for Span {
    #[inline]
    fn from(range: Range<usize>) -> Span {
        let position = |at: usize| u32::try_from(at).expect("a header is below 16 MiB");
        Span { start: position(range.start), end: position(range.end) }
    }
}

/// A name or value found in the text that [`Fields::over`] was given, or one that had to be unescaped.
pub(crate) enum Piece {
    Source(Range<usize>),
    Unescaped(String),
}

/// What a field can be set to.
pub trait FieldValue {
    fn append_to(&self, text: &mut String);
}

impl Fields {
    pub fn new() -> Fields {
        Fields::default()
    }

    /// No fields yet, of text that will be pointed into.
    pub(crate) fn over(source: &str) -> Fields {
        let mut text = String::with_capacity(source.len() * 2);
        text.push_str(source);
        Fields { text, entries: Vec::with_capacity(16) }
    }

    pub(crate) fn with_text_capacity(bytes: usize) -> Fields {
        Fields { text: String::with_capacity(bytes), entries: Vec::with_capacity(16) }
    }

    pub fn push(&mut self, name: &str, value: impl FieldValue) {
        if self.entries.is_empty() {
            self.text.reserve(FIRST_RESERVE);
            self.entries.reserve(8);
        }
        let start = self.text.len();
        self.text.push_str(name);
        let middle = self.text.len();
        value.append_to(&mut self.text);
        let entry = Entry { name: (start..middle).into(), value: (middle..self.text.len()).into() };
        self.entries.push(entry);
    }

    /// Adds a field by where it is.
    #[inline]
    pub(crate) fn push_pieces(&mut self, name: Piece, value: Piece) {
        let entry = Entry { name: self.keep(name), value: self.keep(value) };
        self.entries.push(entry);
    }

    /// Adds a field whose name and value are in the text that [`Fields::over`] was given.
    #[inline]
    pub(crate) fn push_source(&mut self, name: Range<usize>, value: Range<usize>) {
        self.entries.push(Entry { name: name.into(), value: value.into() });
    }

    #[inline]
    fn keep(&mut self, piece: Piece) -> Span {
        match piece {
            Piece::Source(range) => range.into(),
            Piece::Unescaped(text) => {
                let start = self.text.len();
                self.text.push_str(&text);
                (start..self.text.len()).into()
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        let entry = self.entries.iter().rev().find(|entry| self.at(entry.name) == name)?;
        Some(self.at(entry.value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|entry| (self.at(entry.name), self.at(entry.value)))
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn at(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }
}

impl<T: FieldValue + ?Sized> FieldValue for &T {
    fn append_to(&self, text: &mut String) {
        (**self).append_to(text);
    }
}

impl FieldValue for str {
    fn append_to(&self, text: &mut String) {
        text.push_str(self);
    }
}

impl FieldValue for String {
    fn append_to(&self, text: &mut String) {
        text.push_str(self);
    }
}

impl FieldValue for bool {
    fn append_to(&self, text: &mut String) {
        text.push_str(if *self { "true" } else { "false" });
    }
}

impl FieldValue for u64 {
    fn append_to(&self, text: &mut String) {
        let mut digits = [0; DIGITS_MAX];
        let digits = decimal(*self, &mut digits);
        text.push_str(std::str::from_utf8(digits).expect("digits are text"));
    }
}

/// Most digits of a number.
pub(crate) const DIGITS_MAX: usize = 20;

/// Digits of a number, without the formatting machinery: an answer has four to six, and this is a fifth of its cost.
pub(crate) fn decimal(value: u64, digits: &mut [u8; DIGITS_MAX]) -> &[u8] {
    let mut first = DIGITS_MAX - 1;
    let mut rest = value;
    while rest > 9 {
        digits[first] = b'0' + (rest % 10) as u8;
        first -= 1;
        rest /= 10;
    }
    digits[first] = b'0' + rest as u8;
    &digits[first..]
}

impl FieldValue for i64 {
    fn append_to(&self, text: &mut String) {
        if *self < 0 {
            text.push('-');
        }
        self.unsigned_abs().append_to(text);
    }
}

impl FieldValue for i32 {
    fn append_to(&self, text: &mut String) {
        i64::from(*self).append_to(text);
    }
}

impl std::fmt::Debug for Fields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Fields) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fields {}

impl<'a> FromIterator<(&'a str, &'a str)> for Fields {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(entries: T) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in entries {
            fields.push(name, value);
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_order_and_the_last_of_two_values_counts() {
        let mut fields = Fields::new();
        fields.push("topic", "T");
        fields.push("queueId", -1);
        fields.push("empty", "");
        fields.push("order", false);
        fields.push("topic", "U");
        let entries: Vec<_> = fields.iter().collect();
        let expected = [("topic", "T"), ("queueId", "-1"), ("empty", ""), ("order", "false"), ("topic", "U")];
        assert_eq!(entries, expected);
        assert_eq!(fields.get("topic"), Some("U"));
        assert_eq!(fields.get("empty"), Some(""));
        assert_eq!(fields.get("other"), None);
        assert_eq!(fields.len(), 5);
    }

    #[test]
    fn points_into_its_source_or_keeps_what_was_unescaped() {
        let source = r#"{"a":"b","c":"\n"}"#;
        let mut fields = Fields::over(source);
        fields.push_pieces(Piece::Source(2..3), Piece::Source(6..7));
        fields.push_pieces(Piece::Source(10..11), Piece::Unescaped("\n".to_owned()));
        assert_eq!(fields, Fields::from_iter([("a", "b"), ("c", "\n")]));
    }

    proptest! {
        #[test]
        fn numbers_are_written_as_everywhere(unsigned in any::<u64>(), signed in any::<i64>(), small in -11i32..11) {
            let mut fields = Fields::new();
            fields.push("u", unsigned);
            fields.push("i", signed);
            fields.push("s", small);
            let (unsigned, signed, small) = (unsigned.to_string(), signed.to_string(), small.to_string());
            prop_assert_eq!(fields, Fields::from_iter([("u", &unsigned[..]), ("i", &signed), ("s", &small)]));
        }
    }
}
