//! Skeleton.

pub mod report;
