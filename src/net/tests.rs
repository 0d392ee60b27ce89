//! Tests of listener, TLS and connection together, over loopback.

use crate::base::error::{Error, Kind};
use crate::net::address::{Address, ListenOptions, PortRange, bind};
use crate::net::connection::{Connection, QUEUE_MESSAGES_MAX, TrySendError, connect};
use crate::net::listener::Listener;
use crate::net::tls::{ClientTls, ConnectError, ServerTls};
use crate::protocol::credentials::{ClusterCredentials, Role, RoleCredentials};
use crate::protocol::framing::{BODY_BYTES_LARGE, FRAME_BYTES_MAX_BEFORE_WELCOME};
use crate::protocol::wire::Payload;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(20);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Number(u64);
impl Payload for Number {}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bulk {
    n: u64,
    #[serde(skip)]
    body: Bytes,
}
crate::payload_with_body!(Bulk);

crate::messages! {
    /// Messages of these tests, both ways.
    #[derive(Clone, Debug, PartialEq)]
    pub enum Say {
        1 => Number(Number),
        2 => Bulk(Bulk),
    }
    retired: []
}

fn number(n: u64) -> Say {
    Say::Number(Number(n))
}

fn bulk(n: u64, bytes: usize) -> Say {
    Say::Bulk(Bulk { n, body: vec![n as u8; bytes].into() })
}

struct Server {
    cluster: ClusterCredentials,
    listener: Listener,
    address: Address,
}

async fn server(allowed: &'static [Role]) -> Server {
    let cluster = ClusterCredentials::create("test").unwrap();
    let options =
        ListenOptions { host: Some("127.0.0.1".into()), interface: None, port: PortRange::default() };
    let bound = bind(&options).await.unwrap();
    let tls = ServerTls::new(&cluster.issue(Role::Scheduler).unwrap(), "test").unwrap();
    Server { cluster, listener: Listener::new(bound.listener, tls, allowed), address: bound.address }
}

impl Server {
    async fn connect_as(&self, credentials: &RoleCredentials) -> Result<Connection<Say, Say>, ConnectError> {
        let tls = ClientTls::new(credentials, "test").unwrap();
        connect(&self.address, Role::Scheduler, &tls, SOON).await
    }

    async fn pair(&mut self, role: Role) -> (Connection<Say, Say>, Connection<Say, Say>) {
        let credentials = self.cluster.issue(role).unwrap();
        let near = self.connect_as(&credentials).await.unwrap();
        let accepted = self.listener.accept().await.unwrap();
        assert_eq!(accepted.role, role);
        (near, accepted.into_connection())
    }
}

async fn refusal(mut connection: Connection<Say, Say>) -> Error {
    tokio::time::timeout(SOON, connection.receiver.recv()).await.unwrap().unwrap_err()
}

#[tokio::test]
async fn both_ways_in_order_and_an_orderly_end() {
    let mut server = server(&[Role::Worker, Role::Client]).await;
    let (mut near, mut far) = server.pair(Role::Worker).await;
    let sender = near.sender.clone();
    let send = tokio::spawn(async move {
        for n in 0..20_000 {
            sender.send(number(n)).await.unwrap();
        }
        sender.close(SOON).await.unwrap();
        assert!(sender.is_closed());
        assert_eq!(sender.queued_bytes(), 0);
        sender.send(number(0)).await.unwrap_err()
    });
    let mut all = Vec::new();
    while far.receiver.recv_many(&mut all).await.unwrap() > 0 {}
    assert_eq!(all, (0..20_000).map(number).collect::<Vec<_>>());
    send.await.unwrap();
    // The other direction is still open.
    far.sender.send(number(7)).await.unwrap();
    assert_eq!(near.receiver.recv().await.unwrap(), Some(number(7)));
    drop(far);
    assert_eq!(near.receiver.recv().await.unwrap(), None);
}

