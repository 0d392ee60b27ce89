//! Lists of elements from the file system: globs, lines, pieces of files; and ranges and matrices. Runs in
//! the client only, before anything is sent. Owns the reading; knows nothing of tasks.

use super::MAX_ELEMENTS;
use super::diagnostic::Diagnostic;
use super::items::{Block, Items};
use super::raw::{At, List};
use super::template::{Elements, Mode, Names, Plain, Template};
use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What lists may refer to.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Directory that relative paths start from, absolute.
    pub base_dir: PathBuf,
    /// The graph's parameters.
    pub params: BTreeMap<String, String>,
}

/// Elements and how many there are.
pub struct Expanded {
    /// The values.
    pub items: Items,
    /// Their number, at most `MAX_ELEMENTS`.
    pub total: u32,
    /// What the list was, for the message that it is empty.
    pub what: String,
}

type Outcome<T> = Result<T, Diagnostic>;

impl Scope {
    /// A text with the parameters in it filled in.
    pub fn fill(&self, text: &At<String>, mode: Mode) -> Outcome<String> {
        let names = Names { params: self.params.clone(), elements: Elements::None, ..Names::default() };
        let fault = |m: String, label: String| Diagnostic::new(&text.span, m, label);
        let template = Template::parse(&text.it, &names, mode).map_err(|f| fault(f.message, f.hint))?;
        if template.varies() || template.needs_task() {
            return Err(fault("only parameters can stand in braces here".into(), "not an element's".into()));
        }
        let nothing = Plain { item: &super::items::Item::None, index: 0, key: "" };
        template.render(&nothing).map_err(|e| fault(e.message, String::new()))
    }

    /// Expands a list; `same-as` is not one (the caller resolves it).
    pub fn expand(&self, list: &List) -> Outcome<Expanded> {
        let (items, what) = match list {
            List::Range(numbers) => return self.range(numbers),
            List::Values(values) => {
                let texts = values.iter().map(|v| self.fill(v, Mode::Command)).collect::<Outcome<_>>()?;
                (Items::Values(texts), "the list has no values".to_string())
            }
            List::Glob(patterns) => {
                let what = format!("no file matches {}{}", joined(patterns), not_set(patterns));
                (Items::Values(self.globs(patterns)?), what)
            }
            List::Lines(file) => {
                let path = self.path(file)?;
                let text = std::fs::read(&path).and_then(text).map_err(|e| unreadable(file, &path, &e))?;
                (Items::Values(lines(&text)), format!("`{}` has no lines", file.it))
            }
            List::Matrix(axes) => return self.matrix(axes),
            List::Blocks(files, size) => {
                let what = format!("no bytes in {}{}", joined(files), not_set(files));
                (Items::Blocks(self.blocks(files, *size)?), what)
            }
            List::SameAs(name) => (Items::Index, name.it.clone()),
        };
        let total = items.len().and_then(|n| u32::try_from(n).ok()).filter(|n| *n <= MAX_ELEMENTS);
        let Some(total) = total else { return Err(too_many(place(list))) };
        Ok(Expanded { items, total, what })
    }

    fn path(&self, text: &At<String>) -> Outcome<PathBuf> {
        let path = with_variables(&self.fill(text, Mode::Path)?, &variable, &|value| value.to_string());
        let fault = |name| Diagnostic::new(&text.span, format!("${name} is not set"), "used here");
        Ok(self.base_dir.join(path.map_err(fault)?))
    }

    fn range(&self, numbers: &[At<String>]) -> Outcome<Expanded> {
        let mut values = Vec::new();
        for number in numbers {
            let text = self.fill(number, Mode::Path)?;
            let value: i64 = text.parse().map_err(|_| {
                Diagnostic::new(&number.span, format!("`{text}` is not a whole number"), "expected one")
            })?;
            values.push(value);
        }
        let step = values.get(2).copied().unwrap_or(1);
        let place = &numbers[numbers.len() - 1].span;
        if step == 0 {
            return Err(Diagnostic::new(place, "a range with step 0 never ends", "expected another step"));
        }
        let Some(total) = range_len(values[0], values[1], step) else { return Err(too_many(place)) };
        let what = format!("nothing lies between {} and {}", values[0], values[1]);
        Ok(Expanded { items: Items::Range { start: values[0], step }, total, what })
    }

