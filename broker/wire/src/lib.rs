//! The RocketMQ remoting protocol as values: frames, commands, typed headers, bodies, and the record a message is on the
//! wire and in the log.
//!
//! Owns: every byte layout a 4.x client, the admin tool or a name server sees. Never does: IO, time, broker semantics.
//! Called by: the broker's remoting edge (frames, commands, headers, bodies), the store (`message` only), and anything that
//! reads ids. Input is hostile: decoders return an error, never panic, and copy no more than they were given.
//!
//! The way in: [`frame::FrameDecoder`] cuts frames, [`command::Command::decode`] reads the header, a type of [`header`]
//! reads the fields of one request, a type of [`body`] its body. The way out: a [`command::Command`] made by
//! [`command::Command::response_to`] and filled by a response type, then [`command::Command::encode`].

pub mod body;
pub mod code;
pub mod command;
pub mod fields;
pub mod frame;
pub mod header;
pub mod ids;
mod lenient;
pub mod message;
pub mod name;
pub mod properties;
mod scan;
pub mod sys_flag;