#[tokio::test]
async fn bulk_data_between_small_messages() {
    let mut server = server(&[Role::Worker]).await;
    let (near, mut far) = server.pair(Role::Worker).await;
    far.receiver.welcome();
    let sizes = [0, 10, BODY_BYTES_LARGE - 1, BODY_BYTES_LARGE, 3 << 20, 20 << 20, 1];
    let sender = near.sender.clone();
    tokio::spawn(async move {
        for (n, bytes) in sizes.into_iter().enumerate() {
            sender.send(number(n as u64)).await.unwrap();
            sender.send(bulk(n as u64, bytes)).await.unwrap();
        }
    });
    for (n, bytes) in sizes.into_iter().enumerate() {
        assert_eq!(far.receiver.recv().await.unwrap(), Some(number(n as u64)));
        let got = far.receiver.recv().await.unwrap();
        assert!(got == Some(bulk(n as u64, bytes)), "body {n} of {bytes} bytes differs");
    }
    while near.sender.queued_bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn strangers_are_refused_and_friends_still_come_in() {
    let mut server = server(&[Role::Worker]).await;
    let own = server.cluster.issue(Role::Worker).unwrap();
    let foreign = ClusterCredentials::create("test").unwrap().issue(Role::Worker).unwrap();

    // Another cluster's authority: each side refuses the other.
    let e = server.connect_as(&foreign).await.unwrap_err();
    assert!(matches!(e, ConnectError::Stranger { .. }), "{e}");
    let mixed = RoleCredentials { ca_pem: own.ca_pem.clone(), ..foreign };
    let e = refusal(server.connect_as(&mixed).await.unwrap()).await;
    assert_eq!(e.kind, Kind::Refused, "{e}");
    assert!(e.message.contains("refuses our credentials"), "{e}");

    // No certificate at all.
    let mut roots = rustls::RootCertStore::empty();
    use rustls::pki_types::pem::PemObject;
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(own.ca_pem.as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", server.address.port)).await.unwrap();
    let name = crate::protocol::credentials::server_name(Role::Scheduler, "test").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let mut tls = connector.connect(name, tcp).await.unwrap();
    assert!(tls.read_u8().await.unwrap_err().to_string().contains("CertificateRequired"));

    // Not TLS.
    let mut tcp = TcpStream::connect(("127.0.0.1", server.address.port)).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(SOON, tcp.read_to_end(&mut said)).await.unwrap().ok();
    assert!(!said.windows(4).any(|w| w == b"test"), "a stranger learns nothing");

    // A role that has no business here.
    let client = server.cluster.issue(Role::Client).unwrap();
    refusal(server.connect_as(&client).await.unwrap()).await;

    // Nobody of these came out of the listener.
    let (near, mut far) = server.pair(Role::Worker).await;
    near.sender.send(number(1)).await.unwrap();
    assert_eq!(far.receiver.recv().await.unwrap(), Some(number(1)));
}

#[tokio::test]
async fn the_listeners_role_and_cluster_are_checked() {
    let server = server(&[Role::Worker]).await;
    let own = server.cluster.issue(Role::Worker).unwrap();
    let tls = ClientTls::new(&own, "test").unwrap();
    let e = connect::<Say, Say>(&server.address, Role::Worker, &tls, SOON).await.unwrap_err();
    assert!(matches!(&e, ConnectError::Stranger { role: Role::Worker, .. }), "{e}");
    let tls = ClientTls::new(&own, "other").unwrap();
    let e = connect::<Say, Say>(&server.address, Role::Scheduler, &tls, SOON).await.unwrap_err();
    assert!(e.to_string().contains("is not the scheduler of cluster other"), "{e}");
    let address = server.address.clone();
    drop(server);
    let tls = ClientTls::new(&own, "test").unwrap();
    // The listening task ends at its next turn.
    let e = loop {
        match connect::<Say, Say>(&address, Role::Scheduler, &tls, SOON).await {
            Err(e) => break e,
            Ok(_) => tokio::task::yield_now().await,
        }
    };
    assert!(matches!(&e, ConnectError::Unreachable { .. }), "{e}");
    assert_eq!(Error::from(e).kind, Kind::NoScheduler);
}

#[tokio::test]
async fn workers_connect_to_workers() {
    let cluster = ClusterCredentials::create("test").unwrap();
    let bound = bind(&ListenOptions { host: Some("127.0.0.1".into()), ..Default::default() }).await.unwrap();
    let own = cluster.issue(Role::Worker).unwrap();
    let mut listener =
        Listener::new(bound.listener, ServerTls::new(&own, "test").unwrap(), &[Role::Worker, Role::Client]);
    let tls = ClientTls::new(&cluster.issue(Role::Worker).unwrap(), "test").unwrap();
    let near = connect::<Say, Say>(&bound.address, Role::Worker, &tls, SOON).await.unwrap();
    let mut far = listener.accept().await.unwrap().into_connection::<Say, Say>();
    assert_eq!((near.role, far.role), (Role::Worker, Role::Worker));
    near.sender.send(number(5)).await.unwrap();
    assert_eq!(far.receiver.recv().await.unwrap(), Some(number(5)));
}

#[tokio::test]
async fn silence_times_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::from(listener.local_addr().unwrap());
    let own = ClusterCredentials::create("test").unwrap().issue(Role::Worker).unwrap();
    let tls = ClientTls::new(&own, "test").unwrap();
    let after = Duration::from_millis(50);
    let e = connect::<Say, Say>(&address, Role::Scheduler, &tls, after).await.unwrap_err();
    assert_eq!(e, ConnectError::TimedOut { address, after });
}

#[tokio::test]
async fn huge_frames_are_refused_before_they_arrive() {
    let mut server = server(&[Role::Client]).await;
    let (near, mut far) = server.pair(Role::Client).await;
    near.sender.send(number(3)).await.unwrap();
    near.sender.send(bulk(1, FRAME_BYTES_MAX_BEFORE_WELCOME + 1)).await.unwrap();
    let mut all = Vec::new();
    assert_eq!(far.receiver.recv_many(&mut all).await.unwrap(), 1);
    let e = far.receiver.recv_many(&mut all).await.unwrap_err();
    assert!(e.message.contains("beyond the limit of 1048576 bytes"), "{e}");
    assert_eq!((e.kind, all), (Kind::Refused, vec![number(3)]));
}

#[tokio::test]
async fn slow_peers_hold_the_sender_back_and_can_be_cut() {
    let mut server = server(&[Role::Client]).await;
    let (near, mut far) = server.pair(Role::Client).await;
    let mut taken = 0;
    // The peer reads nothing: in the end the queue is full, by bytes or by messages.
    loop {
        match near.sender.try_send(bulk(taken, 1 << 20)) {
            Ok(()) => taken += 1,
            Err(TrySendError::Full(m)) => {
                assert_eq!(m, bulk(taken, 1 << 20));
                break;
            }
            Err(TrySendError::Closed(e)) => panic!("{e}"),
        }
        tokio::task::yield_now().await;
    }
    assert!((taken as usize) < QUEUE_MESSAGES_MAX, "bodies are limited by bytes: {taken}");
    assert!(near.sender.queued_bytes() >= 15 << 20 && near.sender.queued_messages() >= 15);
    let sender = near.sender.clone();
    let waiting = tokio::spawn(async move { sender.send(bulk(0, 1 << 20)).await });
    let mut receiver = near.receiver;
    let reading = tokio::spawn(async move { receiver.recv().await });
    let e = near.sender.close(Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(e.kind, Kind::Timeout);
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, Kind::Cancelled);
    assert_eq!(reading.await.unwrap().unwrap_err().kind, Kind::Cancelled);
    near.sender.closed().await;
    drop(near.sender);
    far.receiver.welcome();
    let end = loop {
        match far.receiver.recv().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(end.is_err(), "a cut connection is no orderly end: {end:?}");
}

#[tokio::test]
async fn messages_too_large_to_send_end_the_connection_with_the_reason() {
    let mut server = server(&[Role::Client]).await;
    let (near, _far) = server.pair(Role::Client).await;
    near.sender.send(bulk(1, 64 << 20)).await.unwrap();
    near.sender.closed().await;
    let e = near.sender.send(number(1)).await.unwrap_err();
    assert!(e.message.contains("peers accept 67108864"), "{e}");
}

/// Strangers who connect and then say nothing, one byte, or the beginning of a handshake and no more.
async fn stall(address: &Address, n: usize) -> TcpStream {
    let mut tcp = TcpStream::connect((address.host.as_str(), address.port)).await.unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stranger = rustls::ClientConnection::new(std::sync::Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    stranger.write_tls(&mut hello).unwrap();
    let said = [0, 1, hello.len(), hello.len()][n % 4];
    tcp.write_all(&hello[..said]).await.unwrap();
    tcp
}

#[tokio::test]
async fn many_friends_at_once_come_in_beside_strangers_who_stall() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // Both ends of all connections are in this process.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut server = server(&[Role::Worker]).await;
    // If those who begin kept their turns until their time is up, friends would have none for 50 seconds.
    let mut strangers = Vec::new();
    for n in 0..720 {
        strangers.push(stall(&server.address, n).await);
    }
    let tls = ClientTls::new(&server.cluster.issue(Role::Worker).unwrap(), "test").unwrap();
    let mut coming = tokio::task::JoinSet::new();
    for n in 0..400 {
        let (address, tls) = (server.address.clone(), tls.clone());
        coming.spawn(async move {
            let near = connect::<Say, Say>(&address, Role::Scheduler, &tls, 2 * SOON).await.unwrap();
            near.sender.send(number(n)).await.unwrap();
            near
        });
    }
    let mut all = Vec::new();
    let mut let_in = Vec::new();
    for _ in 0..400 {
        let accepted = tokio::time::timeout(2 * SOON, server.listener.accept()).await.unwrap().unwrap();
        let mut far = accepted.into_connection::<Say, Say>();
        all.push(far.receiver.recv().await.unwrap().unwrap());
        let_in.push(far);
    }
    all.sort_by_key(|said| match said {
        Say::Number(n) => n.0,
        Say::Bulk(_) => u64::MAX,
    });
    assert_eq!(all, (0..400).map(number).collect::<Vec<_>>());
    assert_eq!(coming.join_all().await.len(), 400);
    drop(strangers);
}
