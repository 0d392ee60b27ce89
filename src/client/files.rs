//! Outputs that become files: `[output]`, `-o`, `--stdout DIR`, `fetch -o`. Owns that a file is there whole
//! or not at all, and safe before the workers forget the result.

use super::outputs::{Destination, Output, Receive};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use crate::graph::template::Template;
use crate::graph::{By, Graph};
use crate::protocol::messages::peer::PartHeader;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{DirBuilder, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::NamedTempFile;

/// Writes outputs to files.
#[derive(Clone)]
pub struct Files {
    plan: Arc<Plan>,
}

enum Plan {
    /// As a graph says.
    Graph {
        graph: Box<Graph>,
        by_family: HashMap<FamilyIx, Vec<Rule>>,
        umask: u32,
        /// One for each entry of `[output]`.
        tally: Mutex<Vec<Tally>>,
    },
    /// One part of one result to one path.
    One { part: String, path: PathBuf, umask: u32 },
}

/// What has become of one entry of `[output]`.
#[derive(Clone, Debug, Default)]
struct Tally {
    files: u64,
    /// The path of one of them.
    example: Option<PathBuf>,
}

/// Where the results that one entry of `[output]` names went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The entry: a family, or a family and its part.
    pub of: String,
    /// The file, or the pattern of the files, absolute if the graph's directory is.
    pub path: PathBuf,
    /// How many files there are; `None` where workers write them.
    pub files: Option<u64>,
}

/// One entry of `[output]`.
struct Rule {
    /// Its position there.
    at: usize,
    template: Template,
}

impl Files {
    /// Where a graph's `[output]` says, as far as the client writes.
    ///
    /// # Errors
    /// `Graph` when a path is none.
    pub fn of_graph(graph: &Graph) -> Result<Files> {
        let mut by_family: HashMap<FamilyIx, Vec<Rule>> = HashMap::new();
        let client = graph.outputs.iter().enumerate().filter(|(_, o)| o.by != Some(By::Worker));
        for (at, output) in client {
            let rule = Rule { at, template: graph.output_template(output)? };
            by_family.entry(output.family).or_default().push(rule);
        }
        let umask = graph.families.first().map_or(0o022, |f| f.spec.umask);
        let tally = Mutex::new(vec![Tally::default(); graph.outputs.len()]);
        Ok(Files { plan: Arc::new(Plan::Graph { graph: Box::new(graph.clone()), by_family, umask, tally }) })
    }

    /// What was written so far, one for each entry of `[output]`.
    pub fn written(&self) -> Vec<Written> {
        let Plan::Graph { graph, tally, .. } = &*self.plan else { return Vec::new() };
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let written = graph.outputs.iter().zip(&*tally).map(|(output, tally)| {
            let spec = graph.families.get(output.family.index()).map(|f| &f.spec);
            let name = spec.map_or("", |s| s.name.as_str());
            let pattern = spec.map_or(Path::new(""), |s| s.base_dir.as_path()).join(&output.path);
            Written {
                of: output.part.as_ref().map_or_else(|| name.to_owned(), |part| format!("{name}.{part}")),
                path: tally.example.clone().filter(|_| tally.files == 1).unwrap_or(pattern),
                files: (output.by != Some(By::Worker)).then_some(tally.files),
            }
        });
        written.collect()
    }

    /// One part (empty for stdout) of one result.
    pub fn one(part: impl Into<String>, path: impl Into<PathBuf>, umask: u32) -> Files {
        Files { plan: Arc::new(Plan::One { part: part.into(), path: path.into(), umask }) }
    }
}