    fn matrix(&self, axes: &[(At<String>, List)]) -> Outcome<Expanded> {
        let (mut out, mut total) = (Vec::new(), Some(1u32));
        for (name, list) in axes {
            check_axis(name)?;
            let expanded = self.expand(list)?;
            if expanded.total > AXIS_MAX {
                return Err(too_many(&name.span));
            }
            let values = match expanded.items {
                Items::Values(values) => values,
                items => (0..expanded.total).filter_map(|i| items.item(i).text()).collect(),
            };
            total = total.and_then(|t| t.checked_mul(expanded.total)).filter(|t| *t <= MAX_ELEMENTS);
            out.push((name.it.clone(), values));
            if total.is_none() {
                return Err(too_many(&name.span));
            }
        }
        let total = if out.is_empty() { 0 } else { total.unwrap_or(0) };
        Ok(Expanded { items: Items::Matrix(out), total, what: "an axis of the matrix has no values".into() })
    }

    /// The matches of all patterns: of each sorted by bytes, what an earlier one has matched left out.
    fn globs(&self, patterns: &[At<String>]) -> Outcome<Vec<String>> {
        let (mut out, mut seen) = (Vec::new(), HashSet::new());
        let options = glob::MatchOptions {
            case_sensitive: true,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        for pattern in patterns {
            let text = self.fill(pattern, Mode::Path)?;
            // What cannot be looked for matches nothing; the message for an empty list says so.
            let Ok(text) = with_variables(&text, &variable, &glob::Pattern::escape) else { continue };
            let whole = if Path::new(&text).is_absolute() {
                text
            } else {
                format!("{}/{text}", glob::Pattern::escape(&self.base_dir.to_string_lossy()))
            };
            let fault = |m: String, label: &str| Diagnostic::new(&pattern.span, m, label);
            let matches = glob::glob_with(&whole, options)
                .map_err(|e| fault(format!("this is not a pattern: {}", e.msg), "expected a glob"))?;
            let mut found = Vec::new();
            for path in matches {
                let path =
                    path.map_err(|e| fault(format!("cannot look for files: {e}"), "while expanding this"))?;
                match path.into_os_string().into_string() {
                    Ok(path) => found.push(path),
                    Err(path) => {
                        let message = format!("the name of {path:?} is not UTF-8");
                        return Err(fault(message, "matched by this; rename the file or exclude it"));
                    }
                }
            }
            found.sort_unstable();
            out.extend(found.into_iter().filter(|path| seen.insert(path.clone())));
        }
        Ok(out)
    }

    fn blocks(&self, files: &[At<String>], size: u64) -> Outcome<Vec<Block>> {
        let place = files.first().map_or(0..0, |f| f.span.clone());
        let mut out = Vec::new();
        for path in self.globs(files)? {
            let unreadable = |e| {
                let message = format!("cannot read {path}: {e}");
                Diagnostic::new(&place, message, "matched by this")
            };
            let mut file = File::open(&path).map_err(unreadable)?;
            let len = file.metadata().map_err(unreadable)?.len();
            if len / size > u64::from(MAX_ELEMENTS) {
                return Err(too_many(&place));
            }
            let cuts = cut_at_newlines(&mut file, len, size).map_err(unreadable)?;
            let piece = |w: &[u64]| Block { path: path.clone(), offset: w[0], len: w[1] - w[0] };
            out.extend(cuts.windows(2).map(piece));
        }
        Ok(out)
    }
}

/// An axis is a list in full; longer ones would make every message about the family large.
const AXIS_MAX: u32 = 10_000_000;

fn check_axis(name: &At<String>) -> Outcome<()> {
    if !super::is_name(&name.it) {
        let label = "expected letters, digits, `_` and `-`";
        return Err(Diagnostic::new(&name.span, format!("`{}` cannot be a name", name.it), label));
    }
    if super::template::PATH_PARTS.contains(&name.it.as_str()) {
        let message = format!("an axis cannot be called `{0}`: `{{item.{0}}}` is part of a path", name.it);
        return Err(Diagnostic::new(&name.span, message, "expected another name"));
    }
    Ok(())
}

/// A variable of the client's environment; an empty one counts as unset.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// A path with `~/` at its beginning and every `$NAME` replaced; values pass through `protect`. What follows
/// a `$` that is no name stays. `Err` is a name that is not set.
fn with_variables(
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    protect: &dyn Fn(&str) -> String,
) -> Result<String, String> {
    let value = |name: &str| variable(name).map(|v| protect(&v)).ok_or_else(|| name.to_string());
    let mut rest = text;
    let mut out = String::new();
    if text.starts_with("~/") {
        out = value("HOME")?;
        rest = &text[1..];
    }
    while let Some((before, after)) = rest.split_once('$') {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
        let (name, behind) = after.split_at(end);
        out.push_str(before);
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            out.push('$');
            rest = after;
        } else {
            out.push_str(&value(name)?);
            rest = behind;
        }
    }
    Ok(out + rest)
}

