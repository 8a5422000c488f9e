//! Pages of lists: how many, and from where on.

use crate::error::Refusal;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Sizes that a page may have.
pub const SIZES: [u32; 4] = [10, 25, 50, 100];
const SIZE: u32 = 25;
/// No cursor is longer.
const CURSOR_BYTES_MAX: usize = 512;

/// Which page of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Page {
    /// How many: 10, 25, 50 or 100.
    #[param(minimum = 10, maximum = 100, default = 25, required = false)]
    pub limit: Option<u32>,
    /// What the page before said in `next_cursor`.
    #[param(required = false, max_length = 512)]
    pub cursor: Option<String>,
}

impl Page {
    /// How many.
    pub fn size(&self) -> Result<u32, Refusal> {
        let size = self.limit.unwrap_or(SIZE);
        if SIZES.contains(&size) {
            return Ok(size);
        }
        Err(Refusal::validation("limit", "A page has 10, 25, 50 or 100 entries."))
    }

    /// From where on.
    pub fn after<T: std::str::FromStr>(&self) -> Result<Option<T>, Refusal> {
        let read = |text: &String| {
            let cursor = text.parse().ok().filter(|_| text.len() <= CURSOR_BYTES_MAX);
            cursor.ok_or_else(|| {
                Refusal::validation("cursor", "This is not a cursor of this list: begin again without one.")
            })
        };
        self.cursor.as_ref().map(read).transpose()
    }
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Listed<T> {
    /// The entries.
    pub data: Vec<T>,
    /// For the next page; null on the last.
    pub next_cursor: Option<String>,
}

impl<T> Listed<T> {
    /// A page of what was read: one entry more than the page has says that others follow.
    pub fn of<R>(mut rows: Vec<R>, size: u32, cursor: impl Fn(&R) -> String, shown: impl Fn(R) -> T) -> Self {
        let size = size as usize;
        let has_more = rows.len() > size;
        rows.truncate(size);
        let next_cursor = rows.last().filter(|_| has_more).map(cursor);
        Self { data: rows.into_iter().map(shown).collect(), next_cursor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_the_page_says_that_others_follow() {
        for (rows, next) in [(10, None), (11, Some("9"))] {
            let page = Listed::of((0..rows).collect(), 10, |row: &u32| row.to_string(), |row| row);
            assert_eq!((page.data.len(), page.next_cursor.as_deref()), (10, next));
        }
        for (limit, size) in [(None, Some(25)), (Some(100), Some(100)), (Some(11), None), (Some(0), None)] {
            assert_eq!(Page { limit, cursor: None }.size().ok(), size);
        }
    }
}
