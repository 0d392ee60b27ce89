//! Who may join a cluster: its certificate authority, the certificates of the roles, and the TLS settings
//! made of them. Owns names, validity and cipher choice; keeps no file (`net::state_dir`) and opens no
//! connection.
//!
//! A role is the certificate's DNS name `ROLE.<cluster-id>.hpcdag`. Whoever listens presents the name of its
//! own role, so the name that is verified is the cluster's and never a host's: tunnels and several networks
//! work. Roles guard against mistakes, not against the user: the scheduler file holds all of them but the
//! scheduler's.

use crate::base::error::{Error, Kind, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The last label of every name.
const DOMAIN: &str = "hpcdag";

/// How long before their making certificates begin to be valid: the clocks of nodes differ.
const VALID_BEFORE: Duration = Duration::from_secs(48 * 3600);

/// How long after their making certificates are valid.
const VALID_AFTER: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a dashboard's certificate is valid.
pub const PAGE_VALID: Duration = VALID_AFTER;

/// What the holder of a certificate is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The scheduler, to which all others connect.
    Scheduler,
    /// A client: submits and watches.
    Client,
    /// A worker: connects to the scheduler and to other workers, and listens for these.
    Worker,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Scheduler, Role::Client, Role::Worker];

    /// The role's name, as in certificates.
    pub fn name(self) -> &'static str {
        match self {
            Role::Scheduler => "scheduler",
            Role::Client => "client",
            Role::Worker => "worker",
        }
    }

    /// The DNS name that the role has in a cluster.
    pub fn dns_name(self, cluster_id: &str) -> String {
        format!("{}.{cluster_id}.{DOMAIN}", self.name())
    }

    fn key_usages(self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Role::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Role::Scheduler | Role::Worker => {
                vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]
            }
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A new cluster's id: twelve random lower-case hexadecimal digits.
pub fn new_cluster_id() -> String {
    let mut id = uuid::Uuid::new_v4().simple().to_string();
    id.truncate(12);
    id
}

/// Whether a text can be a cluster's id: it is a label of DNS names and the name of a directory.
pub fn is_cluster_id(id: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (1..=40).contains(&id.len()) && id.bytes().all(inner) && !id.starts_with('-') && !id.ends_with('-')
}

/// What one process needs to prove its role and to know its cluster. `Debug` does not show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct RoleCredentials {
    /// The certificate of the cluster's authority, PEM.
    pub ca_pem: String,
    /// The certificate of the role, PEM.
    pub cert_pem: String,
    /// The private key to it, PEM.
    pub key_pem: String,
}

impl fmt::Debug for RoleCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoleCredentials").finish_non_exhaustive()
    }
}

/// A cluster's authority with its private key: only the scheduler has it.
pub struct ClusterCredentials {
    cluster_id: String,
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl fmt::Debug for ClusterCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterCredentials").field("cluster_id", &self.cluster_id).finish_non_exhaustive()
    }
}

impl ClusterCredentials {
    /// Makes the authority of a new cluster. Refuses an id that cannot be part of a name.
    pub fn create(cluster_id: &str) -> Result<ClusterCredentials> {
        let params = ca_params(cluster_id)?;
        let key = generate_key()?;
        let ca =
            params.self_signed(&key).map_err(fault("cannot make the cluster's certificate authority"))?;
        let issuer = Issuer::new(params, key);
        Ok(ClusterCredentials { cluster_id: cluster_id.to_owned(), ca_pem: ca.pem(), issuer })
    }

    /// The authority of a cluster that is started again, from what `ca_pem` and `ca_key_pem` gave before.
    pub fn from_pem(cluster_id: &str, ca_pem: &str, ca_key_pem: &str) -> Result<ClusterCredentials> {
        let key = KeyPair::from_pem(ca_key_pem).map_err(fault("cannot read the cluster authority's key"))?;
        let ca = certificates(ca_pem)?;
        // The certificate contains the public key as it stands; another cluster's key would sign in vain.
        let public = key.public_key_raw();
        if !ca.iter().any(|c| c.windows(public.len()).any(|w| w == public)) {
            return Err(Error::new(
                Kind::File,
                format!("the authority's key of cluster {cluster_id} does not belong to its certificate"),
            ));
        }
        let issuer = Issuer::new(ca_params(cluster_id)?, key);
        Ok(ClusterCredentials { cluster_id: cluster_id.to_owned(), ca_pem: ca_pem.to_owned(), issuer })
    }

