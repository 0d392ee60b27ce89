//! `[output]` and outputs that stay in place: which results become files, and that no two become the same.
//! Owns the checks of these paths; who writes them is the client's and the worker's business.

use super::build::Origin;
use super::diagnostic::Diagnostic;
use super::look::Look;
use super::order::{ByName, unknown};
use super::raw::{At, RawGraph, RawOutput, RawTask};
use super::template::{Mode, Names, Plain, Template};
use super::{Graph, GraphOutput};
use crate::base::error::{Error, Kind, Result};
use crate::base::ids::FamilyIx;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Component, Path, PathBuf};

/// Above so many files only the texts of paths are compared, not each path.
const EXACT_MAX: u64 = 200_000;

impl Graph {
    /// The parsed path of an output.
    pub fn output_template(&self, output: &GraphOutput) -> Result<Template> {
        template(self, output)
    }

    /// Two elements of a family whose output goes to the same file, by their keys, and that file. Paths with
    /// the index in them are not looked at.
    ///
    /// # Errors
    /// `Graph` when the path is none.
    pub fn clash(&self, output: &GraphOutput) -> Result<Option<(String, String, PathBuf)>> {
        let template = self.output_template(output)?;
        let Some(shape) = self.families.get(output.family.index()).and_then(|f| f.shape()) else {
            return Ok(None);
        };
        if output.path.contains("{index}") {
            return Ok(None);
        }
        let mut by_path = HashMap::new();
        for element in shape.first_export..shape.total {
            let key = self.key(output.family, element, shape);
            let path = normal(&self.output_path(output, &template, element, &key)?);
            match by_path.entry(path) {
                Entry::Vacant(free) => {
                    free.insert(element);
                }
                Entry::Occupied(taken) => {
                    let other = self.key(output.family, *taken.get(), shape);
                    return Ok(Some((other, key, taken.key().clone())));
                }
            }
        }
        Ok(None)
    }

    /// The path of one element's output, absolute if the family's `base_dir` is.
    pub fn output_path(
        &self,
        output: &GraphOutput,
        template: &Template,
        element: u32,
        key: &str,
    ) -> Result<PathBuf> {
        let item = self.item(output.family, element);
        let text = template.render(&Plain { item: &item, index: element, key })?;
        let base = self.families.get(output.family.index()).map(|f| f.spec.base_dir.as_path());
        Ok(base.unwrap_or(Path::new("")).join(text))
    }
}

/// The parsed path of an output.
pub(super) fn template(graph: &impl Look, output: &GraphOutput) -> Result<Template> {
    let names = path_names(graph, output.family);
    Template::parse(&output.path, &names, Mode::Path)
        .map_err(|fault| Error::new(Kind::Graph, fault.message).hint(fault.hint))
}

/// Only what exists without a task: an input or output named in a path is unknown there.
fn path_names(graph: &impl Look, family: FamilyIx) -> Names {
    let names = graph.family(family).map(|f| graph.names_for(family, &f));
    Names { inputs: Vec::new(), outputs: Vec::new(), ..names.unwrap_or_default() }
}

/// Adds the outputs of a file to the graph; returns what is wrong with them.
pub fn add(raw: &RawGraph, by_name: &ByName<'_>, graph: &mut Graph, origin: &Origin) -> Vec<Diagnostic> {
    let mut faults = Vec::new();
    let stays = |task: &RawTask| task.outputs.iter().any(|part| part.in_place);
    if raw.outputs.is_empty() && !raw.tasks.iter().any(stays) {
        return faults;
    }
    let family_of: HashMap<String, FamilyIx> =
        (0..).map(FamilyIx).zip(&graph.families).map(|(ix, f)| (f.spec.name.clone(), ix)).collect();
    let mut files =
        Files { graph, base_dir: &origin.base_dir, by_path: HashMap::new(), by_text: HashMap::new() };
    let mut outputs = Vec::new();
    for output in &raw.outputs {
        match resolve(output, by_name, &family_of, files.graph) {
            Ok(Some(resolved)) => match files.claim(&resolved, &output.path) {
                Ok(()) => outputs.push(resolved),
                Err(fault) => faults.push(fault),
            },
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
    }
    for task in &raw.tasks {
        let Some(&family) = family_of.get(&task.name.it) else { continue };
        for part in task.outputs.iter().filter(|p| p.in_place) {
            let output = GraphOutput {
                family,
                part: Some(part.name.it.clone()),
                path: part.path.it.clone(),
                by: None,
                skip_empty: false,
            };
            faults.extend(files.claim(&output, &part.path).err());
        }
    }
    graph.outputs = outputs;
    faults
}

/// Looks up whose output it is; `None` where the targets have left the task out.
fn resolve(
    output: &RawOutput,
    by_name: &ByName<'_>,
    family_of: &HashMap<String, FamilyIx>,
    graph: &Graph,
) -> Result<Option<GraphOutput>, Diagnostic> {
    let (task, part) = match output.target.it.split_once('.') {
        Some((task, part)) => (task, Some(part)),
        None => (output.target.it.as_str(), None),
    };
    if !by_name.contains_key(task) {
        let name = At { span: output.target.span.clone(), it: task.to_string() };
        return Err(unknown(&name, "task", by_name.keys().copied()));
    }
    let Some(&family) = family_of.get(task) else { return Ok(None) };
    if let Some(part) = part {
        let known = &graph.families[family.index()].spec.outputs;
        let fault = |message: String, label: &str| Err(Diagnostic::new(&output.target.span, message, label));
        match known.iter().find(|o| o.name == part) {
            None => {
                return fault(format!("`{task}` has no output `{part}`"), "expected one of its `outputs`");
            }
            Some(o) if o.in_place => {
                return fault(
                    format!("`{part}` of `{task}` stays where it is"),
                    "not expected under `output`",
                );
            }
            Some(_) => {}
        }
    }
    Ok(Some(GraphOutput {
        family,
        part: part.map(str::to_string),
        path: output.path.it.clone(),
        by: output.by,
        skip_empty: output.skip_empty,
    }))
}

/// The files that outputs have claimed so far.
struct Files<'g> {
    graph: &'g Graph,
    base_dir: &'g Path,
    /// Paths where they were compared one by one.
    by_path: HashMap<PathBuf, (FamilyIx, u32)>,
    /// Texts of paths, for what is too large or not yet known.
    by_text: HashMap<String, FamilyIx>,
}

