//! An event that is too large to be held: its data is shown in parts while its bytes pass.

use super::{BYTE_ORDER_MARK, Data, OnEvent, Verdict, data_value, next_line, safe_end};

/// The longest beginning of a line that must be seen to know what the line is: `data: `.
const NAME_BYTES: usize = 6;

/// The line of a large event that is being read.
#[derive(Debug, Default)]
enum Line {
    /// None: the next one begins here.
    #[default]
    Start,
    /// A line of data.
    Data,
    /// Any other.
    Other,
}

/// How far a large event has been read.
#[derive(Debug, Default)]
pub(super) struct LargeEvent {
    line: Line,
    data_lines: usize,
    /// A byte order mark may stand before it.
    is_first: bool,
}

impl LargeEvent {
    pub(super) fn new(is_first: bool) -> Self {
        Self { is_first, ..Self::default() }
    }

    /// Reads on from `at`; returns how far it came, and the verdict if the event ends there.
    pub(super) fn read(&mut self, buffer: &[u8], at: usize, on_event: &mut OnEvent<'_>) -> (usize, Option<Verdict>) {
        let mut at = at;
        if std::mem::take(&mut self.is_first) && buffer[at..].starts_with(BYTE_ORDER_MARK) {
            at += BYTE_ORDER_MARK.len();
        }
        loop {
            let line = next_line(buffer, at);
            match self.line {
                Line::Start => match line {
                    Some((end, next)) if end == at => return (next, Some(on_event(Data::End))),
                    None if safe_end(buffer) - at.min(safe_end(buffer)) < NAME_BYTES => return (at, None),
                    _ => at += self.begin_line(&buffer[at..line.map_or(safe_end(buffer), |(end, _)| end)], on_event),
                },
                Line::Data | Line::Other => {
                    let end = line.map_or(safe_end(buffer), |(end, _)| end);
                    if matches!(self.line, Line::Data) && end > at {
                        on_event(Data::Part(&buffer[at..end]));
                    }
                    let Some((_, next)) = line else { return (end.max(at), None) };
                    self.line = Line::Start;
                    at = next;
                }
            }
        }
    }

    /// Reads the end of the stream, which ends the event.
    pub(super) fn finish(&mut self, rest: &[u8], on_event: &mut OnEvent<'_>) {
        let rest = rest.strip_suffix(b"\r").unwrap_or(rest);
        if matches!(self.line, Line::Start) {
            let begun = self.begin_line(rest, on_event);
            if matches!(self.line, Line::Data) && begun < rest.len() {
                on_event(Data::Part(&rest[begun..]));
            }
        }
        on_event(Data::End);
    }

    /// Tells what the line is from its beginning; returns where its value begins.
    fn begin_line(&mut self, line: &[u8], on_event: &mut OnEvent<'_>) -> usize {
        let Some(value) = data_value(line) else {
            self.line = Line::Other;
            return 0;
        };
        self.line = Line::Data;
        if self.data_lines > 0 {
            // Several data lines are one text with line feeds between them.
            on_event(Data::Part(b"\n"));
        }
        self.data_lines += 1;
        line.len() - value.len()
    }
}
