//! The checks: what each finds in a source file or a document, as lines for people.

use crate::rust::{blank_comments_and_literals, blank_tests, numbered, paths, test_lines, words};
use crate::{CORE_LINTS, CORE_MAY_USE, LINES_MAX, MAY_USE, NOT_IN_CORE, NOT_IN_CORE_STD, WIDTH_MAX};
use hpcdag::base::error::Kind;

/// A source file, ready to be looked at.
pub struct Source {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    text: String,
    /// The text with comments and the contents of literals blanked, lines kept.
    code: String,
    /// The code with the items under `#[cfg(test)]` blanked as well.
    live: String,
}

impl Source {
    pub fn new(path: &str, text: &str) -> Source {
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

pub fn check(source: &Source) -> Vec<String> {
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
        faults.push(source.fault(1, format!("module '{module}' is not in the table of tests/tidy/main.rs")));
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

pub fn check_unwraps(sources: &[Source], budget: &[(&str, usize)]) -> Vec<String> {
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
pub fn uncommented(toml: &str) -> Vec<String> {
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
pub fn missing_codes(document: &str) -> Vec<String> {
    let row = |kind: &Kind| format!("| {} | `{kind:?}` |", kind.exit_code());
    Kind::ALL.iter().map(row).filter(|row| !document.contains(row.as_str())).collect()
}