/// For the message that nothing was found: which variables are to blame.
fn not_set(patterns: &[At<String>]) -> String {
    let name = |p: &At<String>| with_variables(&p.it, &variable, &|v| v.to_string()).err();
    let names: Vec<String> = patterns.iter().filter_map(name).map(|n| format!("${n} is not set")).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

fn joined(patterns: &[At<String>]) -> String {
    let quoted: Vec<String> = patterns.iter().map(|p| format!("`{}`", p.it)).collect();
    quoted.join(" or ")
}

fn place(list: &List) -> &std::ops::Range<usize> {
    match list {
        List::Range(texts) | List::Values(texts) | List::Glob(texts) | List::Blocks(texts, _) => {
            texts.first().map_or(&(0..0), |t| &t.span)
        }
        List::Lines(text) | List::SameAs(text) => &text.span,
        List::Matrix(axes) => axes.first().map_or(&(0..0), |(name, _)| &name.span),
    }
}

fn too_many(span: &std::ops::Range<usize>) -> Diagnostic {
    Diagnostic::new(span, "there are too many elements", format!("expected at most {MAX_ELEMENTS}"))
}

fn unreadable(text: &At<String>, path: &Path, error: &std::io::Error) -> Diagnostic {
    Diagnostic::new(&text.span, format!("cannot read {}: {error}", path.display()), "named here")
}

/// How many numbers there are from `start` to before `end`; `None` if too many. `step` is not 0.
pub fn range_len(start: i64, end: i64, step: i64) -> Option<u32> {
    let (distance, step) = (i128::from(end) - i128::from(start), i128::from(step));
    let n = if (distance > 0) == (step > 0) { (distance.abs() + step.abs() - 1) / step.abs() } else { 0 };
    u32::try_from(n).ok().filter(|n| *n <= MAX_ELEMENTS)
}

/// Bytes as text.
///
/// # Errors
/// Where they are none, with the line.
pub fn text(bytes: Vec<u8>) -> std::io::Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
        std::io::Error::new(std::io::ErrorKind::InvalidData, format!("line {line} is not UTF-8"))
    })
}

/// The lines of a text without their ends; empty ones do not count.
pub fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|l| !l.is_empty()).map(str::to_string).collect()
}

/// Where to cut a file into pieces of about `size` bytes: 0, ends of lines, the file's length. The n-th cut
/// is behind the line in which byte `n * size - 1` lies. Only the surroundings of the cuts are read.
fn cut_at_newlines(file: &mut (impl Read + Seek), len: u64, size: u64) -> std::io::Result<Vec<u64>> {
    let mut cuts = vec![0];
    let mut aim = size;
    while aim < len {
        let cut = after_newline(file, aim - 1, len)?;
        if cut >= len {
            break;
        }
        cuts.push(cut);
        // A line longer than a piece swallows the cuts inside it.
        aim = (cut / size + 1).saturating_mul(size);
    }
    if len > 0 {
        cuts.push(len);
    }
    Ok(cuts)
}

