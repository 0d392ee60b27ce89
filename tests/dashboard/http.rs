//! As much of an HTTP client as the tests need. Owns that an answer was understood as a whole.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }
}

/// The host and port in an address such as `http://127.0.0.1:8787/?token=…`, and the token.
pub fn parts(url: &str) -> (String, String) {
    let rest = url.strip_prefix("http://").unwrap_or_else(|| panic!("{url} is not plain HTTP"));
    let (place, query) = rest.split_once("/?").unwrap_or_else(|| panic!("{url} has no query"));
    (place.to_owned(), query.strip_prefix("token=").expect("a token").to_owned())
}

/// Asks for a path.
pub fn get(place: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    send(place, "GET", path, headers)
}

/// Sends a request without a body.
pub fn send(place: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    answer_to(place, (request + "\r\n").as_bytes())
}

/// Sends any bytes and reads what comes until the end.
pub fn raw(place: &str, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(place).expect("somebody listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    // It may be refused before all of it is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    // So may the end of the answer be a reset.
    let _ = stream.read_to_end(&mut answer);
    answer
}

fn answer_to(place: &str, request: &[u8]) -> Answer {
    let answer = raw(place, request);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or_else(|| {
        panic!("no answer to {}: {}", String::from_utf8_lossy(request), String::from_utf8_lossy(&answer))
    });
    let head = String::from_utf8(answer[..end].to_vec()).expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).expect("a status");
    let header = |line: &str| {
        let (name, value) = line.split_once(':').expect("a header");
        (name.to_lowercase(), value.trim().to_owned())
    };
    let answer = Answer { status, headers: lines.map(header).collect(), body: answer[end + 4..].to_vec() };
    if let Some(length) = answer.header("content-length").filter(|_| !request.starts_with(b"HEAD")) {
        assert_eq!(length, answer.body.len().to_string(), "all of it came");
    }
    answer
}
