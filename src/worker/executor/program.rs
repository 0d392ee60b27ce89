//! Finding the program of a command, and saying what is wrong when there is none. Looking it up here, in the
//! *task's* PATH, also keeps the fast way to start a process, which the standard library leaves otherwise.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What programs are looked for in when there is no PATH.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// For how long a program is known to be where it was found, unless it has gone from there. Shorter than it
/// takes anybody to install another one and count on it.
const KNOWN_TIME: Duration = Duration::from_millis(200);

thread_local! {
    /// What was found last: tasks of a family come in a row, and a PATH is long.
    static LAST: RefCell<Option<Known>> = const { RefCell::new(None) };
}

/// A program that was found in directories that do not depend on the task's.
struct Known {
    program: String,
    path: OsString,
    file: PathBuf,
    since: Instant,
}

/// The file that a program's name stands for: in `path`, or relative to `cwd` if it has a slash.
pub(in crate::worker) fn find(program: &str, path: Option<&OsStr>, cwd: &Path) -> Result<PathBuf, String> {
    if program.is_empty() {
        return Err("the command is empty".into());
    }
    if program.contains('/') {
        return Ok(cwd.join(program));
    }
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    if let Some(file) = known(program, path) {
        return Ok(file);
    }
    let file = look_up(program, path, cwd)?;
    if std::env::split_paths(path).all(|dir| dir.is_absolute()) {
        let (program, path) = (program.to_owned(), path.to_owned());
        LAST.set(Some(Known { program, path, file: file.clone(), since: Instant::now() }));
    }
    Ok(file)
}

/// The same as last time, if that was just now.
fn known(program: &str, path: &OsStr) -> Option<PathBuf> {
    LAST.with_borrow(|last| {
        let last = last.as_ref()?;
        let same = last.program == program && last.path == path && last.since.elapsed() < KNOWN_TIME;
        (same && is_executable(&last.file)).then(|| last.file.clone())
    })
}

fn is_executable(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn look_up(program: &str, path: &OsStr, cwd: &Path) -> Result<PathBuf, String> {
    let mut refused = None;
    for dir in std::env::split_paths(path) {
        let file = cwd.join(dir).join(program);
        match std::fs::metadata(&file) {
            Ok(meta) if meta.is_file() && meta.permissions().mode() & 0o111 != 0 => return Ok(file),
            Ok(meta) if meta.is_file() => refused = refused.or(Some(file)),
            _ => {}
        }
    }
    if let Some(file) = refused {
        return Err(format!("{} is not executable; run chmod +x on it", file.display()));
    }
    let mut message = format!("there is no program `{program}` in the task's PATH");
    if let Some(near) = nearest(program, path, cwd) {
        message += &format!("; did you mean `{near}`?");
    } else if cwd.join(program).is_file() {
        message += &format!("; did you mean `./{program}`?");
    } else {
        message += &format!(" ({})", path.to_string_lossy());
    }
    Err(message)
}

/// The program in the path whose name is most like this one, if one is like it.
fn nearest(program: &str, path: &OsStr, cwd: &Path) -> Option<String> {
    let entries = std::env::split_paths(path).filter_map(|dir| std::fs::read_dir(cwd.join(dir)).ok());
    entries
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .map(|name| (strsim::damerau_levenshtein(program, &name), name))
        .filter(|(distance, _)| *distance <= 1 + program.len() / 5)
        .min()
        .map(|(_, name)| name)
}

/// Bytes from which the kernel refuses a single argument or variable.
const ONE_ARGUMENT_MAX: usize = 128 << 10;

/// What a failed start means.
pub(super) fn explain(error: &io::Error, file: &Path, cwd: &Path, argv: &[String]) -> String {
    let shown = file.display();
    match error.raw_os_error() {
        Some(libc::E2BIG) => {
            let bytes: usize = argv.iter().map(|a| a.len() + 1).sum();
            if bytes < ONE_ARGUMENT_MAX {
                let why = "its environment is too large: a variable may have 128 KiB";
                return format!("{why}, and HPCDAG_ITEM has the item");
            }
            format!("the arguments are too long ({bytes} bytes); pass a file of paths: {{inputs.list}}")
        }
        Some(libc::ENOENT | libc::ENOTDIR) if !cwd.is_dir() => {
            format!("the working directory {} does not exist", cwd.display())
        }
        Some(libc::ENOENT) if file.exists() => {
            format!("{shown} names an interpreter that does not exist (see its first line)")
        }
        Some(libc::ENOENT) => format!("there is no program {shown}"),
        Some(libc::EACCES) => format!("{shown} is not executable; run chmod +x on it"),
        Some(libc::ENOEXEC) => {
            format!("{shown} is no program for this machine, or a script without a #! line")
        }
        _ => format!("cannot start {shown}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_in_the_given_path() {
        let found = find("sh", Some(OsStr::new("/nowhere:/bin")), Path::new("/")).unwrap();
        assert_eq!(found, Path::new("/bin/sh"));
        assert_eq!(find("./x", None, Path::new("/d")).unwrap(), Path::new("/d/./x"));
    }

    #[test]
    fn what_was_found_is_not_believed_in_when_it_is_gone_or_the_path_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        for place in [&a, &b] {
            std::fs::create_dir(place).unwrap();
            std::fs::write(place.join("tool"), "").unwrap();
            std::fs::set_permissions(place.join("tool"), PermissionsExt::from_mode(0o755)).unwrap();
        }
        let path = |dirs: &[&PathBuf]| std::env::join_paths(dirs).unwrap();
        let found = |dirs: &[&PathBuf]| find("tool", Some(&path(dirs)), Path::new("/"));
        assert_eq!(found(&[&a, &b]).unwrap(), a.join("tool"));
        assert_eq!(found(&[&a, &b]).unwrap(), a.join("tool"));
        assert_eq!(found(&[&b, &a]).unwrap(), b.join("tool"));
        std::fs::remove_file(b.join("tool")).unwrap();
        assert_eq!(found(&[&b, &a]).unwrap(), a.join("tool"));
        // Relative to the directory that the task has.
        let relative = |cwd: &Path| find("tool", Some(OsStr::new(".")), cwd);
        assert_eq!(relative(&a).unwrap(), a.join("./tool"));
        assert!(relative(&b).is_err());
    }

    #[test]
    fn a_missing_program_has_advice() {
        let dir = tempfile::tempdir().unwrap();
        let path = Some(dir.path().as_os_str());
        std::fs::write(dir.path().join("simulate"), "").unwrap();
        let said = find("simulate", path, Path::new("/")).unwrap_err();
        assert!(said.contains("chmod"), "{said}");
        let said = find("simulaet", path, Path::new("/")).unwrap_err();
        assert!(said.contains("did you mean `simulate`?"), "{said}");
        let said = find("quite-different", path, Path::new("/")).unwrap_err();
        assert!(said.contains(&*dir.path().to_string_lossy()), "{said}");
        assert!(find("", path, Path::new("/")).is_err());
    }
    #[test]
    fn what_is_too_long_is_named() {
        let error = io::Error::from_raw_os_error(libc::E2BIG);
        let said = |argv: &[String]| explain(&error, Path::new("x"), Path::new("/"), argv);
        assert!(said(&["x".repeat(200_000)]).contains("arguments are too long (200001 bytes)"));
        assert!(said(&["x".into()]).contains("HPCDAG_ITEM"));
    }
}
