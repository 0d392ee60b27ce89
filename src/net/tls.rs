//! The two ends of a TLS connection and what their failures mean. Owns handshakes; certificates and settings
//! come from `protocol::credentials`, messages are `connection`'s.

use crate::base::error::{Error, Kind, Result};
use crate::net::address::Address;
use crate::net::ahead::ReadAhead;
use crate::protocol::credentials::{self, Role, RoleCredentials};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Within which a handshake must be over.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// After how long without an answer to sent bytes the kernel gives a connection up. Longer than the loss of a
/// heartbeat, which is noticed by whoever expects it.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// What may wait encrypted on a connection that sends large results, in bytes. With the usual 64 KiB, sending
/// took a tenth more of the processor.
const MUCH_BYTES: usize = 256 << 10;

/// An open connection.
pub type Stream = TlsStream<ReadAhead>;

/// Why a connection could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or the way there is closed.
    #[error("nobody answers at {address}: {reason}")]
    Unreachable {
        /// Where it was tried.
        address: Address,
        /// What the operating system said.
        reason: String,
    },
    /// No answer in time.
    #[error("no answer from {address} within {}", humantime::format_duration(*.after))]
    TimedOut {
        /// Where it was tried.
        address: Address,
        /// How long it was waited for.
        after: Duration,
    },
    /// Somebody answers, but not the one wanted: another cluster, another role, or no hpcdag at all.
    #[error("{address} is not the {role} of cluster {cluster_id}: {reason}")]
    Stranger {
        /// Who answered.
        address: Address,
        /// The role that was expected there.
        role: Role,
        /// The cluster that was expected there.
        cluster_id: String,
        /// What was wrong.
        reason: String,
    },
}

impl From<ConnectError> for Error {
    fn from(e: ConnectError) -> Error {
        let kind = match &e {
            ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => Kind::NoScheduler,
            ConnectError::Stranger { .. } => Kind::Refused,
        };
        Error::new(kind, e.to_string())
    }
}

/// The side that opens connections.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
    cluster_id: String,
}

impl ClientTls {
    /// Of a cluster, with the credentials of the own role.
    pub fn new(credentials: &RoleCredentials, cluster_id: &str) -> Result<ClientTls> {
        let connector = TlsConnector::from(credentials::client_config(credentials)?);
        Ok(ClientTls { connector, cluster_id: cluster_id.to_owned() })
    }

    /// The cluster.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Opens a connection to whoever has `role` in the cluster. The peer checks our certificate only after
    /// this has returned: its refusal comes with the first read.
    pub async fn connect(
        &self,
        address: &Address,
        role: Role,
        timeout: Duration,
    ) -> Result<(Stream, SocketAddr), ConnectError> {
        match tokio::time::timeout(timeout, self.connect_unbounded(address, role)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut { address: address.clone(), after: timeout }),
        }
    }

    async fn connect_unbounded(
        &self,
        address: &Address,
        role: Role,
    ) -> Result<(Stream, SocketAddr), ConnectError> {
        let unreachable =
            |e: io::Error| ConnectError::Unreachable { address: address.clone(), reason: e.to_string() };
        let stranger = |reason: String| ConnectError::Stranger {
            address: address.clone(),
            role,
            cluster_id: self.cluster_id.clone(),
            reason,
        };
        let name = credentials::server_name(role, &self.cluster_id).map_err(|e| stranger(e.message))?;
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(unreachable)?;
        set_options(&tcp).map_err(unreachable)?;
        let peer = tcp.peer_addr().map_err(unreachable)?;
        match self.connector.connect(name, ReadAhead::new(tcp)).await {
            Ok(tls) => Ok((tls.into(), peer)),
            Err(e) if tls_error(&e).is_some() => Err(stranger(describe(&e))),
            // A server that is going down or too busy ends the handshake without a word.
            Err(e) => Err(unreachable(e)),
        }
    }
}

/// The side that accepts connections.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    cluster_id: String,
    sends_much: bool,
}

impl ServerTls {
    /// Of a cluster, with the credentials of the own role.
    pub fn new(credentials: &RoleCredentials, cluster_id: &str) -> Result<ServerTls> {
        let acceptor = TlsAcceptor::from(credentials::server_config(credentials)?);
        Ok(ServerTls { acceptor, cluster_id: cluster_id.to_owned(), sends_much: false })
    }

    /// More is encrypted at once, and waits if the peer reads slowly: for connections with large results.
    pub fn sending_much(self) -> ServerTls {
        ServerTls { sends_much: true, ..self }
    }

    /// Does the handshake on an accepted connection and finds the peer's role, which must be one of
    /// `allowed`.
    pub async fn accept(&self, tcp: TcpStream, allowed: &[Role]) -> Result<(Stream, Role)> {
        let refused = |what: String| Error::new(Kind::Refused, what);
        set_options(&tcp).map_err(|e| refused(format!("connection is gone: {e}")))?;
        let mut tls =
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(ReadAhead::new(tcp))).await {
                Ok(result) => result.map_err(|e| refused(describe(&e)))?,
                Err(_) => return Err(refused("no handshake in time".into())),
            };
        let role = credentials::peer_role(tls.get_ref().1.peer_certificates(), &self.cluster_id)?;
        if !allowed.contains(&role) {
            return Err(refused(format!("a {role} may not connect here")));
        }
        if self.sends_much {
            tls.get_mut().1.set_buffer_limit(Some(MUCH_BYTES));
        }
        Ok((tls.into(), role))
    }
}

/// Sends small frames at once, and notices peers that vanish without a word.
fn set_options(tcp: &TcpStream) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &30)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &10)?;
    setsockopt(tcp, sockopt::TcpKeepCount, &6)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &(USER_TIMEOUT.as_millis() as u32))?;
    Ok(())
}

fn tls_error(e: &io::Error) -> Option<&rustls::Error> {
    e.get_ref()?.downcast_ref()
}

/// What a failure on a TLS connection means, in words.
pub fn describe(e: &io::Error) -> String {
    match tls_error(e) {
        Some(rustls::Error::AlertReceived(alert)) => format!("peer refuses our credentials ({alert:?})"),
        Some(rustls::Error::NoCertificatesPresented) => "peer has no certificate".into(),
        Some(rustls::Error::InvalidCertificate(fault)) => {
            format!("peer's certificate is not of this cluster ({fault})")
        }
        Some(rustls::Error::InvalidMessage(_)) => "peer does not speak TLS".into(),
        Some(other) => other.to_string(),
        None if e.kind() == io::ErrorKind::UnexpectedEof => "peer is gone".into(),
        None => e.to_string(),
    }
}

/// The error for a connection that broke. A refusal of our credentials has its own kind.
pub fn broken(peer: SocketAddr, e: &io::Error) -> Error {
    let kind = match tls_error(e) {
        Some(_) => Kind::Refused,
        None => Kind::NoScheduler,
    };
    Error::new(kind, format!("connection to {peer} is lost: {}", describe(e)))
}
