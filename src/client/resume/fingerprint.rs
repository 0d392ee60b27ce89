//! Fingerprints of tasks: what a task executes, its element's value, the files that it names, as they are,
//! and the fingerprints of what it depends on. Owns what counts; two tasks with one fingerprint make the
//! same.

use crate::base::ids::FamilyIx;
use crate::graph::Graph;
use crate::graph::items::Item;
use crate::graph::layer::{Pattern, Shape};
use crate::graph::spec::{Action, Stdin, TaskSpec};
use crate::graph::template::{Elements, Mode, Names, Plain, Template};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// FNV-1a of 128 bits: against change by accident, not by somebody who wants to deceive himself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash(u128);

impl Hash {
    fn new() -> Hash {
        Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn add(&mut self, bytes: &[u8]) {
        let mut one = |byte: u8| {
            self.0 ^= u128::from(byte);
            self.0 = self.0.wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013B);
        };
        (bytes.len() as u64).to_le_bytes().into_iter().for_each(&mut one);
        bytes.iter().copied().for_each(one);
    }
}

/// The fingerprints of all tasks of a graph, as far as its sizes are known before it runs.
pub(super) struct Fingerprints {
    /// By family: one for each element, or one for all of a family whose size is not known.
    all: Vec<Vec<u128>>,
}

impl Fingerprints {
    /// Of a graph, now: the files that its tasks name are looked at.
    pub(super) fn of(graph: &Graph) -> Fingerprints {
        let mut files = Files::default();
        let mut all: Vec<Vec<u128>> = Vec::with_capacity(graph.families.len());
        for ix in 0..graph.families.len() {
            let own = family(graph, FamilyIx(ix as u32), &all, &mut files);
            all.push(own);
        }
        Fingerprints { all }
    }

    /// One for all of a family's tasks.
    pub(super) fn of_family(&self, family: FamilyIx) -> String {
        let mut hash = Hash::new();
        self.all.get(family.index()).into_iter().flatten().for_each(|h| hash.add(&h.to_le_bytes()));
        format!("{:032x}", hash.0)
    }

    /// That of an element.
    pub(super) fn get(&self, family: FamilyIx, element: u32) -> Option<String> {
        let hash = self.all.get(family.index())?.get(element as usize)?;
        Some(format!("{hash:032x}"))
    }
}

fn family(graph: &Graph, ix: FamilyIx, before: &[Vec<u128>], files: &mut Files) -> Vec<u128> {
    let family = &graph.families[ix.index()];
    let mut base = Hash::new();
    let spec = TaskSpec { kept: None, checkpoint: None, ..family.spec.clone() };
    // Memory and time say how it runs, not what it makes.
    let spec = TaskSpec { memory: Vec::new(), time_limit_ms: None, ..spec };
    base.add(&serde_json::to_vec(&spec).unwrap_or_default());
    for edge in &family.layer.edges {
        base.add(format!("{} {:?} {}", edge.producer.0, edge.pattern, edge.data).as_bytes());
    }
    for word in words(&spec.action) {
        files.add(&mut base, &spec.base_dir, word);
    }
    let whole = |producer: FamilyIx| {
        let mut hash = Hash::new();
        before[producer.index()].iter().for_each(|h| hash.add(&h.to_le_bytes()));
        hash.0.to_le_bytes()
    };
    // Edges on all of a family are the same for every element.
    let is_whole = |pattern: &Pattern, producer: FamilyIx| {
        matches!(pattern, Pattern::All | Pattern::GroupBytes { .. })
            || graph.families[producer.index()].shape().is_none()
    };
    let each = family.shape();
    for edge in &family.layer.edges {
        if each.is_none() || is_whole(&edge.pattern, edge.producer) {
            base.add(&whole(edge.producer));
        }
    }
    let Some(shape) = each else {
        base.add(format!("{:?}", family.items).as_bytes());
        return vec![base.0];
    };
    let stdin = stdin(&spec);
    let mut own: Vec<u128> = Vec::with_capacity(shape.total as usize);
    for element in 0..shape.total {
        let mut hash = base;
        let item = graph.item(ix, element);
        value(&mut hash, &item, &spec, files);
        if let Some(template) = &stdin {
            let key = graph.key(ix, element, shape);
            let path = template.render(&Plain { item: &item, index: element, key: &key });
            files.add(&mut hash, &spec.base_dir, &path.unwrap_or_default());
        }
        for edge in family.layer.edges.iter().filter(|e| !is_whole(&e.pattern, e.producer)) {
            inputs(graph, &edge.pattern, edge.producer, element, |is_own, at| {
                let from = if is_own { &own } else { &before[edge.producer.index()] };
                hash.add(&from.get(at as usize).copied().unwrap_or_default().to_le_bytes());
            });
        }
        own.push(hash.0);
    }
    own
}