    /// The cluster.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The authority's certificate, PEM. Not secret.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's private key, PEM: to be kept in the scheduler's state directory and nowhere else.
    pub fn ca_key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a new key and certificate of a role.
    pub fn issue(&self, role: Role) -> Result<RoleCredentials> {
        let fault = |e| fault("cannot make a certificate")(e);
        let mut params = CertificateParams::new(vec![role.dns_name(&self.cluster_id)]).map_err(fault)?;
        set_common(&mut params, &role.dns_name(&self.cluster_id));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = role.key_usages();
        params.use_authority_key_identifier_extension = true;
        let key = generate_key()?;
        let cert = params.signed_by(&key, &self.issuer).map_err(fault)?;
        Ok(RoleCredentials {
            ca_pem: self.ca_pem.clone(),
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
        })
    }
}

fn generate_key() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(fault("cannot make a key"))
}

/// The authority's parameters. The name must come out the same each time: issued certificates refer to it.
fn ca_params(cluster_id: &str) -> Result<CertificateParams> {
    if !is_cluster_id(cluster_id) {
        return Err(Error::new(Kind::Usage, format!("{cluster_id:?} cannot be the id of a cluster"))
            .hint("use up to 40 lower-case letters, digits and inner hyphens"));
    }
    let mut params = CertificateParams::default();
    set_common(&mut params, &format!("{cluster_id}.{DOMAIN}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn set_common(params: &mut CertificateParams, name: &str) {
    let now = SystemTime::now();
    params.not_before = (now - VALID_BEFORE).into();
    params.not_after = (now + VALID_AFTER).into();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let mut serial = uuid::Uuid::new_v4().into_bytes();
    serial[0] &= 0x7f; // serial numbers are positive
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

fn fault<E: fmt::Display>(what: &'static str) -> impl Fn(E) -> Error {
    move |e| Error::os(what, e)
}

/// TLS 1.3 with AES-GCM by ring, named here and not left to a default of the process, which an embedding
/// program may have set otherwise.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        ..ring::default_provider()
    })
}

/// The settings of a side that accepts connections: peers must have a certificate of the same cluster. Which
/// role is welcome is for the acceptor to check with `peer_role`.
pub fn server_config(credentials: &RoleCredentials) -> Result<Arc<ServerConfig>> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(credentials)?), provider())
        .build()
        .map_err(unusable)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates(&credentials.cert_pem)?, private_key(&credentials.key_pem)?)
        .map_err(unusable)?;
    // Connections live long; tickets would only cost.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// A new certificate for browsers that nobody but itself has signed, for these names and addresses, and its
/// key, as PEM.
pub fn page_pem(names: &[String]) -> Result<String> {
    let fault = |e: rcgen::Error| fault("cannot make a certificate")(e);
    let mut params = CertificateParams::new(names).map_err(fault)?;
    set_common(&mut params, names.first().map_or(DOMAIN, String::as_str));
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = generate_key()?;
    let certificate = params.self_signed(&key).map_err(fault)?;
    Ok(certificate.pem() + &key.serialize_pem())
}

/// The settings of a server for browsers with such a certificate. Nobody has to prove anything.
pub fn page_config(pem: &str) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(certificates(pem)?, private_key(pem)?)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The settings of a side that opens connections. The name to verify is `server_name`.
pub fn client_config(credentials: &RoleCredentials) -> Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_root_certificates(roots(credentials)?)
        .with_client_auth_cert(certificates(&credentials.cert_pem)?, private_key(&credentials.key_pem)?)
        .map_err(unusable)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that whoever listens in the given role must prove.
pub fn server_name(role: Role, cluster_id: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(role.dns_name(cluster_id))
        .map_err(|_| Error::new(Kind::Refused, format!("{cluster_id:?} cannot be the id of a cluster")))
}