impl Files<'_> {
    fn claim(&mut self, output: &GraphOutput, path: &At<String>) -> Result<(), Diagnostic> {
        let fault = |message: String, label: String| Diagnostic::new(&path.span, message, label);
        let names = path_names(self.graph, output.family);
        let template = Template::parse(&path.it, &names, Mode::Path).map_err(|f| fault(f.message, f.hint))?;
        if template.needs_task() {
            let message = "inputs, outputs and the launcher cannot be part of this path".to_string();
            return Err(fault(message, "expected items, indices and parameters".to_string()));
        }
        if path.it.is_empty() || path.it.ends_with('/') || path.it.contains('\0') {
            return Err(fault(
                "this is not the path of a file".to_string(),
                "expected a file name".to_string(),
            ));
        }
        let family = &self.graph.families[output.family.index()];
        let name = &family.spec.name;
        let shape = family.shape();
        let exports = shape.map(|s| u64::from(s.exports()));
        if exports != Some(1) && exports != Some(0) && family.fan_in().is_none() && !template.varies() {
            let message = format!("all elements of `{name}` would write the same file");
            return Err(fault(message, "expected {index}, {key} or {item} in the path".to_string()));
        }
        if let Some(&other) = self.by_text.get(&path.it) {
            return Err(fault(self.clash(other, None, name, None, &path.it), "the second time".to_string()));
        }
        match (shape, exports) {
            (Some(shape), Some(n)) if n + self.by_path.len() as u64 <= EXACT_MAX => {
                for element in shape.first_export..shape.total {
                    let key = self.graph.key(output.family, element, shape);
                    let file = self
                        .graph
                        .output_path(output, &template, element, &key)
                        .map_err(|e| fault(e.message, "in this path".to_string()))?;
                    let file = normal(&self.base_dir.join(file));
                    if let Some(&(other, i)) = self.by_path.get(&file) {
                        let other_shape = self.graph.families[other.index()].shape().unwrap_or(shape);
                        let other_key = self.graph.key(other, i, other_shape);
                        let shown = file.display().to_string();
                        let message = self.clash(other, Some(&other_key), name, Some(&key), &shown);
                        return Err(fault(message, "expected paths that differ".to_string()));
                    }
                    self.by_path.insert(file, (output.family, element));
                }
            }
            _ if !path.it.contains("{key}") => {
                self.by_text.insert(path.it.clone(), output.family);
            }
            _ => {}
        }
        Ok(())
    }

    fn clash(
        &self,
        other: FamilyIx,
        other_key: Option<&str>,
        name: &str,
        key: Option<&str>,
        path: &str,
    ) -> String {
        let other_name = &self.graph.families[other.index()].spec.name;
        let (first, second) = (other_key.unwrap_or(other_name), key.unwrap_or(name));
        format!("`{first}` and `{second}` would write the same file, {path}")
    }
}

/// A path without `.` and with `..` taken back, as far as the text alone tells.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if matches!(out.components().next_back(), Some(Component::Normal(_))) => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}

/// Whether a path under a directory stays under it, as far as its text tells.
pub fn stays_inside(path: &str) -> bool {
    let inside = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::CurDir);
    Path::new(path).components().any(|c| matches!(c, Component::Normal(_)))
        && Path::new(path).components().all(inside)
}
