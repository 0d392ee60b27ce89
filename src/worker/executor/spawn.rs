//! Starting a process by `posix_spawn`: in its own group, with its directory, variables and stdio. Owns the
//! call itself. The standard library would do the same, but copies every variable several times for each
//! process and asks for each signal what it is before it resets it.

use super::variables::Env;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::ptr;
use std::sync::OnceLock;

/// What is started.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// Its file: absolute, or relative to the directory.
    pub file: &'a Path,
    /// Its arguments; the first one is the name it is given.
    pub argv: &'a [OsString],
    /// Its variables.
    pub env: &'a Env,
    /// Its directory.
    pub cwd: &'a Path,
}

/// The ends of its stdio that it gets.
#[derive(Debug)]
pub(super) struct Ends {
    /// Nothing to read if `None`.
    pub stdin: Option<OwnedFd>,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Starts a process; its id, which is also its group's. The caller reaps it.
pub(super) fn spawn(program: &Program<'_>, ends: &Ends) -> io::Result<i32> {
    match change_directory() {
        Some(change) => spawn_directly(program, ends, change),
        // A C library from before 2019: with a directory to change to, it takes fork and exec.
        None => spawn_by_std(program, ends),
    }
}

fn spawn_by_std(program: &Program<'_>, ends: &Ends) -> io::Result<i32> {
    let mut command = Command::new(program.file);
    if let Some((name, rest)) = program.argv.split_first() {
        command.arg0(name).args(rest);
    }
    let stdin = ends.stdin.as_ref().map(OwnedFd::try_clone).transpose()?;
    command.stdin(stdin.map_or_else(Stdio::null, Stdio::from));
    command.stdout(ends.stdout.try_clone()?).stderr(ends.stderr.try_clone()?);
    command.env_clear().envs(program.env.pairs()).current_dir(program.cwd).process_group(0);
    let child = command.spawn()?;
    Ok(i32::try_from(child.id()).unwrap_or(i32::MAX))
}

type ChangeDirectory =
    unsafe extern "C" fn(*mut libc::posix_spawn_file_actions_t, *const libc::c_char) -> libc::c_int;

/// The call by which a process gets its directory, if the C library has it (glibc 2.29, musl 1.1.24).
fn change_directory() -> Option<ChangeDirectory> {
    #[cfg(target_env = "musl")]
    return Some(libc::posix_spawn_file_actions_addchdir_np);
    #[cfg(not(target_env = "musl"))]
    {
        static FOUND: OnceLock<Option<ChangeDirectory>> = OnceLock::new();
        *FOUND.get_or_init(|| {
            let name = c"posix_spawn_file_actions_addchdir_np";
            // SAFETY: the name is a C string; a symbol of that name has this type in every C library.
            unsafe {
                let found = libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr());
                (!found.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, ChangeDirectory>(found))
            }
        })
    }
}

fn spawn_directly(program: &Program<'_>, ends: &Ends, change: ChangeDirectory) -> io::Result<i32> {
    let nul = || io::Error::new(io::ErrorKind::InvalidInput, "there is a NUL byte in it");
    let c_string = |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| nul());
    let (file, cwd) = (c_string(program.file.as_os_str())?, c_string(program.cwd.as_os_str())?);
    let argv: Vec<CString> = program.argv.iter().map(|a| c_string(a)).collect::<io::Result<_>>()?;
    let own = program.env.own_entries().ok_or_else(nul)?;
    let own = own.iter().map(CString::as_c_str);
    let argv = pointers(argv.iter().map(CString::as_c_str));
    let envp = pointers(program.env.shared_entries().chain(own));
    let actions = Actions::new()?;
    let attributes = Attributes::new()?;
    let mut pid = 0;
    // SAFETY: all strings live until after the call, both arrays end in a null pointer, the descriptors are
    // held by `ends`, and actions and attributes are initialised.
    unsafe {
        let to = actions.0.get();
        check(match &ends.stdin {
            Some(end) => libc::posix_spawn_file_actions_adddup2(to, end.as_raw_fd(), 0),
            None => libc::posix_spawn_file_actions_addopen(to, 0, c"/dev/null".as_ptr(), libc::O_RDONLY, 0),
        })?;
        check(libc::posix_spawn_file_actions_adddup2(to, ends.stdout.as_raw_fd(), 1))?;
        check(libc::posix_spawn_file_actions_adddup2(to, ends.stderr.as_raw_fd(), 2))?;
        check(change(to, cwd.as_ptr()))?;
        let (argv, envp) = (argv.as_ptr().cast(), envp.as_ptr().cast());
        check(libc::posix_spawn(&mut pid, file.as_ptr(), to, attributes.0.get(), argv, envp))?;
    }
    Ok(pid)
}

/// Pointers to strings, and a null pointer.
fn pointers<'a>(strings: impl Iterator<Item = &'a CStr>) -> Vec<*const libc::c_char> {
    strings.map(CStr::as_ptr).chain([ptr::null()]).collect()
}

fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code)) }
}

