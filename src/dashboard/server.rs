//! The dashboard's door and its paths. Owns where it listens, how many may be in, and which path is whose.

use super::access::{self, Entry, Gate, Token};
use super::answers::{self, Answers};
use super::fault::Fault;
use super::metrics::{self, Form};
use super::{Source, api, connection, pages, plots};
use crate::base::error::{Error, Kind, Result};
use crate::config::{DashboardAddress, Ports};
use crate::net::address::{self, Bound, ListenOptions, PortRange};
use crate::net::page;
use crate::protocol::messages::client::Question;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, Method, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// The port that is tried first where none is named; Dask's.
pub const USUAL_PORT: u16 = 8787;

/// Connections that may be open; others wait at the door.
const VIEWERS_MAX: usize = 200;

/// How long to wait when the process has run out of file descriptors.
const NO_DESCRIPTORS_DELAY: Duration = Duration::from_millis(100);

/// JSON, for browsers.
const JSON: &str = "application/json";

/// A dashboard that listens already and does not answer yet.
#[derive(Debug)]
pub struct Front {
    listener: TcpListener,
    tls: Option<TlsSetting>,
    place: String,
    port: u16,
    token: Token,
}

type TlsSetting = Arc<rustls::ServerConfig>;

impl Front {
    /// Listens; `None` if no dashboard is wanted.
    ///
    /// # Errors
    /// `Usage` when the address is none of this machine's or the port is taken.
    pub async fn bind(wanted: &DashboardAddress) -> Result<Option<Front>> {
        let bound = match wanted {
            DashboardAddress::None => return Ok(None),
            DashboardAddress::Auto => match listen(None, &one(USUAL_PORT)).await {
                Ok(bound) => bound,
                Err(_) => listen(None, &one(0)).await?,
            },
            DashboardAddress::At { host, port } => listen(host.as_deref(), port)
                .await
                .map_err(|error| Error { message: format!("the dashboard {}", error.message), ..error })?,
        };
        let Bound { listener, address, .. } = bound;
        let own = listener.local_addr().map_err(|e| Error::os("cannot read the own address", e))?;
        let secure = !own.ip().is_loopback();
        let tls = if secure { Some(page::config(&names(&address.host))?) } else { None };
        let host = match address.host.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]"),
            _ => address.host.clone(),
        };
        let scheme = if secure { "https" } else { "http" };
        let place = format!("{scheme}://{host}:{}/", address.port);
        Ok(Some(Front { listener, tls, place, port: address.port, token: Token::new() }))
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address. Opens nothing.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Its address with the token: for its owner's eyes only.
    pub fn url(&self) -> String {
        access::with_token(&self.place, &self.token)
    }

    /// Begins to answer, about a cluster, with what `source` knows.
    pub fn serve(self, cluster: &str, source: Arc<dyn Source>) -> Serving {
        let gate = Gate::new(self.token, cluster, self.tls.is_some());
        let router = router(gate, source);
        Serving { task: tokio::spawn(accept(self.listener, self.tls.map(TlsAcceptor::from), router)) }
    }
}

/// A dashboard that answers until this is dropped.
#[derive(Debug)]
pub struct Serving {
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn one(port: u16) -> Ports {
    Ports { first: port, last: port }
}

/// Listens at an address, a name or an interface of this machine; without one, where only this machine can
/// connect.
async fn listen(host: Option<&str>, port: &Ports) -> Result<Bound> {
    let host = host.unwrap_or("127.0.0.1");
    let is_interface = host == "auto" || address::interfaces()?.iter().any(|i| i.name == host);
    let (host, interface) = match is_interface {
        true => (None, Some(host.to_owned())),
        false => (Some(host.to_owned()), None),
    };
    let port = PortRange { first: port.first, last: port.last };
    address::bind(&ListenOptions { host, interface, port }).await
}

/// What a certificate is for: the address in the URL, and this host's name.
fn names(host: &str) -> Vec<String> {
    let own = hostname::get().map(|name| name.to_string_lossy().into_owned());
    let mut names = vec![host.to_owned(), "localhost".to_owned()];
    names.extend(own.ok().filter(|own| !names.contains(own)));
    names
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, router: Router) {
    let places = Arc::new(Semaphore::new(VIEWERS_MAX));
    // They end with this task.
    let mut viewers = JoinSet::new();
    loop {
        let place = tokio::select! {
            Ok(place) = Arc::clone(&places).acquire_owned() => place,
            Some(_) = viewers.join_next() => continue,
        };
        let tcp = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((tcp, _)) => tcp,
                Err(_) => {
                    tokio::time::sleep(NO_DESCRIPTORS_DELAY).await;
                    continue;
                }
            },
            Some(_) = viewers.join_next() => continue,
        };
        let (tls, router) = (tls.clone(), router.clone());
        viewers.spawn(async move {
            connection::serve(tcp, tls, router).await;
            drop(place);
        });
    }
}

