//! Refuses what the compiler does not: forbidden edges between modules, input and output in the sans-IO
//! cores, files without a header or too long, unfinished code, documents that no longer match the code. Owns
//! the tables of what is allowed. Its own checks are tested on bad snippets first.

use hpcdag::base::error::Kind;
use std::path::{Path, PathBuf};

/// Who may use whom: each module and the modules that it may name besides itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("config", &["base"]),
    ("graph", &["base"]),
    ("protocol", &["base", "graph"]),
    ("net", &["base", "protocol"]),
    ("scheduler", &["base", "config", "graph", "protocol", "net"]),
    ("worker", &["base", "config", "graph", "protocol", "net"]),
    ("launch", &["base", "config"]),
    ("client", &["base", "config", "graph", "protocol", "net"]),
    ("dashboard", &["base", "config", "protocol", "net"]),
    (
        "cluster",
        &[
            "base",
            "config",
            "graph",
            "protocol",
            "net",
            "scheduler",
            "worker",
            "launch",
            "client",
            "dashboard",
        ],
    ),
    (
        "cli",
        &[
            "base",
            "config",
            "graph",
            "protocol",
            "net",
            "scheduler",
            "worker",
            "launch",
            "client",
            "dashboard",
            "cluster",
        ],
    ),
];

/// What a sans-IO core may use besides itself.
const CORE_MAY_USE: &[&str] = &["base", "graph"];

/// Modules of `std` that reach outside of a core.
const NOT_IN_CORE_STD: &[&str] = &["fs", "env", "process", "net", "thread", "io", "os"];

/// Names that a core must not use: the outside world, clocks, and maps with an order that changes.
const NOT_IN_CORE: &[&str] = &["tokio", "nix", "libc", "Instant", "SystemTime", "HashMap", "HashSet"];

/// What a core's `mod.rs` carries, so that clippy checks the same by type.
const CORE_LINTS: &str = "#![deny(clippy::disallowed_methods, clippy::disallowed_types)]";

/// How many `.unwrap()` and `.expect(` each module may have outside of tests. A ratchet: lower it when you
/// can; raise it only where an invariant is visible right at the call.
const UNWRAPS: &[(&str, usize)] = &[
    ("base", 0),
    ("config", 1),
    ("graph", 4),
    ("protocol", 4),
    ("net", 4),
    ("scheduler", 8),
    ("worker", 8),
    ("launch", 2),
    ("client", 4),
    ("dashboard", 2),
    ("cluster", 2),
    ("cli", 2),
];

const LINES_MAX: usize = 700;
const WIDTH_MAX: usize = 110;

/// A source file, ready to be looked at.
struct Source {
    /// Path from the root of the repository, with `/`.
    path: String,
    text: String,
    /// The text with comments and the contents of literals blanked, lines kept.
    code: String,
    /// The code with the items under `#[cfg(test)]` blanked as well.
    live: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Source {
        let code = blank_comments_and_literals(text);
        let live = if is_test(path) { String::new() } else { blank_tests(&code) };
        Source { path: path.into(), text: text.into(), code, live }
    }

    /// The module that the file belongs to: `scheduler` for `src/scheduler/core/mod.rs`.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        inside.split_once('/').map(|(module, _)| module)
    }

    /// The module whose core the file belongs to.
    fn core(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let (module, rest) = inside.split_once('/')?;
        (matches!(module, "scheduler" | "worker") && (rest.starts_with("core/") || rest == "core.rs"))
            .then_some(module)
    }

    fn fault(&self, line: usize, what: impl std::fmt::Display) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

/// Whether a whole file is a test: `foo/tests.rs` or below `foo/tests/`, and everything outside of `src`.
fn is_test(path: &str) -> bool {
    !path.starts_with("src/")
        || path.ends_with("/tests.rs")
        || path.contains("/tests/")
        || path.ends_with("_tests.rs")
}

// ---- the checks ---------------------------------------------------------------------------------

fn check(source: &Source) -> Vec<String> {
    let mut faults = Vec::new();
    check_text(source, &mut faults);
    check_edges(source, &mut faults);
    check_core(source, &mut faults);
    faults
}

