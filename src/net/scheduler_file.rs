//! The file through which everybody finds a scheduler and gets the credentials for it. Owns its form, its
//! reading, writing, removal and the wait for it; which file it is, is `discovery`'s question.

use crate::base::error::{Error, Kind, Result};
use crate::net::address::Address;
use crate::net::backoff::Backoff;
use crate::net::private_file::{self, Fault};
use crate::net::tls::{ClientTls, ConnectError};
use crate::protocol::PROTOCOL;
use crate::protocol::credentials::{ClusterCredentials, Role, RoleCredentials};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// What the field `type` says, as in Dask's files.
const TYPE: &str = "Scheduler";

/// How long a scheduler may take to answer a probe.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// The content of a scheduler file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerFile {
    /// Always `Scheduler`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The cluster's id, stable over restarts of its scheduler.
    pub id: String,
    /// Where the scheduler listens.
    pub address: Address,
    /// Other services of the scheduler.
    #[serde(default)]
    pub services: Services,
    /// The name of the host that it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// When it started, RFC 3339.
    pub started: String,
    /// Its version of hpcdag.
    pub version: String,
    /// Its version of the protocol.
    pub protocol: u32,
    /// The batch job that it runs in.
    #[serde(default)]
    pub job_id: Option<String>,
    /// How often this cluster's scheduler has been started, from 1.
    #[serde(default)]
    pub epoch: u32,
    /// What one needs to connect.
    pub credentials: FileCredentials,
}

/// Ports of a scheduler's services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Services {
    /// The port of the dashboard, if it is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dashboard: Option<u16>,
}

/// The credentials in a scheduler file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileCredentials {
    /// The certificate of the cluster's authority, PEM.
    pub ca: String,
    /// Those of clients.
    pub client: KeyPair,
    /// Those of workers.
    pub worker: KeyPair,
}

/// A certificate and its key. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyPair {
    /// The certificate, PEM.
    pub cert: String,
    /// The private key, PEM.
    pub key: String,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair").finish_non_exhaustive()
    }
}

impl SchedulerFile {
    /// The file of the scheduler that this process is, started now, with new credentials.
    pub fn new(cluster: &ClusterCredentials, address: Address, epoch: u32) -> Result<SchedulerFile> {
        let pair = |c: RoleCredentials| KeyPair { cert: c.cert_pem, key: c.key_pem };
        Ok(SchedulerFile {
            kind: TYPE.into(),
            id: cluster.cluster_id().into(),
            address,
            services: Services::default(),
            host: hostname::get()
                .map(|h| h.to_string_lossy().into_owned())
                .unwrap_or_else(|_| "unknown".into()),
            pid: std::process::id(),
            started: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol: PROTOCOL,
            job_id: None,
            epoch,
            credentials: FileCredentials {
                ca: cluster.ca_pem().into(),
                client: pair(cluster.issue(Role::Client)?),
                worker: pair(cluster.issue(Role::Worker)?),
            },
        })
    }

    /// The credentials for a role; the scheduler's are not in the file.
    pub fn role_credentials(&self, role: Role) -> Result<RoleCredentials> {
        let pair = match role {
            Role::Client => &self.credentials.client,
            Role::Worker => &self.credentials.worker,
            Role::Scheduler => {
                return Err(Error::new(Kind::Internal, "a scheduler file has no credentials for schedulers"));
            }
        };
        Ok(RoleCredentials {
            ca_pem: self.credentials.ca.clone(),
            cert_pem: pair.cert.clone(),
            key_pem: pair.key.clone(),
        })
    }

    /// Whether both were written by the same life of the same scheduler.
    pub fn is_same_scheduler(&self, other: &SchedulerFile) -> bool {
        (&self.id, &self.host, self.pid, &self.started) == (&other.id, &other.host, other.pid, &other.started)
    }
}

