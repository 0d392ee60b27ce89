//! The manifest of a run: a line of JSON for each output that was written, on disk before the next is. Owns
//! the file's form, and when a line proves that an output is there as it was written.

use super::fingerprint::Fingerprints;
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use crate::client::outputs::{Destination, Discard, Output, Receive};
use crate::graph::proof::Line;
use crate::graph::{Graph, GraphOutput};
use crate::protocol::messages::peer::PartHeader;
use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

/// Lines by key and part; of two the later one counts.
pub(super) type Lines = HashMap<(String, String), Line>;

/// Reads a manifest; there need not be one. What is no line, such as one that was cut off, proves nothing.
///
/// # Errors
/// `File` when it cannot be read.
pub(super) fn read(path: &Path) -> Result<Lines> {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(Error::file("cannot read", path, &e)),
    };
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    Ok(lines.map(|line| ((line.key.clone(), line.part.clone()), line)).collect())
}

/// Elements by family.
pub(super) type Known = HashSet<(FamilyIx, u32)>;

/// Which elements of each family have all their outputs proved; the same as a set.
///
/// # Errors
/// `Graph` when a path is none.
pub(super) fn proved(
    graph: &Graph,
    fingerprints: &Fingerprints,
    lines: &Lines,
) -> Result<(Vec<Vec<bool>>, Known)> {
    let mut all = Vec::with_capacity(graph.families.len());
    let mut known = Known::new();
    for ix in (0..graph.families.len() as u32).map(FamilyIx) {
        let outputs: Vec<&GraphOutput> = graph.outputs.iter().filter(|o| o.family == ix).collect();
        let shape = graph.families[ix.index()].shape();
        let mut of_family = vec![false; shape.map_or(0, |s| s.total as usize)];
        if let Some(shape) = shape.filter(|_| !outputs.is_empty() && !lines.is_empty()) {
            let templates = outputs.iter().map(|o| graph.output_template(o)).collect::<Result<Vec<_>>>()?;
            for element in shape.first_export..shape.total {
                let key = graph.key(ix, element, shape);
                let fingerprint = fingerprints.get(ix, element);
                let mut is_proved = true;
                for (output, template) in outputs.iter().zip(&templates) {
                    let part = output.part.clone().unwrap_or_default();
                    let Some(line) = lines.get(&(key.clone(), part)) else {
                        is_proved = false;
                        break;
                    };
                    let path = graph.output_path(output, template, element, &key)?;
                    is_proved &= Some(&line.fingerprint) == fingerprint.as_ref() && line.holds(&path);
                }
                if is_proved {
                    of_family[element as usize] = true;
                    known.insert((ix, element));
                }
            }
        }
        all.push(of_family);
    }
    Ok((all, known))
}

/// A manifest to write to.
pub struct Manifest {
    file: File,
    path: PathBuf,
}

impl Manifest {
    /// Opens it, at its end.
    ///
    /// # Errors
    /// `File`.
    pub fn open(path: &Path) -> Result<Manifest> {
        let fault = |e: &std::io::Error| Error::file("cannot write", path, e);
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(path).map_err(|e| fault(&e))?;
        // After a line that was cut off a new one begins.
        if file.metadata().map_err(|e| fault(&e))?.len() > 0 {
            file.write_all(b"\n").map_err(|e| fault(&e))?;
        }
        Ok(Manifest { file, path: path.to_owned() })
    }

    /// Adds lines; they are on disk when this returns.
    ///
    /// # Errors
    /// `File`.
    pub fn add(&mut self, lines: &[Line]) -> Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)
                .map_err(|e| Error::os("cannot write a line of the manifest", e))?;
            text.push(b'\n');
        }
        let written = self.file.write_all(&text).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::file("cannot write", &self.path, &e))
    }
}

/// What a task has written, to be looked at.
struct Told {
    family: FamilyIx,
    element: u32,
    key: String,
}

/// Adds a line for each output that workers have written. As a destination it wants nothing itself.
pub struct Recorder {
    known: Known,
    tell: Option<mpsc::Sender<Told>>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Recorder {
    /// Begins. `known` are those whose lines are there.
    ///
    /// # Errors
    /// `File` when the manifest cannot be written.
    pub(super) fn start(
        graph: Graph,
        fingerprints: Fingerprints,
        known: Known,
        path: &Path,
    ) -> Result<Recorder> {
        let manifest = Manifest::open(path)?;
        let (tell, told) = mpsc::channel();
        let record = move || record(&graph, &fingerprints, manifest, &told);
        let thread = std::thread::Builder::new().name("manifest".into()).spawn(record);
        let thread = thread.map_err(|e| Error::os("cannot start a thread", e))?;
        Ok(Recorder { known, tell: Some(tell), thread: Some(thread) })
    }

    /// The destination for a taker, and what waits for the last line.
    pub fn split(mut self) -> (Arc<dyn Destination>, Recording) {
        let recording = Recording { thread: self.thread.take() };
        (Arc::new(self), recording)
    }
}

/// The end of recording.
pub struct Recording {
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Recording {
    /// Waits until all that was announced is on disk; the destination must be gone. How many lines were
    /// added.
    ///
    /// # Errors
    /// `File` when lines could not be written.
    pub fn finish(mut self) -> Result<u64> {
        let Some(thread) = self.thread.take() else { return Ok(0) };
        thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Internal, "recording outputs came to grief")))
    }
}

