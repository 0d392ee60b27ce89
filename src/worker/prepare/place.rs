//! A task's private directory: inputs as files or links with readable names, lists of them, pieces of files,
//! the places of its named outputs. Owns creating and removing it.
//!
//! Named outputs are made in the directory and read into memory when the task has ended well. In-place
//! outputs are made beside their final path under a hidden name that ends in the same way (programs look at
//! extensions), and moved there when the attempt is accepted: `Unpublished`.

use super::environment::WorkerFacts;
use super::nodes::Ranks;
use super::{Assignment, check_inside};
use crate::base::error::{Error, Kind, Result};
use crate::graph::items::Item;
use crate::graph::spec::TaskSpec;
use crate::graph::template::Context;
use crate::worker::executor::{FailureKind, Unpublished};
use crate::worker::store::data::Data;
use crate::worker::store::memfile::MemWriter;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

/// The directory of one running task. Removed when dropped.
pub(super) struct Place<'a> {
    facts: &'a WorkerFacts,
    assignment: &'a Assignment,
    dir: PathBuf,
    made: RefCell<Made>,
}

/// Named outputs, and those among them that are to be published.
type Collected = (Vec<(String, Data)>, Vec<Unpublished>);

/// What has been put into the directory so far.
#[derive(Default)]
struct Made {
    /// Paths of inputs by position, number and part.
    inputs: BTreeMap<(usize, usize, String), PathBuf>,
    names: BTreeSet<String>,
    block: Option<PathBuf>,
    outputs: BTreeMap<usize, PathBuf>,
    in_place: BTreeMap<usize, (Unpublished, PathBuf)>,
    /// Links point to these: they must not be closed before the task has ended.
    held: Vec<Data>,
}

