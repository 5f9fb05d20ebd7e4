//! Reads numbers, enums and lists the way Java's parser does: a number may come as text, an enum as its ordinal, a list as
//! null. The C++ and JavaScript clients rely on it.
//!
//! Owns: that tolerance and nothing else. Called by: `header` and `body`.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, Visitor};

/// An integer written as a number, as text, or as a fraction without a fractional part.
pub(crate) struct IntSeed<T>(PhantomData<T>);

impl<T> IntSeed<T> {
    pub(crate) fn new() -> IntSeed<T> {
        IntSeed(PhantomData)
    }
}

impl<'de, T: TryFrom<i64>> DeserializeSeed<'de> for IntSeed<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        json.deserialize_any(self)
    }
}

impl<T: TryFrom<i64>> Visitor<'_> for IntSeed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer in range")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<T, E> {
        T::try_from(value).map_err(|_| E::custom(format_args!("integer {value} is out of range")))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<T, E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::custom(format_args!("integer {value} is out of range"))),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<T, E> {
        // Above 2^53 a float no longer names one integer.
        match value.fract() == 0.0 && value.abs() < 9_007_199_254_740_992.0 {
            true => self.visit_i64(value as i64),
            false => Err(E::custom(format_args!("{value} is not an integer"))),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        match text.parse::<i64>() {
            Ok(value) => self.visit_i64(value),
            Err(_) => Err(E::custom("text is not an integer")),
        }
    }
}

/// For `#[serde(deserialize_with)]`.
pub(crate) fn int<'de, D: Deserializer<'de>, T: TryFrom<i64>>(json: D) -> Result<T, D::Error> {
    IntSeed::new().deserialize(json)
}

/// A list that may be null.
pub(crate) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(json: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(json)?.unwrap_or_default())
}

/// A list of integers in any writing, that may be null.
pub(crate) fn int_list<'de, D: Deserializer<'de>>(json: D) -> Result<Vec<i64>, D::Error> {
    struct Int(i64);
    impl<'de> Deserialize<'de> for Int {
        fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Int, D::Error> {
            int(json).map(Int)
        }
    }
    let list = Option::<Vec<Int>>::deserialize(json)?.unwrap_or_default();
    Ok(list.into_iter().map(|Int(value)| value).collect())
}

/// Text that may be null or a number.
pub(crate) fn text<'de, D: Deserializer<'de>>(json: D) -> Result<String, D::Error> {
    struct TextVisitor;
    impl Visitor<'_> for TextVisitor {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_i64<E: Error>(self, value: i64) -> Result<String, E> {
            Ok(value.to_string())
        }

        fn visit_unit<E: Error>(self) -> Result<String, E> {
            Ok(String::new())
        }
    }
    json.deserialize_any(TextVisitor)
}

/// A boolean written as a boolean, a number or text.
pub(crate) fn boolean<'de, D: Deserializer<'de>>(json: D) -> Result<bool, D::Error> {
    struct BoolVisitor;
    impl Visitor<'_> for BoolVisitor {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a boolean")
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<bool, E> {
            Ok(value)
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<bool, E> {
            Ok(value != 0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
            Ok(is_true(text))
        }

        fn visit_unit<E: Error>(self) -> Result<bool, E> {
            Ok(false)
        }
    }
    json.deserialize_any(BoolVisitor)
}

/// Java reads everything but "true" as false; the C++ client writes 1.
pub(crate) fn is_true(text: &str) -> bool {
    text.eq_ignore_ascii_case("true") || text == "1"
}