/// Why a scheduler file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// It is missing, not mine, exposed or unreadable.
    #[error("scheduler file: {0}")]
    Private(#[from] Fault),
    /// It is empty or ends in the middle: somebody may be writing it.
    #[error("scheduler file {} is only half written", .0.display())]
    NotYet(PathBuf),
    /// It is something else.
    #[error("{} is not a scheduler file: {reason}", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Its scheduler speaks another version of the protocol.
    #[error(
        "scheduler file {} is of hpcdag {theirs} (protocol {protocol}), \
         this is hpcdag {} (protocol {PROTOCOL})",
        .path.display(), env!("CARGO_PKG_VERSION")
    )]
    OtherProtocol {
        /// The file.
        path: PathBuf,
        /// The scheduler's version of hpcdag.
        theirs: String,
        /// Its version of the protocol.
        protocol: u64,
    },
}

impl From<ReadError> for Error {
    fn from(e: ReadError) -> Error {
        let text = e.to_string();
        match e {
            ReadError::Private(Fault::Missing { .. }) => Error::new(Kind::NoScheduler, text)
                .hint("start a scheduler, or name its file with --scheduler-file"),
            ReadError::Private(fault) => Error { message: text, ..Error::from(fault) },
            ReadError::NotYet(_) => Error::new(Kind::NoScheduler, text)
                .hint("wait for its scheduler; if that is gone, remove the file"),
            ReadError::Malformed { .. } => Error::new(Kind::File, text),
            ReadError::OtherProtocol { .. } => {
                Error::new(Kind::Refused, text).hint("use the same version of hpcdag on both sides")
            }
        }
    }
}

/// Reads a scheduler file and checks that it can be trusted and understood; not that its scheduler lives.
pub fn read(path: &Path) -> Result<SchedulerFile, ReadError> {
    let bytes = private_file::read(path)?;
    parse(path, &bytes)
}

fn parse(path: &Path, bytes: &[u8]) -> Result<SchedulerFile, ReadError> {
    let malformed = |reason: String| ReadError::Malformed { path: path.to_owned(), reason };
    let value: serde_json::Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        // Some file systems show a file's length before its content, which reads as zeros.
        Err(_) if bytes.iter().all(|b| *b == 0 || b.is_ascii_whitespace()) => {
            return Err(ReadError::NotYet(path.to_owned()));
        }
        Err(e) if e.is_eof() => return Err(ReadError::NotYet(path.to_owned())),
        Err(e) => return Err(malformed(e.to_string())),
    };
    match value["type"].as_str() {
        Some(TYPE) => {}
        Some(other) => return Err(malformed(format!("its type is {other:?}"))),
        None => return Err(malformed("it has no type".into())),
    }
    let Some(protocol) = value["protocol"].as_u64() else {
        return Err(malformed("it names no protocol; is it Dask's?".into()));
    };
    if protocol != u64::from(PROTOCOL) {
        let theirs = value["version"].as_str().unwrap_or("of unknown version").to_owned();
        return Err(ReadError::OtherProtocol { path: path.to_owned(), theirs, protocol });
    }
    serde_json::from_value(value).map_err(|e| malformed(e.to_string()))
}

/// Whether a scheduler file's scheduler lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It answers and proves to be the scheduler of the file's cluster.
    Alive,
    /// Nobody answers, and how that showed.
    NobodyAnswers(String),
    /// Somebody else answers, and how that showed.
    OtherAnswers(String),
}

/// Finds out whether the scheduler of a file lives, by a TLS handshake at the file's address.
pub async fn probe(file: &SchedulerFile) -> Liveness {
    let tls = match file.role_credentials(Role::Client).and_then(|c| ClientTls::new(&c, &file.id)) {
        Ok(tls) => tls,
        Err(e) => return Liveness::OtherAnswers(e.message),
    };
    match tls.connect(&file.address, Role::Scheduler, PROBE_TIMEOUT).await {
        Ok((mut stream, _)) => {
            // A farewell, so that the scheduler does not take it for a loss. It answers nothing.
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut stream).await;
            Liveness::Alive
        }
        Err(e @ ConnectError::Stranger { .. }) => Liveness::OtherAnswers(e.to_string()),
        Err(e) => Liveness::NobodyAnswers(e.to_string()),
    }
}

