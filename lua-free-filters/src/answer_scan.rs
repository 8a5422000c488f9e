//! Finds a few members of a JSON text while it passes, in constant memory and whatever the chunks.

use memchr::memchr2;

/// A member's value longer than this is not kept; no usage object is.
const VALUE_BYTES_MAX: usize = 16 * 1024;
/// So much of a value is kept where its beginning is enough.
const HEAD_BYTES: usize = 64;
/// A member's name longer than this is none of ours.
const NAME_BYTES_MAX: usize = 48;
/// Containers on the way to a member, arrays among them.
const LEVELS_MAX: usize = 12;
/// Members that one scan can look for.
const WANTED_MAX: usize = 16;

/// The bytes that mean something in a value, strings aside.
static MARKS: [bool; 256] = {
    let mut marks = [false; 256];
    let mut place = 0;
    while place < 6 {
        marks[b"\"{}[],"[place] as usize] = true;
        place += 1;
    }
    marks
};

/// A member that is looked for. Two can't have one path.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The names of the members on the way to it, from the outside in. Arrays on the way are looked through.
    pub path: &'static [&'static str],
    /// What of it is kept.
    pub keep: Keep,
}

/// What is kept of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Its value as JSON text, unless it is null. Of duplicates the last wins.
    Value,
    /// The beginning of its value.
    Head,
    /// How often its value is one of these JSON texts.
    Times(&'static [&'static str]),
    /// How many of it there are, nulls aside.
    Each,
    /// How many bytes its string values have, escapes counted as written.
    Bytes,
}

/// The wanted member at this path, kept whole.
#[must_use]
pub const fn value(path: &'static [&'static str]) -> Wanted {
    Wanted { path, keep: Keep::Value }
}

/// The members found so far, in the order in which they were asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    values: [Option<Vec<u8>>; WANTED_MAX],
    counts: [u64; WANTED_MAX],
}

impl Found {
    /// The value of the wanted member of this index, as JSON text.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<&[u8]> {
        self.values.get(index)?.as_deref()
    }

    /// The same, if it is a string without escapes.
    #[must_use]
    pub fn text(&self, index: usize) -> Option<&str> {
        serde_json::from_slice(self.value(index)?).ok()
    }

    /// How often the member was met, or its bytes, where that was asked for.
    #[must_use]
    pub fn count(&self, index: usize) -> u64 {
        self.counts.get(index).copied().unwrap_or(0)
    }
}

/// Keeps the members that are wanted of one JSON text.
#[derive(Debug)]
pub struct AnswerScanner {
    wanted: &'static [Wanted],
    levels: [Level; LEVELS_MAX],
    open: usize,
    place: Place,
    /// The wanted members to which the next value may lead, a bit each, and how many of their names have been met.
    coming: Level,
    /// The wanted member that the next value is.
    leaf: Option<usize>,
    name: Vec<u8>,
    value: Vec<u8>,
    found: Found,
    bytes: u64,
}

/// A container on the way to a wanted member.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    alive: u16,
    names: u8,
    is_object: bool,
}

/// Where the scan stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before a value.
    BeforeValue,
    /// Before a member's name.
    BeforeName,
    /// After a value, or after a name.
    After,
    /// Inside a member's name.
    Name { escaped: bool },
    /// Inside a value through which no way leads.
    Value(Inside),
    /// Behind the text, or in one that is no JSON.
    Beyond,
}

/// How deep the scan stands in a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inside {
    /// The wanted member that the value is, if more of it is wanted.
    leaf: Option<usize>,
    depth: u32,
    string: bool,
    escaped: bool,
}

impl AnswerScanner {
    /// A scan for these members, at most sixteen.
    #[must_use]
    pub fn new(wanted: &'static [Wanted]) -> Self {
        debug_assert!(wanted.len() <= WANTED_MAX);
        let alive = u16::try_from((1u32 << wanted.len()) - 1).unwrap_or(u16::MAX);
        Self {
            wanted,
            levels: [Level::default(); LEVELS_MAX],
            open: 0,
            place: Place::BeforeValue,
            coming: Level { alive, names: 0, is_object: false },
            leaf: None,
            name: Vec::new(),
            value: Vec::new(),
            found: Found::default(),
            bytes: 0,
        }
    }