fn check_text(source: &Source, faults: &mut Vec<String>) {
    if !source.text.starts_with("//! ") {
        faults.push(source.fault(1, "no `//!` header that says what the file owns"));
    }
    let lines = source.text.lines().count() - test_lines(&source.code);
    if lines > LINES_MAX && !is_test(&source.path) {
        faults.push(
            source.fault(lines, format!("{lines} lines without tests, at most {LINES_MAX}: split the file")),
        );
    }
    for (line, text) in numbered(&source.text) {
        if text.chars().count() > WIDTH_MAX {
            faults.push(source.fault(line, format!("longer than {WIDTH_MAX} characters")));
        }
        // Spelled in halves, so that this file passes its own check.
        for marker in [concat!("FIX", "ME"), concat!("XX", "X")] {
            if words(text).any(|word| word == marker) {
                faults.push(source.fault(line, format!("{marker}: finish it, or open an issue")));
            }
        }
    }
    for (line, text) in numbered(&source.code) {
        for call in ["todo!", "unimplemented!", "dbg!"] {
            if text.contains(call) {
                faults.push(source.fault(line, format!("{call} in the code")));
            }
        }
    }
}

fn check_edges(source: &Source, faults: &mut Vec<String>) {
    for (line, text) in numbered(&source.code) {
        if text.contains("super::super::") {
            faults.push(source.fault(line, "`super::super::` hides where it leads: write `crate::`"));
        }
    }
    let Some(module) = source.module() else { return };
    let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == module) else {
        faults.push(source.fault(1, format!("module '{module}' is not in the table of tests/tidy.rs")));
        return;
    };
    for (line, path) in paths(&source.code, "crate") {
        let Some(first) = path.first().filter(|first| MAY_USE.iter().any(|(name, _)| name == first)) else {
            // A macro or a function at the crate's root; `*` would hide what is used.
            if path.first().is_none_or(|first| first == "*" || first == "self") {
                faults.push(source.fault(line, "`crate` as a whole: name the module"));
            }
            continue;
        };
        if first != module && !allowed.contains(&first.as_str()) {
            faults.push(source.fault(line, format!("{module} must not use {first}")));
        }
    }
    let top = format!("src/{module}/mod.rs");
    if source.path == top {
        for (line, path) in paths(&source.live, "super") {
            faults.push(
                source
                    .fault(line, format!("`super::{}` leaves the module: write `crate::`", path.join("::"))),
            );
        }
    }
}

fn check_core(source: &Source, faults: &mut Vec<String>) {
    let Some(module) = source.core() else { return };
    for (line, path) in paths(&source.code, "crate") {
        let [first, rest @ ..] = path.as_slice() else { continue };
        let own = first == module && rest.first().is_some_and(|second| second == "core");
        let allowed = own || CORE_MAY_USE.contains(&first.as_str());
        if !allowed && MAY_USE.iter().any(|(name, _)| name == first) {
            faults.push(source.fault(line, format!("{module}::core must not use {}", path.join("::"))));
        }
    }
    for (line, path) in paths(&source.live, "std") {
        if path.first().is_some_and(|first| NOT_IN_CORE_STD.contains(&first.as_str())) {
            faults.push(source.fault(line, format!("{module}::core must not use std::{}", path.join("::"))));
        }
    }
    for (line, text) in numbered(&source.live) {
        for word in words(text).filter(|word| NOT_IN_CORE.contains(word)) {
            faults.push(source.fault(line, format!("{module}::core must not use {word}")));
        }
    }
    if source.path.ends_with("/core/mod.rs") {
        if !source.text.contains(CORE_LINTS) {
            faults.push(source.fault(1, format!("a core carries {CORE_LINTS}")));
        }
        for (line, _) in paths(&source.live, "super") {
            faults.push(source.fault(line, "`super::` leaves the core"));
        }
    }
}

/// How many `.unwrap()` and `.expect(` the code outside of tests has.
fn unwraps(source: &Source) -> usize {
    source.live.matches(".unwrap()").count() + source.live.matches(".expect(").count()
}

fn check_unwraps(sources: &[Source], budget: &[(&str, usize)]) -> Vec<String> {
    let mut faults = Vec::new();
    for (module, allowed) in budget {
        let counts = sources.iter().filter(|s| s.module() == Some(module)).map(|s| (unwraps(s), &s.path));
        let counts: Vec<_> = counts.filter(|(count, _)| *count > 0).collect();
        let sum: usize = counts.iter().map(|(count, _)| count).sum();
        if sum > *allowed {
            let files: Vec<String> = counts.iter().map(|(count, path)| format!("{path} ({count})")).collect();
            let files = files.join(", ");
            faults.push(format!("{module}: {sum} unwraps outside of tests, {allowed} allowed: {files}"));
        }
    }
    faults
}