/// Writes a scheduler file, unless there is one whose scheduler lives, or something that is not ours to
/// replace. To be called when the sockets listen. `probe` is normally the function of that name.
pub async fn write(
    path: &Path,
    file: &SchedulerFile,
    probe: impl AsyncFn(&SchedulerFile) -> Liveness,
) -> Result<()> {
    match read(path) {
        Ok(found) if !found.is_same_scheduler(file) => match probe(&found).await {
            Liveness::Alive => {
                return Err(Error::new(
                    Kind::Refused,
                    format!(
                        "{} is the file of a living scheduler: cluster {}, process {} on {}",
                        path.display(),
                        found.id,
                        found.pid,
                        found.host
                    ),
                )
                .hint("stop that one first, or name another file with --scheduler-file"));
            }
            Liveness::NobodyAnswers(why) | Liveness::OtherAnswers(why) => {
                tracing::info!(path = %path.display(), id = found.id, "replacing a stale file: {why}");
            }
        },
        Ok(_) | Err(ReadError::Private(Fault::Missing { .. }) | ReadError::NotYet(_)) => {}
        Err(e) => {
            return Err(Error::new(Kind::Refused, format!("will not replace what is there: {e}"))
                .hint("remove it if nobody needs it, or name another file with --scheduler-file"));
        }
    }
    let mut text =
        serde_json::to_vec_pretty(file).map_err(|e| Error::os("cannot write the scheduler file", e))?;
    text.push(b'\n');
    private_file::write(path, &text)
}

/// Whether the file is still the one that was written; another scheduler may have replaced it.
pub fn is_ours(path: &Path, file: &SchedulerFile) -> bool {
    read(path).is_ok_and(|found| found.is_same_scheduler(file))
}

/// Removes a scheduler file if it is still the one that was written; false if it is not.
pub fn remove(path: &Path, file: &SchedulerFile) -> Result<bool> {
    if !is_ours(path, file) {
        return Ok(false);
    }
    std::fs::remove_file(path).map_err(|e| Error::file("cannot remove", path, &e))?;
    Ok(true)
}

/// Waits until a scheduler file is there and its scheduler answers. Missing, half-written and stale files may
/// still be replaced by a scheduler that is coming up; everything else is an error at once. `address` is used
/// instead of the file's. `probe` is normally the function of that name.
pub async fn wait_for(
    path: &Path,
    address: Option<&Address>,
    timeout: Duration,
    probe: impl AsyncFn(&SchedulerFile) -> Liveness,
) -> Result<SchedulerFile> {
    let begin = Instant::now();
    let mut pause = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let mut last_reason = None;
    loop {
        let (reason, error) = match read_fresh(path).await {
            Ok(mut file) => {
                if let Some(address) = address {
                    file.address = address.clone();
                }
                match probe(&file).await {
                    Liveness::Alive => return Ok(file),
                    Liveness::NobodyAnswers(why) => ("nobody answers", stale(path, &file, &why)),
                    Liveness::OtherAnswers(why) => ("another one answers", stale(path, &file, &why)),
                }
            }
            Err(e @ ReadError::Private(Fault::Missing { .. })) => ("no file", e.into()),
            Err(e @ ReadError::NotYet(_)) => ("not complete", e.into()),
            Err(e) => return Err(e.into()),
        };
        let waited = begin.elapsed();
        if waited >= timeout {
            let Error { kind, message, hint } = error;
            let after = humantime::format_duration(Duration::from_secs(timeout.as_secs()));
            let waited = if timeout.is_zero() { String::new() } else { format!(" (waited {after})") };
            return Err(Error { kind, message: format!("{message}{waited}"), hint });
        }
        if last_reason != Some(reason) {
            tracing::info!("waiting for a scheduler ({reason}): {}", error.message);
            last_reason = Some(reason);
        }
        tokio::time::sleep(pause.next_delay().min(timeout - waited)).await;
    }
}

fn stale(path: &Path, file: &SchedulerFile, why: &str) -> Error {
    let job = file.job_id.as_ref().map(|j| format!(", job {j}")).unwrap_or_default();
    Error::new(
        Kind::NoScheduler,
        format!(
            "scheduler file {} is stale: {why}; it was written at {} by process {} on {}{job}",
            path.display(),
            file.started,
            file.pid,
            file.host
        ),
    )
    .hint("start a scheduler; remove the file if its cluster is gone")
}

