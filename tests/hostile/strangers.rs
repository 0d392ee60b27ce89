//! A real cluster at work while others connect to it: with nothing, with garbage, with the credentials of
//! another cluster, and with its own credentials but what no client or worker says. The work is done,
//! memory stays bounded, and the log says who and why, not a million times.

use crate::damage;
use crate::site::{Background, Site, wait_until};
use fastrand::Rng;
use hpcdag::net::scheduler_file::{self, SchedulerFile};
use hpcdag::protocol::credentials::{self, ClusterCredentials, Role, RoleCredentials};
use hpcdag::protocol::framing::encode_whole;
use hpcdag::protocol::messages::client::{Ask, FromClient, Hello, Question};
use hpcdag::protocol::messages::report::{News, Report};
use hpcdag::protocol::messages::worker::{FromWorker, Heartbeat, Register};
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How much the scheduler may grow, KiB: what its queues and buffers are allowed, far below what it was sent.
const GROWTH_KIB_MAX: u64 = 192 << 10;

/// Warnings in its log: at an interval about those who are not let in, however many come, and one for each
/// worker that was let in and is lost.
const LINES_MAX: usize = 80;

const PATIENCE: Duration = Duration::from_secs(20);

fn address(file: &SchedulerFile) -> (String, u16) {
    (file.address.host.clone(), file.address.port)
}

async fn tcp(file: &SchedulerFile) -> io::Result<TcpStream> {
    TcpStream::connect(address(file)).await
}

/// A TLS connection with credentials, on which anything can be said.
async fn tls(file: &SchedulerFile, mine: &RoleCredentials) -> io::Result<TlsStream<TcpStream>> {
    let config = credentials::client_config(mine).map_err(|e| io::Error::other(e.message))?;
    let name =
        credentials::server_name(Role::Scheduler, &file.id).map_err(|e| io::Error::other(e.message))?;
    TlsConnector::from(config).connect(name, tcp(file).await?).await
}

/// Sends and reads until the other side has had enough; whether it has.
async fn until_refused(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), bytes: &[u8]) -> bool {
    let mut answer = [0; 4096];
    // An error is a refusal, too.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let read = async { while matches!(stream.read(&mut answer).await, Ok(n) if n > 0) {} };
    tokio::time::timeout(PATIENCE, read).await.is_ok()
}

/// Believes any server: what a scanner of ports does.
#[derive(Debug)]
struct Gullible;

impl rustls::client::danger::ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS client that believes anybody and shows the certificate it is given, if any.
fn gullible(mine: Option<&RoleCredentials>) -> TlsConnector {
    use rustls::pki_types::pem::PemObject;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("a version")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let config = match mine {
        None => builder.with_no_client_auth(),
        Some(mine) => {
            let chain = rustls::pki_types::CertificateDer::from_pem_slice(mine.cert_pem.as_bytes());
            let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(mine.key_pem.as_bytes());
            builder
                .with_client_auth_cert(vec![chain.expect("a certificate")], key.expect("a key"))
                .expect("they belong together")
        }
    };
    TlsConnector::from(Arc::new(config))
}

fn frame<M: hpcdag::protocol::wire::Wire>(message: M) -> Vec<u8> {
    encode_whole(message).expect("a frame").to_vec()
}

fn hello() -> FromClient {
    FromClient::Hello(Hello {
        protocol_min: 1,
        protocol_max: u32::MAX,
        version: "1".into(),
        session: uuid::Uuid::new_v4(),
        host: "h\u{1b}[31m".into(),
        pid: 1,
        looks_only: false,
    })
}

fn register(name: &str) -> FromWorker {
    FromWorker::Register(Register {
        protocol: hpcdag::protocol::PROTOCOL,
        version: "1".into(),
        incarnation: uuid::Uuid::new_v4(),
        name: name.into(),
        host: "nowhere".into(),
        pid: 1,
        address: "tls://127.0.0.1:9".into(),
        slots: u32::MAX,
        resources: Default::default(),
        memory_limit: Some(u64::MAX),
        memory_target: Some(u64::MAX),
        memory_thresholds: [Some(u64::MAX); 4],
        job_id: None,
        pool: None,
        preemptible: false,
        leaves_in_ms: Some(u64::MAX),
        predecessor: None,
        holds: Vec::new(),
    })
}

