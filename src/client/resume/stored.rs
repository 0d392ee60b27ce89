//! What a checkpoint holds: results that workers wrote when all of them had to end. Owns which of them count.

use super::demand::is_written;
use super::fingerprint::Fingerprints;
use crate::base::ids::FamilyIx;
use crate::graph::Graph;
use crate::graph::proof::Line;
use crate::graph::spec::Checkpoint;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Results that are whole and as they were written, by family and element: their parts and files.
pub(super) type Stored = HashMap<(usize, u32), Vec<(String, PathBuf)>>;

/// Lines of all workers, by key.
type Lines = HashMap<String, Vec<Line>>;

/// Reads the lists that workers have left; what cannot be read proves nothing.
fn read(directory: &Path) -> Lines {
    let mut all = Lines::new();
    let Ok(entries) = std::fs::read_dir(directory) else { return all };
    let lists = entries.filter_map(|e| Some(e.ok()?.path()));
    for list in lists.filter(|path| path.extension().is_some_and(|e| e == "jsonl")) {
        let text = std::fs::read(&list).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for line in text.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok()) {
            all.entry(line.key.clone()).or_default().push(line);
        }
    }
    all
}

/// What counts of a checkpoint for this graph, as it is now.
pub(super) fn find(graph: &Graph, fingerprints: &Fingerprints, directory: &Path) -> Stored {
    let lines = read(directory);
    let mut stored = Stored::new();
    if lines.is_empty() {
        return stored;
    }
    for (ix, family) in graph.families.iter().enumerate() {
        let Some(shape) = family.shape() else { continue };
        let (at, fingerprint) = (FamilyIx(ix as u32), fingerprints.of_family(FamilyIx(ix as u32)));
        let outputs = family.spec.outputs.iter().map(|o| o.name.as_str());
        let parts: Vec<&str> = std::iter::once("").chain(outputs).collect();
        for element in 0..shape.total {
            let Some(own) = lines.get(&graph.key(at, element, shape)) else { continue };
            let file = |part: &&str| {
                let counts = |l: &&Line| l.part == *part && l.fingerprint == fingerprint && l.holds(&l.path);
                own.iter().find(counts).map(|line| (line.part.clone(), line.path.clone()))
            };
            if let Some(files) = parts.iter().map(file).collect::<Option<Vec<_>>>() {
                stored.insert((ix, element), files);
            }
        }
    }
    stored
}

/// Tells workers where results go of which nothing else is kept.
pub(super) fn order(graph: &mut Graph, fingerprints: &Fingerprints, directory: &Path) {
    for ix in 0..graph.families.len() {
        // Written as outputs already, or cut anew each time.
        let is_other = is_written(graph, ix) || graph.families[ix].shape().is_none();
        graph.families[ix].spec.checkpoint = (!is_other).then(|| Checkpoint {
            directory: directory.to_owned(),
            fingerprint: fingerprints.of_family(FamilyIx(ix as u32)),
        });
    }
}