/// The role that a peer has proved in a finished handshake: from the first of its certificates, which TLS has
/// verified against the cluster's authority.
pub fn peer_role(certs: Option<&[CertificateDer<'_>]>, cluster_id: &str) -> Result<Role> {
    let refused = |what: String| Error::new(Kind::Refused, what);
    let cert = certs.and_then(<[_]>::first).ok_or_else(|| refused("peer has no certificate".into()))?;
    let cert = webpki::EndEntityCert::try_from(cert)
        .map_err(|e| refused(format!("peer's certificate cannot be read: {e}")))?;
    let names: Vec<&str> = cert.valid_dns_names().collect();
    let role = Role::ALL.into_iter().find(|role| names.contains(&role.dns_name(cluster_id).as_str()));
    role.ok_or_else(|| {
        refused(format!("peer's certificate names no role of cluster {cluster_id}: {names:?}"))
    })
}

fn roots(credentials: &RoleCredentials) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(&credentials.ca_pem)? {
        roots.add(cert).map_err(unusable)?;
    }
    Ok(roots)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let certs: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match certs {
        Ok(certs) if !certs.is_empty() => Ok(certs),
        Ok(_) => Err(unusable("no certificate in the text")),
        Err(e) => Err(unusable(e)),
    }
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(unusable)
}

fn unusable(e: impl fmt::Display) -> Error {
    Error::new(Kind::Refused, format!("the cluster's credentials cannot be used: {e}"))
        .hint("the scheduler file was damaged; start the cluster anew")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_back() {
        let ca = ClusterCredentials::create("ab12").unwrap();
        for role in Role::ALL {
            let certs = certificates(&ca.issue(role).unwrap().cert_pem).unwrap();
            assert_eq!(peer_role(Some(&certs), "ab12").unwrap(), role);
            let e = peer_role(Some(&certs), "ab1").unwrap_err().to_string();
            assert!(e.contains(&format!("{role}.ab12.hpcdag")), "{e}");
        }
        assert_eq!(peer_role(None, "ab12").unwrap_err().kind, Kind::Refused);
    }

    #[test]
    fn a_restarted_authority_issues_for_the_same_cluster() {
        let first = ClusterCredentials::create("ab12").unwrap();
        let again = ClusterCredentials::from_pem("ab12", first.ca_pem(), &first.ca_key_pem()).unwrap();
        let issued = again.issue(Role::Worker).unwrap();
        assert_eq!(issued.ca_pem, first.ca_pem());
        let certs = certificates(&issued.cert_pem).unwrap();
        let roots = roots(&first.issue(Role::Client).unwrap()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
        let now = rustls::pki_types::UnixTime::now();
        verifier.verify_client_cert(&certs[0], &[], now).unwrap();
        let at = |s: i64| {
            let now = now.as_secs() as i64;
            rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_secs((now + s) as u64))
        };
        verifier.verify_client_cert(&certs[0], &[], at(-47 * 3600)).unwrap();
        verifier.verify_client_cert(&certs[0], &[], at(364 * 86400)).unwrap();
        assert!(verifier.verify_client_cert(&certs[0], &[], at(-49 * 3600)).is_err());
        assert!(verifier.verify_client_cert(&certs[0], &[], at(366 * 86400)).is_err());
    }

    #[test]
    fn keys_of_another_cluster_are_refused() {
        let a = ClusterCredentials::create("a").unwrap();
        let b = ClusterCredentials::create("b").unwrap();
        let e = ClusterCredentials::from_pem("a", a.ca_pem(), &b.ca_key_pem()).unwrap_err();
        assert!(e.message.contains("does not belong"), "{e}");
        let mixed = RoleCredentials {
            key_pem: a.issue(Role::Client).unwrap().key_pem,
            ..a.issue(Role::Client).unwrap()
        };
        assert_eq!(client_config(&mixed).unwrap_err().kind, Kind::Refused);
        let empty = RoleCredentials { ca_pem: String::new(), ..a.issue(Role::Client).unwrap() };
        assert!(client_config(&empty).is_err() && server_config(&empty).is_err());
    }

    #[test]
    fn cluster_ids() {
        assert!(is_cluster_id(&new_cluster_id()));
        assert_ne!(new_cluster_id(), new_cluster_id());
        for bad in ["", "A", "a.b", "-a", "a-", "a b", "../a", &"x".repeat(41)] {
            assert!(!is_cluster_id(bad), "{bad}");
            assert!(ClusterCredentials::create(bad).is_err());
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let ca = ClusterCredentials::create("ab12").unwrap();
        let text = format!("{ca:?} {:?}", ca.issue(Role::Client).unwrap());
        assert!(!text.contains("PRIVATE") && text.contains("ab12"));
    }
}