impl Plan {
    /// Which parts go where, and whether not if they are empty.
    fn places(&self, output: &Output) -> Result<Vec<Place<'_>>> {
        match self {
            Plan::One { part, path, .. } => {
                Ok(vec![Place { part, path: path.clone(), skip_empty: false, entry: 0 }])
            }
            Plan::Graph { graph, by_family, .. } => {
                let rules = by_family.get(&output.family).map(Vec::as_slice).unwrap_or_default();
                let place = |rule: &Rule| {
                    let entry = &graph.outputs[rule.at];
                    let path = graph.output_path(entry, &rule.template, output.element, &output.key)?;
                    let part = entry.part.as_deref().unwrap_or("");
                    Ok(Place { part, path, skip_empty: entry.skip_empty, entry: rule.at })
                };
                rules.iter().map(place).collect()
            }
        }
    }

    /// A file is in its place.
    fn count(&self, entry: usize, path: PathBuf) {
        let Plan::Graph { tally, .. } = self else { return };
        if let Some(tally) = tally.lock().unwrap_or_else(PoisonError::into_inner).get_mut(entry) {
            tally.files += 1;
            tally.example = Some(path);
        }
    }

    fn umask(&self) -> u32 {
        match self {
            Plan::Graph { umask, .. } | Plan::One { umask, .. } => *umask,
        }
    }
}

/// Where one part of a result goes.
struct Place<'a> {
    part: &'a str,
    path: PathBuf,
    /// Nothing is written if the part is empty.
    skip_empty: bool,
    /// The position in `[output]`.
    entry: usize,
}

impl Destination for Files {
    fn wants(&self, output: &Output) -> bool {
        match &*self.plan {
            Plan::One { .. } => true,
            Plan::Graph { by_family, .. } => by_family.contains_key(&output.family),
        }
    }

    fn receiver(&self) -> Box<dyn Receive> {
        Box::new(Writer { plan: Arc::clone(&self.plan), open: Vec::new() })
    }
}

/// Writes one output after the other.
struct Writer {
    plan: Arc<Plan>,
    open: Vec<Open>,
}

/// A file that is being written beside its place; gone if it is dropped.
struct Open {
    /// Position of the part whose bytes go there.
    part: usize,
    file: NamedTempFile,
    path: PathBuf,
    /// The position in `[output]`.
    entry: usize,
}

impl Receive for Writer {
    fn begin(&mut self, output: &Output, parts: &[PartHeader]) -> Result<()> {
        self.open.clear();
        for Place { part: name, path, skip_empty, entry } in self.plan.places(output)? {
            let found = parts.iter().enumerate().find(|(_, p)| p.name == name);
            let Some((part, header)) = found.filter(|(_, p)| p.in_place.is_none()) else {
                return Err(no_such_part(&output.key, name, parts));
            };
            if skip_empty && header.len == 0 {
                remove_old(&path)?;
                continue;
            }
            let file =
                beside(&path, self.plan.umask()).map_err(|e| Error::file("cannot write", &path, &e))?;
            self.open.push(Open { part, file, path, entry });
        }
        Ok(())
    }

    fn bytes(&mut self, part: usize, bytes: &[u8]) -> Result<()> {
        for open in self.open.iter_mut().filter(|o| o.part == part) {
            open.file.write_all(bytes).map_err(|e| Error::file("cannot write", &open.path, &e))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        for open in self.open.drain(..) {
            let fault = |e: &std::io::Error| Error::file("cannot write", &open.path, e);
            // Network file systems and quotas say only here that there is no room.
            open.file.as_file().sync_data().map_err(|e| fault(&e))?;
            open.file.persist(&open.path).map_err(|e| fault(&e.error))?;
            self.plan.count(open.entry, open.path);
        }
        Ok(())
    }
}

fn no_such_part(key: &str, name: &str, parts: &[PartHeader]) -> Error {
    let shown = |p: &PartHeader| if p.name.is_empty() { "stdout".into() } else { format!("`{}`", p.name) };
    let known: Vec<String> = parts.iter().map(shown).collect();
    let in_place = parts.iter().find(|p| p.name == name).and_then(|p| p.in_place.as_ref());
    match in_place {
        Some((path, ..)) => {
            Error::new(Kind::NotFound, format!("the output `{name}` of {key} stays where it is: {path}"))
        }
        None if name.is_empty() => Error::new(Kind::NotFound, format!("the stdout of {key} was not kept"))
            .hint(format!("it has {}", known.join(", "))),
        None => Error::new(Kind::NotFound, format!("{key} has no output `{name}`"))
            .hint(format!("it has {}", known.join(", "))),
    }
}

/// A file in the directory where `path` will be, which is made if it is missing, with the mode that the
/// submitter's files have.
fn beside(path: &Path, umask: u32) -> std::io::Result<NamedTempFile> {
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o777).create(directory)?;
    let mut prefix = OsString::from(".");
    // A name may already be as long as names can be.
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    prefix.push(name.chars().take(40).collect::<String>());
    prefix.push("-");
    let mut builder = tempfile::Builder::new();
    builder.prefix(&prefix).permissions(Permissions::from_mode(0o666 & !umask));
    builder.tempfile_in(directory)
}

