//! The variables of a process that is to be started: those that many processes have, kept as the kernel wants
//! them, and its own. Owns this form; what is in them is decided in `prepare`.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Variables by name.
pub type Variables = BTreeMap<OsString, OsString>;

/// Variables that many processes have.
#[derive(Debug, Default)]
pub struct Shared {
    vars: Variables,
    /// `NAME=value`, in the same order.
    entries: Vec<CString>,
}

impl Shared {
    /// Those that can be passed on; one with a NUL byte cannot exist in an environment.
    pub fn of(mut vars: Variables) -> Shared {
        vars.retain(|name, value| entry(name, value).is_some());
        let entries = vars.iter().filter_map(|(name, value)| entry(name, value)).collect();
        Shared { vars, entries }
    }

    /// All of them by name.
    pub fn vars(&self) -> &Variables {
        &self.vars
    }
}

/// The whole environment of one process; nothing is inherited.
#[derive(Clone, Debug, Default)]
pub struct Env {
    shared: Arc<Shared>,
    own: Variables,
}

impl Env {
    /// What these share, and nothing else yet.
    pub fn on(shared: Arc<Shared>) -> Env {
        Env { shared, own: Variables::new() }
    }

    /// Sets a variable of this process.
    pub fn insert(&mut self, name: OsString, value: OsString) {
        self.own.insert(name, value);
    }

    /// A variable's value.
    pub fn get(&self, name: &OsStr) -> Option<&OsStr> {
        self.own.get(name).or_else(|| self.shared.vars.get(name)).map(OsString::as_os_str)
    }

    /// All variables; a later one of the same name wins.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&OsString, &OsString)> {
        self.shared.vars.iter().chain(&self.own)
    }

    /// Its own ones as the kernel wants them; `None` if one has a NUL byte.
    pub(super) fn own_entries(&self) -> Option<Vec<CString>> {
        self.own.iter().map(|(name, value)| entry(name, value)).collect()
    }

    /// The shared ones that it has not set itself.
    pub(super) fn shared_entries(&self) -> impl Iterator<Item = &CStr> {
        let mut own = self.own.keys().peekable();
        let shared = self.shared.vars.keys().zip(&self.shared.entries);
        let kept = shared.filter(move |(name, _)| {
            // Both are in order, so one walk along them finds all names that are in both.
            while own.next_if(|o| o < name).is_some() {}
            own.peek() != Some(name)
        });
        kept.map(|(_, entry)| entry.as_c_str())
    }
}

impl FromIterator<(OsString, OsString)> for Env {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(vars: I) -> Env {
        Env { shared: Arc::default(), own: vars.into_iter().collect() }
    }
}

fn entry(name: &OsStr, value: &OsStr) -> Option<CString> {
    CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_variables_win_over_shared_ones() {
        let pairs = |pairs: &[(&str, &str)]| -> Variables {
            pairs.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect()
        };
        let shared = Arc::new(Shared::of(pairs(&[("A", "1"), ("C", "3"), ("D", "4"), ("NUL", "x\0y")])));
        let mut env = Env::on(shared.clone());
        for (name, value) in pairs(&[("B", "2"), ("C", "other"), ("E", "5")]) {
            env.insert(name, value);
        }
        let left: Vec<_> = env.shared_entries().map(|e| e.to_str().unwrap().to_owned()).collect();
        assert_eq!(left, ["A=1", "D=4"]);
        let own = env.own_entries().unwrap();
        assert_eq!(own.iter().map(|e| e.to_str().unwrap()).collect::<Vec<_>>(), ["B=2", "C=other", "E=5"]);
        assert_eq!(env.get(OsStr::new("C")), Some(OsStr::new("other")));
        assert_eq!(env.get(OsStr::new("D")), Some(OsStr::new("4")));
        assert_eq!(shared.vars().len(), 3);
        env.insert("F".into(), "x\0y".into());
        assert!(env.own_entries().is_none());
    }
}
