//! Where the time of tasks goes: stacks that executors of Python calls have written to files, and what
//! commands have used. Owns the sums, and the files of executors that have ended.

use super::executor::process::Exit;
use crate::base::ids::{RunId, RunUuid};
use crate::protocol::profile::{Commands, Merged, Profile};
use rustc_hash::FxHashMap;
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The directory of executors' files, inside of the worker's.
const DIRECTORY: &str = "profile";

/// How often files of executors that have ended are taken in.
const FOLD_INTERVAL: Duration = Duration::from_secs(60);

/// Bytes of a file that are read.
const FILE_MAX: u64 = 16 << 20;

/// Runs whose commands are kept apart; of the others only the sums.
const RUNS_MAX: usize = 100;

/// Families whose commands are counted, of each run.
const FAMILIES_MAX: usize = 2000;

/// Nodes of an answer: a scheduler adds up those of many workers.
const NODES_MAX: usize = 1000;

/// Bytes of what is left to those who ask when the worker is gone.
const LEFT_BYTES_MAX: usize = 256 << 10;

/// The file of what is known by the worker alone.
const NOTED: &str = "noted";

/// What a worker knows.
#[derive(Debug)]
pub(super) struct Profiler {
    directory: PathBuf,
    /// Of executors that have ended.
    ended: Mutex<Merged>,
    commands: Mutex<FxHashMap<Option<RunId>, FxHashMap<String, Commands>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Profiler {
    /// For a worker with this directory.
    pub(super) fn new(own: &Path) -> Profiler {
        let directory = own.join(DIRECTORY);
        Profiler { directory, ended: Mutex::default(), commands: Mutex::default() }
    }

    /// Takes in what executors leave, now and then, for as long as the worker lives.
    pub(super) fn fold_now_and_then(self: &Arc<Profiler>) {
        let profiler = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(FOLD_INTERVAL).await;
                let Some(profiler) = profiler.upgrade() else { return };
                // It panics on nothing; the next time it is tried again.
                let fold = move || {
                    profiler.read(false);
                    profiler.note();
                };
                let _ = tokio::task::spawn_blocking(fold).await;
            }
        });
    }

    /// Counts a command that has ended.
    pub(super) fn command(&self, run: RunId, family: &str, exit: &Exit) {
        let own = Commands {
            run: None,
            name: String::new(),
            count: 1,
            user: exit.cpu.saturating_sub(exit.system).as_secs_f64(),
            system: exit.system.as_secs_f64(),
            memory_peak_max: exit.max_rss_bytes,
            read: exit.storage.0,
            written: exit.storage.1,
        };
        let mut commands = lock(&self.commands);
        let key = match commands.len() < RUNS_MAX || commands.contains_key(&Some(run)) {
            true => Some(run),
            false => None,
        };
        let families = commands.entry(key).or_default();
        if let Some(sum) = families.get_mut(family) {
            sum.add(&own);
        } else if families.len() < FAMILIES_MAX {
            families.insert(family.to_owned(), Commands { name: family.to_owned(), ..own });
        }
    }

    /// Everything, or what is known of a run.
    pub(super) fn look(&self, run: Option<(RunId, RunUuid)>) -> Profile {
        let living = self.read(true);
        let mut merged = Merged::default();
        let uuid = run.map(|(_, uuid)| uuid);
        merged.add(&lock(&self.ended).to_profile(usize::MAX), uuid);
        living.iter().for_each(|profile| merged.add(profile, uuid));
        let commands = lock(&self.commands);
        let wanted = commands.iter().filter(|(key, _)| run.is_none_or(|(run, _)| **key == Some(run)));
        let commands = wanted.flat_map(|(_, families)| families.values().cloned()).collect();
        merged.add(&Profile { commands, ..Profile::default() }, None);
        merged.to_profile(NODES_MAX)
    }

    /// What others may ask for when this worker is gone, as JSON of bounded length. Runs are kept apart.
    pub(super) fn leave(&self) -> String {
        let living = self.read(true);
        let mut merged = Merged::default();
        merged.add(&lock(&self.ended).to_profile(usize::MAX), None);
        living.iter().for_each(|profile| merged.add(profile, None));
        text(merged, self.commands())
    }

    /// What commands have used, by run.
    fn commands(&self) -> Vec<Commands> {
        let commands = lock(&self.commands);
        let all = commands.iter().flat_map(|(run, families)| families.values().map(|sum| (*run, sum)));
        all.map(|(run, sum)| Commands { run, ..sum.clone() }).collect()
    }

    /// Writes down what is known only here, for when the process dies.
    fn note(&self) {
        let profile = Profile { commands: self.commands(), ..lock(&self.ended).to_profile(NODES_MAX) };
        if profile.commands.is_empty() && profile.groups.is_empty() {
            return;
        }
        let path = self.directory.join(NOTED);
        let written = serde_json::to_vec(&profile).map_err(std::io::Error::from).and_then(|text| {
            // Executors make the directory, where there are any.
            let _ = DirBuilder::new().mode(0o700).create(&self.directory);
            std::fs::write(path.with_extension("new"), text)?;
            std::fs::rename(path.with_extension("new"), &path)
        });
        if let Err(error) = written {
            tracing::debug!("what tasks have used is not written down: {error}");
        }
    }

    /// Takes in the files of executors that have ended; those of the living ones, if they are wanted.
    fn read(&self, living: bool) -> Vec<Profile> {
        let Ok(entries) = std::fs::read_dir(&self.directory) else { return Vec::new() };
        let mut all = Vec::new();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Behind it, which of the process's threads.
            let pid = name.trim_end_matches(".new").split('-').next().unwrap_or_default();
            // What has no number is none of theirs.
            let Ok(pid) = pid.parse::<u32>() else { continue };
            let lives = Path::new("/proc").join(pid.to_string()).exists();
            // The last one that was begun was not finished.
            let whole = !name.ends_with(".new");
            if whole && (living || !lives) {
                match read_file(&path) {
                    Some(profile) if lives => all.push(profile),
                    Some(profile) => {
                        let mut ended = lock(&self.ended);
                        ended.add(&profile, None);
                        ended.forget_runs(RUNS_MAX);
                    }
                    None => {}
                }
            }
            if !lives {
                // It may have been removed with the worker's directory.
                let _ = std::fs::remove_file(&path);
            }
        }
        all
    }
}