/// The elements that one depends on by an edge to a family of known size, in order: whether they are of its
/// own family, and which.
pub(super) fn inputs(
    graph: &Graph,
    pattern: &Pattern,
    producer: FamilyIx,
    element: u32,
    mut each: impl FnMut(bool, u32),
) {
    let shape = graph.families[producer.index()].shape();
    let Some(Shape { first_export, .. }) = shape else { return };
    let exports = shape.map_or(0, |s| s.exports());
    if let Pattern::Explicit(list) = pattern {
        list.row(element).iter().for_each(|at| each(false, at.saturating_add(first_export)));
        return;
    }
    for span in pattern.inputs(element, exports) {
        let offset = if span.own { 0 } else { first_export };
        span.range.for_each(|at| each(span.own, at.saturating_add(offset)));
    }
}

/// Words of a command that may name files.
fn words(action: &Action) -> Vec<&str> {
    match action {
        Action::Argv(argv) => argv.iter().map(String::as_str).collect(),
        Action::Shell(line) => {
            // What stands behind `>` is written, and need not be as it was.
            let mut is_written = false;
            let mut is_read = |word: &&str| {
                let was = std::mem::replace(&mut is_written, word.ends_with('>'));
                !was && !word.contains('>')
            };
            line.split_whitespace().filter(|word| is_read(word)).collect()
        }
        Action::Native { .. } => Vec::new(),
    }
}

fn stdin(spec: &TaskSpec) -> Option<Template> {
    let Stdin::File(path) = &spec.stdin else { return None };
    let names = Names {
        inputs: Vec::new(),
        outputs: Vec::new(),
        params: spec.params.clone(),
        elements: Elements::Unknown,
    };
    Template::parse(path, &names, Mode::Path).ok()
}

fn value(hash: &mut Hash, item: &Item, spec: &TaskSpec, files: &mut Files) {
    match item {
        Item::None => {}
        Item::Text(text) => {
            hash.add(text.as_bytes());
            files.add(hash, &spec.base_dir, text);
        }
        Item::Fields(fields) => {
            for (name, text) in fields {
                hash.add(name.as_bytes());
                hash.add(text.as_bytes());
                files.add(hash, &spec.base_dir, text);
            }
        }
        Item::Block(path, offset, len) => {
            hash.add(format!("{path} {offset} {len}").as_bytes());
            files.add(hash, &spec.base_dir, path);
        }
    }
}

/// Files that were looked at.
#[derive(Default)]
struct Files {
    seen: HashMap<PathBuf, Option<(u64, i64, i64)>>,
}

impl Files {
    /// Adds size and time of what may be the name of a file, if there is one.
    fn add(&mut self, hash: &mut Hash, base: &Path, word: &str) {
        if word.is_empty() || word.len() > 4096 || word.contains(['{', '\n', '\0']) {
            return;
        }
        let path = base.join(word);
        let look = |path: &PathBuf| {
            let meta = std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
            Some((meta.len(), meta.mtime(), meta.mtime_nsec()))
        };
        let found = *self.seen.entry(path).or_insert_with_key(look);
        if let Some((size, seconds, nanoseconds)) = found {
            hash.add(format!("{word} {size} {seconds}.{nanoseconds}").as_bytes());
        }
    }
}
