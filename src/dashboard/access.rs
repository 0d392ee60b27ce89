//! Who may look: the token, the cookie that stands for it, and the headers that keep both where they belong.
//! Owns these; nothing here writes to a log.

use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};

/// The parameter of an address that carries the token.
const PARAMETER: &str = "token";

/// What opens a dashboard: 122 random bits as text.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// A new one.
    pub fn new() -> Token {
        Token(uuid::Uuid::new_v4().simple().to_string())
    }

    /// As text, for an address that only its owner sees.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether it is this one. How long that takes tells nothing of where a wrong one differs.
    fn is(&self, other: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.as_bytes());
        let differ =
            ours.iter().zip(theirs).fold(0u8, |differ, (a, b)| std::hint::black_box(differ | (a ^ b)));
        ours.len() == theirs.len() && differ == 0
    }
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Entry {
    /// It may pass.
    Open,
    /// It has shown the token: the browser is sent to the same place without it, and keeps a cookie.
    Welcome(Response),
    /// It may not.
    Closed,
}

/// Tells who may look.
#[derive(Clone, Debug)]
pub struct Gate {
    token: Token,
    cookie: String,
    secure: bool,
}

impl Gate {
    /// Of a cluster's dashboard. `secure`: it is reached by HTTPS only.
    pub fn new(token: Token, cluster: &str, secure: bool) -> Gate {
        // One browser may look at several clusters through one host name.
        Gate { token, cookie: format!("hpcdag-{cluster}"), secure }
    }

    /// Judges a request.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap) -> Entry {
        if let (Some(shown), rest) = take_token(uri.query().unwrap_or_default()) {
            return if self.token.is(shown) {
                Entry::Welcome(self.welcome(uri, &rest))
            } else {
                Entry::Closed
            };
        }
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some(shown) = bearer.and_then(|value| value.strip_prefix("Bearer ")) {
            return if self.token.is(shown.trim()) { Entry::Open } else { Entry::Closed };
        }
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut ours = cookies
            .flat_map(|all| all.split(';'))
            .filter_map(|one| one.trim().split_once('='))
            .filter(|(name, _)| *name == self.cookie);
        if ours.any(|(_, value)| self.token.is(value)) { Entry::Open } else { Entry::Closed }
    }

    /// Sends the browser to where it wanted to go, relative to where it is: a proxy may have put something
    /// before our paths. For the same reason the cookie has no path.
    fn welcome(&self, uri: &Uri, rest: &str) -> Response {
        let name = uri.path().rsplit('/').next().unwrap_or_default();
        let query = if rest.is_empty() { String::new() } else { format!("?{rest}") };
        let secure = if self.secure { "; Secure" } else { "" };
        let cookie = format!("{}={}; HttpOnly; SameSite=Strict{secure}", self.cookie, self.token.text());
        let to = [(header::LOCATION, format!("./{name}{query}")), (header::SET_COOKIE, cookie)];
        (StatusCode::SEE_OTHER, to).into_response()
    }
}

/// The token in a query, and the query without it.
fn take_token(query: &str) -> (Option<&str>, String) {
    let mut shown = None;
    let mut rest = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some((PARAMETER, value)) => shown = Some(value),
            _ => rest.push(part),
        }
    }
    (shown, rest.join("&"))
}

/// An address without the token, for places where it could be read by others.
pub fn without_token(url: &str) -> String {
    let Some((place, query)) = url.split_once('?') else { return url.to_owned() };
    match take_token(query).1 {
        rest if rest.is_empty() => place.to_owned(),
        rest => format!("{place}?{rest}"),
    }
}

/// An address with the token.
pub fn with_token(place: &str, token: &Token) -> String {
    format!("{place}?{PARAMETER}={}", token.text())
}

/// What every answer carries: pages may load nothing from elsewhere and run nothing but our files; nothing is
/// kept by anybody on the way, and no address is handed on.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// Adds what every answer carries.
pub fn harden(response: &mut Response) {
    for (name, value) in &HEADERS {
        response.headers_mut().insert(name.clone(), HeaderValue::from_static(value));
    }
}
