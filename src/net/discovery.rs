//! Which scheduler file is meant. Owns the order of the ways to name one; reading it and waiting for it is
//! `scheduler_file`'s.

use crate::base::error::{Error, Kind, Result};
use crate::net::address::Address;
use crate::net::scheduler_file::{self, Liveness, SchedulerFile};
use crate::net::state_dir::{Listed, StateDir};
use std::path::PathBuf;
use tokio::task::JoinSet;

/// The variable that names the scheduler file.
pub const FILE_VARIABLE: &str = "HPCDAG_SCHEDULER_FILE";

/// What was said about where the scheduler is, in the order of precedence.
#[derive(Clone, Debug)]
pub struct Wish {
    /// `--scheduler-file`.
    pub option: Option<PathBuf>,
    /// `--address`: where the scheduler is reached, instead of what its file says.
    pub address: Option<Address>,
    /// `$HPCDAG_SCHEDULER_FILE`.
    pub environment: Option<PathBuf>,
    /// The configuration's value.
    pub configured: Option<PathBuf>,
    /// Where to look otherwise.
    pub state: StateDir,
}

impl Wish {
    /// With the environment and the user's state directories of this process, and nothing else said.
    pub fn of_process() -> Result<Wish> {
        let environment = std::env::var_os(FILE_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from);
        let state = StateDir::of_user()?;
        Ok(Wish { option: None, address: None, environment, configured: None, state })
    }

    /// The file that is named, which need not exist yet, and by what.
    pub fn named(&self) -> Option<Found> {
        let found = |path: &Option<PathBuf>, origin| path.clone().map(|path| Found { path, origin });
        found(&self.option, Origin::Option)
            .or_else(|| found(&self.environment, Origin::Environment))
            .or_else(|| found(&self.configured, Origin::Configuration))
    }
}

/// By what a scheduler file was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `--scheduler-file`.
    Option,
    /// `$HPCDAG_SCHEDULER_FILE`.
    Environment,
    /// The configuration.
    Configuration,
    /// It is that of the only cluster that is alive.
    OnlyOne,
}

/// A scheduler file to be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// By what it was found.
    pub origin: Origin,
}

/// Which scheduler file to use: the named one, else that of the one cluster that is alive (with `address`:
/// alive there). Two alive, or none, is an error that names them.
pub async fn find(wish: &Wish) -> Result<Found> {
    find_with(wish, |file| async move { scheduler_file::probe(&file).await }).await
}

/// `find` with another way to tell whether a scheduler lives.
pub async fn find_with<F, A>(wish: &Wish, probe: F) -> Result<Found>
where
    F: Fn(SchedulerFile) -> A,
    A: Future<Output = Liveness> + Send + 'static,
{
    if let Some(found) = wish.named() {
        return Ok(found);
    }
    let (alive, dead) = sort_out(wish, probe).await?;
    match &alive[..] {
        [one] => Ok(Found { path: one.path.clone(), origin: Origin::OnlyOne }),
        [] if dead.is_empty() => Err(Error::new(Kind::NoScheduler, "no cluster of yours is running")
            .hint("start one with hpcdag up, or name a scheduler file with --scheduler-file")),
        [] => {
            Err(Error::new(Kind::NoScheduler, format!("no cluster of yours answers:\n{}", dead.join("\n")))
                .hint("start one with hpcdag up, or name a scheduler file with --scheduler-file"))
        }
        several => {
            let lines: Vec<String> = several.iter().map(describe).collect();
            let message = format!("{} clusters of yours are alive:\n{}", several.len(), lines.join("\n"));
            Err(Error::new(Kind::Usage, message).hint("choose one with --scheduler-file"))
        }
    }
}

/// The clusters that are alive, and a line about each that is not. All are probed at the same time: each that
/// is gone may cost a timeout.
async fn sort_out<F, A>(wish: &Wish, probe: F) -> Result<(Vec<Listed>, Vec<String>)>
where
    F: Fn(SchedulerFile) -> A,
    A: Future<Output = Liveness> + Send + 'static,
{
    let mut probes = JoinSet::new();
    let all = wish.state.clusters()?;
    let mut answers: Vec<Liveness> = Vec::new();
    for (at, listed) in all.iter().enumerate() {
        match &listed.file {
            Ok(file) => {
                answers.push(Liveness::NobodyAnswers("no answer".into()));
                let address = wish.address.as_ref().unwrap_or(&file.address).clone();
                let answer = probe(SchedulerFile { address, ..file.clone() });
                probes.spawn(async move { (at, answer.await) });
            }
            Err(e) => answers.push(Liveness::NobodyAnswers(e.to_string())),
        }
    }
    while let Some(probed) = probes.join_next().await {
        let (at, answer) = probed.map_err(|e| Error::os("cannot look for clusters", e))?;
        answers[at] = answer;
    }
    let (mut alive, mut dead) = (Vec::new(), Vec::new());
    for (listed, answer) in all.into_iter().zip(answers) {
        match answer {
            Liveness::Alive => alive.push(listed),
            Liveness::NobodyAnswers(why) | Liveness::OtherAnswers(why) => {
                dead.push(format!("  {}: {why}", listed.id));
            }
        }
    }
    Ok((alive, dead))
}

