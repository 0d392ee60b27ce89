//! What a nanny tells its worker, through the environment. Owns the names of those variables, for both sides.

use crate::base::ids::Incarnation;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What every variable that only hpcdag's own processes read begins with. Tasks are not given these.
pub const INTERNAL_PREFIX: &str = "HPCDAG_INTERNAL_";

const NANNY_PID: &str = "HPCDAG_INTERNAL_NANNY_PID";
const INCARNATION: &str = "HPCDAG_INTERNAL_INCARNATION";
const LIFE: &str = "HPCDAG_INTERNAL_LIFE";
const DIRECTORY: &str = "HPCDAG_INTERNAL_DIRECTORY";
const PREDECESSOR: &str = "HPCDAG_INTERNAL_PREDECESSOR";
const PREDECESSOR_END: &str = "HPCDAG_INTERNAL_PREDECESSOR_END";
const PREDECESSOR_LEFT: &str = "HPCDAG_INTERNAL_PREDECESSOR_LEFT";

/// What a worker knows from its nanny. The worker's side of the variables that the nanny sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervision {
    /// The nanny's process; give it to [`super::process::die_with_parent`] first thing.
    pub nanny_pid: i32,
    /// The identity of this life of the worker.
    pub incarnation: Incarnation,
    /// Counts the lives, from 1.
    pub life: u32,
    /// The directory that is this life's own. The worker creates it; the nanny removes it.
    pub directory: Option<PathBuf>,
    /// The life before this one, if that crashed.
    pub predecessor: Option<Predecessor>,
}

/// A life of a worker that ended in a crash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its identity, as the scheduler knows it.
    pub incarnation: Incarnation,
    /// How it ended, in words.
    pub end: String,
    /// Where its logs are, as long as nobody has told of them.
    pub left: Option<PathBuf>,
}

impl Supervision {
    /// What the environment says, if this process's parent is the nanny that wrote it. A worker started by a
    /// task, or by hand from a task's shell, has no nanny even where the variables leaked.
    pub fn from_env() -> Option<Supervision> {
        Supervision::read(|name| std::env::var_os(name), nix::unistd::getppid().as_raw())
    }

    fn read(var: impl Fn(&str) -> Option<OsString>, parent: i32) -> Option<Supervision> {
        let text = |name: &str| var(name)?.into_string().ok();
        let nanny_pid: i32 = text(NANNY_PID)?.parse().ok()?;
        if nanny_pid != parent {
            return None;
        }
        let predecessor = text(PREDECESSOR).and_then(|incarnation| {
            let end = text(PREDECESSOR_END)?;
            let left = var(PREDECESSOR_LEFT).map(PathBuf::from);
            Some(Predecessor { incarnation: incarnation.parse().ok()?, end, left })
        });
        Some(Supervision {
            nanny_pid,
            incarnation: text(INCARNATION)?.parse().ok()?,
            life: text(LIFE)?.parse().ok()?,
            directory: var(DIRECTORY).map(PathBuf::from),
            predecessor,
        })
    }

    /// The variables to set for the worker.
    pub(super) fn variables(&self) -> Vec<(&'static str, OsString)> {
        let mut vars = vec![
            (NANNY_PID, self.nanny_pid.to_string().into()),
            (INCARNATION, self.incarnation.to_string().into()),
            (LIFE, self.life.to_string().into()),
        ];
        vars.extend(self.directory.as_ref().map(|d| (DIRECTORY, d.clone().into_os_string())));
        if let Some(predecessor) = &self.predecessor {
            vars.push((PREDECESSOR, predecessor.incarnation.to_string().into()));
            vars.push((PREDECESSOR_END, predecessor.end.clone().into()));
            vars.extend(predecessor.left.as_ref().map(|d| (PREDECESSOR_LEFT, d.clone().into_os_string())));
        }
        vars
    }
}

/// Whether a variable is one that only hpcdag's own processes may see.
pub fn is_internal_variable(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(INTERNAL_PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn supervision_is_for_children_of_the_nanny_only() {
        let supervision = Supervision {
            nanny_pid: 42,
            incarnation: Incarnation::new_v4(),
            life: 2,
            directory: Some("/scratch/me/worker-1".into()),
            predecessor: Some(Predecessor {
                incarnation: Incarnation::new_v4(),
                end: "SIGKILL".into(),
                left: Some("/scratch/me/worker-0.left".into()),
            }),
        };
        let vars = supervision.variables();
        assert!(vars.iter().all(|(name, _)| is_internal_variable(OsStr::new(name))));
        let lookup = |name: &str| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        assert_eq!(Supervision::read(lookup, 42), Some(supervision.clone()));
        assert_eq!(Supervision::read(lookup, 43), None);
        assert_eq!(Supervision::read(|_| None, 42), None);
    }
}
