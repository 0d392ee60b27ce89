//! What calls need before they come. Owns which modules zygotes are told to import, that a zygote is started
//! before the first call, and which calls need not wait for what is being imported.

use super::{NESTS_MAX, Nest, Python, Source, Warmed, lock};
use crate::protocol::messages::calls::{PREPARED_MODULES_MAX, Prepare};
use crate::worker::python::calls::CallJob;
use crate::worker::python::environment::Environment;
use crate::worker::python::zygote::Zygote;
use bytes::Bytes;
use std::sync::{Arc, Mutex};

/// What a call consists of is looked through if it is not larger than this, bytes.
const LOOK_MAX: usize = 256 << 10;

/// Every function by value names it; it takes no time to import.
const PICKLER: &str = "cloudpickle";

/// Modules that executors of an environment will need: the client has them.
#[derive(Debug)]
pub(super) struct Foreseen {
    /// Of these, those that the zygote is told besides the environment.
    told: Mutex<Vec<String>>,
    /// By which top-level names calls are known to need any of them.
    names: Mutex<Vec<String>>,
}

impl Foreseen {
    /// What an environment says.
    pub fn of(environment: &Bytes) -> Foreseen {
        // One that cannot be read starts no zygote, and that is where it is said.
        let loaded = Environment::read(environment).map(|read| read.loaded).unwrap_or_default();
        let foreseen = Foreseen { told: Mutex::default(), names: Mutex::default() };
        foreseen.name(&loaded);
        foreseen
    }

    fn name(&self, modules: &[String]) {
        let mut names = lock(&self.names);
        for module in modules {
            let top = module.split('.').next().unwrap_or_default();
            if !top.is_empty() && top != PICKLER && !names.iter().any(|name| name == top) {
                names.push(top.to_owned());
            }
        }
    }

    /// The client has imported these, too. Whether that is news.
    fn add(&self, modules: Vec<String>) -> bool {
        self.name(&modules);
        let mut told = lock(&self.told);
        let before = told.len();
        for module in modules {
            if told.len() < PREPARED_MODULES_MAX && !told.contains(&module) {
                told.push(module);
            }
        }
        told.len() > before
    }

    /// Tells a zygote.
    pub fn tell(&self, zygote: &Zygote) {
        let told = lock(&self.told).clone();
        if !told.is_empty() {
            zygote.load_modules(&told);
        }
    }

    /// Whether a call names any of them. Names in the function's own modules are not seen, nor those in what
    /// it reads; whatever is large or reads results counts as one that does.
    fn concern(&self, job: &CallJob) -> bool {
        let names = lock(&self.names).clone();
        if names.is_empty() {
            return false;
        }
        let pieces = job.call.pieces();
        let size: usize = pieces.iter().map(|piece| piece.len()).sum();
        let names_one = |piece: &&Bytes| names.iter().any(|name| contains(piece, name.as_bytes()));
        !job.inputs.is_empty() || size > LOOK_MAX || pieces.iter().any(names_one)
    }
}

fn contains(piece: &[u8], name: &[u8]) -> bool {
    piece.windows(name.len()).any(|window| window == name)
}

impl Nest {
    /// Whether a call can do without the modules that executors here will need.
    pub(super) fn is_light(&self, job: &CallJob) -> bool {
        !self.foreseen.concern(job)
    }
}

impl Python {
    /// Calls may come that need this: has it ready by then. Returns at once.
    pub(in crate::worker) fn prepare(self: &Arc<Python>, prepare: Prepare) {
        let Prepare { environment, modules } = prepare;
        if !self.facts.zygote {
            return;
        }
        let Some(nest) = self.expect(environment) else { return };
        // Whoever holds that starts one just now.
        let is_up = matches!(nest.zygote.try_lock().as_deref(), Ok(Source::Up(_)));
        if !nest.foreseen.add(modules) && is_up {
            return;
        }
        let this = self.clone();
        let start = move || {
            // Why it does not start is in the log, and said again to the first call.
            if let Ok(zygote) = this.zygote(&nest) {
                nest.foreseen.tell(&zygote);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("prepare".into()).spawn(start) {
            tracing::warn!("cannot start a thread: {error}");
        }
    }

    /// The executors of an environment, unless others would have to make room for what may never be used.
    fn expect(&self, environment: Vec<u8>) -> Option<Arc<Nest>> {
        let environment = self.live.environment(environment);
        let is_known = |nest: &Arc<Nest>| Arc::ptr_eq(&nest.environment, &environment);
        let nests = lock(&self.nests);
        let has_room = nests.len() < NESTS_MAX || nests.iter().any(is_known);
        drop(nests);
        has_room.then(|| self.nest(&environment))
    }

    /// Whether an executor lacks what a call needs and its zygote has by now, or soon.
    pub(super) fn lacks(&self, nest: &Nest, warmed: &Warmed, job: &CallJob) -> bool {
        warmed.cold && !warmed.warm.home().is_used() && !nest.is_light(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_what_the_client_has_imported() {
        let said = serde_json::json!({"loaded": ["cloudpickle", "numpy", "dask.array", "dask"]});
        let foreseen = Foreseen::of(&Bytes::from(rmp_serde::to_vec_named(&said).unwrap()));
        assert_eq!(*lock(&foreseen.names), ["numpy", "dask"]);
        assert!(foreseen.add(vec!["xarray".into(), "dask.array".into()]));
        assert!(!foreseen.add(vec!["xarray".into()]), "no news");
        assert_eq!(*lock(&foreseen.names), ["numpy", "dask", "xarray"]);
        assert_eq!(*lock(&foreseen.told), ["xarray", "dask.array"]);
        let many = (0..1000).map(|n| n.to_string()).collect();
        foreseen.add(many);
        assert_eq!(lock(&foreseen.told).len(), PREPARED_MODULES_MAX);
        assert!(lock(&Foreseen::of(&Bytes::from_static(b"x")).names).is_empty());
    }

    #[test]
    fn a_name_is_found_anywhere() {
        assert!(contains(b"a numpy", b"numpy") && contains(b"numpy", b"numpy"));
        assert!(!contains(b"nump", b"numpy") && !contains(b"", b"numpy"));
    }
}
