//! The style that a machine can check, read off the source tree: the page's counts and words, and who may import whom.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Tests aside.
const FILE_LINES_MAX: usize = 400;
/// The page says "about 50"; what is longer than this is not about 50.
const FUNCTION_LINES_MAX: usize = 60;
/// Beside `self`.
const ARGUMENTS_MAX: usize = 5;

/// What may break a rule: the rule, the finding, the reason. An exception that nothing needs any more is a mistake too.
const EXCEPTIONS: [(&str, &str, &str); 2] = [
    (
        "a float near money",
        "lua-free-filters/src/request_head/weigh.rs: fn visit_f64<E>(self, _: f64) -> Result<Worth, E> {",
        "serde's trait has it, and the number is not looked at",
    ),
    (
        "a float near money",
        "lua-free-filters/src/dialect/figures.rs: fn visit_f64<E>(self, number: f64) -> Result<Written<'a>, E> {",
        "serde's trait has it, and nothing is counted with it: `Number` keeps it, and what it prints is read digit by digit",
    ),
];

/// Folders with Rust in them.
const RUST: [&str; 4] = ["src", "lua-free-filters", "tests", "benches"];
/// Everything that is written by hand.
const WRITTEN: [&str; 13] = [
    "src",
    "lua-free-filters",
    "tests",
    "benches",
    "conf",
    "dashboards",
    ".ci",
    "README.md",
    "CHANGELOG.md",
    "build.rs",
    "Cargo.toml",
    "deny.toml",
    "rustfmt.toml",
];
/// What tools put beside it.
const MADE_BY_TOOLS: [&str; 5] = ["target", "node_modules", ".venv", "__pycache__", ".pytest_cache"];

/// The arrows of the library's modules: what each may import of the others. A new module needs a line here.
const ARROWS: [(&str, &[&str]); 20] = [
    ("main", &["app", "cli", "config", "demo", "simulated_provider"]),
    ("lib", &[]),
    // The composition root sees every part.
    (
        "app",
        &[
            "address_guard",
            "certificates",
            "cli",
            "clock",
            "config",
            "console",
            "control",
            "error",
            "log",
            "metrics",
            "proxy",
            "simulated_provider",
            "store",
            "webhooks",
        ],
    ),
    ("demo", &["app", "clock", "config", "simulated_provider", "store"]),
    // Of the configuration it takes the validated types, which the composition root hands over.
    ("proxy", &["address_guard", "clock", "config", "crash", "error", "metrics"]),
    ("address_guard", &["config"]),
    ("webhooks", &["address_guard", "clock", "config", "store"]),
    ("control", &["address_guard", "clock", "config", "decimal", "error", "metrics", "store"]),
    ("console", &["control"]),
    // Its background tasks poll; nobody is there to hand them the time.
    ("store", &["clock", "config", "crash"]),
    ("cli", &["address_guard", "clock", "config", "decimal", "store"]),
    ("decimal", &[]),
    ("certificates", &["config"]),
    ("metrics", &["error"]),
    ("error", &[]),
    ("clock", &[]),
    ("log", &["clock", "config"]),
    ("crash", &["config"]),
    ("config", &[]),
    ("simulated_provider", &[]),
];

/// Crates and paths that a part of the house must not know.
const UNKNOWN_TO: [(&str, &[&str]); 6] = [
    ("src/proxy", &["sqlx", "redis", "axum"]),
    ("src/control", &["pingora"]),
    ("src/store", &["pingora", "axum", "hyper"]),
    ("src/console", &["pingora", "redis", "sqlx"]),
    ("src/error.rs", &["axum", "pingora", "redis", "sqlx", "tokio"]),
    (
        "lua-free-filters/src",
        &[
            "axum",
            "hyper",
            "pingora",
            "redis",
            "sqlx",
            "tokio",
            "std::env",
            "std::fs",
            "std::net",
            "std::process",
            "Instant",
            "SystemTime",
        ],
    ),
];

