//! TOML with places: every value knows its file, line and key, so that whoever finds it wrong can say where. Mistakes
//! are collected, not returned: one reading reports them all.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One mistake and its place. Prints as `FILE:LINE: KEY: MESSAGE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file as it was named to us.
    pub file: String,
    /// The line, counted from one; none if the file can't be read.
    pub line: Option<usize>,
    /// The key with all that it is in, such as `providers.openai.base_url`; empty if the text is not TOML there.
    pub key: String,
    /// What is wrong, and where that is not obvious what would be right.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(formatter, ": {}", self.key)?;
        }
        write!(formatter, ": {}", self.message)
    }
}

/// A file's text, parsed, and the mistakes found in it.
pub(super) struct Document<'t> {
    name: &'t str,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    is_toml: bool,
    errors: RefCell<Vec<ConfigError>>,
    asked: RefCell<BTreeSet<String>>,
    found: RefCell<BTreeSet<String>>,
}

impl<'t> Document<'t> {
    pub(super) fn parse(name: &'t str, text: &'t str) -> Self {
        let (root, syntax_errors) = DeTable::parse_recoverable(text);
        let document = Self {
            name,
            text,
            root,
            is_toml: syntax_errors.is_empty(),
            errors: RefCell::default(),
            asked: RefCell::default(),
            found: RefCell::default(),
        };
        for error in syntax_errors {
            document.report(error.span().unwrap_or(0..0), "", error.message());
        }
        document
    }

    /// Reads the whole text; none if it is not TOML, where any further complaint would be about a guess.
    pub(super) fn read<R>(&self, read: impl FnOnce(&Section<'_>) -> R) -> Option<R> {
        self.is_toml.then(|| {
            let root = Section::new(self, Path::default(), Some(self.root.get_ref()), 0..0);
            let result = read(&root);
            root.refuse_unknown_keys();
            result
        })
    }

    pub(super) fn report(&self, span: Range<usize>, key: &str, message: impl fmt::Display) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = 1 + memchr::memchr_iter(b'\n', before).count();
        let error = ConfigError {
            file: self.name.to_owned(),
            line: Some(line),
            key: key.to_owned(),
            message: message.to_string(),
        };
        self.errors.borrow_mut().push(error);
    }

    /// A mistake at a key that is looked up by its path, for those who have only the values in hand.
    pub(super) fn report_at(&self, key: &str, message: impl fmt::Display) {
        let mut span = 0..0;
        let mut table = Some(self.root.get_ref());
        for part in key.split('.') {
            let Some(value) = table.and_then(|table| table.get(part)) else { break };
            span = value.span();
            table = value.get_ref().as_table();
        }
        self.report(span, key, message);
    }

    /// All mistakes in the order of the lines.
    pub(super) fn into_errors(self) -> Vec<ConfigError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.line);
        errors
    }

    /// Settings that were asked for and that the text does not have anywhere, with `*` for names.
    pub(super) fn absent_keys(&self) -> Vec<String> {
        self.asked.borrow().difference(&self.found.borrow()).cloned().collect()
    }
}

/// Where a value is: `exact` names names, `pattern` has `*` for them.
#[derive(Clone, Default)]
struct Path {
    exact: String,
    pattern: String,
}

impl Path {
    fn key(&self, key: &str) -> Self {
        let join = |path: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        Self { exact: join(&self.exact), pattern: join(&self.pattern) }
    }

    fn name(&self, name: &str) -> Self {
        Self { exact: format!("{}.{name}", self.exact), pattern: format!("{}.*", self.pattern) }
    }

    fn item(&self, name: &str) -> Self {
        Self { exact: format!("{}[{name}]", self.exact), pattern: format!("{}.*", self.pattern) }
    }
}

