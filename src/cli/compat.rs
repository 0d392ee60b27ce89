//! HPCDAG_COMPAT=1 for `hpcdag run`: scripts written for Dask's `distributed` find the Python package's
//! stand-in for it. Owns how the directory of the stand-in is found; what is in it is the package's.

use crate::base::error::{Error, Kind, Result};
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The variable that asks for it.
const VARIABLE: &str = "HPCDAG_COMPAT";

/// Prints the directory; what the interpreter and its environment print besides goes to stderr.
const ASK: &str = "import sys; out = sys.stdout; sys.stdout = sys.stderr; import hpcdag.compat; \
                   out.write(hpcdag.compat.PATH)";

/// What PYTHONPATH is to be for a program; `None` if nobody asks for the stand-in.
///
/// # Errors
/// `Launch` when the interpreter does not find the package, with what it says.
pub(super) fn python_path(program: &OsStr) -> Result<Option<OsString>> {
    if env::var_os(VARIABLE).is_none_or(|value| value.is_empty() || value == "0") {
        return Ok(None);
    }
    let interpreter = interpreter(program);
    let first = directory(&interpreter)?;
    let old = env::var_os("PYTHONPATH").filter(|old| !old.is_empty()).unwrap_or_default();
    let all = [first].into_iter().chain(env::split_paths(&old).filter(|path| !path.as_os_str().is_empty()));
    let joined = env::join_paths(all).map_err(|e| Error::new(Kind::Launch, format!("PYTHONPATH: {e}")))?;
    Ok(Some(joined))
}

/// The program itself if it is a Python, else that which scripts with `#!/usr/bin/env python3` get.
fn interpreter(program: &OsStr) -> OsString {
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name.starts_with("python") || name.starts_with("pypy") { program.to_owned() } else { "python3".into() }
}

/// Where an interpreter has the stand-in.
fn directory(interpreter: &OsStr) -> Result<PathBuf> {
    let shown = interpreter.to_string_lossy();
    let asked = Command::new(interpreter).args(["-c", ASK]).stdin(Stdio::null()).output();
    let asked =
        asked.map_err(|e| Error::new(Kind::Launch, format!("{VARIABLE}: cannot start {shown}: {e}")))?;
    if !asked.status.success() || asked.stdout.is_empty() {
        let said = String::from_utf8_lossy(&asked.stderr);
        let last = said.lines().last().unwrap_or("it said nothing").trim();
        let what = format!("{VARIABLE}: {shown} has no package hpcdag: {last}");
        return Err(Error::new(Kind::Launch, what)
            .hint("install hpcdag into the script's own environment, or unset HPCDAG_COMPAT"));
    }
    Ok(PathBuf::from(OsString::from_vec(asked.stdout)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_of_a_program() {
        for (program, expected) in [
            ("python", "python"),
            ("/opt/env/bin/python3.12", "/opt/env/bin/python3.12"),
            ("./script.py", "python3"),
            ("bash", "python3"),
        ] {
            assert_eq!(interpreter(OsStr::new(program)), OsStr::new(expected));
        }
    }

    #[test]
    fn what_is_no_python_is_said() {
        let error = directory(OsStr::new("false")).unwrap_err();
        assert!(error.message.contains("false has no package hpcdag"), "{error}");
        assert!(directory(OsStr::new("/nowhere/python")).unwrap_err().message.contains("cannot start"));
    }
}