/// The settings of a commented TOML file that no comment explains: each key needs one above it, or above the
/// run of keys that it ends.
fn uncommented(toml: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let mut explained = false;
    for line in toml.lines() {
        if line.starts_with('#') {
            explained = true;
        } else if let Some((key, _)) = line.split_once('=') {
            if !explained {
                missing.push(key.trim().to_owned());
            }
            explained = false;
        } else if line.starts_with('[') {
            explained = false;
        }
    }
    missing
}

/// The kinds of error whose row `| code | `Name` |` a document lacks.
fn missing_codes(document: &str) -> Vec<String> {
    let row = |kind: &Kind| format!("| {} | `{kind:?}` |", kind.exit_code());
    Kind::ALL.iter().map(row).filter(|row| !document.contains(row.as_str())).collect()
}

// ---- reading Rust -------------------------------------------------------------------------------

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// The text with comments and the contents of string and character literals as spaces; lines stay where they
/// are.
fn blank_comments_and_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => find(&chars, at, |c, i| c[i] == '\n'),
            ('/', Some('*')) => end_of_block_comment(&chars, at),
            ('"', _) => end_of_string(&chars, at),
            ('r', Some('"' | '#')) if !in_word(&chars, at) => end_of_raw_string(&chars, at),
            ('\'', _) => end_of_character(&chars, at),
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// The first place from `at` on where `is` holds, or the end.
fn find(chars: &[char], at: usize, is: impl Fn(&[char], usize) -> bool) -> usize {
    (at..chars.len()).find(|i| is(chars, *i)).unwrap_or(chars.len())
}

/// Whether the letter at `at` continues a word; the `b` and `c` of `br""` and `cr""` are not such words.
fn in_word(chars: &[char], at: usize) -> bool {
    let word = |i: usize| chars[i].is_alphanumeric() || chars[i] == '_';
    at > 0 && word(at - 1) && !(matches!(chars[at - 1], 'b' | 'c') && (at < 2 || !word(at - 2)))
}

fn end_of_block_comment(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], at: usize) -> usize {
    let mut i = at + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

fn end_of_raw_string(chars: &[char], at: usize) -> usize {
    let open = find(chars, at + 1, |c, i| c[i] != '#');
    if chars.get(open) != Some(&'"') {
        return at;
    }
    let hashes = open - at - 1;
    let closes = |c: &[char], i: usize| {
        c[i] == '"' && c[i + 1..].iter().take(hashes).filter(|h| **h == '#').count() == hashes
    };
    (find(chars, open + 1, closes) + 1 + hashes).min(chars.len())
}

/// The end of a character literal, or `at` if the quote begins a lifetime.
fn end_of_character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, |c, i| c[i] == '\'') + 1,
        (Some(_), Some('\'')) => at + 3,
        _ => at,
    }
    .min(chars.len())
}

/// The ranges, in bytes, of the items under `#[cfg(test)]`.
fn test_items(code: &str) -> Vec<std::ops::Range<usize>> {
    let mut items = Vec::new();
    let mut from = 0;
    while let Some(found) = code[from..].find("#[cfg(test)]") {
        let start = from + found;
        let (mut depth, mut end) = (0usize, code.len());
        for (at, c) in code[start..].char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth <= 1 => end = start + at + 1,
                '}' => depth -= 1,
                ';' if depth == 0 => end = start + at + 1,
                _ => {}
            }
            if end < code.len() {
                break;
            }
        }
        items.push(start..end);
        from = end;
    }
    items
}

