//! Tasks that may run on certain workers only. Such a set of workers is a named resource of which nothing is
//! ever used up and that the workers of the set have. Owns the names of these resources.

use super::Core;
use super::workers::Worker;
use crate::base::ids::WorkerId;

/// The beginning of these resources' names, as people see it in explanations.
const AMONG: &str = "a place among: ";

/// The name of the resource that workers with these names, or on hosts with these names, have.
pub fn among(names: &[String]) -> String {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    format!("{AMONG}{}", names.join(", "))
}

/// Whether it is the name of such a resource.
pub fn is_among(resource: &str) -> bool {
    resource.starts_with(AMONG)
}

impl Worker {
    /// Gives the worker those of these resources that it is to have.
    fn join<'a>(&mut self, resources: impl Iterator<Item = &'a String>) {
        for resource in resources {
            let Some(names) = resource.strip_prefix(AMONG) else { continue };
            if names.split(", ").any(|n| n == self.spec.name || n == self.spec.host) {
                self.spec.resources.entry(resource.clone()).or_default();
            }
        }
    }
}

impl Core {
    /// A worker has come: which sets is it in?
    pub(super) fn join_sets(&mut self, w: WorkerId) {
        let Some(worker) = self.cx.workers.get_mut(w.index()).and_then(|x| x.as_mut()) else { return };
        worker.join(self.cx.ready.classes.iter().flat_map(|class| class.resources.keys()));
    }
}

impl super::cx::Cx {
    /// A class of tasks is new: which workers are in the sets that it names?
    pub(super) fn join_class(&mut self, class: usize) {
        for worker in self.workers.iter_mut().flatten() {
            worker.join(self.ready.classes[class].resources.keys());
        }
    }
}