fn after_newline(file: &mut (impl Read + Seek), from: u64, len: u64) -> std::io::Result<u64> {
    let mut at = from;
    let mut buffer = vec![0u8; 1 << 12];
    file.seek(SeekFrom::Start(from))?;
    while at < len {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        if let Some(newline) = buffer[..n].iter().position(|b| *b == b'\n') {
            return Ok(at + newline as u64 + 1);
        }
        at += n as u64;
        if buffer.len() < 1 << 20 {
            buffer.resize(buffer.len() * 4, 0);
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::items::Item;

    fn at(text: &str) -> At<String> {
        At { span: 0..1, it: text.to_string() }
    }

    fn scope(dir: &Path) -> Scope {
        Scope { base_dir: dir.to_path_buf(), params: BTreeMap::from([("day".into(), "mon".into())]) }
    }

    #[test]
    fn globs_are_sorted_absolute_and_filled_in() {
        let dir = tempfile::tempdir().unwrap();
        let odd = dir.path().join("a[b]");
        std::fs::create_dir(&odd).unwrap();
        for name in ["mon_b.gz", "mon_a.gz", "mon_B.gz", "tue_a.gz", ".mon_c.gz"] {
            std::fs::write(odd.join(name), "").unwrap();
        }
        let found = scope(&odd).expand(&List::Glob(vec![at("{day}_*.gz"), at("*_a.gz")])).unwrap();
        let Items::Values(paths) = found.items else { panic!() };
        let names: Vec<_> =
            paths.iter().map(|p| Path::new(p).file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["mon_B.gz", "mon_a.gz", "mon_b.gz", "tue_a.gz"]);
        assert!(paths.iter().all(|p| Path::new(p).is_absolute()));
        assert_eq!(found.total, 4);
    }

    #[test]
    fn variables_and_home_in_paths() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/a*".to_string()),
            "SCRATCH" => Some("/scratch/ada".to_string()),
            _ => None,
        };
        let expand = |text| with_variables(text, &variable, &glob::Pattern::escape);
        for (text, path) in [
            ("~/x/*.gz", "/home/a[*]/x/*.gz"),
            ("$SCRATCH/a$HOME.d/$", "/scratch/ada/a/home/a[*].d/$"),
            ("a~/b", "a~/b"),
            ("~ada/b", "~ada/b"),
            ("cost$5[$]SCRATCH", "cost$5[$]SCRATCH"),
        ] {
            assert_eq!(expand(text).as_deref(), Ok(path), "{text}");
        }
        assert_eq!(expand("$SCRATCH/$NOWHERE_/x"), Err("NOWHERE_".into()));
    }

    #[test]
    fn an_unset_variable_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.gz"), "").unwrap();
        let lost = "$HPCDAG_TEST_NOT_SET/*.gz";
        let found = scope(dir.path()).expand(&List::Glob(vec![at(lost)])).unwrap();
        let message = format!("no file matches `{lost}` ($HPCDAG_TEST_NOT_SET is not set)");
        assert_eq!((found.total, found.what), (0, message));
        let found = scope(dir.path()).expand(&List::Glob(vec![at(lost), at("*.gz")])).unwrap();
        assert_eq!(found.total, 1);
        assert!(scope(dir.path()).expand(&List::Lines(at(lost))).is_err());
    }

    #[test]
    fn ranges_exclude_their_end() {
        assert_eq!(range_len(0, 24, 1), Some(24));
        assert_eq!(range_len(0, 24, 5), Some(5));
        assert_eq!(range_len(10, 0, -3), Some(4));
        assert_eq!(range_len(3, 3, 1), Some(0));
        assert_eq!(range_len(0, 10, -1), Some(0));
        assert_eq!(range_len(i64::MIN, i64::MAX, 1), None);
        assert_eq!(range_len(i64::MIN, i64::MAX, i64::MAX), Some(3));
    }

    /// Cutting anywhere must give whole lines that join to the file.
    #[test]
    fn pieces_are_whole_lines_and_join_to_the_file() {
        let texts = ["", "a", "a\n", "\n\n\n", "ab\ncdef\ng\n\nhijklmnopqrstuvw\nx\n", "no end\nof line"];
        for text in texts {
            for size in 1..30u64 {
                let mut file = std::io::Cursor::new(text.as_bytes());
                let cuts = cut_at_newlines(&mut file, text.len() as u64, size).unwrap();
                let pieces: Vec<&str> =
                    cuts.windows(2).map(|w| &text[w[0] as usize..w[1] as usize]).collect();
                assert_eq!(pieces.concat(), text, "size {size}");
                for (i, piece) in pieces.iter().enumerate() {
                    assert!(!piece.is_empty(), "{text:?} {size}");
                    assert!(i + 1 == pieces.len() || piece.ends_with('\n'), "{text:?} {size}: {pieces:?}");
                    let longest = text.lines().map(|l| l.len() as u64 + 1).max().unwrap_or(0);
                    assert!((piece.len() as u64) < size + longest, "{text:?} {size}: {pieces:?}");
                }
            }
        }
    }

    #[test]
    fn a_line_longer_than_the_buffer_is_not_cut() {
        let text = format!("{}\n{}\n", "x".repeat(100_000), "y".repeat(10));
        let mut file = std::io::Cursor::new(text.as_bytes());
        assert_eq!(cut_at_newlines(&mut file, text.len() as u64, 1000).unwrap(), [0, 100_001, 100_012]);
    }

    #[test]
    fn blocks_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "1\n22\n333\n4444\n").unwrap();
        std::fs::write(dir.path().join("b"), "").unwrap();
        let found = scope(dir.path()).expand(&List::Blocks(vec![at("*")], 5)).unwrap();
        let ranges: Vec<_> = (0..found.total)
            .map(|i| match found.items.item(i) {
                Item::Block(path, offset, len) => (path.ends_with("/a"), offset, len),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(ranges, [(true, 0, 5), (true, 5, 9)]);
    }

    #[test]
    fn a_matrix_takes_lists_from_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("names"), "x\n\ny\r\n").unwrap();
        let axes = vec![
            (at("f"), List::Lines(at("names"))),
            (at("k"), List::Range(vec![at("0"), at("6"), at("3")])),
        ];
        let found = scope(dir.path()).expand(&List::Matrix(axes)).unwrap();
        let texts: Vec<_> = (0..found.total).filter_map(|i| found.items.item(i).text()).collect();
        assert_eq!(texts, ["f=x,k=0", "f=x,k=3", "f=y,k=0", "f=y,k=3"]);
    }
}