fn blank_tests(code: &str) -> String {
    let mut live = String::with_capacity(code.len());
    let mut from = 0;
    for item in test_items(code) {
        live.push_str(&code[from..item.start]);
        live.extend(code[item.clone()].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        from = item.end;
    }
    live.push_str(&code[from..]);
    live
}

fn test_lines(code: &str) -> usize {
    test_items(code).into_iter().map(|item| code[item].lines().count()).sum()
}

/// All paths below `root::`, with the line where each begins; `use crate::{a, b::{c, d}}` has three.
fn paths(code: &str, root: &str) -> Vec<(usize, Vec<String>)> {
    let tokens = tokens(code);
    let mut paths = Vec::new();
    for at in 0..tokens.len() {
        let is = |i: usize, text: &str| tokens.get(i).is_some_and(|t: &(usize, &str)| t.1 == text);
        // `crate` alone names the whole crate (`use crate as x`); in `pub(crate)` and `$crate` it stands for
        // nothing.
        if is(at, root) && is(at + 1, "::") && !(at > 0 && is(at - 1, "::")) {
            tree(&tokens, at + 2, &mut Vec::new(), &mut paths);
        } else if is(at, root) && root == "crate" && is(at + 1, "as") {
            paths.push((tokens[at].0, Vec::new()));
        }
    }
    paths
}

/// Reads one branch of a `use` tree, or a plain path, and returns where it ends.
fn tree(
    tokens: &[(usize, &str)],
    mut at: usize,
    prefix: &mut Vec<String>,
    paths: &mut Vec<(usize, Vec<String>)>,
) -> usize {
    let depth = prefix.len();
    let line = tokens.get(at).map_or(0, |token| token.0);
    loop {
        match tokens.get(at).map(|token| token.1) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.1 != "}") {
                    let next = tree(tokens, at, prefix, paths);
                    // Whatever is not a path here (`as name`, `,`) is stepped over.
                    at = if next > at { next } else { at + 1 };
                }
                prefix.truncate(depth);
                return at + 1;
            }
            Some(name) if name == "*" || is_name(name) => {
                prefix.push(name.to_owned());
                at += 1;
                if tokens.get(at).is_none_or(|token| token.1 != "::") {
                    break;
                }
                at += 1;
            }
            _ => break,
        }
    }
    if prefix.len() > depth {
        paths.push((line, prefix.clone()));
        if tokens.get(at).is_some_and(|token| token.1 == "as") {
            at += 2;
        }
    }
    prefix.truncate(depth);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Names, `::` and single other characters, each with its line.