/// A table whose keys are known beforehand. A key that nobody asked for is a mistake.
pub(super) struct Section<'d> {
    document: &'d Document<'d>,
    path: Path,
    table: Option<&'d DeTable<'d>>,
    span: Range<usize>,
    known: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    fn new(document: &'d Document<'d>, path: Path, table: Option<&'d DeTable<'d>>, span: Range<usize>) -> Self {
        Self { document, path, table, span, known: RefCell::default() }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Value<'d>> {
        let path = self.path.key(key);
        self.known.borrow_mut().push(key);
        self.document.asked.borrow_mut().insert(path.pattern.clone());
        let value = self.table?.get(key)?;
        self.document.found.borrow_mut().insert(path.pattern.clone());
        Some(Value { document: self.document, path, value })
    }

    pub(super) fn require(&self, key: &'static str) -> Option<Value<'d>> {
        let value = self.get(key);
        if value.is_none() {
            self.report(key, "missing");
        }
        value
    }

    /// A mistake about a key that may not be there.
    pub(super) fn report(&self, key: &str, message: impl fmt::Display) {
        let span = self.table.and_then(|table| table.get(key)).map_or(self.span.clone(), Spanned::span);
        self.document.report(span, &self.path.key(key).exact, message);
    }

    pub(super) fn boolean(&self, key: &'static str, default: bool) -> bool {
        self.get(key).and_then(|value| value.boolean()).unwrap_or(default)
    }

    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> u64 {
        self.get(key).and_then(|value| value.number(range)).unwrap_or(default)
    }

    pub(super) fn size(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> usize {
        usize::try_from(self.number(key, range, default)).unwrap_or(usize::MAX)
    }

    pub(super) fn milliseconds(&self, key: &'static str, range: RangeInclusive<u64>, default: u64) -> Duration {
        Duration::from_millis(self.number(key, range, default))
    }

    /// A text that `parse` understands; its error says what would be right.
    pub(super) fn parsed<T>(&self, key: &'static str, default: T, parse: impl Fn(&str) -> Result<T, String>) -> T {
        self.get(key).and_then(|value| value.parsed(parse)).unwrap_or(default)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &'static str, default: T, choices: &[(&str, T)]) -> T {
        self.parsed(key, default, |text| {
            let chosen = choices.iter().find(|(name, _)| *name == text);
            let names = || choices.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
            chosen.map(|(_, choice)| *choice).ok_or_else(|| format!("not one of {}", names()))
        })
    }

    /// A list of texts that `parse` understands.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        self.get(key).and_then(|value| value.list(parse)).unwrap_or(default)
    }

    /// A list of whole numbers, of `length_max` at most.
    pub(super) fn numbers(
        &self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: &[u64],
        length_max: usize,
    ) -> Vec<u64> {
        let Some(items) = self.get(key).and_then(|value| value.items()) else { return default.to_vec() };
        if items.len() > length_max {
            self.report(key, format_args!("must not have more than {length_max} items"));
        }
        items.iter().filter_map(|item| item.number(range.clone())).collect()
    }

    /// Reads a section; if it is absent, the same function finds every key absent and so gives the defaults.
    pub(super) fn within<R>(&self, key: &'static str, read: impl FnOnce(&Section<'d>) -> R) -> R {
        let (table, span) = match self.get(key) {
            Some(value) => (value.table(), value.value.span()),
            None => (None, self.span.clone()),
        };
        let section = Section::new(self.document, self.path.key(key), table, span);
        let result = read(&section);
        section.refuse_unknown_keys();
        result
    }

    fn refuse_unknown_keys(&self) {
        let known = self.known.borrow();
        let keys = self.table.into_iter().flat_map(|table| table.keys());
        for key in keys.filter(|key| !known.contains(&&**key.get_ref())) {
            let message = match nearest(key.get_ref(), &known) {
                Some(name) => format!("unknown key; did you mean {name}?"),
                None => format!("unknown key; known here: {}", known.join(", ")),
            };
            self.document.report(key.span(), &self.path.key(key.get_ref()).exact, message);
        }
    }
}