/// What is done in the process before it becomes its program. Boxed: the C library may not like it moved.
struct Actions(Box<std::cell::UnsafeCell<libc::posix_spawn_file_actions_t>>);

impl Actions {
    fn new() -> io::Result<Actions> {
        // SAFETY: all zeroes is a valid value to be initialised.
        let actions = Actions(Box::new(unsafe { std::mem::zeroed() }));
        // SAFETY: the pointer is valid.
        check(unsafe { libc::posix_spawn_file_actions_init(actions.0.get()) })?;
        Ok(actions)
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: initialised, or still all zeroes, which has nothing to be freed.
        unsafe { libc::posix_spawn_file_actions_destroy(self.0.get()) };
    }
}

/// Its group and its signals.
struct Attributes(Box<std::cell::UnsafeCell<libc::posix_spawnattr_t>>);

impl Attributes {
    fn new() -> io::Result<Attributes> {
        let flags = libc::POSIX_SPAWN_SETPGROUP | libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF;
        // SAFETY: all zeroes is a valid value to be initialised, and so is a set of signals; the pointers
        // are valid for the calls.
        unsafe {
            let attributes = Attributes(Box::new(std::mem::zeroed()));
            let at = attributes.0.get();
            check(libc::posix_spawnattr_init(at))?;
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            check(libc::posix_spawnattr_setsigmask(at, &none))?;
            check(libc::posix_spawnattr_setsigdefault(at, signals()))?;
            check(libc::posix_spawnattr_setpgroup(at, 0))?;
            check(libc::posix_spawnattr_setflags(at, flags as libc::c_short))?;
            Ok(attributes)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { libc::posix_spawnattr_destroy(self.0.get()) };
    }
}

/// Signals that are as usual in a new process: all but those that this one was told to ignore (`nohup`).
/// SIGPIPE is ignored by Rust's runtime, not by anybody's wish.
fn signals() -> &'static libc::sigset_t {
    static SIGNALS: OnceLock<libc::sigset_t> = OnceLock::new();
    SIGNALS.get_or_init(|| {
        // SAFETY: all zeroes are valid values of both; the pointers are valid for the calls. A number that
        // is no signal is refused.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in 1..=libc::SIGRTMAX() {
                let mut now: libc::sigaction = std::mem::zeroed();
                let known = libc::sigaction(signal, ptr::null(), &mut now) == 0;
                if known && (now.sa_sigaction != libc::SIG_IGN || signal == libc::SIGPIPE) {
                    libc::sigaddset(&mut set, signal);
                }
            }
            set
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    /// What a shell line prints when it is started this way.
    fn printed(by: fn(&Program<'_>, &Ends) -> io::Result<i32>, line: &str) -> String {
        let env: Env =
            [("A".into(), "1 2".into()), ("PATH".into(), "/usr/bin:/bin".into())].into_iter().collect();
        let argv = ["name", "-c", line].map(OsString::from);
        let program = Program { file: Path::new("/bin/sh"), argv: &argv, env: &env, cwd: Path::new("/usr") };
        let (mut read, write) = io::pipe().unwrap();
        let end = OwnedFd::from(write);
        let ends = Ends { stdin: None, stderr: end.try_clone().unwrap(), stdout: end };
        let pid = by(&program, &ends).unwrap();
        drop(ends);
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let mut status = 0;
        // SAFETY: a plain system call; the child is this test's own.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        text.replace(&pid.to_string(), "PID")
    }

    #[test]
    fn it_has_its_own_group_directory_variables_and_signals() {
        let line = "pwd; echo \"$0 $A $HOME.\"; ps -o pgid= -p $$ | tr -d ' '; cat; \
                    grep -E 'Sig(Blk|Ign)' /proc/self/status; (yes; echo $? >&2) | head -n 1";
        let direct = printed(spawn, line);
        assert!(direct.starts_with("/usr\nname 1 2 .\nPID\n"), "{direct}");
        assert!(direct.contains("SigBlk:\t0000000000000000"), "{direct}");
        // 141: ended by SIGPIPE, not by a failed write.
        assert!(direct.contains("141"), "{direct}");
        let by_std = printed(spawn_by_std, line);
        let sorted = |text: &str| {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&direct), sorted(&by_std));
    }

    #[test]
    fn what_cannot_be_started_is_told() {
        let (env, argv) = (Env::default(), ["x".into()]);
        let (_, write) = io::pipe().unwrap();
        let end = OwnedFd::from(write);
        let ends = Ends { stdin: None, stderr: end.try_clone().unwrap(), stdout: end };
        let start = |file: &str, cwd: &str| {
            let program = Program { file: Path::new(file), argv: &argv, env: &env, cwd: Path::new(cwd) };
            spawn(&program, &ends).unwrap_err().raw_os_error()
        };
        assert_eq!(start("/nowhere", "/"), Some(libc::ENOENT));
        assert_eq!(start("/bin/sh", "/nowhere"), Some(libc::ENOENT));
        assert_eq!(start("/etc/passwd", "/"), Some(libc::EACCES));
    }
}
