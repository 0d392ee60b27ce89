//! Directories: the workers' own, home, and where clusters keep their state. What they lie on, how much room
//! there is, whether one may write, and how fast: reading that, and judging it.

use super::findings::{Area, Findings};
use super::within;
use crate::base::units::ByteSize;
use crate::worker::store::spill::{FileSystem, file_system};
use serde::Serialize;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A file system that does not answer within this is no good to anybody.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is written to the workers' directory to see how fast that is, bytes.
const SAMPLE: usize = 64 << 20;

/// Room below which a directory counts as nearly full, bytes.
const ROOM_MIN: u64 = 1 << 30;

/// Room that state and logs need, bytes.
const STATE_ROOM_MIN: u64 = 50 << 20;

/// A disk slower than this makes spilling slow, bytes per second.
const SPEED_MIN: f64 = 50e6;

/// Differences between the clocks of a file server and of this host that matter.
const CLOCK_MAX: f64 = 5.0;

/// What a directory is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Use {
    /// Workers' files.
    Scratch,
    /// The user's home.
    Home,
    /// Scheduler files and logs.
    State,
}

/// What was read of a directory.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Readings {
    /// What it is for.
    pub r#use: Use,
    /// Where it is, or is going to be.
    pub path: PathBuf,
    /// `memory`, `disk`, or the network file system's name.
    pub file_system: Option<String>,
    /// Free for this user, bytes.
    pub free_bytes: Option<u64>,
    /// Files that can still be made, where the file system counts them.
    pub free_files: Option<u64>,
    /// Files without a name can be made.
    pub tmpfile: bool,
    /// Bytes per second, with `fdatasync`.
    pub write_speed: Option<f64>,
    /// How much later the file system's clock is than this host's, seconds.
    pub clock_ahead: Option<f64>,
    /// Why it cannot be written to.
    pub fault: Option<String>,
}

impl Readings {
    /// Of a directory, which is made if it is missing and goes again.
    pub fn of(r#use: Use, path: &Path) -> Readings {
        let mut readings = Readings {
            r#use,
            path: path.to_owned(),
            file_system: None,
            free_bytes: None,
            free_files: None,
            tmpfile: false,
            write_speed: None,
            clock_ahead: None,
            fault: None,
        };
        let mut measured = readings.clone();
        let measure = move || {
            measured.fault = measured.measure().err().map(|e| e.to_string());
            measured
        };
        within(PATIENCE, measure).unwrap_or_else(|| {
            readings.fault = Some(format!("it has not answered for {} s", PATIENCE.as_secs()));
            readings
        })
    }

    fn measure(&mut self) -> io::Result<()> {
        let made = make(&self.path)?;
        let looked = self.look();
        // What was made here is empty again; where it is not, somebody else has come to use it.
        made.iter().rev().for_each(|dir| drop(std::fs::remove_dir(dir)));
        looked
    }

    fn look(&mut self) -> io::Result<()> {
        self.file_system = Some(match file_system(&self.path)? {
            FileSystem::Memory => "memory".into(),
            FileSystem::Network(name) => name.into(),
            FileSystem::Disk => "disk".into(),
        });
        let room = nix::sys::statvfs::statvfs(&self.path)?;
        #[allow(clippy::unnecessary_cast)] // The types differ between platforms.
        let (free, files) = (room.blocks_available() as u64, room.files_available() as u64);
        self.free_bytes = Some(free.saturating_mul(room.fragment_size()));
        self.free_files = (room.files() > 0).then_some(files);
        self.tmpfile = options().custom_flags(libc::O_TMPFILE).open(&self.path).is_ok();
        // With a name: that is what other programs need. It tells the file server's clock, too.
        let name = self.path.join(format!(".hpcdag-doctor-{:08x}", fastrand::u32(..)));
        let mut file = options().create_new(true).open(&name)?;
        let written = self.write(&mut file);
        let removed = std::fs::remove_file(&name);
        written.and(removed)
    }

