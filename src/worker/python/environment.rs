//! What a client says of the Python that its calls need, and the interpreter that fits. Owns choosing it and
//! what is said where none fits; setting it up is the zygote's.

use crate::worker::executor::program;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the package lies inside an entry of the path.
const PACKAGE: &str = "hpcdag/_zygote.py";

/// The part of an environment that a worker reads.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Environment {
    /// The client's interpreter.
    python: String,
    /// Its version: `3.11`, perhaps more.
    version: String,
    /// Further places for modules.
    path: Vec<String>,
    /// Modules that the client has imported, of those that zygotes import.
    pub loaded: Vec<String>,
}

impl Environment {
    /// Reads it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(bytes: &[u8]) -> Result<Environment, String> {
        rmp_serde::from_slice(bytes).map_err(|e| format!("the client's environment cannot be read: {e}"))
    }

    /// The interpreter for it: the one that was `set` here, else the client's, if it is here too, else the
    /// PATH's.
    pub fn interpreter(
        &self,
        set: Option<&str>,
        variables: &BTreeMap<OsString, OsString>,
    ) -> Result<PathBuf, String> {
        let path = variables.get(OsStr::new("PATH")).map(OsString::as_os_str);
        let find = |name: &str| program::find(name, path, Path::new("/"));
        if let Some(set) = set {
            return find(set).map_err(|why| format!("worker.python.executable: {why}"));
        }
        let theirs = Path::new(&self.python);
        let is_executable = |file: &Path| {
            file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        if theirs.is_absolute() && is_executable(theirs) {
            return Ok(theirs.into());
        }
        find("python3").map_err(|why| {
            format!(
                "there is no {} here: {why}; set worker.python.executable, or use a Python that the nodes \
                 have",
                if self.python.is_empty() { "Python" } else { &self.python }
            )
        })
    }

    /// Where this program's Python package lies, if the client has it in a place that is here too.
    pub fn package(&self) -> Option<&str> {
        self.path.iter().find(|dir| Path::new(dir).join(PACKAGE).is_file()).map(String::as_str)
    }

    /// What is wrong with an interpreter of this version.
    pub fn mismatch(&self, interpreter: &Path, version: &str) -> Option<String> {
        let (theirs, ours) = (minor(&self.version)?, minor(version)?);
        (theirs != ours).then(|| {
            format!(
                "the client has Python {}, this worker's {} is Python {version}: use the same version in \
                 both places, e.g. with worker.python.executable",
                self.version,
                interpreter.display()
            )
        })
    }
}

/// Version and minor version, between which pickled code cannot be taken over.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(python: &str, version: &str) -> Environment {
        Environment { python: python.into(), version: version.into(), ..Environment::default() }
    }

    #[test]
    fn the_interpreter_is_the_set_one_then_the_clients_then_the_paths() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["python3", "theirs", "set"] {
            std::fs::write(dir.path().join(name), "").unwrap();
            let mode = PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(dir.path().join(name), mode).unwrap();
        }
        let at = |name: &str| dir.path().join(name);
        let vars = BTreeMap::from([("PATH".into(), dir.path().as_os_str().to_owned())]);
        let env = environment(at("theirs").to_str().unwrap(), "3.11");
        assert_eq!(env.interpreter(Some("set"), &vars).unwrap(), at("set"));
        assert_eq!(env.interpreter(None, &vars).unwrap(), at("theirs"));
        let gone = environment("/nowhere/python", "3.11");
        assert_eq!(gone.interpreter(None, &vars).unwrap(), at("python3"));
        let none = BTreeMap::from([("PATH".into(), "/nowhere".into())]);
        let said = gone.interpreter(None, &none).unwrap_err();
        assert!(said.contains("/nowhere/python") && said.contains("worker.python.executable"), "{said}");
        assert!(env.interpreter(Some("other"), &none).unwrap_err().contains("worker.python.executable"));
    }

    #[test]
    fn only_the_minor_version_matters() {
        let env = environment("", "3.11.4");
        assert_eq!(env.mismatch(Path::new("/p"), "3.11"), None);
        let said = env.mismatch(Path::new("/p"), "3.9").unwrap();
        assert!(said.contains("3.11.4") && said.contains("/p is Python 3.9"), "{said}");
    }

    #[test]
    fn what_a_worker_does_not_know_is_passed_over() {
        let given = serde_json::json!({"python": "p", "preload": ["numpy"], "env": {"A": "1"}});
        let bytes = rmp_serde::to_vec_named(&given).unwrap();
        assert_eq!(Environment::read(&bytes).unwrap().python, "p");
        assert!(Environment::read(b"x").is_err());
    }
}