fn describe(listed: &Listed) -> String {
    let about = listed.file.as_ref().map_or_else(
        |_| String::new(),
        |f| {
            let job = f.job_id.as_ref().map(|j| format!(", job {j}")).unwrap_or_default();
            format!(" on {} since {}{job}", f.host, f.started)
        },
    );
    format!("  {}{about}: {}", listed.id, listed.path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::private_file;

    fn state(ids: &[&str]) -> (tempfile::TempDir, Wish) {
        let temp = tempfile::tempdir().unwrap();
        let state = StateDir::at(temp.path());
        for id in ids {
            let dir = state.cluster(id).unwrap();
            let address = "tls://127.0.0.1:1".parse().unwrap();
            let file = SchedulerFile::new(&dir.authority().unwrap(), address, 1).unwrap();
            private_file::write(&dir.scheduler_file(), &serde_json::to_vec(&file).unwrap()).unwrap();
        }
        (temp, Wish { option: None, address: None, environment: None, configured: None, state })
    }

    async fn find_among(wish: &Wish, alive: &[&str]) -> Result<Found> {
        let answer = |file: SchedulerFile| match alive.contains(&file.id.as_str()) {
            true => Liveness::Alive,
            false => Liveness::NobodyAnswers("gone".into()),
        };
        find_with(wish, |file| std::future::ready(answer(file))).await
    }

    #[tokio::test]
    async fn named_files_come_first_in_their_order() {
        let (_temp, mut wish) = state(&["c1"]);
        let found = find_among(&wish, &["c1"]).await.unwrap();
        assert!(found.origin == Origin::OnlyOne && found.path.ends_with("c1/scheduler.json"));
        wish.configured = Some("c".into());
        assert_eq!(
            find_among(&wish, &[]).await.unwrap(),
            Found { path: "c".into(), origin: Origin::Configuration }
        );
        wish.environment = Some("e".into());
        assert_eq!(
            find_among(&wish, &[]).await.unwrap(),
            Found { path: "e".into(), origin: Origin::Environment }
        );
        wish.option = Some("o".into());
        assert_eq!(find_among(&wish, &[]).await.unwrap(), Found { path: "o".into(), origin: Origin::Option });
    }

    #[tokio::test]
    async fn the_only_living_cluster_is_meant() {
        let (_temp, wish) = state(&["c1", "c2", "c3"]);
        assert!(find_among(&wish, &["c2"]).await.unwrap().path.ends_with("c2/scheduler.json"));
        let e = find_among(&wish, &["c1", "c3"]).await.unwrap_err();
        assert!(
            e.message.contains("2 clusters") && e.message.contains("c1 on ") && e.message.contains("c3 on ")
        );
        let e = find_among(&wish, &[]).await.unwrap_err();
        assert!(e.kind == Kind::NoScheduler && e.message.contains("c2: gone"), "{e}");
        let (_temp, wish) = state(&[]);
        assert_eq!(find_among(&wish, &[]).await.unwrap_err().message, "no cluster of yours is running");
    }

    #[tokio::test]
    async fn an_address_is_probed_instead_of_the_files() {
        let (_temp, mut wish) = state(&["c1"]);
        wish.address = Some("tls://tunnel:7".parse().unwrap());
        let answer = |file: SchedulerFile| match file.address.host.as_str() {
            "tunnel" => Liveness::Alive,
            other => Liveness::NobodyAnswers(other.into()),
        };
        let found = find_with(&wish, |file| std::future::ready(answer(file))).await.unwrap();
        assert_eq!(found.origin, Origin::OnlyOne);
    }

    #[test]
    fn may_be_awaited_in_spawned_tasks() {
        fn sendable(_: impl Send) {}
        let (_temp, wish) = state(&[]);
        sendable(find(&wish));
        let path = std::path::Path::new("x");
        sendable(scheduler_file::wait_for(path, None, std::time::Duration::ZERO, scheduler_file::probe));
        let cluster = wish.state.cluster("c1").unwrap().authority().unwrap();
        let file = SchedulerFile::new(&cluster, "tls://127.0.0.1:1".parse().unwrap(), 1).unwrap();
        sendable(scheduler_file::write(path, &file, scheduler_file::probe));
    }
}