/// A value with its place.
pub(super) struct Value<'d> {
    document: &'d Document<'d>,
    path: Path,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Value<'d> {
    pub(super) fn report(&self, message: impl fmt::Display) {
        self.document.report(self.value.span(), &self.path.exact, message);
    }

    fn expect<T>(&self, found: Option<T>, wanted: &str) -> Option<T> {
        if found.is_none() {
            self.report(format_args!("must be {wanted}, not {}", self.value.get_ref().type_str()));
        }
        found
    }

    pub(super) fn text(&self) -> Option<&'d str> {
        self.expect(self.value.get_ref().as_str(), "text in quotes")
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        self.expect(self.value.get_ref().as_bool(), "true or false")
    }

    pub(super) fn number(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let integer = self.expect(self.value.get_ref().as_integer(), "a whole number")?;
        let number =
            u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| range.contains(number));
        if number.is_none() {
            self.report(format_args!("must be from {} to {}, not {integer}", range.start(), range.end()));
        }
        number
    }

    pub(super) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        parse(self.text()?).map_err(|message| self.report(message)).ok()
    }

    pub(super) fn items(&self) -> Option<Vec<Value<'d>>> {
        let items = self.expect(self.value.get_ref().as_array(), "a list in [ ]")?.iter().enumerate();
        Some(items.map(|(index, value)| self.child(self.path.item(&index.to_string()), value)).collect())
    }

    /// Texts that `parse` understands; none if there is a mistake in one.
    pub(super) fn list<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let parsed: Vec<Option<T>> = self.items()?.iter().map(|item| item.parsed(&parse)).collect();
        parsed.into_iter().collect()
    }

    /// The entries of a table whose keys are names that the user gives, in the order of the file.
    pub(super) fn entries(&self) -> Vec<(&'d str, Value<'d>)> {
        let table = self.table().into_iter().flat_map(|table| table.iter());
        let mut entries: Vec<_> = table.collect();
        entries.sort_by_key(|(name, _)| name.span().start);
        let child = |name: &str, value| self.child(self.path.name(name), value);
        entries.into_iter().map(|(name, value)| (&**name.get_ref(), child(name.get_ref(), value))).collect()
    }

    fn child(&self, path: Path, value: &'d Spanned<DeValue<'d>>) -> Value<'d> {
        Value { document: self.document, path, value }
    }

    /// Whether it is a table, where it may be something else too.
    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    fn table(&self) -> Option<&'d DeTable<'d>> {
        self.expect(self.value.get_ref().as_table(), "a table")
    }

    /// The value as a table of known keys.
    pub(super) fn section<R>(&self, read: impl FnOnce(&Section<'d>) -> R) -> Option<R> {
        let section = Section::new(self.document, self.path.clone(), Some(self.table()?), self.value.span());
        let result = read(&section);
        section.refuse_unknown_keys();
        Some(result)
    }

    /// The same value, called by the text of its member `key` if it has one: `models[gpt-4o]`, not `models[7]`.
    pub(super) fn called_by(mut self, key: &str) -> Self {
        let name = self.value.get_ref().as_table().and_then(|table| table.get(key)?.get_ref().as_str());
        if let (Some(name), Some(end)) = (name, self.path.exact.rfind('[')) {
            self.path.exact = format!("{}[{name}]", &self.path.exact[..end]);
        }
        self
    }
}

/// The name that was probably meant, if one is near enough.
fn nearest<'n>(key: &str, names: &[&'n str]) -> Option<&'n str> {
    let near = names.iter().map(|name| (edits(key, name), *name)).min()?;
    // Far enough for a unit that was forgotten, `idle` for `idle_ms`, and never so far that no letter is shared.
    let letters = key.chars().count();
    (near.0 <= (2 + letters / 3).min(letters.saturating_sub(1))).then_some(near.1)
}

/// The Levenshtein distance: insertions, deletions and replacements from one word to the other.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (line, letter) in from.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], line + 1);
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str, read: impl FnOnce(&Section<'_>)) -> Vec<String> {
        let document = Document::parse("a.toml", text);
        document.read(read);
        document.into_errors().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let text = "\nthreads = 'two'\n[limits]\nbytes = 0\nheadrs = 1\nzebra = 2\n";
        let found = errors(text, |root| {
            root.number("threads", 0..=8, 0);
            root.require("name");
            root.within("limits", |limits| {
                limits.number("bytes", 1..=9, 1);
                limits.number("headers", 1..=9, 1);
            });
        });
        let expected = [
            "a.toml:1: name: missing",
            "a.toml:2: threads: must be a whole number, not string",
            "a.toml:4: limits.bytes: must be from 1 to 9, not 0",
            "a.toml:5: limits.headrs: unknown key; did you mean headers?",
            "a.toml:6: limits.zebra: unknown key; known here: bytes, headers",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn text_that_is_not_toml_is_not_read_further() {
        let found = errors("a = 1\nb = = 2\na = 3\n", |_| unreachable!("it is not TOML"));
        assert!(found.iter().any(|error| error.starts_with("a.toml:2: ")), "{found:?}");
        assert!(found.iter().any(|error| error.starts_with("a.toml:3: ")), "{found:?}");
    }

    #[test]
    fn items_are_called_by_their_names() {
        let found = errors("[[models]]\nid = 'm'\nprices = [{ input = 3 }]\n", |root| {
            let models = root.require("models").and_then(|models| models.items()).unwrap_or_default();
            for model in models {
                model.called_by("id").section(|model| {
                    model.get("id");
                    for price in model.require("prices").and_then(|prices| prices.items()).unwrap_or_default() {
                        price.section(|price| price.require("input").and_then(|input| input.text().map(str::len)));
                    }
                });
            }
        });
        assert_eq!(found, ["a.toml:3: models[m].prices[0].input: must be text in quotes, not integer"]);
    }

    #[test]
    fn the_nearest_name_is_suggested() {
        let names = ["base_url", "credentials", "timeouts"];
        assert_eq!(nearest("baseurl", &names), Some("base_url"));
        assert_eq!(nearest("credential", &names), Some("credentials"));
        assert_eq!(nearest("colour", &names), None);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("", "abc"), 3);
    }
}