/// Takes the files out of the directory of a worker that has died, to those that it leaves.
pub(super) fn rescue(own: &Path, kept: &Path) {
    // There are none where no Python task has run.
    let _ = std::fs::rename(own.join(DIRECTORY), kept.join(DIRECTORY));
}

/// What a worker that has died has left, as JSON of bounded length.
pub(super) fn left(kept: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(kept.join(DIRECTORY)) else { return String::new() };
    let (mut merged, mut commands) = (Merged::default(), Vec::new());
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.extension().is_none()
            && let Some(mut profile) = read_file(&path)
        {
            commands.append(&mut profile.commands);
            merged.add(&profile, None);
        }
    }
    text(merged, commands)
}

/// As much as there may be among last words.
fn text(mut merged: Merged, mut commands: Vec<Commands>) -> String {
    merged.forget_runs(RUNS_MAX);
    let mut nodes = NODES_MAX;
    commands.sort_by(|a, b| (b.user + b.system).total_cmp(&(a.user + a.system)));
    while nodes > 0 {
        commands.truncate(nodes);
        let profile = Profile { commands: commands.clone(), ..merged.to_profile(nodes) };
        match serde_json::to_string(&profile) {
            _ if profile.groups.is_empty() && profile.commands.is_empty() => break,
            Ok(text) if text.len() <= LEFT_BYTES_MAX => return text,
            _ => nodes /= 2,
        }
    }
    String::new()
}