impl<'a> Place<'a> {
    pub fn create(facts: &'a WorkerFacts, assignment: &'a Assignment) -> Result<Place<'a>> {
        let (task, attempt) = (assignment.task, assignment.attempt);
        let name = format!("task-{}-{}-{}.{}", task.run, task.index, attempt.epoch, attempt.n);
        let dir = facts.local_directory.join(name);
        let create = || fs::DirBuilder::new().mode(0o700).create(&dir);
        let created = create().or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                // Left by a worker of the same name that was killed.
                fs::remove_dir_all(&dir).and_then(|()| create())
            }
            io::ErrorKind::NotFound => fs::create_dir_all(&facts.local_directory).and_then(|()| create()),
            _ => Err(error),
        });
        created.map_err(|error| Error::file("cannot create the task's directory", &dir, &error))?;
        Ok(Place { facts, assignment, dir, made: RefCell::default() })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn error_file(&self) -> PathBuf {
        self.dir.join(".hpcdag-error")
    }

    /// What ranks it would start, and where.
    pub fn ranks(&self) -> Ranks {
        Ranks::of(self.spec(), &self.assignment.nodes, &self.facts.host)
    }

    fn spec(&self) -> &'a TaskSpec {
        &self.assignment.family.spec
    }

    /// Puts those inputs into the directory that shall be there without being asked for.
    pub fn place_inputs(&self) -> Result<()> {
        let family = &self.assignment.family;
        for at in (0..self.assignment.inputs.len()).filter(|&at| family.is_placed(at)) {
            self.input_paths(at, None)?;
        }
        Ok(())
    }

    fn input_paths(&self, at: usize, part: Option<&str>) -> Result<Vec<String>> {
        let results = &self.assignment.inputs[at];
        (0..results.len()).map(|n| self.input_path(at, n, part.unwrap_or(""))).collect()
    }

    /// Where one part of one result can be read. Placed there when first asked for.
    fn input_path(&self, at: usize, n: usize, part: &str) -> Result<String> {
        let id = (at, n, part.to_string());
        if let Some(path) = self.made.borrow().inputs.get(&id) {
            return text(path);
        }
        let (key, result) = &self.assignment.inputs[at][n];
        let Some(data) = result.find_part(part) else {
            let producer = &self.spec().inputs[at].producer;
            let what = if part.is_empty() { "no stdout".into() } else { format!("no output `{part}`") };
            return Err(Error::new(Kind::Graph, format!("the result of {key} has {what} ({producer})")));
        };
        let several = self.assignment.inputs[at].len() > 1;
        let path = match &self.assignment.family.file_names[at] {
            Some(name) => {
                let name = name.render(self)?;
                let name = check_inside(&name, "the name of an input,")?;
                let name = if several { numbered(name, n) } else { name.to_path_buf() };
                let path = self.dir.join(if part.is_empty() { name } else { with_suffix(name, part) });
                make_parent(&path)?;
                path
            }
            None => self.own_name(key, part)?,
        };
        self.put(data, &path, self.assignment.family.is_placed(at))?;
        self.made.borrow_mut().inputs.insert(id, path.clone());
        text(&path)
    }

    /// A readable path for an input that nobody named: from its key, unlike all others.
    fn own_name(&self, key: &str, part: &str) -> Result<PathBuf> {
        let plain = |c: char| if c.is_alphanumeric() || "._-=,+".contains(c) { c } else { '_' };
        let mut base: String = key.chars().map(plain).take(80).collect();
        base.truncate(base.trim_end_matches('_').len());
        if base.starts_with('.') || base.is_empty() {
            base.insert(0, '_');
        }
        if !part.is_empty() {
            base.push('.');
            base.extend(part.chars().map(plain));
        }
        let mut made = self.made.borrow_mut();
        let mut name = base.clone();
        for n in 2.. {
            if made.names.insert(name.clone()) {
                break;
            }
            name = format!("{base}~{n}");
        }
        let path = self.dir.join("inputs").join(name);
        make_parent(&path)?;
        Ok(path)
    }

    /// Puts data at a path: small ones as files, large ones as links unless `real`, in-place ones as links.
    fn put(&self, data: &Data, path: &Path, real: bool) -> Result<()> {
        let put = || match data {
            Data::Heap(bytes) => fs::write(path, bytes),
            Data::File(file) if !real => symlink(file.path()?, path),
            Data::File(file) => io::copy(&mut file.reopen()?, &mut File::create(path)?).map(|_| ()),
            Data::Spilled(extent) => match extent.path()? {
                Some(file) if !real => symlink(file, path),
                _ => io::copy(&mut data.reopen()?, &mut File::create(path)?).map(|_| ()),
            },
            Data::InPlace { path: place, .. } if !data.is_present() => Err(io::Error::other(format!(
                "{} is gone or has changed since its task made it",
                place.display()
            ))),
            Data::InPlace { path: place, .. } => symlink(place, path),
        };
        put().map_err(|error| Error::file("cannot put an input at", path, &error))?;
        self.made.borrow_mut().held.push(data.clone());
        Ok(())
    }

    /// Where the task writes its n-th output.
    fn output_path(&self, n: usize) -> Result<PathBuf> {
        if let Some(path) = self.made.borrow().outputs.get(&n) {
            return Ok(path.clone());
        }
        let output = &self.spec().outputs[n];
        let rendered = self.assignment.family.outputs[n].render(self)?;
        let path = if output.in_place {
            let last = self.spec().base_dir.join(&rendered);
            let (task, attempt) = (self.assignment.task, self.assignment.attempt);
            let Some(name) = last.file_name() else {
                return Err(Error::new(
                    Kind::Graph,
                    format!("the output `{}` has no file name", output.name),
                ));
            };
            let unique = format!(".hpcdag-{}-{}-{}.{}-", task.run, task.index, attempt.epoch, attempt.n);
            let temporary = last.with_file_name(unique + &name.to_string_lossy());
            let unpublished = Unpublished::new(temporary.clone(), last.clone());
            self.made.borrow_mut().in_place.insert(n, (unpublished, last));
            temporary
        } else {
            self.dir.join(check_inside(&rendered, &format!("the output `{}`,", output.name))?)
        };
        make_parent(&path)?;
        self.made.borrow_mut().outputs.insert(n, path.clone());
        Ok(path)
    }

    /// The named outputs that the task has made, in order, and those to be published. One that is missing is
    /// the task's failure.
    pub fn collect(&self, spec: &TaskSpec) -> std::result::Result<Collected, FailureKind> {
        let (mut parts, mut unpublished) = (Vec::new(), Vec::new());
        for (n, output) in spec.outputs.iter().enumerate() {
            let path = self.output_path(n).map_err(|error| FailureKind::Prepare(error.to_string()))?;
            let missing = |error: &io::Error| match error.kind() {
                io::ErrorKind::NotFound => {
                    let shown = path.strip_prefix(&self.dir).unwrap_or(&path).display();
                    FailureKind::MissingOutput(format!(
                        "it did not make its output `{}` ({shown})",
                        output.name
                    ))
                }
                _ => FailureKind::Result(format!("cannot read the output `{}`: {error}", output.name)),
            };
            let in_place = self.made.borrow_mut().in_place.remove(&n);
            let data = match in_place {
                Some((pending, last)) => {
                    let data = match Data::in_place(&path).map_err(|e| missing(&e))? {
                        Data::InPlace { size, mtime_ns, .. } => Data::InPlace { path: last, size, mtime_ns },
                        other => other,
                    };
                    unpublished.push(pending);
                    data
                }
                None => read_into_memory(&path, &self.assignment.key).map_err(|e| missing(&e))?,
            };
            parts.push((output.name.clone(), data));
        }
        Ok((parts, unpublished))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        // Most tasks leave nothing in it.
        let removed = fs::remove_dir(&self.dir).or_else(|_| fs::remove_dir_all(&self.dir));
        if let Err(error) = removed {
            tracing::warn!("cannot remove {}: {error}", self.dir.display());
        }
    }
}

