//! Settings: the defaults, three files, the environment and flags, merged into one checked `Config` that
//! remembers where each value came from. Owns the names, types and defaults of settings; what they do is
//! documented in `config/default.toml` and is up to whoever reads them.
//!
//! Called by `cli` once at the start of a process. `layers` reads and merges, `schema` names the settings,
//! `setting` converts single values, `check` compares values with one another, `show` prints. `import` turns
//! Dask's files into ours.

mod check;
mod import;
mod layers;
mod locks;
mod path;
mod schema;
mod setting;
mod show;

pub use import::Import;
pub use layers::{Origin, Override, Sources};
pub use path::PathTemplate;
pub use schema::{Client, Config, Log, Memory, Network, Scheduler, Worker};
pub use setting::{Backoff, DashboardAddress, Fraction, LogFormat, MemoryLimit, Nthreads, Ports};

use crate::base::error::Result;
use layers::Layers;
use schema::{Node, Reader, Schema};

/// The file of defaults, with its comments.
pub const DEFAULT_TOML: &str = include_str!("../../config/default.toml");

/// The settings in effect, and where each came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    layers: Layers,
}

impl Config {
    /// Reads and merges all layers. Fails, naming the file and line, the variable or the flag, if a file
    /// cannot be read, a key is unknown, a value is of the wrong kind, or two values contradict each other.
    pub fn load(sources: &Sources, overrides: &[Override]) -> Result<Loaded> {
        let schema = Schema::new();
        let mut layers = Layers::default();
        layers.add_text(&schema, DEFAULT_TOML, None)?;
        layers.add_files(&schema, sources)?;
        layers.add_variables(&schema, sources)?;
        layers.add_overrides(&schema, overrides)?;
        layers.drop_removed(&schema);
        let config = Config::read(&mut Reader::new(&mut layers), &[])?;
        check::config(&config, &layers)?;
        Ok(Loaded { config, layers })
    }

    /// The defaults with a file's text over them, and nothing else. Faults name the file as `name` says.
    pub fn of_text(name: &str, text: &str) -> Result<Config> {
        let schema = Schema::new();
        let mut layers = Layers::default();
        layers.add_text(&schema, DEFAULT_TOML, None)?;
        layers.add_text(&schema, text, Some(std::path::Path::new(name)))?;
        layers.drop_removed(&schema);
        let config = Config::read(&mut Reader::new(&mut layers), &[])?;
        check::config(&config, &layers)?;
        Ok(config)
    }

    /// The defaults alone: for tests and for programs that embed hpcdag and set the rest themselves.
    pub fn defaults() -> Config {
        let loaded = Config::load(&Sources::none(), &[]);
        loaded.expect("the embedded defaults are complete and valid, a test loads them").config
    }
}

/// Every setting's dotted key, in the order of `config/default.toml`. Free-form tables appear as `launch.*`.
pub fn keys() -> Vec<String> {
    Schema::new().keys()
}

#[cfg(test)]
mod tests;