fn read_file(path: &Path) -> Option<Profile> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_MAX).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"interval": 0.01, "frames": [["f", "a.py", 1]], "groups":
        [{"run": "00000000000000000000000000000007", "name": "inc", "nodes": [[-1, 0, 3]]}]}"#;

    fn samples(profiler: &Profiler, run: Option<(RunId, RunUuid)>) -> u64 {
        let mut merged = Merged::default();
        merged.add(&profiler.look(run), None);
        merged.to_json(None)["samples"].as_u64().unwrap()
    }

    #[test]
    fn files_of_the_living_are_read_and_of_the_dead_taken_in() {
        let dir = tempfile::tempdir().unwrap();
        let profiler = Profiler::new(dir.path());
        assert_eq!(samples(&profiler, None), 0);
        let files = dir.path().join(DIRECTORY);
        std::fs::create_dir(&files).unwrap();
        // No process has the last number.
        let (own, dead) = (files.join(std::process::id().to_string()), files.join("4194305"));
        for path in [&own, &dead, &files.join("4194306.new"), &files.join("other")] {
            std::fs::write(path, TEXT).unwrap();
        }
        std::fs::write(files.join("4194307"), "[1, {").unwrap();
        for _ in 0..2 {
            assert_eq!(samples(&profiler, None), 6);
            assert!(own.exists() && !dead.exists());
        }
        assert_eq!(std::fs::read_dir(&files).unwrap().count(), 2);
        let run = |n| Some((RunId(1), RunUuid::from_u128(n)));
        assert_eq!((samples(&profiler, run(7)), samples(&profiler, run(8))), (6, 0));
    }

    #[test]
    fn what_is_left_is_bounded_and_the_same_for_the_dead() {
        let dir = tempfile::tempdir().unwrap();
        let (own, kept) = (dir.path().join("own"), dir.path().join("kept"));
        std::fs::create_dir(&own).unwrap();
        std::fs::create_dir(&kept).unwrap();
        let profiler = Profiler::new(&own);
        assert_eq!((profiler.leave().as_str(), left(&kept).as_str()), ("", ""));
        let exit = Exit {
            end: Ok(0),
            cpu: Duration::ZERO,
            system: Duration::ZERO,
            max_rss_bytes: 5,
            storage: (0, 0),
        };
        profiler.command(RunId(3), "a", &exit);
        profiler.note();
        std::fs::write(own.join(DIRECTORY).join(std::process::id().to_string()), TEXT).unwrap();
        std::fs::write(own.join(DIRECTORY).join("4194305"), TEXT).unwrap();
        let living = profiler.leave();
        std::fs::write(own.join(DIRECTORY).join("4194305"), TEXT).unwrap();
        rescue(&own, &kept);
        for text in [living, left(&kept)] {
            let profile: Profile = serde_json::from_str(&text).unwrap();
            assert_eq!((profile.commands.len(), profile.commands[0].run), (1, Some(RunId(3))), "{text}");
            assert_eq!(profile.groups[0].nodes[0].2, 6, "{text}");
            assert_eq!(profile.groups[0].run, Some(RunUuid::from_u128(7)));
        }
        let long = |n: u32| Commands { run: Some(RunId(n)), name: "x".repeat(2000), ..Commands::default() };
        let many = text(Merged::default(), (0..5000).map(long).collect());
        assert!(many.len() <= LEFT_BYTES_MAX && many.len() > LEFT_BYTES_MAX / 4, "{}", many.len());
    }

    #[test]
    fn commands_are_summed_by_family_and_run() {
        let profiler = Profiler::new(Path::new("/nowhere"));
        let ms = Duration::from_millis;
        let exit = Exit { end: Ok(0), cpu: ms(30), system: ms(10), max_rss_bytes: 5, storage: (512, 1024) };
        profiler.command(RunId(1), "a", &exit);
        profiler.command(RunId(1), "a", &Exit { max_rss_bytes: 9, ..exit });
        profiler.command(RunId(2), "a", &exit);
        let only = profiler.look(Some((RunId(1), RunUuid::nil()))).commands;
        assert_eq!((only.len(), only[0].count, only[0].memory_peak_max, only[0].written), (1, 2, 9, 2048));
        assert!((only[0].user - 0.04).abs() < 1e-9 && (only[0].system - 0.02).abs() < 1e-9);
        assert_eq!(profiler.look(None).commands[0].count, 3);
        (0..200).for_each(|n| profiler.command(RunId(n), "b", &exit));
        assert!(lock(&profiler.commands).len() <= RUNS_MAX + 1);
    }
}