impl Context for Place<'_> {
    fn item(&self) -> &Item {
        &self.assignment.item
    }

    fn index(&self) -> u32 {
        self.assignment.index
    }

    fn key(&self) -> &str {
        &self.assignment.key
    }

    fn block(&self) -> Result<String> {
        if let Some(path) = &self.made.borrow().block {
            return text(path);
        }
        let Item::Block(path, offset, len) = &self.assignment.item else {
            return Err(Error::new(Kind::Graph, "the item is no piece of a file"));
        };
        let source = self.spec().base_dir.join(path);
        let data = read_piece(&source, *offset, *len, &self.assignment.key)
            .map_err(|error| Error::file("cannot read a piece of", &source, &error))?;
        let name = source.file_name().map_or_else(|| "piece".into(), |n| n.to_string_lossy());
        let path = self.own_name(&format!("{name}.{offset}"), "")?;
        self.put(&data, &path, false)?;
        self.made.borrow_mut().block = Some(path.clone());
        text(&path)
    }

    fn inputs(&self, input: Option<usize>, output: Option<&str>) -> Result<Vec<String>> {
        let which = input.map_or(0..self.assignment.inputs.len(), |at| at..at + 1);
        let mut paths = Vec::new();
        for at in which {
            paths.extend(self.input_paths(at, output)?);
        }
        Ok(paths)
    }

    fn list(&self, nul: bool) -> Result<String> {
        let path = self.dir.join(if nul { ".inputs.list0" } else { ".inputs.list" });
        let mut content = Vec::new();
        for input in self.inputs(None, None)? {
            content.extend_from_slice(input.as_bytes());
            content.push(if nul { 0 } else { b'\n' });
        }
        fs::write(&path, content).map_err(|error| Error::file("cannot write", &path, &error))?;
        text(&path)
    }

    fn output(&self, output: usize) -> Result<String> {
        text(&self.output_path(output)?)
    }

    fn launcher(&self) -> Result<Vec<String>> {
        let ranks = self.ranks();
        let (hosts, _) = ranks.write_files(&self.dir)?;
        ranks.launcher(&self.facts.launcher, self.facts.is_in_slurm(), &hosts)
    }
}

fn text(path: &Path) -> Result<String> {
    let said = || Error::new(Kind::File, format!("{} is not UTF-8", path.display()));
    path.to_str().map(str::to_string).ok_or_else(said)
}

fn make_parent(path: &Path) -> Result<()> {
    let Some(parent) = path.parent() else { return Ok(()) };
    fs::create_dir_all(parent).map_err(|error| Error::file("cannot create", parent, &error))
}

/// `x.nc` of several: `x.0.nc`, `x.1.nc`.
fn numbered(name: &Path, n: usize) -> PathBuf {
    let stem = name.file_stem().unwrap_or_default().to_string_lossy();
    match name.extension() {
        Some(extension) => name.with_file_name(format!("{stem}.{n}.{}", extension.to_string_lossy())),
        None => name.with_file_name(format!("{stem}.{n}")),
    }
}

/// Another part of the same input.
fn with_suffix(name: impl Into<PathBuf>, part: &str) -> PathBuf {
    let mut name = name.into().into_os_string();
    name.push(".");
    name.push(part);
    name.into()
}

fn read_into_memory(path: &Path, key: &str) -> io::Result<Data> {
    let mut file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::other("it is a directory; only in-place outputs can be directories"));
    }
    let writer = MemWriter::create(key)?;
    io::copy(&mut file, &mut writer.file())?;
    Data::of_writer(writer)
}

fn read_piece(path: &Path, offset: u64, len: u64, key: &str) -> io::Result<Data> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let writer = MemWriter::create(key)?;
    let copied = io::copy(&mut file.take(len), &mut writer.file())?;
    if copied < len {
        return Err(io::Error::other(format!(
            "it ends {} bytes too early; it has changed since the graph was submitted",
            len - copied
        )));
    }
    writer.file().flush()?;
    Data::of_writer(writer)
}