/// All that the crate of decisions depends on.
const FILTERS_DEPEND_ON: [&str; 16] = [
    "arc-swap",
    "async-trait",
    "base64",
    "bytes",
    "crc32fast",
    "hmac",
    "http",
    "jiff",
    "memchr",
    "serde",
    "serde_json",
    "sha2",
    "sonic-rs",
    "subtle",
    "thiserror",
    "zeroize",
];

/// One Rust file.
struct Source {
    /// Relative to the checkout.
    path: String,
    text: String,
    /// The text, line by line, with comments and literals blanked.
    code: String,
    /// The code with its test modules blanked; nothing is left of a file of tests.
    shipped: String,
    /// Lines of its test modules.
    test_lines: usize,
}

/// A function that has a body.
struct Function {
    name: String,
    lines: usize,
    arguments: usize,
}

impl Source {
    fn read(path: String) -> Self {
        let text = fs::read_to_string(root().join(&path)).expect("a file in UTF-8");
        let code = without_comments_and_literals(&text);
        let (shipped, test_lines) = without_test_modules(&code);
        Self { path, text, code, shipped, test_lines }
    }

    /// The folder of the modules that this file declares.
    fn children(&self) -> &str {
        let stem = self.path.trim_end_matches(".rs");
        match stem.rsplit_once('/') {
            Some((folder, "main" | "lib")) => folder,
            _ => stem,
        }
    }

    /// Files of modules that are compiled for tests only, without the extension.
    fn test_places(&self) -> Vec<String> {
        let after = self.code.split("#[cfg(test)]").skip(1);
        let names = after.filter_map(|after| after.trim_start().strip_prefix("mod ")?.split_once(';'));
        names
            .filter(|(name, _)| name.chars().all(is_of_word))
            .map(|(name, _)| format!("{}/{name}", self.children()))
            .collect()
    }

    fn is_at(&self, place: &str) -> bool {
        self.path.strip_prefix(place).is_some_and(|rest| rest == ".rs" || rest.is_empty() || rest.starts_with('/'))
    }

