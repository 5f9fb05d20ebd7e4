//! The named text values of a header (`extFields`), in the order received.
//!
//! Owns: their storage, two allocations for a whole header because every send carries thirteen of them. Never interprets a
//! value (`header` does). Called by: `command` and `header`.

use std::fmt::{Display, Write};

/// An ordered list of names and values. A name given twice counts with its last value, as in Java's map.
#[derive(Clone, Default)]
pub struct Fields {
    /// Names and values, one after another.
    text: String,
    /// Where each name and each value ends in `text`.
    ends: Vec<(u32, u32)>,
}

impl Fields {
    pub fn new() -> Fields {
        Fields::default()
    }

    pub(crate) fn with_text_capacity(bytes: usize) -> Fields {
        Fields { text: String::with_capacity(bytes), ends: Vec::with_capacity(16) }
    }

    pub fn push(&mut self, name: &str, value: impl Display) {
        self.push_name(name);
        write!(self.text, "{value}").expect("a String takes any text");
        self.end_value();
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        (0..self.ends.len())
            .rev()
            .map(|index| self.entry(index))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.ends.len()).map(|index| self.entry(index))
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// A name; the caller appends the value to [`Fields::text_mut`] and calls [`Fields::end_value`].
    pub(crate) fn push_name(&mut self, name: &str) {
        self.text.push_str(name);
        let end = self.text_end();
        self.ends.push((end, end));
    }

    pub(crate) fn push_value(&mut self, value: &str) {
        self.text.push_str(value);
        self.end_value();
    }

    /// Takes back the last name, when its value turned out to be null.
    pub(crate) fn pop_name(&mut self) {
        self.ends.pop();
        let end = self.ends.last().map_or(0, |(_, value_end)| *value_end);
        self.text.truncate(end as usize);
    }

    fn end_value(&mut self) {
        let end = self.text_end();
        if let Some(entry) = self.ends.last_mut() {
            entry.1 = end;
        }
    }

    fn text_end(&self) -> u32 {
        u32::try_from(self.text.len()).expect("fields come from a frame of at most 16 MiB")
    }

    fn entry(&self, index: usize) -> (&str, &str) {
        let start = match index {
            0 => 0,
            _ => self.ends[index - 1].1 as usize,
        };
        let (name_end, value_end) = self.ends[index];
        (&self.text[start..name_end as usize], &self.text[name_end as usize..value_end as usize])
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

    #[test]
    fn keeps_order_and_the_last_of_two_values_counts() {
        let mut fields = Fields::new();
        fields.push("topic", "T");
        fields.push("queueId", -1);
        fields.push("empty", "");
        fields.push("topic", "U");
        let entries: Vec<_> = fields.iter().collect();
        assert_eq!(entries, [("topic", "T"), ("queueId", "-1"), ("empty", ""), ("topic", "U")]);
        assert_eq!(fields.get("topic"), Some("U"));
        assert_eq!(fields.get("empty"), Some(""));
        assert_eq!(fields.get("other"), None);
        assert_eq!(fields.len(), 4);
    }

    #[test]
    fn takes_back_a_name() {
        let mut fields = Fields::new();
        fields.push_name("gone");
        fields.pop_name();
        assert!(fields.is_empty());
        fields.push("a", "b");
        fields.push_name("gone");
        fields.pop_name();
        assert_eq!(fields, Fields::from_iter([("a", "b")]));
    }
}