/// Removes the output of an earlier run whose successor is empty and shall leave no file.
fn remove_old(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if !matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Err(Error::file("cannot remove", path, &e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::TaskRef;
    use crate::graph::GraphOutput;
    use crate::graph::single::{Each, command};

    fn graph(directory: &Path, path: &str, skip_empty: bool) -> Graph {
        let origin = crate::graph::Origin { name: "t".into(), base_dir: directory.into(), umask: 0o027 };
        let items = ["a/x.gz", "b/y.gz"].map(String::from).to_vec();
        let mut graph = command(vec!["cat".into()], Each::Values(items), &origin).unwrap();
        let output = GraphOutput { family: FamilyIx(0), part: None, path: path.into(), by: None, skip_empty };
        graph.outputs.push(output);
        graph
    }

    fn output(element: u32) -> Output {
        Output {
            task: TaskRef::default(),
            key: format!("cat[{element}]"),
            family: FamilyIx(0),
            element,
            index: element,
            nbytes: 0,
            holders: Vec::new(),
        }
    }

    fn stdout(len: u64) -> Vec<PartHeader> {
        vec![PartHeader { name: String::new(), len, in_place: None }]
    }

    #[test]
    fn files_appear_whole_under_their_rendered_names() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::of_graph(&graph(directory.path(), "out/{index}-{item.stem}.txt", false)).unwrap();
        assert!(files.wants(&output(0)));
        assert_eq!(files.written()[0].files, Some(0));
        let mut writer = files.receiver();
        writer.begin(&output(1), &stdout(6)).unwrap();
        writer.bytes(0, b"abc").unwrap();
        let path = directory.path().join("out/1-y.txt");
        assert!(!path.exists());
        // An attempt that broke off leaves nothing.
        writer.begin(&output(1), &stdout(6)).unwrap();
        writer.bytes(0, b"abc").unwrap();
        writer.bytes(0, b"def").unwrap();
        writer.end().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdef");
        let one = Written { of: "cat".into(), path: path.clone(), files: Some(1) };
        assert_eq!(files.written(), [one]);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(std::fs::read_dir(directory.path().join("out")).unwrap().count(), 1);
        writer.begin(&output(0), &stdout(0)).unwrap();
        writer.end().unwrap();
        let many = directory.path().join("out/{index}-{item.stem}.txt");
        assert_eq!(files.written(), [Written { of: "cat".into(), path: many, files: Some(2) }]);
    }

    #[test]
    fn empty_results_may_leave_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("0");
        std::fs::write(&path, "of an earlier run").unwrap();
        let mut writer = Files::of_graph(&graph(directory.path(), "{index}", true)).unwrap().receiver();
        writer.begin(&output(0), &stdout(0)).unwrap();
        writer.end().unwrap();
        assert!(!path.exists());
        let mut writer = Files::of_graph(&graph(directory.path(), "{index}", false)).unwrap().receiver();
        writer.begin(&output(0), &stdout(0)).unwrap();
        writer.end().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn missing_parts_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let mut writer = Files::one("field", directory.path().join("f"), 0o022).receiver();
        let error = writer.begin(&output(0), &stdout(3)).unwrap_err();
        assert_eq!(error.message, "cat[0] has no output `field`");
        assert_eq!(error.hint.as_deref(), Some("it has stdout"));
        let in_place = Some(("/scratch/f.h5".into(), 1, 2));
        let parts = [PartHeader { name: "field".into(), len: 0, in_place }];
        assert!(writer.begin(&output(0), &parts).unwrap_err().message.ends_with("/scratch/f.h5"));
    }
}