fn tokens(code: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    for (line, text) in numbered(code) {
        let mut rest = text.trim_start();
        while let Some(c) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = match () {
                () if rest.starts_with("::") => 2,
                () if word > 0 => word,
                () => c.len_utf8(),
            };
            tokens.push((line, &rest[..length]));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

// ---- the repository -----------------------------------------------------------------------------

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files of the directories that exist, sorted.
fn sources(directories: &[&str]) -> Vec<Source> {
    fn walk(directory: &Path, files: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(directory) else { return };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                walk(&path, files);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    directories.iter().for_each(|directory| walk(&root().join(directory), &mut files));
    files.sort();
    let name = |path: &Path| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| Source::new(&name(path), &std::fs::read_to_string(path).unwrap())).collect()
}

fn none(faults: Vec<String>) {
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn every_file_is_tidy() {
    let sources = sources(&["src", "tests", "examples"]);
    assert!(sources.iter().any(|source| source.path == "src/base/error.rs"), "the walk finds the sources");
    none(sources.iter().flat_map(check).collect());
}

#[test]
fn unwraps_stay_within_the_ratchet() {
    none(check_unwraps(&sources(&["src"]), UNWRAPS));
    let named = |module: &str| UNWRAPS.iter().any(|(name, _)| *name == module);
    none(MAY_USE.iter().map(|(name, _)| name.to_string()).filter(|name| !named(name)).collect());
}

#[test]
fn every_exit_code_is_documented() {
    none(missing_codes(&read("docs/exit-codes.md")));
}

#[test]
fn the_defaults_are_complete_and_explained() {
    let defaults = read("config/default.toml");
    assert_eq!(defaults, hpcdag::config::DEFAULT_TOML);
    none(uncommented(&defaults));
    // Loading fails if a key has no default.
    let loaded = hpcdag::config::Config::load(&hpcdag::config::Sources::none(), &[]).unwrap();
    let present: Vec<String> = loaded.origins().into_iter().map(|(key, ..)| key).collect();
    let is_open = |key: &String| key.ends_with(".*");
    none(hpcdag::config::keys().into_iter().filter(|key| !is_open(key) && !present.contains(key)).collect());
}

#[test]
fn every_setting_is_in_the_reference_with_its_default() {
    let reference = read("docs/configuration.md");
    let loaded = hpcdag::config::Config::load(&hpcdag::config::Sources::none(), &[]).unwrap();
    let row = |(key, value, _): (String, toml::Value, _)| format!("| `{key}` | `{value}` |");
    let open =
        hpcdag::config::keys().into_iter().filter_map(|key| Some(format!("`{}", key.strip_suffix(".*")?)));
    let rows = loaded.origins().into_iter().map(row).chain(open);
    none(rows.filter(|row| !reference.contains(row.as_str())).collect());
}

// ---- the checks can fail ------------------------------------------------------------------------

fn faults_of(path: &str, code: &str) -> Vec<String> {
    check(&Source::new(path, &format!("//! Header.\n{code}")))
}

/// The only fault of a snippet.
fn fault_of(path: &str, code: &str) -> String {
    let faults = faults_of(path, code);
    assert_eq!(faults.len(), 1, "{path}: {code}: {faults:?}");
    faults[0].clone()
}

#[test]
fn forbidden_edges_are_found() {
    for (path, code, fault) in [
        ("src/base/x.rs", "use crate::config::Config;", "base must not use config"),
        ("src/graph/x.rs", "fn f(_: crate::protocol::X) {}", "graph must not use protocol"),
        (
            "src/net/x.rs",
            "use crate::{base::{ids, units as u}, graph::layer::{Layer as L}};",
            "net must not use graph",
        ),
        ("src/scheduler/x.rs", "use crate::\n    worker::Y;", "scheduler must not use worker"),
        ("src/client/x.rs", "use crate::cluster::{self as c};", "client must not use cluster"),
        ("src/launch/x.rs", "#[cfg(test)]\nmod tests { use crate::graph::X; }", "launch must not use graph"),
        ("src/cluster/x.rs", "use crate::cli::x;", "cluster must not use cli"),
        ("src/worker/x.rs", "use super::super::base;", "super::super::"),
        ("src/worker/mod.rs", "use super::client;", "`super::client` leaves"),
        ("src/worker/x.rs", "use crate::*;", "as a whole"),
        ("src/worker/x.rs", "use crate as all;", "as a whole"),
        ("src/utils/x.rs", "", "'utils' is not in the table"),
    ] {
        let found = fault_of(path, code);
        assert!(found.contains(fault), "{code}: {found}");
    }
    assert!(fault_of("src/base/x.rs", "\nuse crate::cli;").starts_with("src/base/x.rs:3: "));
    let several =
        faults_of("src/base/x.rs", "use crate::{cli as c, base::{a, b}, net::{self, d::{e, f}}, graph::*};");
    assert_eq!(several.len(), 5, "cli, three below net, graph: {several:?}");
}

#[test]
fn allowed_edges_pass() {
    for (path, code) in [
        ("src/net/x.rs", "use crate::{base::ids, protocol::{a, b}, net::c};"),
        ("src/cli/x.rs", "use crate::cluster::X;"),
        (
            "src/base/x.rs",
            "// use crate::cli\n/* crate::cli /* nested */ crate::cli */ const S: &str = \"crate::cli\";",
        ),
        (
            "src/base/x.rs",
            "const S: &str = r#\"a \" crate::cli\"#; const C: char = '\"'; fn f<'a>(_: &'a str) {}",
        ),
        ("src/base/x.rs", "pub(crate) fn f() { crate::id!(X) }"),
        ("src/base/mod.rs", "#[cfg(test)]\nmod tests { use super::*; }"),
        ("src/scheduler/core/x.rs", "use crate::scheduler::core::event::Event; use crate::graph::layer;"),
        ("src/scheduler/core/x.rs", "use super::event; use std::collections::{BTreeMap, VecDeque};"),
        ("src/scheduler/core/x.rs", "use rustc_hash::FxHashMap; #[cfg(test)] mod tests { use std::fs; }"),
        ("src/main.rs", "fn main() { hpcdag::cli::main() }"),
    ] {
        assert_eq!(faults_of(path, code), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn impure_cores_are_found() {
    for (code, fault) in [
        ("use tokio::sync::mpsc;", "tokio"),
        ("use std::fs;", "std::fs"),
        ("use std::{collections::BTreeMap, env::var};", "std::env::var"),
        ("fn f() { std::process::exit(1) }", "std::process::exit"),
        ("use std::net::IpAddr;", "std::net::IpAddr"),
        ("fn f(_: std::time::Instant) {}", "Instant"),
        ("use std::time::SystemTime;", "SystemTime"),
        ("use std::collections::HashMap;", "HashMap"),
        ("fn f(_: std::collections::HashSet<u8>) {}", "HashSet"),
        ("use crate::worker::driver::X;", "worker::driver::X"),
    ] {
        let found = fault_of("src/worker/core/x.rs", code);
        assert!(found.contains("worker::core must not use") && found.contains(fault), "{code}: {found}");
        if !code.contains("crate::") {
            assert!(faults_of("src/worker/x.rs", code).is_empty(), "shells may: {code}");
        }
    }
    let config = faults_of("src/scheduler/core/x.rs", "use crate::config::Config;");
    assert!(config.iter().any(|fault| fault.contains("scheduler::core must not use config")), "{config:?}");
    let lints = fault_of("src/scheduler/core/mod.rs", "");
    assert!(lints.contains(CORE_LINTS), "{lints}");
    let leaves = fault_of("src/scheduler/core/mod.rs", &format!("{CORE_LINTS}\nuse super::driver;"));
    assert!(leaves.contains("leaves the core"), "{leaves}");
}

#[test]
fn untidy_text_is_found() {
    let long = "a".repeat(WIDTH_MAX - 2);
    assert!(faults_of("src/base/x.rs", &format!("//{long}")).is_empty());
    assert!(fault_of("src/base/x.rs", &format!("//b{long}")).contains("longer than"));
    assert!(fault_of("src/base/x.rs", concat!("// FIX", "ME later")).contains("finish it"));
    assert!(fault_of("src/base/x.rs", concat!("// XX", "X")).contains("finish it"));
    assert!(faults_of("src/base/x.rs", "const T: &str = \"tmp.XXXXXX\";").is_empty());
    assert!(fault_of("src/base/x.rs", "fn f() { todo!() }").contains("todo!"));
    assert!(fault_of("src/base/x.rs", "fn f() { unimplemented!() }").contains("unimplemented!"));
    assert!(check(&Source::new("src/base/x.rs", "fn f() {}"))[0].contains("header"));
    let full = "\n".repeat(LINES_MAX - 1);
    assert!(faults_of("src/base/x.rs", &full).is_empty());
    assert!(fault_of("src/base/x.rs", &format!("{full}\n")).contains("split the file"));
    assert!(faults_of("src/base/x.rs", &format!("{full}#[cfg(test)]\nmod tests {{\n{full}}}")).is_empty());
}

#[test]
fn unwraps_are_counted_outside_of_tests() {
    let code = "fn f() { x.unwrap(); y.expect(\"z\"); \"a.unwrap()\"; w.unwrap_or(1); }\n// b.unwrap()\n";
    let tests = "#[cfg(test)]\nmod tests { fn g() { if a { x.unwrap() } } }\n";
    let source = |path, text: String| Source::new(path, &text);
    assert_eq!(unwraps(&source("src/net/x.rs", code.into())), 2);
    assert_eq!(unwraps(&source("src/net/x.rs", format!("{tests}{code}"))), 2, "code after the tests counts");
    assert_eq!(unwraps(&source("src/net/x.rs", format!("#[cfg(test)]\nmod tests;\n{code}"))), 2);
    assert_eq!(unwraps(&source("src/net/tests.rs", code.into())), 0);
    let sources = [source("src/net/x.rs", code.into()), source("src/net/y.rs", code.into())];
    assert!(check_unwraps(&sources, &[("net", 4), ("cli", 0)]).is_empty());
    let over = check_unwraps(&sources, &[("net", 3)]);
    assert!(over[0].contains("4 unwraps") && over[0].contains("src/net/y.rs (2)"), "{over:?}");
}

#[test]
fn documents_that_lag_are_found() {
    assert_eq!(missing_codes("| 1 | `Internal` |").len(), Kind::ALL.len() - 1);
    assert!(missing_codes("| 3 | `Internal` |").contains(&"| 1 | `Internal` |".to_owned()));
    assert_eq!(
        uncommented("# all\n[a]\n# one\nb = 1\nc = 2\n# three\n# lines\nd = 3\n[e]\nf = 1"),
        ["c", "f"]
    );
}
