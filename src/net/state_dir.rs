//! Where schedulers keep what belongs to a cluster, and where everybody looks for clusters: one directory per
//! cluster below the user's state directory. Owns the places; the scheduler file's content is
//! `scheduler_file`'s.

use crate::base::error::{Error, Kind, Result};
use crate::net::private_file;
use crate::net::scheduler_file::{self, ReadError, SchedulerFile};
use crate::protocol::credentials::{ClusterCredentials, is_cluster_id};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// Variables by which batch systems tell the job's id: Slurm, PBS, Grid Engine.
const JOB_VARIABLES: [&str; 3] = ["SLURM_JOB_ID", "PBS_JOBID", "JOB_ID"];

/// The id of the batch job that this process runs in, if it does.
pub fn batch_job_id() -> Option<String> {
    job_id(|name| std::env::var_os(name))
}

fn job_id(variable: impl Fn(&str) -> Option<OsString>) -> Option<String> {
    let value = JOB_VARIABLES.iter().find_map(|name| variable(name).filter(|v| !v.is_empty()))?;
    let id = value.to_string_lossy().into_owned();
    // Grid Engine's jobs of an array have one id and differ in this; elsewhere it says `undefined`.
    let task = variable("SGE_TASK_ID").map(|task| task.to_string_lossy().into_owned());
    match task.filter(|task| task.bytes().all(|b| b.is_ascii_digit()) && !task.is_empty()) {
        Some(task) if variable("JOB_ID").as_ref() == Some(&value) => Some(format!("{id}.{task}")),
        _ => Some(id),
    }
}

/// The variable by which a job that holds a whole run keeps its state in the run's directory, where what a
/// killed job leaves is found, and goes with the next one.
const JOB_STATE_VARIABLE: &str = "HPCDAG_INTERNAL_STATE";

/// The user's state directories: the one for new clusters, and all that may hold some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir {
    own: PathBuf,
    others: Vec<PathBuf>,
}

impl StateDir {
    /// Those of this user on this machine: `$XDG_STATE_HOME/hpcdag` (`~/.local/state/hpcdag`), and `.hpcdag`
    /// in `$SCRATCH` if that is set. New clusters go to the latter inside batch jobs: home directories may be
    /// read-only or slow there.
    pub fn of_user() -> Result<StateDir> {
        StateDir::find(|name| std::env::var_os(name), etcetera::home_dir().ok())
    }

    /// The same as it would be outside of any batch job: what jobs and login nodes share.
    pub fn outside_of_jobs() -> Result<StateDir> {
        let of_job = |name: &str| JOB_VARIABLES.contains(&name) || name == JOB_STATE_VARIABLE;
        let variable = |name: &str| if of_job(name) { None } else { std::env::var_os(name) };
        StateDir::find(variable, etcetera::home_dir().ok())
    }

    /// Where the user's locks are.
    pub fn locks(&self) -> PathBuf {
        self.own.join("Locks")
    }

    /// Where certificates of the user's dashboards are.
    pub fn dashboards(&self) -> PathBuf {
        self.own.join("Dashboard")
    }

    /// One directory and no other.
    pub fn at(path: impl Into<PathBuf>) -> StateDir {
        StateDir { own: path.into(), others: Vec::new() }
    }

    fn find(variable: impl Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Result<StateDir> {
        let absolute = |name: &str| variable(name).map(PathBuf::from).filter(|p| p.is_absolute());
        if let Some(own) = absolute(JOB_STATE_VARIABLE) {
            return Ok(StateDir::at(own));
        }
        let state = absolute("XDG_STATE_HOME").or_else(|| home.map(|h| h.join(".local/state")));
        let state = state.map(|s| s.join("hpcdag"));
        let scratch = absolute("SCRATCH").map(|s| s.join(".hpcdag"));
        let mut all = if job_id(variable).is_some() { vec![scratch, state] } else { vec![state, scratch] };
        let mut all = all.drain(..).flatten();
        let own = all.next().ok_or_else(|| {
            Error::new(Kind::Config, "there is no home directory to keep the cluster's state in")
                .hint("set HOME or XDG_STATE_HOME")
        })?;
        Ok(StateDir { own, others: all.collect() })
    }

    /// The directory of a cluster that is to be started here. Nothing is made yet.
    pub fn cluster(&self, cluster_id: &str) -> Result<ClusterDir> {
        if !is_cluster_id(cluster_id) {
            return Err(Error::new(Kind::Usage, format!("{cluster_id:?} cannot be the id of a cluster")));
        }
        Ok(ClusterDir { path: self.own.join(cluster_id), id: cluster_id.to_owned() })
    }

    /// The directories in the place for new clusters, with a scheduler file or without.
    pub fn own_clusters(&self) -> Result<Vec<ClusterDir>> {
        let entries = match std::fs::read_dir(&self.own) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::file("cannot read", &self.own, &e)),
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter(|name| is_cluster_id(name)).map(|name| self.cluster(&name)).collect()
    }