    fn write(&mut self, file: &mut File) -> io::Result<()> {
        let begin = Instant::now();
        let block = vec![0xa5u8; 1 << 20];
        // Elsewhere a little will do to meet a quota that is used up.
        let room = self.free_bytes.is_none_or(|free| free > 4 * SAMPLE as u64);
        // Memory is fast, and what is written there counts against the job's.
        let disk = self.file_system.as_deref() != Some("memory");
        let blocks = if self.r#use == Use::Scratch && room && disk { SAMPLE >> 20 } else { 1 };
        (0..blocks).try_for_each(|_| file.write_all(&block))?;
        file.sync_data()?;
        let seconds = begin.elapsed().as_secs_f64().max(1e-6);
        if blocks > 1 {
            self.write_speed = Some((blocks << 20) as f64 / seconds);
        }
        // The last write has just set the time.
        file.write_all(b"x")?;
        let now = SystemTime::now();
        file.sync_data()?;
        let modified = file.metadata()?.modified()?;
        self.clock_ahead = Some(match modified.duration_since(now) {
            Ok(ahead) => ahead.as_secs_f64(),
            Err(e) => -e.duration().as_secs_f64(),
        });
        Ok(())
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Makes a directory and what is missing above it; what was made, in that order.
fn make(path: &Path) -> io::Result<Vec<PathBuf>> {
    let missing: Vec<&Path> = path.ancestors().take_while(|dir| !dir.exists()).collect();
    let mut made: Vec<PathBuf> = Vec::new();
    for dir in missing.into_iter().rev() {
        if let Err(e) = DirBuilder::new().mode(0o700).create(dir)
            && e.kind() != io::ErrorKind::AlreadyExists
        {
            made.iter().rev().for_each(|dir| drop(std::fs::remove_dir(dir)));
            return Err(e);
        }
        made.push(dir.to_owned());
    }
    Ok(made)
}

/// What to say about them.
pub(super) fn judge(all: &[Readings]) -> Findings {
    let mut found = Findings::new(Area::Files);
    all.iter().for_each(|r| judge_one(r, &mut found));
    found
}

fn judge_one(r: &Readings, found: &mut Findings) {
    let (what, move_away) = match r.r#use {
        Use::Scratch => {
            ("workers' directory", "set local-directory in [worker] (or $TMPDIR) to another place")
        }
        Use::Home => ("home", "remove something, or see your quota (quota -s, lfs quota)"),
        Use::State => ("state directory", "remove something, or set XDG_STATE_HOME to another place"),
    };
    let what = format!("{what} {}", r.path.display());
    if let Some(fault) = &r.fault {
        let text = format!("{what} cannot be written to: {fault}");
        // Clusters keep nothing in a home whose state directory is elsewhere.
        return if r.r#use == Use::Home {
            found.warning(text, move_away)
        } else {
            found.problem(text, move_away)
        };
    }
    let kind = r.file_system.as_deref().unwrap_or("unknown");
    let free = r.free_bytes.map_or("an unknown amount".into(), |b| ByteSize(b).to_string());
    let text = format!("{what}: {kind}, {free} free");
    let (room_min, scratch) = match r.r#use {
        Use::Scratch => (ROOM_MIN, true),
        Use::Home | Use::State => (STATE_ROOM_MIN, false),
    };
    match kind {
        _ if r.free_bytes.is_some_and(|b| b < room_min) => found.warning(text, move_away),
        _ if r.free_files.is_some_and(|n| n < 1000) => found.warning(
            format!("{text}, but hardly any more files"),
            "remove files: the file system can hold only so many",
        ),
        "memory" if scratch => found.warning(
            format!("{text}: results that are spilled there free no memory"),
            "set local-directory in [worker] (or $TMPDIR) to a disk, or switch target and spill off",
        ),
        "disk" | "memory" => found.ok(text),
        _ if scratch => found.warning(
            format!("{text}: slow, and shared with everybody"),
            "set local-directory in [worker] (or $TMPDIR) to a disk of the node",
        ),
        _ => found.ok(text),
    }
    if scratch {
        judge_scratch(r, found);
    }
    match r.clock_ahead {
        Some(ahead) if ahead.abs() > CLOCK_MAX => found.warning(
            format!("the clock of {what} differs from this host's by {ahead:.1} s (by a file's date)"),
            "ask for the clocks to be set: outputs may look older than their inputs",
        ),
        _ => {}
    }
}

fn judge_scratch(r: &Readings, found: &mut Findings) {
    match r.tmpfile {
        true => found.ok("files without a name can be made there (O_TMPFILE)"),
        false => found.note("no files without a name there (O_TMPFILE): names are removed at once instead"),
    }
    let Some(speed) = r.write_speed else { return };
    let text = format!("it takes {} MB/s ({} MiB, with fdatasync)", (speed / 1e6).round(), SAMPLE >> 20);
    match speed < SPEED_MIN {
        true => found.warning(text, "set local-directory to a faster disk, or give workers more memory"),
        false => found.ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::findings::Level;

    fn disk(r#use: Use) -> Readings {
        Readings {
            r#use,
            path: "/scratch".into(),
            file_system: Some("disk".into()),
            free_bytes: Some(100 << 30),
            free_files: None,
            tmpfile: true,
            write_speed: Some(1e9),
            clock_ahead: Some(0.0),
            fault: None,
        }
    }

    fn level(r#use: Use, change: impl Fn(&mut Readings)) -> Level {
        let mut readings = disk(r#use);
        change(&mut readings);
        judge(&[readings]).level()
    }

    #[test]
    fn what_it_lies_on_matters_for_scratch_only() {
        let on = |r#use, name: &str| level(r#use, |r| r.file_system = Some(name.into()));
        assert_eq!(on(Use::Scratch, "disk"), Level::Ok);
        assert_eq!([on(Use::Scratch, "memory"), on(Use::Scratch, "Lustre")], [Level::Warning; 2]);
        assert_eq!([on(Use::Home, "NFS"), on(Use::State, "NFS")], [Level::Ok; 2]);
    }

    #[test]
    fn room_speed_and_clocks_are_judged() {
        assert_eq!(level(Use::Scratch, |r| r.free_bytes = Some(100 << 20)), Level::Warning);
        assert_eq!(level(Use::State, |r| r.free_bytes = Some(100 << 20)), Level::Ok);
        assert_eq!(level(Use::State, |r| r.free_bytes = Some(0)), Level::Warning);
        assert_eq!(level(Use::Home, |r| r.free_files = Some(3)), Level::Warning);
        assert_eq!(level(Use::Scratch, |r| r.write_speed = Some(1e7)), Level::Warning);
        assert_eq!(level(Use::Scratch, |r| r.tmpfile = false), Level::Note);
        assert_eq!(level(Use::State, |r| r.clock_ahead = Some(-60.0)), Level::Warning);
        let fault = |r#use| level(r#use, |r| r.fault = Some("quota exceeded".into()));
        assert_eq!([fault(Use::Scratch), fault(Use::State)], [Level::Problem; 2]);
        assert_eq!(fault(Use::Home), Level::Warning);
    }

    #[test]
    fn looking_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let readings = Readings::of(Use::State, &dir.path().join("a/b"));
        assert_eq!(readings.fault, None);
        assert!(readings.free_bytes.is_some() && readings.clock_ahead.is_some_and(|s| s.abs() < 5.0));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let readings = Readings::of(Use::Scratch, &dir.path().join("file/below"));
        assert!(readings.fault.is_some());
        assert_eq!(judge(&[readings]).level(), Level::Problem);
    }
}