/// What every request needs.
struct House {
    gate: Gate,
    source: Arc<dyn Source>,
    answers: Answers,
}

/// All paths.
fn router(gate: Gate, source: Arc<dyn Source>) -> Router {
    let house = Arc::new(House { gate, source, answers: Answers::default() });
    Router::new()
        .route("/health", get(health))
        .route("/metrics", get(figures))
        .route("/individual-plots.json", get(plot_list))
        .route("/api/v1/{*what}", get(question))
        .fallback(page)
        .layer(middleware::from_fn_with_state(Arc::clone(&house), guard))
        .with_state(house)
}

/// Lets in who may look, and hardens every answer.
async fn guard(State(house): State<Arc<House>>, request: Request, next: Next) -> Response {
    let mut response = if !matches!(*request.method(), Method::GET | Method::HEAD) {
        Fault::read_only().into_response()
    } else if request.uri().path() == "/health" {
        next.run(request).await
    } else {
        match house.gate.check(request.uri(), request.headers()) {
            Entry::Open => next.run(request).await,
            Entry::Welcome(response) => response,
            Entry::Closed => Fault::closed().into_response(),
        }
    };
    access::harden(&mut response);
    response
}

/// `/health`: nothing but whether the scheduler answers.
async fn health(State(house): State<Arc<House>>) -> Response {
    let ask = async {
        // The question that costs the least.
        house
            .source
            .ask(Question::WaitWorkers { workers: 0, timeout_ms: 0 })
            .await
            .map_err(|_| Fault::from(Error::new(Kind::NoScheduler, "the scheduler does not answer")))?;
        Ok(("{\"status\": \"ok\"}".to_owned(), JSON))
    };
    answers::respond(house.answers.get("health", String::new(), ask).await, false).await
}

/// `/metrics`
async fn figures(State(house): State<Arc<House>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let form = Form::accepted(accept);
    let ask = async { Ok((metrics::text(&*house.source, form).await?, form.kind())) };
    let answer = house.answers.get("metrics", form.kind().to_owned(), ask).await;
    answers::respond(answer, pages::takes_gzip(&headers)).await
}

/// `/individual-plots.json`
async fn plot_list() -> Response {
    ([(header::CONTENT_TYPE, JSON)], plots::list()).into_response()
}

/// `/api/v1/…`
async fn question(
    State(house): State<Arc<House>>,
    Path(what): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    let (kind, wanted) = match api::wanted(&what, &uri) {
        Ok(wanted) => wanted,
        Err(fault) => return fault.into_response(),
    };
    let exactly = format!("{wanted:?}");
    let ask = async { Ok((api::ask(&*house.source, wanted).await?, JSON)) };
    answers::respond(house.answers.get(kind, exactly, ask).await, pages::takes_gzip(&headers)).await
}

/// Everything else: our files. A plot of its own is the same page, which looks at its address.
async fn page(uri: Uri, headers: HeaderMap) -> Response {
    let name = uri.path().trim_start_matches('/');
    match pages::file(if plots::is_plot(name) { "" } else { name }) {
        Some(file) => pages::respond(file, pages::takes_gzip(&headers)).await,
        None => Fault::missing("there is no such page").into_response(),
    }
}
