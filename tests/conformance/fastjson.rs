//! Owns reading what Java's fastjson writes: JSON whose map keys may be numbers or objects. Such a key becomes its own text.

use serde_json::{Map, Value};

/// The value of a body, object keys written as text.
pub(crate) fn parse(text: &str) -> Option<Value> {
    let mut parser = Parser { rest: text };
    let value = parser.value()?;
    parser.space();
    parser.rest.is_empty().then_some(value)
}

struct Parser<'a> {
    rest: &'a str,
}

impl Parser<'_> {
    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: char) -> bool {
        self.space();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn value(&mut self) -> Option<Value> {
        if self.take('{') {
            return self.map();
        }
        if self.take('[') {
            return self.list();
        }
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<Value>();
        let value = values.next()?.ok()?;
        self.rest = &self.rest[values.byte_offset()..];
        Some(value)
    }

    fn map(&mut self) -> Option<Value> {
        let mut map = Map::new();
        if self.take('}') {
            return Some(Value::Object(map));
        }
        loop {
            let key = match self.key()? {
                Value::String(key) => key,
                other => other.to_string(),
            };
            if !self.take(':') {
                return None;
            }
            map.insert(key, self.value()?);
            if self.take('}') {
                return Some(Value::Object(map));
            }
            if !self.take(',') {
                return None;
            }
        }
    }

    /// A number as key ends at the colon, which the number parser would not mind, but a bare deserializer does.
    fn key(&mut self) -> Option<Value> {
        self.space();
        let digits = self.rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 {
            return self.value();
        }
        let (number, rest) = self.rest.split_at(digits);
        self.rest = rest;
        Some(Value::String(number.to_owned()))
    }

    fn list(&mut self) -> Option<Value> {
        let mut list = Vec::new();
        if self.take(']') {
            return Some(Value::Array(list));
        }
        loop {
            list.push(self.value()?);
            if self.take(']') {
                return Some(Value::Array(list));
            }
            if !self.take(',') {
                return None;
            }
        }
    }
}

#[test]
fn keys_may_be_numbers_and_objects() {
    let read = |text: &str| parse(text).unwrap().to_string();
    assert_eq!(read(r#"{0:"a",1:{"b":[1,2.5,true,null]}}"#), r#"{"0":"a","1":{"b":[1,2.5,true,null]}}"#);
    let expected = r#"{"t":{"{\"q\":1,\"topic\":\"T\"}":{"max":3}}}"#;
    assert_eq!(read(r#"{"t":{{"topic":"T","q":1}:{"max":3}}}"#), expected);
    assert_eq!(read("{}"), "{}");
    assert!(parse("{a:1}").is_none());
    assert!(parse("{}x").is_none());
}
