//! Graph files: the way from a path or a text to a `Graph`. Owns the choice of format and where a graph comes
//! from; everything else is said by `decode`, `build` and their parts.

use super::Graph;
use super::build::{self, Options, Origin};
use super::decode;
use super::diagnostic::{Diagnostic, Source};
use super::source;
use crate::base::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::str::Utf8Error;

/// The formats of graph files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// TOML.
    Toml,
    /// JSON, the same schema.
    Json,
}

/// Reads a graph file (`.json`: JSON, else TOML) and everything its lists name.
///
/// # Errors
/// `Kind::File` where the file cannot be read, `Kind::Graph` with all faults shown where it is wrong,
/// `Kind::Usage` for parameters and targets that it does not have.
pub fn load(path: &Path, options: &Options) -> Result<Graph> {
    let bytes = std::fs::read(path).map_err(|e| Error::file("cannot read", path, &e))?;
    let text = String::from_utf8(bytes).map_err(|e| not_utf8(path, e.as_bytes(), e.utf8_error()))?;
    let absolute = std::path::absolute(path).map_err(|e| Error::file("cannot find", path, &e))?;
    let name = path.file_stem().map_or("graph".into(), |n| n.to_string_lossy().into_owned());
    let base_dir = absolute.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    let format = if path.extension().is_some_and(|e| e == "json") { Format::Json } else { Format::Toml };
    let source = Source { name: path.display().to_string(), text };
    parse(&source, format, &Origin { name, base_dir, umask: umask() }, options)
}

/// Shows the first byte that is not UTF-8 in its line.
fn not_utf8(path: &Path, bytes: &[u8], error: Utf8Error) -> Error {
    // What is before the fault is unchanged, so its place is too.
    let source =
        Source { name: path.display().to_string(), text: String::from_utf8_lossy(bytes).into_owned() };
    let at = error.valid_up_to();
    let message = format!("this is not UTF-8: there is a byte {:#04x}", bytes.get(at).unwrap_or(&0));
    let span = at..at + char::REPLACEMENT_CHARACTER.len_utf8();
    source.error(vec![Diagnostic::new(&span, message, "expected text in UTF-8")])
}

/// The same for a text at hand.
pub fn parse(source: &Source, format: Format, origin: &Origin, options: &Options) -> Result<Graph> {
    let root = match format {
        Format::Toml => source::parse_toml(&source.text),
        Format::Json => source::parse_json(&source.text),
    };
    let root = root.map_err(|fault| source.error(vec![fault]))?;
    let (raw, faults) = decode::decode(&root);
    // Of large graphs there need not be three forms at once.
    drop(root);
    if !faults.is_empty() {
        return Err(source.error(faults));
    }
    if raw.tasks.is_empty() {
        return Err(Error::new(Kind::Graph, format!("{} has no tasks", source.name))
            .hint("a task is a table [task.NAME] with `argv`, `shell` or `native`"));
    }
    build::build(&raw, source, origin, options)
}

/// This process's umask, read without changing it; 022 where /proc does not tell.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("Umask:"));
    line.and_then(|l| u32::from_str_radix(l.trim(), 8).ok()).unwrap_or(0o022)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_text_are_shown_in_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("g.toml");
        std::fs::write(&path, b"version = 1\n[task.a]\nargv = [\"tr\xffue\"]\n").unwrap();
        let error = load(&path, &Options::default()).unwrap_err();
        assert_eq!(error.kind, Kind::Graph);
        assert!(error.message.starts_with("this is not UTF-8: there is a byte 0xff"), "{error}");
        assert!(error.message.contains("g.toml:3:12"), "{error}");
    }
}
