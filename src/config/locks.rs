//! Settings that the site keeps for itself: `locked = ["scheduler.port"]` in its file, beside the tables.
//! Owns how they are named and what is said to whoever sets one later.

use super::layers::{Key, Leaf, Origin, dotted};
use super::schema::Schema;
use crate::base::error::{Error, Kind, Result};
use toml::Value;

/// The name of the list.
pub(super) const NAME: &str = "locked";

/// Keys that no later layer may change, each with where that was said.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    all: Vec<(Key, Origin)>,
}

impl Locks {
    /// Reads the list of the site's file.
    ///
    /// # Errors
    /// `Config` when it is none, or names what there is not.
    pub(super) fn read(schema: &Schema, value: &Value, origin: &Origin) -> Result<Locks> {
        let fault = || {
            let what = format!("{origin}: '{NAME}': expected a list of settings");
            Error::new(Kind::Config, what).hint("for example locked = [\"scheduler.port\", \"launch.slurm\"]")
        };
        let mut locks = Locks::default();
        for item in value.as_array().ok_or_else(fault)? {
            let text = item.as_str().ok_or_else(fault)?;
            let key: Key = text.split('.').map(str::to_owned).collect();
            if schema.find(&key).is_none() {
                let what = format!("{origin}: there is no setting '{}' to lock", dotted(&key));
                let hint = schema.suggest(&key);
                return Err(Error { hint, ..Error::new(Kind::Config, what) });
            }
            locks.all.push((key, origin.clone()));
        }
        Ok(locks)
    }

    /// Who has locked a key, or a table that it is in.
    pub(super) fn find(&self, key: &[String]) -> Option<&Origin> {
        self.all.iter().find(|(locked, _)| key.starts_with(locked)).map(|(_, origin)| origin)
    }

    /// Lets a later layer set a key, or not. To say what the site says changes nothing.
    ///
    /// # Errors
    /// `Config`, with where the lock is.
    pub(super) fn allow(&self, key: &[String], leaf: &Leaf, present: Option<&Leaf>) -> Result<()> {
        // What replaces a table that holds a locked key would change that too.
        let around = |(locked, origin): &(Key, Origin)| locked.starts_with(key).then(|| origin.clone());
        let Some(by) = self.find(key).cloned().or_else(|| self.all.iter().find_map(around)) else {
            return Ok(());
        };
        if present.is_some_and(|present| leaf.readings().contains(&present.value)) {
            return Ok(());
        }
        let is = present.map_or_else(|| "left as it is by default".into(), |p| format!("set to {}", p.value));
        let what = format!("{}: '{}' is locked by {by}", leaf.origin, dotted(key));
        Err(Error::new(Kind::Config, what).hint(format!("your site has it {is}; leave it out here")))
    }
}