    /// What a whole text has of these members.
    #[must_use]
    pub fn scan(wanted: &'static [Wanted], text: &[u8]) -> Found {
        let mut scanner = Self::new(wanted);
        scanner.feed(text);
        scanner.found
    }

    /// Reads the next chunk.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut at = 0;
        while at < chunk.len() {
            at = self.step(chunk, at);
        }
        self.bytes += chunk.len() as u64;
    }

    /// Reads a text that is an array up to the end of its next element; returns where that is in the chunk.
    pub fn feed_element(&mut self, chunk: &[u8], from: usize) -> Option<usize> {
        let mut at = from;
        while at < chunk.len() {
            let open = self.open;
            at = self.step(chunk, at);
            if self.open == 1 && open == 2 && !self.levels[0].is_object {
                return Some(at);
            }
        }
        None
    }

    /// Whether the text is an array, and the scan stands between two of its elements.
    #[must_use]
    pub fn is_between_elements(&self) -> bool {
        self.open == 1 && !self.levels[0].is_object && self.place == Place::After
    }

    /// Bytes read by [`Self::feed`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was found.
    #[must_use]
    pub fn found(&self) -> &Found {
        &self.found
    }

    /// What was found; the scan goes on without it.
    pub fn take_found(&mut self) -> Found {
        std::mem::take(&mut self.found)
    }

    fn step(&mut self, chunk: &[u8], at: usize) -> usize {
        match self.place {
            Place::Beyond => chunk.len(),
            Place::Name { escaped } => self.read_name(escaped, chunk, at),
            Place::Value(inside) => self.read_value(inside, chunk, at),
            Place::BeforeValue | Place::BeforeName | Place::After => self.read_structure(chunk[at], at),
        }
    }

    /// One byte between the values of the containers on the way.
    fn read_structure(&mut self, byte: u8, at: usize) -> usize {
        match (byte, self.place) {
            (b' ' | b'\t' | b'\n' | b'\r', _) => {}
            // A byte order mark.
            (0xef | 0xbb | 0xbf, Place::BeforeValue) if self.open == 0 => {}
            (b'}' | b']', _) => self.close(),
            (b'"', Place::BeforeName) => {
                self.name.clear();
                self.place = Place::Name { escaped: false };
            }
            (b':', Place::After) => self.place = Place::BeforeValue,
            (b',', Place::After) => self.expect_next(),
            (b'{' | b'[', Place::BeforeValue) if self.leaf.is_none() && self.leads_on() => self.enter(byte == b'{'),
            (_, Place::BeforeValue) if self.open > 0 => {
                self.value.clear();
                self.place = Place::Value(Inside { leaf: self.leaf.take(), depth: 0, string: false, escaped: false });
                return at;
            }
            _ => self.place = Place::Beyond,
        }
        at + 1
    }

    fn leads_on(&self) -> bool {
        self.coming.alive != 0 && self.open < LEVELS_MAX
    }

    fn enter(&mut self, is_object: bool) {
        self.levels[self.open] = Level { is_object, ..self.coming };
        self.open += 1;
        self.expect_next();
    }

    fn close(&mut self) {
        self.open = self.open.saturating_sub(1);
        self.place = if self.open == 0 { Place::Beyond } else { Place::After };
    }

    /// The next name of an object, or the next element of an array.
    fn expect_next(&mut self) {
        let level = self.levels[self.open - 1];
        self.leaf = None;
        self.coming = level;
        self.place = if level.is_object { Place::BeforeName } else { Place::BeforeValue };
    }

    fn read_name(&mut self, escaped: bool, chunk: &[u8], from: usize) -> usize {
        let (end, is_over, escaped) = string_end(escaped, &chunk[from..]);
        let text = &chunk[from..from + end];
        if is_over && self.name.is_empty() {
            // The whole name in one chunk, as names mostly come: no copy.
            self.choose(&text[..end - 1]);
            return from + end;
        }
        // Names of ours are short; what is cut off only must not become one of them.
        let room = NAME_BYTES_MAX.saturating_sub(self.name.len());
        self.name.extend_from_slice(&text[..text.len().min(room)]);
        if is_over {
            let mut name = std::mem::take(&mut self.name);
            name.pop_if(|last| *last == b'"');
            self.choose(&name);
            self.name = name;
        } else {
            self.place = Place::Name { escaped };
        }
        from + end
    }

    /// Where the member of this name leads.
    fn choose(&mut self, name: &[u8]) {
        let level = self.levels[self.open - 1];
        let (names, mut alive) = (usize::from(level.names), 0);
        self.leaf = None;
        for (index, wanted) in self.wanted.iter().enumerate() {
            if level.alive & (1 << index) == 0 || wanted.path.get(names).is_none_or(|next| next.as_bytes() != name) {
                continue;
            }
            if wanted.path.len() == names + 1 {
                self.leaf = Some(index);
            } else {
                alive |= 1 << index;
            }
        }
        self.coming = Level { alive, names: level.names + 1, is_object: false };
        self.place = Place::After;
    }

    fn read_value(&mut self, mut inside: Inside, chunk: &[u8], from: usize) -> usize {
        let mut at = from;
        while at < chunk.len() {
            if inside.string {
                let (end, is_over, escaped) = string_end(inside.escaped, &chunk[at..]);
                self.count_text(inside.leaf, end - usize::from(is_over));
                (inside.string, inside.escaped) = (!is_over, escaped);
                at += end;
                continue;
            }
            let is_nested = inside.depth > 0;
            // A comma inside of a value is nothing to us.
            let is_mark = |byte: &u8| MARKS[usize::from(*byte)] && (*byte != b',' || !is_nested);
            let Some(offset) = chunk[at..].iter().position(is_mark) else { break };
            at += offset;
            match chunk[at] {
                b'"' => inside.string = true,
                b'{' | b'[' => inside.depth += 1,
                b'}' | b']' if is_nested => inside.depth -= 1,
                _ => {
                    self.end_value(inside.leaf, &chunk[from..at]);
                    return at;
                }
            }
            at += 1;
        }
        inside.leaf = self.keep(inside.leaf, &chunk[from..]);
        self.place = Place::Value(inside);
        chunk.len()
    }

    fn count_text(&mut self, leaf: Option<usize>, bytes: usize) {
        if let Some(index) = leaf.filter(|index| self.wanted[*index].keep == Keep::Bytes) {
            self.found.counts[index] += bytes as u64;
        }
    }

    /// Keeps a piece of a value; returns the member if more of it is wanted.
    fn keep(&mut self, leaf: Option<usize>, bytes: &[u8]) -> Option<usize> {
        let index = leaf?;
        match self.wanted[index].keep {
            Keep::Bytes => {}
            Keep::Head | Keep::Each => {
                let room = HEAD_BYTES.saturating_sub(self.value.len());
                self.value.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            Keep::Value | Keep::Times(_) if self.value.len() + bytes.len() > VALUE_BYTES_MAX => {
                self.value = Vec::new();
                return None;
            }
            Keep::Value | Keep::Times(_) => self.value.extend_from_slice(bytes),
        }
        leaf
    }

    /// Ends a value with its last piece: mostly its only one, which is not gathered first.
    fn end_value(&mut self, leaf: Option<usize>, last: &[u8]) {
        self.place = Place::After;
        let leaf = if self.value.is_empty() { leaf } else { self.keep(leaf, last) };
        let Some(index) = leaf else { return };
        let keep = self.wanted[index].keep;
        let value = match keep {
            _ if !self.value.is_empty() => &self.value,
            Keep::Head | Keep::Each => &last[..last.len().min(HEAD_BYTES)],
            Keep::Value | Keep::Times(_) if last.len() > VALUE_BYTES_MAX => return,
            Keep::Value | Keep::Times(_) | Keep::Bytes => last,
        };
        let value = value.trim_ascii();
        match keep {
            Keep::Value | Keep::Head if value != b"null" => self.found.values[index] = Some(value.to_vec()),
            Keep::Times(texts) => {
                self.found.counts[index] += u64::from(texts.iter().any(|text| text.as_bytes() == value));
            }
            Keep::Each => self.found.counts[index] += u64::from(value != b"null"),
            Keep::Value | Keep::Head | Keep::Bytes => {}
        }
    }
}

/// How far the string goes in this text, its closing quote included; whether it is over; whether the next byte is escaped.
fn string_end(escaped: bool, text: &[u8]) -> (usize, bool, bool) {
    let mut at = usize::from(escaped);
    loop {
        match text.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
            None => return (text.len(), false, at > text.len()),
            Some(offset) if text[at + offset] == b'"' => return (at + offset + 1, true, false),
            Some(offset) => at += offset + 2,
        }
    }
}

#[cfg(test)]
mod tests;
