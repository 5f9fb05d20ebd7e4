//! Skeleton.

pub mod api;
pub mod handle;
