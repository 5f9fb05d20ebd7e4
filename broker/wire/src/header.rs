//! What the fields of each request mean: one typed struct per request, one type per response that carries fields.
//!
//! Owns: field names, which are mandatory, and the defaults of those that are not. Unknown fields are ignored: clients add
//! `bname`, `ReqT`, `AccessKey`, `Signature`. Never decides what a request does. Called by: the remoting edge, which turns
//! these into the broker's own types at once.

use std::str::FromStr;

use crate::{code, command::Command, lenient};

pub mod admin;
pub mod client;
pub mod offset;
pub mod pull;
pub mod query;
pub mod route;
pub mod send;
pub mod transaction;

/// Longest part of a bad value an error repeats.
const MAX_SHOWN_VALUE_LEN: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("{request} lacks the field {field}")]
    Missing { request: &'static str, field: &'static str },
    #[error("{request} has no readable {field}: {value:?}")]
    Invalid { request: &'static str, field: &'static str, value: String },
    #[error("body of {request} is not what it should be: {reason}")]
    Body { request: &'static str, reason: String },
}

/// Reads the fields of one request.
#[derive(Clone, Copy)]
struct FieldReader<'a> {
    command: &'a Command,
}

impl<'a> FieldReader<'a> {
    fn new(command: &'a Command) -> FieldReader<'a> {
        FieldReader { command }
    }

    fn optional(self, field: &'static str) -> Option<&'a str> {
        self.command.field(field)
    }

    fn text(self, field: &'static str) -> Result<&'a str, RequestError> {
        self.optional(field).ok_or(self.missing(field))
    }

    fn number<T: FromStr>(self, field: &'static str) -> Result<T, RequestError> {
        self.parse(field, self.text(field)?)
    }

    fn optional_number<T: FromStr>(self, field: &'static str) -> Result<Option<T>, RequestError> {
        match self.optional(field) {
            Some(value) => self.parse(field, value).map(Some),
            None => Ok(None),
        }
    }

    fn boolean(self, field: &'static str) -> bool {
        self.optional(field).is_some_and(lenient::is_true)
    }

    fn parse<T: FromStr>(self, field: &'static str, value: &str) -> Result<T, RequestError> {
        value.parse().map_err(|_| self.invalid(field, value))
    }

    fn missing(self, field: &'static str) -> RequestError {
        RequestError::Missing { request: code::request_name(self.command.code), field }
    }

    fn invalid(self, field: &'static str, value: &str) -> RequestError {
        RequestError::Invalid {
            request: code::request_name(self.command.code),
            field,
            value: value.chars().take(MAX_SHOWN_VALUE_LEN).collect(),
        }
    }
}

#[cfg(test)]
mod tests;
