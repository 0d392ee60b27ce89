//! A dashboard that others can reach: HTTPS only, with a certificate of its own.

use crate::http::raw;
use crate::site::Site;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Trusts anybody who has the key to the certificate shown, as a browser does after a click.
#[derive(Debug)]
struct Clicked(Arc<CryptoProvider>);

impl ServerCertVerifier for Clicked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 was expected".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn get(port: u16, path: &str) -> String {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Clicked(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let tcp = TcpStream::connect(("127.0.0.1", port)).expect("somebody listens");
    let mut stream = StreamOwned::new(session, tcp);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    // Whether it says goodbye does not matter here.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

#[test]
fn what_others_can_reach_is_encrypted() {
    let site = Site::new();
    let args = ["scheduler", "--scheduler-file", "s.json", "--dashboard-address", "0.0.0.0:0"];
    let _scheduler = site.start("scheduler", &args);
    site.ok(&["workers", "wait", "0", "--scheduler-file", "s.json"]);
    let status = site.json(&["status", "--scheduler-file", "s.json", "--json"]);
    let url = status["dashboard"].as_str().expect("a dashboard");
    let (place, token) = url.split_once("/?token=").expect("a token");
    assert!(place.starts_with("https://") && !place.contains("0.0.0.0"), "{place}");
    let port: u16 = place.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");

    let welcome = get(port, &format!("/?token={token}"));
    assert!(welcome.starts_with("HTTP/1.1 303 "), "{welcome}");
    assert!(welcome.contains("HttpOnly; SameSite=Strict; Secure\r\n"), "{welcome}");
    assert!(get(port, "/").starts_with("HTTP/1.1 401 "));
    assert!(get(port, "/health").ends_with("{\"status\": \"ok\"}"));
    let plain = raw(&format!("127.0.0.1:{port}"), format!("GET /?token={token} HTTP/1.1\r\n\r\n").as_bytes());
    assert!(!plain.windows(5).any(|w| w == b"HTTP/"), "{}", String::from_utf8_lossy(&plain));
}