    /// The module of the library that the file belongs to.
    fn group(&self) -> Option<&str> {
        self.path.strip_prefix("src/")?.split(['/', '.']).next()
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder, or the file itself; it need not be there.
fn files_below(place: &str) -> Vec<String> {
    let path = root().join(place);
    if path.is_file() {
        return vec![place.to_owned()];
    }
    let Ok(entries) = fs::read_dir(&path) else { return Vec::new() };
    let names =
        entries.map(|entry| entry.expect("an entry of a folder").file_name().into_string().expect("a name in UTF-8"));
    let written = names.filter(|name| !MADE_BY_TOOLS.contains(&name.as_str()));
    let mut files: Vec<String> = written.flat_map(|name| files_below(&format!("{place}/{name}"))).collect();
    files.sort();
    files
}

/// Every Rust file of the checkout.
fn sources() -> Vec<Source> {
    let paths = RUST.iter().flat_map(|folder| files_below(folder)).filter(|path| path.ends_with(".rs"));
    let mut sources: Vec<Source> = paths.map(Source::read).collect();
    assert!(sources.len() > 50, "the source tree was not found");
    let mut test_places: Vec<String> = sources.iter().flat_map(Source::test_places).collect();
    test_places.push("tests".to_owned());
    for source in &mut sources {
        if test_places.iter().any(|place| source.is_at(place)) {
            source.shipped.clear();
        }
    }
    sources
}

/// Every file of the checkout that is text, by its path.
fn texts() -> Vec<(String, String)> {
    let files = WRITTEN.iter().flat_map(|place| files_below(place));
    files
        .filter_map(|path| Some((fs::read_to_string(root().join(&path)).ok()?, path)))
        .map(|(text, path)| (path, text))
        .collect()
}

fn is_of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

/// Identifiers and keywords, with where they begin.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let pieces = code.split(|letter| !is_of_word(letter)).filter(|word| !word.is_empty());
    pieces.map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

fn has_word(code: &str, wanted: &str) -> bool {
    words(code).any(|(_, word)| word == wanted)
}

/// Whether a crate, a name, or a path such as `std::env` stands in code, spelled out or in the braces of a `use`.
fn names(code: &str, path: &str) -> bool {
    let Some((parent, last)) = path.rsplit_once("::") else { return has_word(code, path) };
    let is_spelled = code.match_indices(path).any(|(at, _)| !code[at + path.len()..].starts_with(is_of_word));
    let opening = format!("{parent}::{{");
    let mut groups = code.split(&opening).skip(1).map(|rest| rest.split(';').next().unwrap_or_default());
    is_spelled || groups.any(|group| has_word(group, last))
}

/// Blanks comments, strings and characters, so that braces and words can be counted.
fn without_comments_and_literals(text: &str) -> String {
    let letters: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < letters.len() {
        let Some(end) = literal_end(&letters, at) else {
            code.push(letters[at]);
            at += 1;
            continue;
        };
        code.extend(letters[at..end].iter().map(|letter| if *letter == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// Where the comment or literal ends that begins here, if one does.
fn literal_end(letters: &[char], at: usize) -> Option<usize> {
    let stands = |text: &str, place: usize| {
        text.chars().enumerate().all(|(index, letter)| letters.get(place + index) == Some(&letter))
    };
    let find = |text: &str, from: usize| (from..letters.len()).find(|place| stands(text, *place));
    let after = |text: &str, from: usize| find(text, from).map_or(letters.len(), |place| place + text.len());
    match letters[at] {
        '/' if stands("//", at) => Some(find("\n", at).unwrap_or(letters.len())),
        '/' if stands("/*", at) => Some(after("*/", at + 2)),
        '"' => Some(string_end(letters, at + 1)),
        'r' if at == 0 || letters[at - 1] == 'b' || !is_of_word(letters[at - 1]) => {
            let hashes = letters[at + 1..].iter().take_while(|letter| **letter == '#').count();
            let is_raw_string = letters.get(at + 1 + hashes) == Some(&'"');
            is_raw_string.then(|| after(&format!("\"{}", "#".repeat(hashes)), at + 2 + hashes))
        }
        '\'' if letters.get(at + 1) == Some(&'\\') => Some(after("'", at + 3)),
        '\'' if letters.get(at + 2) == Some(&'\'') => Some(at + 3),
        _ => None,
    }
}

fn string_end(letters: &[char], mut at: usize) -> usize {
    while let Some(letter) = letters.get(at) {
        match letter {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    letters.len()
}

/// Blanks `#[cfg(test)] mod … { … }`; the number of their lines is given back too.
fn without_test_modules(code: &str) -> (String, usize) {
    let (mut shipped, mut test_lines, mut rest) = (String::with_capacity(code.len()), 0, code);
    while let Some(at) = rest.find("#[cfg(test)]") {
        let item = &rest[at..];
        let opening = item.find(['{', ';']).unwrap_or(item.len());
        let is_module = has_word(&item[..opening], "mod") && item[opening..].starts_with('{');
        let end = if is_module { opening + closing(&item[opening..]) } else { opening };
        shipped.push_str(&rest[..at]);
        if is_module {
            let breaks = item[..end].matches('\n').count();
            shipped.push_str(&"\n".repeat(breaks));
            test_lines += breaks + 1;
        } else {
            shipped.push_str(&item[..end]);
        }
        rest = &item[end..];
    }
    shipped.push_str(rest);
    (shipped, test_lines)
}

/// Bytes up to and with the bracket that closes the first one.
fn closing(code: &str) -> usize {
    let mut depth = 0_usize;
    for (at, letter) in code.char_indices() {
        match letter {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn functions(code: &str) -> Vec<Function> {
    words(code).filter(|(_, word)| *word == "fn").filter_map(|(at, _)| function(&code[at..])).collect()
}

/// Reads from `fn` on.
fn function(code: &str) -> Option<Function> {
    let signature = code.strip_prefix("fn ")?;
    let name: String = signature.chars().take_while(|letter| is_of_word(*letter)).collect();
    let generics = &signature[name.len()..];
    let list = &generics[generics_end(generics)..];
    let list_end = closing(list);
    let body = list_end + list[list_end..].find(['{', ';'])?;
    if list[body..].starts_with(';') {
        return None;
    }
    let end = code.len() - list.len() + body + closing(&list[body..]);
    Some(Function { name, lines: code[..end].lines().count(), arguments: arguments(&list[1..list_end - 1]) })
}

/// Bytes of `<…>`, if it is there. The arrow of a function type does not end it.
fn generics_end(code: &str) -> usize {
    let (mut depth, mut before) = (0_usize, ' ');
    for (at, letter) in code.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return if letter == '>' { at + 1 } else { at };
        }
        before = letter;
    }
    code.len()
}

/// Arguments beside `self`.
fn arguments(list: &str) -> usize {
    let (mut depth, mut before, mut pieces) = (0_i32, ' ', vec![String::new()]);
    for letter in list.chars() {
        match letter {
            '(' | '[' | '{' | '<' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            '>' if before != '-' => depth -= 1,
            ',' if depth == 0 => pieces.push(String::new()),
            _ => {}
        }
        before = letter;
        pieces.last_mut().expect("there is always a piece").push(letter);
    }
    let is_other = |piece: &&String| {
        let name = piece.split(':').next().unwrap_or_default();
        piece.chars().any(is_of_word) && !has_word(name, "self")
    };
    pieces.iter().filter(is_other).count()
}

/// Fails with every finding that is not an exception to the rule, and with every exception that nothing needs.
fn report(rule: &str, found: Vec<String>) {
    let exceptions: BTreeSet<&str> =
        EXCEPTIONS.iter().filter(|(of, ..)| *of == rule).map(|(_, finding, _)| *finding).collect();
    let wrong: Vec<&String> = found.iter().filter(|finding| !exceptions.contains(finding.as_str())).collect();
    let needless: Vec<&&str> =
        exceptions.iter().filter(|exception| !found.iter().any(|finding| finding == **exception)).collect();
    assert!(wrong.is_empty(), "{rule}: {wrong:#?}");
    assert!(needless.is_empty(), "exceptions that nothing needs: {needless:#?}");
}

/// Lines of shipped code that break a rule.
fn lines_where(is_wrong: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources() {
        let lines = source.shipped.lines().filter(|line| is_wrong(&source, line));
        found.extend(lines.map(|line| format!("{}: {}", source.path, line.trim())));
    }
    found
}

#[test]
fn every_file_opens_with_a_sentence() {
    let mut wrong = Vec::new();
    for source in sources() {
        let paragraph: Vec<&str> = source.text.lines().map_while(|line| line.strip_prefix("//! ")).collect();
        let opening = paragraph.join(" ");
        let is_sentence = opening.contains(' ') && opening.ends_with(['.', ':', '?']);
        if !is_sentence {
            wrong.push(format!("{}: {opening:?}", source.path));
        }
    }
    report("no sentence first", wrong);
}

#[test]
fn files_are_short() {
    let shipped = sources().into_iter().filter(|source| !source.shipped.trim().is_empty());
    let long = shipped
        .map(|source| (source.text.lines().count() - source.test_lines, source.path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX);
    report("a long file", long.map(|(lines, path)| format!("{path}: {lines} lines")).collect());
}

#[test]
fn functions_are_short_and_take_few_arguments() {
    let (mut long, mut wide) = (Vec::new(), Vec::new());
    for source in sources() {
        for Function { name, lines, arguments } in functions(&source.code) {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{}: {name}: {lines} lines", source.path));
            }
            if arguments > ARGUMENTS_MAX {
                wide.push(format!("{}: {name}: {arguments} arguments", source.path));
            }
        }
    }
    report("a long function", long);
    report("too many arguments", wide);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    report("unwrap", lines_where(|_, line| has_word(line, "unwrap")));
}

#[test]
fn nothing_is_left_for_later() {
    let macros = ["todo", "unimplemented", "dbg"];
    let has_macro =
        |line: &str| words(line).any(|(at, word)| macros.contains(&word) && line[at + word.len()..].starts_with('!'));
    let mut found: Vec<String> = lines_where(|_, line| has_macro(line));
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX"), concat!("HA", "CK")];
    for (path, text) in texts() {
        let marked = text.lines().filter(|line| marks.iter().any(|mark| has_word(line, mark)));
        found.extend(marked.map(|line| format!("{path}: {}", line.trim())));
    }
    report("left for later", found);
}

#[test]
fn modules_are_called_after_what_they_are() {
    let empty_names = ["common", "helper", "helpers", "manager", "misc", "util", "utils"];
    let is_empty_name = |path: &String| path.split(['/', '.']).any(|part| empty_names.contains(&part));
    report("an empty name", texts().into_iter().map(|(path, _)| path).filter(is_empty_name).collect());
    let mut inline = Vec::new();
    for source in sources() {
        let is_empty_name =
            |name: &str| empty_names.iter().any(|empty| source.code.contains(&format!("mod {empty}{name}")));
        if is_empty_name(" {") || is_empty_name(";") {
            inline.push(source.path);
        }
    }
    report("an empty name inside", inline);
}

#[test]
fn words_are_written_out() {
    let short = ["req", "resp", "cfg", "mgr", "ctx", "msg", "tmp"];
    let is_attribute = |line: &str| line.contains("cfg(") || line.contains("cfg!(");
    let found = lines_where(|_, line| words(line).any(|(_, word)| short.contains(&word)) && !is_attribute(line));
    report("an abbreviation", found);
}

#[test]
fn money_is_never_a_float() {
    let is_near_money = |source: &Source| ["lua-free-filters/src", "src/store"].iter().any(|place| source.is_at(place));
    let found = lines_where(|source, line| is_near_money(source) && (has_word(line, "f64") || has_word(line, "f32")));
    report("a float near money", found);
}

#[test]
fn modules_import_along_the_arrows_only() {
    let mut found = Vec::new();
    for source in sources() {
        let Some(group) = source.group() else { continue };
        let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| *of == group) else {
            found.push(format!("{}: the module {group} has no arrows", source.path));
            continue;
        };
        let own_crate = if group == "main" { "tollgate" } else { "crate" };
        for imported in imports(&source.shipped, own_crate) {
            if imported != group && !allowed.contains(&imported) {
                found.push(format!("{}: {group} imports {imported}", source.path));
            }
        }
        if source.shipped.contains("super::super::super::") {
            found.push(format!("{}: a path that climbs three modules", source.path));
        }
    }
    report("an import", found);
}

/// The modules of the crate that code names, alone or in braces.
fn imports<'a>(code: &'a str, own_crate: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    for (at, _) in words(code).filter(|(_, word)| *word == own_crate) {
        let Some(path) = code[at + own_crate.len()..].strip_prefix("::") else { continue };
        let Some(group) = path.strip_prefix('{') else {
            found.extend(words(path).next().map(|(_, word)| word));
            continue;
        };
        let group = &group[..closing(path) - 2];
        let mut depth = 0;
        for item in group.split(',') {
            if depth == 0 {
                found.extend(words(item).next().map(|(_, word)| word));
            }
            depth += item.matches('{').count();
            depth -= item.matches('}').count();
        }
    }
    found
}

#[test]
fn parts_do_not_know_what_is_not_theirs() {
    let mut found = Vec::new();
    for source in sources() {
        for (_, unknown) in UNKNOWN_TO.iter().filter(|(place, _)| source.is_at(place)) {
            let known = unknown.iter().filter(|path| names(&source.shipped, path));
            found.extend(known.map(|path| format!("{}: {path}", source.path)));
        }
    }
    report("something that is not its own", found);
}

#[test]
fn decisions_depend_on_little() {
    let manifest = fs::read_to_string(root().join("lua-free-filters/Cargo.toml")).expect("the manifest");
    let after = manifest.split("[dependencies]").nth(1).expect("its dependencies");
    let lines = after.split("\n[").next().expect("the section").lines();
    let crates = lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'));
    report("a dependency", crates.filter(|name| !FILTERS_DEPEND_ON.contains(name)).map(str::to_owned).collect());
}

#[test]
fn clock_and_environment_have_one_reader() {
    let asks_time = |line: &str| names(line, "SystemTime::now") || names(line, "UNIX_EPOCH");
    let reads_environment = |line: &str| line.contains("env::var") || names(line, "std::env");
    let found = lines_where(|source, line| {
        let is_source = source.path.starts_with("src/");
        is_source
            && (asks_time(line) && !source.is_at("src/clock") || reads_environment(line) && !source.is_at("src/config"))
    });
    report("a second reader", found);
}

#[test]
fn every_file_is_part_of_something() {
    let sources = sources();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("the manifest");
    let is_declared = |path: &str| {
        let stem = path.trim_end_matches(".rs");
        let (folder, name) = stem.rsplit_once('/').expect("a file in a folder");
        let is_root = matches!(name, "main" | "lib")
            || manifest.contains(&format!("\"{path}\""))
            || folder == "benches" && manifest.contains(&format!("name = \"{name}\""));
        is_root
            || sources.iter().any(|source| source.children() == folder && source.code.contains(&format!("mod {name};")))
    };
    report(
        "a file that nobody compiles",
        sources.iter().map(|source| source.path.clone()).filter(|path| !is_declared(path)).collect(),
    );
}

#[test]
fn no_file_names_a_developers_machine() {
    let machines =
        [["/ho", "me/"], ["/Us", "ers/"], ["/ro", "ot/"], ["/wo", "rk/"], ["/tm", "p/"]].map(|parts| parts.concat());
    let mut found = Vec::new();
    for (path, text) in texts() {
        let lines = text.lines().filter(|line| machines.iter().any(|machine| line.contains(machine)));
        found.extend(lines.map(|line| format!("{path}: {}", line.trim())));
    }
    report("a path of a machine", found);
}

#[test]
fn there_is_no_lua() {
    let paths = WRITTEN.iter().flat_map(|place| files_below(place));
    report("Lua", paths.filter(|path| path.ends_with(".lua")).collect());
    report("mlua", lines_where(|_, line| has_word(line, "mlua")));
}

#[test]
fn code_is_read_as_the_compiler_reads_it() {
    let text = "fn a<F: Fn(u8) -> u8>(&self, b: [u8; 2], c: F) -> u8 { '{'; \"{\\\"\"; r#\"\"{\"#; /* { */ 1 } // {\n#[cfg(test)]\nmod tests {\n fn t() {}\n}\n";
    let code = without_comments_and_literals(text);
    let (shipped, test_lines) = without_test_modules(&code);
    assert_eq!(test_lines, 4);
    let found = functions(&shipped);
    assert_eq!((found.len(), found[0].name.as_str(), found[0].arguments, found[0].lines), (1, "a", 2, 1));
    assert_eq!(functions(&code).len(), 2);
    let code = "use crate::{a, b::{c, d}, e}; crate::f::g(); notcrate::h;";
    assert_eq!(imports(code, "crate").into_iter().collect::<Vec<_>>(), ["a", "b", "e", "f"]);
    assert!(
        names("use std::{fs, net};", "std::fs")
            && names("std::env::var()", "std::env")
            && !names("std::environment", "std::env")
    );
}