impl Told {
    fn of(output: &Output) -> Told {
        Told { family: output.family, element: output.element, key: output.key.clone() }
    }
}

impl Recorder {
    fn is_known(&self, output: &Output) -> bool {
        self.known.contains(&(output.family, output.element))
    }

    /// Writes what the client is to write to `files`, and adds lines for that too.
    pub fn beside(mut self, files: Arc<dyn Destination>) -> (Arc<dyn Destination>, Recording) {
        let recording = Recording { thread: self.thread.take() };
        (Arc::new(Beside { recorder: self, files }), recording)
    }
}

/// Files that the client writes, each noted once it is there.
struct Beside {
    recorder: Recorder,
    files: Arc<dyn Destination>,
}

impl Destination for Beside {
    fn wants(&self, output: &Output) -> bool {
        if self.recorder.is_known(output) {
            return false;
        }
        // What it does not write itself is there already.
        self.files.wants(output) || self.recorder.wants(output)
    }

    fn receiver(&self) -> Box<dyn Receive> {
        Box::new(Noting { tell: self.recorder.tell.clone(), inner: self.files.receiver(), open: None })
    }
}

struct Noting {
    tell: Option<mpsc::Sender<Told>>,
    inner: Box<dyn Receive>,
    open: Option<Told>,
}

impl Receive for Noting {
    fn begin(&mut self, output: &Output, parts: &[PartHeader]) -> Result<()> {
        self.open = Some(Told::of(output));
        self.inner.begin(output, parts)
    }

    fn bytes(&mut self, part: usize, bytes: &[u8]) -> Result<()> {
        self.inner.bytes(part, bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.inner.end()?;
        if let (Some(told), Some(tell)) = (self.open.take(), &self.tell) {
            // Without a thread there will be no line, which its end says.
            let _ = tell.send(told);
        }
        Ok(())
    }
}

impl Destination for Recorder {
    fn wants(&self, output: &Output) -> bool {
        if !self.is_known(output)
            && let Some(tell) = &self.tell
        {
            // Without a thread there will be no line, which its end says.
            let _ = tell.send(Told::of(output));
        }
        false
    }

    fn receiver(&self) -> Box<dyn Receive> {
        Box::new(Discard)
    }
}

/// Writes lines until nobody tells any more. An output that cannot be looked at has no line: it runs again.
fn record(
    graph: &Graph,
    fingerprints: &Fingerprints,
    mut manifest: Manifest,
    told: &mpsc::Receiver<Told>,
) -> Result<u64> {
    let mut count = 0;
    while let Ok(first) = told.recv() {
        // What has come meanwhile goes to disk together.
        let mut lines = Vec::new();
        for told in std::iter::once(first).chain(told.try_iter().take(999)) {
            match lines_of(graph, fingerprints, &told) {
                Ok(new) => lines.extend(new),
                Err(error) => tracing::warn!(key = told.key, "no line in the manifest: {error}"),
            }
        }
        manifest.add(&lines)?;
        count += lines.len() as u64;
    }
    Ok(count)
}

fn lines_of(graph: &Graph, fingerprints: &Fingerprints, told: &Told) -> Result<Vec<Line>> {
    let Some(fingerprint) = fingerprints.get(told.family, told.element) else { return Ok(Vec::new()) };
    // The elements of such a family are cut anew each time.
    if graph.families.get(told.family.index()).is_none_or(|f| f.shape().is_none()) {
        return Ok(Vec::new());
    }
    let line = |output: &GraphOutput| {
        let template = graph.output_template(output)?;
        let path = graph.output_path(output, &template, told.element, &told.key)?;
        let shown = path.clone();
        let part = output.part.as_deref().unwrap_or_default();
        Line::of(&told.key, &fingerprint, part, path, output.skip_empty)
            .map_err(|e| Error::file("cannot read", &shown, &e))
    };
    graph.outputs.iter().filter(|o| o.family == told.family).map(line).collect()
}
