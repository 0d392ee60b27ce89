//! `hpcdag config import`: files of Dask as our configuration, on stdout. Owns reading the files; what
//! stands for what is `config`'s.

use super::args::ConfigImportArgs;
use super::output::{self, Out};
use crate::base::error::{Error, Result};
use crate::config::{Config, Import};

/// `config import`
pub fn import(args: &ConfigImportArgs) -> Result<u8> {
    let mut import = Import::default();
    for path in &args.files {
        let text = std::fs::read_to_string(path).map_err(|e| Error::file("cannot read", path, &e))?;
        import.add(&path.display().to_string(), &text)?;
    }
    let text = import.render()?;
    if let Err(error) = Config::of_text("the imported settings", &text) {
        output::say(&format!("warning: this must be changed before it is used: {error}"));
    }
    if args.json.json {
        let answer = serde_json::json!({ "toml": text, "absent": import.absent() });
        Out::stdout().json(&answer)?;
        return Ok(0);
    }
    Out::stdout().line(text.trim_end())?;
    Ok(0)
}
