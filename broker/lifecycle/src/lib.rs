//! The contract between broker and agent: identities, facts, their frames, positions. No IO, no threads, no clock.
//!
//! A broker states [`fact::Fact`]s at the exact points they become true, one [`frame`] per turn of its core; a journal keeps
//! the frames, a feed carries them, an agent folds them. Byte formats drawn in [`frame`], [`ids`] and
//! [`identity::Lineage::encode`] last for ever.

pub mod clock;
pub mod fact;
pub mod frame;
pub mod hash;
pub mod identity;
pub mod ids;
pub mod position;
pub mod ranges;
pub mod varint;
