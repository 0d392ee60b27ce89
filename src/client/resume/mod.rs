//! Going on with a run that did not end: what is proved to be done, and what need not run because of that.
//! Owns the order of these; fingerprints, the manifest and the demand have modules of their own.

mod demand;
mod fingerprint;
mod manifest;
mod stored;

pub use manifest::{Manifest, Recorder, Recording};

use crate::base::error::Result;
use crate::graph::spec::Kept;
use crate::graph::{By, Graph, GraphOutput};
use fingerprint::Fingerprints;
use std::collections::BTreeSet;
use std::path::Path;

/// What is left of a graph.
pub struct Rest {
    /// The graph, with what need not run marked; its outputs are written by workers, and announced.
    pub graph: Graph,
    /// Tasks that do not run again.
    pub kept: u64,
    /// Takes note of what is written.
    pub recorder: Recorder,
}

/// Looks at what a manifest proves about a graph, and at what is in a checkpoint. Workers will write to that
/// what would be lost with them.
///
/// # Errors
/// `Graph` when a path is none; `File` when the manifest cannot be used.
pub fn rest(graph: Graph, manifest: &Path, checkpoint: &Path) -> Result<Rest> {
    let mut rest = rest_as_it_is(graph, manifest, Some(checkpoint))?;
    written_by_workers(&mut rest.graph);
    Ok(rest)
}

/// The same without a checkpoint, and where outputs are written by whom the graph says; the client is told of
/// what workers write.
///
/// # Errors
/// As [`rest`].
pub fn rest_beside(graph: Graph, manifest: &Path) -> Result<Rest> {
    let mut rest = rest_as_it_is(graph, manifest, None)?;
    announce(&mut rest.graph);
    Ok(rest)
}

fn rest_as_it_is(mut graph: Graph, manifest: &Path, checkpoint: Option<&Path>) -> Result<Rest> {
    let lines = manifest::read(manifest)?;
    let fingerprints = Fingerprints::of(&graph);
    let (proved, known) = manifest::proved(&graph, &fingerprints, &lines)?;
    let found = checkpoint.map(|directory| stored::find(&graph, &fingerprints, directory));
    let mut stored = found.unwrap_or_default();
    let plan = demand::plan(&graph, &proved, |ix, element| stored.contains_key(&(ix, element)));
    let mut kept = 0;
    for (family, plan) in graph.families.iter_mut().zip(&plan) {
        kept += plan.count();
        family.spec.kept = None;
    }
    for (at, plan) in plan.into_iter().enumerate() {
        if plan.count() > 0 {
            let files = graph.outputs.iter().filter(|o| o.family.index() == at);
            let files = files.map(|o| (o.part.clone().unwrap_or_default(), o.path.clone(), o.skip_empty));
            let files = files.collect();
            let of = |element: &u32| Some((*element, stored.remove(&(at, *element))?));
            let stored = plan.stored.iter().filter_map(of).collect();
            graph.families[at].spec.kept = Some(Kept { skip: plan.skip, load: plan.load, files, stored });
        }
    }
    if let Some(directory) = checkpoint {
        stored::order(&mut graph, &fingerprints, directory);
    }
    let recorder = Recorder::start(graph.clone(), fingerprints, known, manifest)?;
    Ok(Rest { graph, kept, recorder })
}

/// Lets workers write all outputs, and the client be told of each.
fn written_by_workers(graph: &mut Graph) {
    graph.outputs.iter_mut().for_each(|o| o.by = Some(By::Worker));
    announce(graph);
}

/// Lets the client be told of outputs of which workers write all.
fn announce(graph: &mut Graph) {
    let mut families: BTreeSet<_> = graph.outputs.iter().map(|o| o.family).collect();
    families.retain(|f| graph.outputs.iter().all(|o| o.family != *f || o.by == Some(By::Worker)));
    let announced = families.into_iter().filter_map(|family| {
        let first = graph.outputs.iter().find(|o| o.family == family)?;
        Some(GraphOutput { by: Some(By::Client), ..first.clone() })
    });
    let announced: Vec<_> = announced.collect();
    graph.outputs.extend(announced);
}

#[cfg(test)]
mod tests;