    /// All clusters that have a scheduler file here, alive or not, sorted by id. A state directory that
    /// cannot be read is an error; one that does not exist is empty.
    pub fn clusters(&self) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        for root in std::iter::once(&self.own).chain(&self.others) {
            let fault = |e: &io::Error| Error::file("cannot read", root, e);
            let entries = match std::fs::read_dir(root) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(fault(&e)),
            };
            for entry in entries {
                let entry = entry.map_err(|e| fault(&e))?;
                let Some(id) = entry.file_name().to_str().filter(|n| is_cluster_id(n)).map(str::to_owned)
                else {
                    continue;
                };
                let path = ClusterDir { path: entry.path(), id: id.clone() }.scheduler_file();
                match scheduler_file::read(&path) {
                    Err(ReadError::Private(private_file::Fault::Missing { .. })) => {}
                    file => found.push(Listed { id, path, file }),
                }
            }
        }
        found.sort_by(|a, b| (&a.id, &a.path).cmp(&(&b.id, &b.path)));
        found.dedup_by(|a, b| a.path == b.path);
        Ok(found)
    }
}

/// A cluster found in a state directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its id, by the directory's name.
    pub id: String,
    /// Its scheduler file.
    pub path: PathBuf,
    /// What that says (host, process, job), or why it cannot be used.
    pub file: Result<SchedulerFile, ReadError>,
}

/// The directory of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDir {
    path: PathBuf,
    id: String,
}

impl ClusterDir {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cluster's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where the scheduler file goes unless the user says otherwise.
    pub fn scheduler_file(&self) -> PathBuf {
        self.path.join("scheduler.json")
    }

    /// Where the scheduler writes its log when it has no terminal.
    pub fn log(&self) -> PathBuf {
        self.path.join("scheduler.log")
    }

    /// Makes the directory, for this user only.
    pub fn create(&self) -> Result<()> {
        private_file::make_directory(&self.path)
    }

    /// The cluster's authority: the one that is kept here, or a new one that is kept from now on. Makes the
    /// directory.
    pub fn authority(&self) -> Result<ClusterCredentials> {
        self.create()?;
        let (cert, key) = (self.path.join("ca.pem"), self.path.join("ca-key.pem"));
        if cert.exists() && key.exists() {
            return ClusterCredentials::from_pem(&self.id, &read_text(&cert)?, &read_text(&key)?);
        }
        let authority = ClusterCredentials::create(&self.id)?;
        private_file::write(&key, authority.ca_key_pem().as_bytes())?;
        private_file::write(&cert, authority.ca_pem().as_bytes())?;
        Ok(authority)
    }

    /// Removes the authority and the directory if nothing else, such as a log, is left in it: the end of a
    /// cluster that will not be started again.
    pub fn remove(&self) -> Result<()> {
        for name in ["ca-key.pem", "ca.pem"] {
            let path = self.path.join(name);
            match std::fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::file("cannot remove", &path, &e));
                }
                _ => {}
            }
        }
        match std::fs::remove_dir(&self.path) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(Error::file("cannot remove", &self.path, &e))
            }
            _ => Ok(()),
        }
    }
}

