//! The bodies of answers: our files and texts, compressed for those who take that. Owns the compression, made
//! once for all viewers.

use super::assets::{ASSETS, Asset};
use axum::http::HeaderMap;
use axum::http::header::{self, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::sync::{Arc, LazyLock, OnceLock};

/// Smaller bodies are not worth it.
const WORTH_IT: usize = 1024;

/// Larger ones are compressed where they keep nobody waiting.
const TAKES_LONG: usize = 64 << 10;

/// A body and its kind.
#[derive(Debug)]
pub struct Packed {
    plain: Bytes,
    kind: &'static str,
    gzip: OnceLock<Bytes>,
}

impl Packed {
    /// A body that was not compressed so far.
    pub fn new(plain: Bytes, kind: &'static str) -> Packed {
        Packed { plain, kind, gzip: OnceLock::new() }
    }

    /// Compressed fast: the line is slow, the scheduler has more to do.
    fn gzip(&self) -> Bytes {
        self.gzip
            .get_or_init(|| {
                let mut encoder =
                    GzEncoder::new(Vec::with_capacity(self.plain.len() / 4), Compression::fast());
                // Writing to memory does not fail; the plain text would do.
                let written = encoder.write_all(&self.plain).and_then(|()| encoder.finish());
                written.map(Bytes::from).unwrap_or_default()
            })
            .clone()
    }
}

/// Whether somebody takes compressed bodies.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).any(|one| {
        let (name, rest) = one.split_once(';').unwrap_or((one, ""));
        name.trim() == "gzip" && !matches!(rest.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

/// An answer with a body.
pub async fn respond(packed: &Arc<Packed>, takes_gzip: bool) -> Response {
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(packed.kind));
    let vary = (header::VARY, HeaderValue::from_static("accept-encoding"));
    if !takes_gzip || packed.plain.len() < WORTH_IT {
        return ([kind, vary], packed.plain.clone()).into_response();
    }
    let gzip = match packed.gzip.get() {
        Some(gzip) => gzip.clone(),
        None if packed.plain.len() < TAKES_LONG => packed.gzip(),
        None => {
            let packed = Arc::clone(packed);
            tokio::task::spawn_blocking(move || packed.gzip()).await.unwrap_or_default()
        }
    };
    if gzip.is_empty() {
        return ([kind, vary], packed.plain.clone()).into_response();
    }
    let coding = (header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    ([kind, vary, coding], gzip).into_response()
}

/// Our files, ready to be sent.
static FILES: LazyLock<Vec<(&'static str, Arc<Packed>)>> = LazyLock::new(|| {
    let packed = |asset: &Asset| {
        (asset.name, Arc::new(Packed::new(Bytes::from_static(asset.text.as_bytes()), asset.kind())))
    };
    ASSETS.iter().map(packed).collect()
});

/// The file of a path without its first slash; the first page for an empty one.
pub fn file(name: &str) -> Option<&'static Arc<Packed>> {
    let name = if name.is_empty() { "index.html" } else { name };
    FILES.iter().find(|(known, _)| *known == name).map(|(_, packed)| packed)
}