/// A report with nonsense in it.
fn report(rng: &mut Rng) -> FromWorker {
    use hpcdag::base::ids::{Attempt, RunId, TaskRef};
    let task = |rng: &mut Rng| TaskRef { run: RunId(rng.u32(..3)), index: rng.u32(..400) };
    let attempt = |rng: &mut Rng| Attempt { epoch: 1, n: rng.u32(..4) };
    let started = (0..50).map(|_| (task(rng), attempt(rng))).collect();
    let finished = (0..50).map(|_| (task(rng), attempt(rng), u64::from(rng.u32(..)), 5)).collect();
    let replicas = (0..50).map(|_| task(rng)).collect();
    FromWorker::Report(Report::pack(1, News { started, finished, replicas, ..News::default() }))
}

/// Resident KiB of a process, at most so far.
fn peak_kib(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

const GRAPH: &str = r#"
version = 1
[task.a]
for-each = { range = [0, 300] }
shell = "sleep 0.02; echo {item}"
retries = 2
[task.b]
from = { a = "all" }
shell = "sort -n | tr '\n' ' '"
[output]
b = "b.txt"
"#;

fn expected() -> String {
    (0..300).map(|n| format!("{n} ")).collect()
}

struct Scene {
    site: Site,
    cluster: Vec<Background>,
    file: SchedulerFile,
    run: Background,
    before: u64,
}

impl Scene {
    fn new() -> Scene {
        let site = Site::new();
        site.write("g.toml", GRAPH);
        let cluster = site.cluster(2);
        let file = scheduler_file::read(&site.path("s.json")).expect("its file");
        let before = peak_kib(cluster[0].pid());
        let run = site.start("run", &["submit", "g.toml", "--scheduler-file", "s.json"]);
        wait_until("it runs", || {
            let status = site.json(&["status", "--scheduler-file", "s.json", "--json"]);
            status["tasks"]["processing"].as_u64() > Some(0)
        });
        Scene { site, cluster, file, run, before }
    }

    /// The run ends well, the scheduler has stayed small, and says little.
    fn end(mut self, mentioned: &[&str]) {
        // Somebody else is served meanwhile.
        self.site.ok(&["status", "--scheduler-file", "s.json"]);
        assert_eq!(self.run.code(), Some(0), "{}", self.run.stderr());
        assert_eq!(self.site.read("b.txt").trim(), expected().trim());
        let log = self.cluster[0].stderr();
        let growth = peak_kib(self.cluster[0].pid()).saturating_sub(self.before);
        assert!(growth < GROWTH_KIB_MAX, "the scheduler has grown by {growth} KiB");
        let lines: Vec<_> = log.lines().filter(|l| l.contains("WARN") || l.contains("ERROR")).collect();
        assert!(lines.len() <= LINES_MAX, "{} lines:\n{log}", lines.len());
        for word in mentioned {
            assert!(lines.iter().any(|l| l.contains(word)), "nothing about {word:?} in:\n{log}");
        }
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains('\u{1b}'), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_at_the_door() {
    let scene = Scene::new();
    let file = Arc::new(scene.file.clone());
    // A thousand who say nothing, and keep doing so.
    let mut silent = Vec::new();
    for _ in 0..1000 {
        silent.push(tcp(&file).await.expect("the kernel takes it"));
    }
    let mut others = tokio::task::JoinSet::new();
    let foreign = ClusterCredentials::create(&file.id).expect("an authority of the same name");
    let foreign = Arc::new(foreign.issue(Role::Client).expect("credentials"));
    for n in 0..300u64 {
        let (file, foreign) = (Arc::clone(&file), Arc::clone(&foreign));
        others.spawn(async move {
            let mut rng = Rng::with_seed(n);
            let Ok(mut stream) = tcp(&file).await else { return n % 3 == 2 };
            if n % 3 == 0 {
                let garbage: Vec<u8> = (0..rng.usize(1..5000)).map(|_| rng.u8(..)).collect();
                return until_refused(&mut stream, &garbage).await;
            }
            let name = credentials::server_name(Role::Scheduler, &file.id).expect("a name");
            let connector = gullible((n % 3 == 1).then_some(&*foreign));
            // In TLS 1.3 the client believes to be in until it reads.
            match tokio::time::timeout(PATIENCE, connector.connect(name, stream)).await {
                Ok(Ok(mut stream)) => {
                    let mut answer = Vec::new();
                    let _ = stream.write_all(&frame(hello())).await;
                    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
                    read.is_ok() && answer.is_empty()
                }
                Ok(Err(_)) => true,
                Err(_) => false,
            }
        });
    }
    let mut refused = 0;
    while let Some(was) = others.join_next().await {
        refused += u32::from(was.expect("no panic"));
    }
    assert_eq!(refused, 300, "all were shown out");
    scene.end(&["refused a connection"]);
    drop(silent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_say_what_they_must_not() {
    let scene = Scene::new();
    let file = Arc::new(scene.file.clone());
    let client = Arc::new(file.role_credentials(Role::Client).expect("credentials"));
    let worker = Arc::new(file.role_credentials(Role::Worker).expect("credentials"));
    let mut all = tokio::task::JoinSet::new();
    for n in 0..120u64 {
        let (file, client, worker) = (Arc::clone(&file), Arc::clone(&client), Arc::clone(&worker));
        all.spawn(async move {
            let mut rng = Rng::with_seed(n);
            let role = if n % 2 == 0 { &client } else { &worker };
            let mut stream = tls(&file, role).await.expect("its credentials are good");
            let mut bytes = if n % 2 == 0 { frame(hello()) } else { frame(register(&format!("x{n}"))) };
            match n / 2 % 6 {
                // A frame of four gigabytes is announced, before and after the greeting.
                0 => bytes = [&[0xff; 4][..], &[0; 8], &vec![7; 100_000]].concat(),
                1 => bytes.extend([&[0xff, 0xff, 0xff, 0x03][..], &[2, 0, 0, 0, 9, 9, 9, 9]].concat()),
                // The greeting, damaged.
                2 => damage::bytes(&mut rng, &mut bytes),
                // Noise after it.
                3 => bytes.extend((0..20_000).map(|_| rng.u8(..))),
                // Twice the same.
                4 => bytes = [bytes.clone(), bytes].concat(),
                // Not a word.
                _ => bytes.clear(),
            }
            until_refused(&mut stream, &bytes).await
        });
    }
    while let Some(was) = all.join_next().await {
        assert!(was.expect("no panic"), "somebody was left waiting");
    }
    scene.end(&["refused a worker", "sent what it must not"]);
}

/// Workers that are let in and lie, heartbeats without end, and clients that ask and never read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_that_mean_harm() {
    let scene = Scene::new();
    let file = Arc::new(scene.file.clone());
    let client = file.role_credentials(Role::Client).expect("credentials");
    let worker = file.role_credentials(Role::Worker).expect("credentials");
    let mut liar = tls(&file, &worker).await.expect("let in");
    let mut rng = Rng::with_seed(5);
    liar.write_all(&frame(register("liar"))).await.expect("said");
    for _ in 0..400 {
        if liar.write_all(&frame(report(&mut rng))).await.is_err() {
            break;
        }
        let figures = Heartbeat { unmanaged: u64::MAX, cpu_seconds: f64::NAN, ..Heartbeat::default() };
        if liar.write_all(&frame(FromWorker::Heartbeat(figures))).await.is_err() {
            break;
        }
    }
    // Answers to a million questions would be gigabytes.
    let mut deaf = tls(&file, &client).await.expect("let in");
    deaf.write_all(&frame(hello())).await.expect("said");
    let asking = async {
        for id in 0..1_000_000 {
            let ask = FromClient::Ask(Ask { id, question: Question::Status });
            if deaf.write_all(&frame(ask)).await.is_err() {
                break;
            }
        }
    };
    // The scheduler may also just stop reading.
    let _ = tokio::time::timeout(Duration::from_secs(2), asking).await;
    drop(liar);
    scene.end(&["liar"]);
    drop(deaf);
}
