//! Output: aligned columns and plain sentences for people, one JSON object a line for programs.

use serde::Serialize;
use std::io::{self, Write};

/// Where and how a command prints.
pub(super) struct Printer<'a> {
    pub(super) json: bool,
    pub(super) out: &'a mut (dyn Write + Send),
}

impl Printer<'_> {
    /// One object, or its sentence.
    pub(super) fn one(&mut self, object: &impl Serialize, sentence: impl FnOnce() -> String) -> io::Result<()> {
        if self.json { self.object(object) } else { writeln!(self.out, "{}", sentence()) }
    }

    /// One object a line, or a table. `headings` stand above the first page of a longer list only.
    pub(super) fn many<T: Serialize>(
        &mut self,
        objects: &[T],
        headings: Option<&[&str]>,
        cells: impl Fn(&T) -> Vec<String>,
    ) -> io::Result<()> {
        if self.json {
            return objects.iter().try_for_each(|object| self.object(object));
        }
        let mut rows: Vec<Vec<String>> = Vec::with_capacity(objects.len() + 1);
        rows.extend(headings.map(|names| names.iter().map(|name| (*name).to_owned()).collect()));
        rows.extend(objects.iter().map(cells));
        self.table(&rows)
    }

    fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, object)?;
        writeln!(self.out)
    }

    fn table(&mut self, rows: &[Vec<String>]) -> io::Result<()> {
        let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
        let width_of = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width_of).collect();
        for row in rows {
            let cells = row.iter().zip(&widths);
            let line: String = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// An optional figure in a table.
pub(super) fn or_dash(figure: Option<impl ToString>) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| figure.to_string())
}
