//! The core's readers of text and bytes from outside as a fuzzer reaches them; true when they were understood. Owns nothing, and
//! nothing else calls it.

use super::pull::Filter;
use crate::api::Subscription;
use lifecycle::identity::Name;
use std::path::Path;

/// The blob of a state snapshot.
pub fn snapshot(bytes: &[u8]) -> bool {
    super::snapshot::decode(bytes, Path::new("/")).is_ok()
}

/// A tag expression; a line before it names its type.
pub fn tag_expression(text: &str) -> bool {
    let (kind, expression) = text.split_once('\n').unwrap_or(("TAG", text));
    let [topic, expression, expression_type] = ["t", expression, kind].map(Name::from);
    let subscription = Subscription { topic, expression: expression.clone(), version: 1, expression_type };
    let Ok(filter) = Filter::parse(&subscription) else { return false };
    assert_eq!(*filter.expression(), expression, "an expression is kept as it was written");
    true
}

/// A receipt handle.
pub fn receipt_handle(text: &str) -> bool {
    super::lease::reads_back(text)
}
