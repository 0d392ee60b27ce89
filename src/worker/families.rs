//! What this worker knows of the families whose tasks it runs, and the jobs made from that. Owns parsing each
//! spec once; forgets a run's families with the run.

use super::core::event::Start;
use super::finish::{Job, Runnable};
use super::prepare::{self, Assignment};
use super::store::Store;
use super::store::data::TaskResult;
use crate::base::failure::{Failure, FailureKind};
use crate::base::ids::{FamilyIx, RunId};
use crate::graph::items::{Item, Items};
use crate::graph::key_text;
use crate::graph::layer::Shape;
use crate::graph::spec::TaskSpec;
use crate::graph::template::{Elements, Mode, Names, Template};
use crate::protocol::messages::worker::{Families as FamiliesMessage, FamilyInfo};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One family.
#[derive(Debug)]
pub(super) struct Family {
    parsed: Arc<prepare::Family>,
    items: Items,
    shape: Option<Shape>,
    fan_in: Option<u32>,
    /// The files that this worker writes from each result.
    pub(super) writes: Vec<Write>,
    /// What its tasks usually occupied at most here, bytes; 0 as long as nothing is known.
    usual_peak: AtomicU64,
}

/// A file that is written from a result.
#[derive(Debug)]
pub(super) struct Write {
    /// Which part: empty for stdout.
    pub part: String,
    /// Its path, relative to the family's base directory.
    pub template: Template,
    /// Whether there is no file when the part is empty.
    pub skip_empty: bool,
}

impl Family {
    fn parse(info: FamilyInfo) -> Result<Family, String> {
        let FamilyInfo { spec, items, shape, fan_in, writes, .. } = info;
        let names = Names {
            inputs: Vec::new(),
            outputs: Vec::new(),
            params: spec.params.clone(),
            elements: Elements::Unknown,
        };
        let write = |(part, path, skip_empty): (Option<String>, String, bool)| {
            let template = Template::parse(&path, &names, Mode::Path).map_err(|fault| fault.message)?;
            Ok(Write { part: part.unwrap_or_default(), template, skip_empty })
        };
        let writes = writes.into_iter().map(write).collect::<Result<_, String>>()?;
        let parsed = Arc::new(prepare::Family::parse(spec).map_err(|e| e.to_string())?);
        Ok(Family { parsed, items, shape, fan_in, writes, usual_peak: AtomicU64::new(0) })
    }

    /// What its elements execute.
    pub(super) fn spec(&self) -> &TaskSpec {
        self.parsed.spec()
    }

    /// What its tasks usually occupied at most, bytes; 0 as long as nothing is known.
    pub(super) fn usual_peak(&self) -> u64 {
        self.usual_peak.load(Ordering::Relaxed)
    }

    /// Takes note of what one that succeeded occupied at most.
    pub(super) fn learn_peak(&self, bytes: u64) {
        let before = self.usual_peak();
        let now = if before == 0 { bytes } else { before - before / 4 + bytes / 4 };
        self.usual_peak.store(now, Ordering::Relaxed);
    }

    pub(super) fn key(&self, element: u32) -> String {
        let total = self.shape.map_or(element + 1, |s| s.total);
        key_text(&self.spec().name, &self.items, self.fan_in, element, total)
    }
}

/// All families that are known, by run.
#[derive(Default)]
pub(super) struct Families {
    runs: FxHashMap<RunId, FxHashMap<FamilyIx, Result<Arc<Family>, String>>>,
}

impl Families {
    /// Takes note of families. One that cannot be understood makes its tasks fail, with the reason.
    pub(super) fn learn(&mut self, message: FamiliesMessage) {
        let run = self.runs.entry(message.run).or_default();
        for info in message.families {
            run.insert(info.family, Family::parse(info).map(Arc::new));
        }
    }

    /// A family that was understood.
    pub(super) fn find(&self, run: RunId, family: FamilyIx) -> Option<&Arc<Family>> {
        self.runs.get(&run)?.get(&family)?.as_ref().ok()
    }

    /// Forgets a run.
    pub(super) fn forget(&mut self, run: RunId) {
        self.runs.remove(&run);
    }

    /// The job for an attempt whose inputs are all in the store. `item` is its element's value if that came
    /// with it.
    pub(super) fn job(&self, start: &Start, item: Option<Item>, store: &mut Store) -> Result<Job, Failure> {
        let fail = |text: String| Failure::of(FailureKind::Prepare(text));
        let run = self.runs.get(&start.task.run);
        let family = match run.and_then(|families| families.get(&start.family)) {
            Some(Ok(family)) => family,
            Some(Err(reason)) => return Err(fail(reason.clone())),
            None => return Err(fail(format!("the worker does not know family {}", start.family))),
        };
        let producers = &family.spec().inputs;
        let mut inputs: Vec<Vec<(String, Arc<TaskResult>)>> = vec![Vec::new(); producers.len()];
        let mut on_disk = Vec::new();
        for (edge, task) in &start.inputs {
            let Some(results) = inputs.get_mut(*edge as usize) else {
                return Err(fail(format!("input {edge} is none of the {} of its family", producers.len())));
            };
            let Some((result, recall)) = store.use_input(*task) else {
                return Err(fail(format!("the result of {} is gone", producers[*edge as usize].producer)));
            };
            if recall {
                on_disk.push((*task, *edge as usize, results.len()));
            }
            results.push((String::new(), result));
        }
        for (producer, results) in producers.iter().map(|i| &i.producer).zip(&mut inputs) {
            name_inputs(producer, results);
        }
        let assignment = Assignment {
            task: start.task,
            attempt: start.attempt,
            key: family.key(start.element),
            index: start.element,
            tries: start.tries,
            item: item.unwrap_or_else(|| family.items.item(start.element)),
            family: family.parsed.clone(),
            inputs,
            nodes: Vec::new(),
        };
        let kind = Runnable::Element(Box::new(assignment), family.clone());
        Ok(Job { kind, on_disk, in_line: start.in_line })
    }
}

/// Names for the results of one producer. The worker is not told which elements they are of, so they are
/// counted; the only one has the producer's name.
fn name_inputs(producer: &str, results: &mut [(String, Arc<TaskResult>)]) {
    if let [(name, _)] = results {
        *name = producer.to_string();
        return;
    }
    for (n, (name, _)) in results.iter_mut().enumerate() {
        *name = format!("{producer}.{n}");
    }
}
