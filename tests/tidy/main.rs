//! Refuses what the compiler does not: forbidden edges between modules, input and output in the sans-IO
//! cores, files without a header or too long, unfinished code, documents that no longer match the code. Owns
//! the tables of what is allowed. Its own checks are tested on bad snippets first.

mod checks;
mod found;
mod rust;

use checks::{Source, check, check_unwraps, missing_codes, uncommented};
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
