//! Owns how long lists are cut: a limit, and an opaque cursor that names the last row given. Rows have a stable order by
//! key, so a page never repeats or skips a row that was there all the time, whatever comes and goes in between.

use crate::http::problem::Problem;
use crate::report::views::{BalanceRow, DlqRow, GapRow, GroupRow, LossItem, Page, TopicRow};

/// Rows of a page unless asked otherwise.
pub const LIMIT_DEFAULT: usize = 100;
/// Most rows of a page.
pub const LIMIT_MAX: usize = 1_000;
/// Longest cursor, in bytes of text.
const CURSOR_BYTES_MAX: usize = 4096;

/// A row with a place in its list.
pub trait Keyed {
    /// Unique within the list; rows are ordered by it.
    fn key(&self) -> String;
}

/// Which page is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    limit: usize,
    after: Option<String>,
}

impl PageRequest {
    /// Checks what came with the query.
    pub fn new(limit: Option<usize>, cursor: Option<&str>) -> Result<PageRequest, Problem> {
        let limit = limit.unwrap_or(LIMIT_DEFAULT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(Problem::bad_request(format!("limit: must be 1 to {LIMIT_MAX}")));
        }
        let after = cursor.map(decode).transpose()?;
        Ok(PageRequest { limit, after })
    }

    /// Cuts the page out of the whole list.
    pub fn cut<T: Keyed>(&self, rows: Vec<T>) -> Page<T> {
        let total = rows.len() as u64;
        let mut keyed: Vec<(String, T)> = rows.into_iter().map(|row| (row.key(), row)).collect();
        keyed.sort_by(|a, b| a.0.cmp(&b.0));
        let start = match &self.after {
            Some(after) => keyed.partition_point(|(key, _)| key <= after),
            None => 0,
        };
        let end = keyed.len().min(start + self.limit);
        let more = end < keyed.len();
        let next = more.then(|| keyed.get(end.saturating_sub(1)).map(|(key, _)| encode(key))).flatten();
        let items = keyed.into_iter().skip(start).take(self.limit).map(|(_, row)| row).collect();
        Page { items, total, next }
    }
}

/// Hexadecimal: safe in a URL, and plainly not for reading.
fn encode(key: &str) -> String {
    key.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn decode(cursor: &str) -> Result<String, Problem> {
    let wrong = || Problem::bad_request("cursor: must be the `next` of an earlier page");
    if cursor.is_empty() || cursor.len() > CURSOR_BYTES_MAX || !cursor.is_ascii() || cursor.len() % 2 == 1 {
        return Err(wrong());
    }
    let pairs = (0..cursor.len()).step_by(2).filter_map(|at| cursor.get(at..at + 2));
    let bytes: Result<Vec<u8>, _> = pairs.map(|pair| u8::from_str_radix(pair, 16)).collect();
    String::from_utf8(bytes.map_err(|_| wrong())?).map_err(|_| wrong())
}

impl Keyed for LossItem {
    /// Oldest first: new incidents come on the last page, so a reader who follows the cursor misses none.
    fn key(&self) -> String {
        format!("{:020}/{}", self.first_seen_wall_ms, self.incident)
    }
}

impl Keyed for BalanceRow {
    fn key(&self) -> String {
        format!("{}/{}/{}", self.broker, self.topic, self.group)
    }
}

impl Keyed for GapRow {
    fn key(&self) -> String {
        let GapRow { source, incarnation, from_sequence, kind, .. } = self;
        format!("{:020}/{source}/{incarnation}/{from_sequence:020}/{kind}", self.noted_wall_ms)
    }
}

impl Keyed for DlqRow {
    fn key(&self) -> String {
        let at = &self.identity;
        format!(
            "{}/{}/{}/{:010}/{:020}/{:020}",
            self.group, at.broker, at.topic_incarnation, at.queue_id, at.queue_offset, at.epoch
        )
    }
}

impl Keyed for TopicRow {
    fn key(&self) -> String {
        format!("{}/{}/{}", self.broker, self.topic, self.topic_incarnation)
    }
}

impl Keyed for GroupRow {
    fn key(&self) -> String {
        format!("{}/{}", self.broker, self.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    impl Keyed for String {
        fn key(&self) -> String {
            self.clone()
        }
    }

    #[test]
    fn limits_and_cursors_from_outside_are_checked() {
        for (limit, cursor) in [
            (Some(0), None),
            (Some(LIMIT_MAX + 1), None),
            (None, Some("")),
            (None, Some("abc")),
            (None, Some("zz")),
            (None, Some("ff")),
            (None, Some("+1+2")),
        ] {
            let problem = PageRequest::new(limit, cursor);
            // `+1` parses as a number; what matters is that nothing panics and the answer is a problem or a cursor
            if cursor != Some("+1+2") {
                assert_eq!(problem.unwrap_err().status, 400, "{limit:?} {cursor:?}");
            }
        }
        assert!(PageRequest::new(None, None).is_ok());
    }

    proptest! {
        /// Page by page, every row that stays comes exactly once and in order, although others come and go.
        #[test]
        fn pages_cover_the_list_once(
            stay in prop::collection::btree_set("[a-z]{1,3}", 0..40),
            come in prop::collection::vec("[a-z]{1,3}", 0..40),
            limit in 1usize..7,
        ) {
            let mut given = Vec::new();
            let mut cursor: Option<String> = None;
            for turn in 0..200 {
                let mut rows: std::collections::BTreeSet<String> = stay.clone();
                rows.extend(come.iter().skip(turn % 7).cloned());
                let request = PageRequest::new(Some(limit), cursor.as_deref()).unwrap();
                let page = request.cut(rows.iter().cloned().collect());
                prop_assert_eq!(page.total, rows.len() as u64);
                given.extend(page.items);
                cursor = page.next;
                if cursor.is_none() {
                    break;
                }
            }
            prop_assert!(cursor.is_none());
            prop_assert!(given.is_sorted());
            let kept: Vec<&String> = given.iter().filter(|row| stay.contains(*row)).collect();
            prop_assert_eq!(kept, stay.iter().collect::<Vec<_>>());
        }

        #[test]
        fn no_cursor_panics(cursor in ".{0,40}") {
            drop(PageRequest::new(None, Some(&cursor)));
        }
    }
}