fn read_text(path: &Path) -> Result<String> {
    String::from_utf8(private_file::read(path)?)
        .map_err(|_| Error::new(Kind::File, format!("{} is not text", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(variables: &[(&str, &str)], home: Option<&str>) -> Result<StateDir> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
        StateDir::find(get, home.map(PathBuf::from))
    }

    #[test]
    fn places() {
        let dirs = |own: &str, others: &[&str]| StateDir {
            own: own.into(),
            others: others.iter().map(PathBuf::from).collect(),
        };
        assert_eq!(find(&[], Some("/h")).unwrap(), dirs("/h/.local/state/hpcdag", &[]));
        assert_eq!(find(&[("XDG_STATE_HOME", "/x")], Some("/h")).unwrap(), dirs("/x/hpcdag", &[]));
        assert_eq!(
            find(&[("XDG_STATE_HOME", "x")], Some("/h")).unwrap(),
            dirs("/h/.local/state/hpcdag", &[])
        );
        let scratch = ("SCRATCH", "/s");
        assert_eq!(find(&[scratch], Some("/h")).unwrap(), dirs("/h/.local/state/hpcdag", &["/s/.hpcdag"]));
        for job in JOB_VARIABLES {
            let want = dirs("/s/.hpcdag", &["/h/.local/state/hpcdag"]);
            assert_eq!(find(&[scratch, (job, "7")], Some("/h")).unwrap(), want);
            assert_eq!(find(&[(job, "7")], Some("/h")).unwrap(), dirs("/h/.local/state/hpcdag", &[]));
        }
        assert_eq!(find(&[], None).unwrap_err().kind, Kind::Config);
        assert_eq!(job_id(|n| (n == "PBS_JOBID").then(|| "8.pbs".into())), Some("8.pbs".into()));
        assert_eq!(job_id(|_| Some("".into())), None);
        let of_task = |task: &'static str| {
            job_id(|n| match n {
                "JOB_ID" => Some("8".into()),
                "SGE_TASK_ID" => Some(task.into()),
                _ => None,
            })
        };
        assert_eq!((of_task("3"), of_task("undefined")), (Some("8.3".into()), Some("8".into())));
    }

    #[test]
    fn the_authority_survives_and_is_private() {
        use std::os::unix::fs::MetadataExt;
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::at(temp.path().join("state"));
        let dir = state.cluster("ab12").unwrap();
        let first = dir.authority().unwrap();
        let again = dir.authority().unwrap();
        assert_eq!((first.ca_pem(), first.ca_key_pem()), (again.ca_pem(), again.ca_key_pem()));
        let mode = |p: &Path| std::fs::metadata(p).unwrap().mode() & 0o777;
        assert_eq!(mode(&dir.path().join("ca-key.pem")), 0o600);
        assert_eq!((mode(dir.path()), mode(&temp.path().join("state"))), (0o700, 0o700));
        dir.remove().unwrap();
        dir.remove().unwrap();
        assert!(!dir.path().exists());
        assert!(state.cluster("../x").is_err());
    }

    #[test]
    fn listing_shows_files_and_faults() {
        let temp = tempfile::tempdir().unwrap();
        let (own, other) = (temp.path().join("a"), temp.path().join("b"));
        let state = StateDir { own: own.clone(), others: vec![other.clone(), temp.path().join("none")] };
        assert_eq!(state.clusters().unwrap(), []);
        let write = |state: StateDir, id: &str, whole: bool| {
            let dir = state.cluster(id).unwrap();
            let file = SchedulerFile::new(&dir.authority().unwrap(), "tls://127.0.0.1:1".parse().unwrap(), 1)
                .unwrap();
            let text = if whole { serde_json::to_vec(&file).unwrap() } else { Vec::new() };
            private_file::write(&dir.scheduler_file(), &text).unwrap();
        };
        write(StateDir::at(&own), "c2", true);
        write(StateDir::at(&other), "c1", false);
        StateDir::at(&own).cluster("ended").unwrap().create().unwrap();
        let found = state.clusters().unwrap();
        assert_eq!(found.iter().map(|l| l.id.as_str()).collect::<Vec<_>>(), ["c1", "c2"]);
        assert!(matches!(found[0].file, Err(ReadError::NotYet(_))));
        assert_eq!(found[1].file.as_ref().unwrap().id, "c2");
    }
}