/// Reads the file after its directory: on NFS, a client may go on believing for a minute that a file is not
/// there unless it reads the directory anew. On a thread that may block, which network file systems do.
async fn read_fresh(path: &Path) -> Result<SchedulerFile, ReadError> {
    let owned = path.to_owned();
    let read = move || {
        if let Ok(entries) = std::fs::read_dir(private_file::parent(&owned)) {
            entries.for_each(drop);
        }
        read(&owned)
    };
    tokio::task::spawn_blocking(read).await.unwrap_or_else(|e| {
        Err(Fault::Unreadable { path: path.to_owned(), reason: format!("reading was given up: {e}") }.into())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::address::{ListenOptions, bind};
    use crate::net::listener::Listener;
    use crate::net::tls::ServerTls;

    const ALIVE: fn(&SchedulerFile) -> Ready = |_| Ready(Liveness::Alive);
    const DEAD: fn(&SchedulerFile) -> Ready = |_| Ready(Liveness::NobodyAnswers("nobody home".into()));

    /// A future that is ready, so that plain functions can be probes.
    struct Ready(Liveness);

    impl std::future::Future for Ready {
        type Output = Liveness;
        fn poll(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Liveness> {
            std::task::Poll::Ready(self.0.clone())
        }
    }

    fn some_file() -> SchedulerFile {
        let cluster = ClusterCredentials::create("ab12").unwrap();
        SchedulerFile::new(&cluster, "tls://127.0.0.1:1".parse().unwrap(), 1).unwrap()
    }

    fn temp() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scheduler.json");
        (dir, path)
    }

    #[tokio::test]
    async fn round_trip_with_the_fields_that_scripts_know() {
        let (_dir, path) = temp();
        let mut file = some_file();
        file.services.dashboard = Some(8787);
        write(&path, &file, DEAD).await.unwrap();
        assert_eq!(read(&path).unwrap(), file);
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["type"], "Scheduler");
        assert_eq!(json["id"], "ab12");
        assert_eq!(json["address"], "tls://127.0.0.1:1");
        assert_eq!(json["services"]["dashboard"], 8787);
        assert_eq!(json["protocol"], PROTOCOL);
        assert!(json["credentials"]["client"]["key"].as_str().unwrap().contains("PRIVATE KEY"));
        assert!(humantime::parse_rfc3339(json["started"].as_str().unwrap()).is_ok());
        assert!(!format!("{file:?}").contains("PRIVATE"));
    }

    #[tokio::test]
    async fn a_living_schedulers_file_is_never_taken_over() {
        let (_dir, path) = temp();
        let (first, second) = (some_file(), SchedulerFile { pid: 1, ..some_file() });
        write(&path, &first, ALIVE).await.unwrap();
        let e = write(&path, &second, ALIVE).await.unwrap_err();
        assert!(e.message.contains("living scheduler: cluster ab12"), "{e}");
        assert!(is_ours(&path, &first) && !is_ours(&path, &second));
        assert!(!remove(&path, &second).unwrap());
        write(&path, &second, DEAD).await.unwrap();
        assert!(!remove(&path, &first).unwrap());
        assert!(remove(&path, &second).unwrap());
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn other_peoples_things_are_not_replaced() {
        let (_dir, path) = temp();
        for text in ["version = 1", "{\"type\": \"Scheduler\", \"protocol\": 99, \"version\": \"9.0\"}"] {
            private_file::write(&path, text.as_bytes()).unwrap();
            let e = write(&path, &some_file(), DEAD).await.unwrap_err();
            assert!(e.message.starts_with("will not replace"), "{e}");
        }
        private_file::write(&path, b"").unwrap();
        write(&path, &some_file(), DEAD).await.unwrap();
    }

    #[tokio::test]
    async fn each_fault_has_its_own_message() {
        use std::os::unix::fs::PermissionsExt;
        let (_dir, path) = temp();
        let text = || Error::from(read(&path).unwrap_err()).message.replace(path.to_str().unwrap(), "F");
        assert_eq!(text(), "scheduler file: there is no file F");
        let whole = serde_json::to_vec(&some_file()).unwrap();
        for n in [0, 1, 20, whole.len() - 1] {
            private_file::write(&path, &whole[..n]).unwrap();
            assert_eq!(text(), "scheduler file F is only half written");
        }
        private_file::write(&path, &[0; 100]).unwrap();
        assert_eq!(text(), "scheduler file F is only half written");
        private_file::write(&path, b"{}").unwrap();
        assert_eq!(text(), "F is not a scheduler file: it has no type");
        private_file::write(&path, b"{\"type\": \"Scheduler\", \"workers\": {}}").unwrap();
        assert_eq!(text(), "F is not a scheduler file: it names no protocol; is it Dask's?");
        private_file::write(&path, b"{\"type\": \"Scheduler\", \"protocol\": 2}").unwrap();
        assert_eq!(text(), "F is not a scheduler file: missing field `id`");
        private_file::write(&path, b"{\"type\": \"Scheduler\", \"protocol\": 9, \"version\": \"3.0\"}")
            .unwrap();
        let ours = env!("CARGO_PKG_VERSION");
        let want =
            format!("scheduler file F is of hpcdag 3.0 (protocol 9), this is hpcdag {ours} (protocol 2)");
        assert_eq!(text(), want);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(text(), "scheduler file: F can be used by others than you (mode 644)");
    }

    #[tokio::test]
    async fn waits_through_missing_half_written_and_stale() {
        let (_dir, path) = temp();
        let (old, new) = (some_file(), SchedulerFile { pid: 1, ..some_file() });
        let writer = {
            let (path, old, new) = (path.clone(), old.clone(), new.clone());
            tokio::spawn(async move {
                let pause = || tokio::time::sleep(Duration::from_millis(150));
                pause().await;
                private_file::write(&path, b"{\"type\":").unwrap();
                pause().await;
                write(&path, &old, DEAD).await.unwrap();
                pause().await;
                write(&path, &new, DEAD).await.unwrap();
            })
        };
        let alive = |f: &SchedulerFile| if f.pid == 1 { ALIVE(f) } else { DEAD(f) };
        let address: Address = "tls://tunnel:5".parse().unwrap();
        let found = wait_for(&path, Some(&address), Duration::from_secs(20), alive).await.unwrap();
        assert_eq!(found, SchedulerFile { address, ..new });
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn waiting_ends_with_the_reason() {
        let (_dir, path) = temp();
        let soon = Duration::from_millis(30);
        let e = wait_for(&path, None, soon, ALIVE).await.unwrap_err();
        assert!(e.kind == Kind::NoScheduler && e.message.contains("there is no file"), "{e}");
        write(&path, &some_file(), DEAD).await.unwrap();
        let e = wait_for(&path, None, soon, DEAD).await.unwrap_err();
        assert!(e.message.contains("is stale: nobody home") && e.message.contains("written at 2"), "{e}");
        private_file::write(&path, b"version = 1").unwrap();
        let e = wait_for(&path, None, Duration::from_secs(3600), ALIVE).await.unwrap_err();
        assert!(e.message.contains("is not a scheduler file"), "{e}");
    }

    #[tokio::test]
    async fn probing_tells_alive_from_gone_from_another() {
        let cluster = ClusterCredentials::create("ab12").unwrap();
        let options = ListenOptions { host: Some("127.0.0.1".into()), ..Default::default() };
        let bound = bind(&options).await.unwrap();
        let tls = ServerTls::new(&cluster.issue(Role::Scheduler).unwrap(), "ab12").unwrap();
        let _listener = Listener::new(bound.listener, tls, &[Role::Client]);
        let file = SchedulerFile::new(&cluster, bound.address.clone(), 1).unwrap();
        assert_eq!(probe(&file).await, Liveness::Alive);
        let other = SchedulerFile { address: bound.address, ..some_file() };
        assert!(matches!(probe(&other).await, Liveness::OtherAnswers(_)));
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let gone = SchedulerFile { address: free.into(), ..file };
        assert!(matches!(probe(&gone).await, Liveness::NobodyAnswers(_)));
    }
}
