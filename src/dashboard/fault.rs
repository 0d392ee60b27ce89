//! Errors as HTTP says them: a status and JSON. Owns which status is whose.

use crate::base::error::{Error, Kind};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The status.
    pub status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Fault {
    /// The request makes no sense.
    pub fn bad(message: impl Into<String>) -> Fault {
        Fault { status: StatusCode::BAD_REQUEST, kind: "bad-request", message: message.into() }
    }

    /// There is no such thing.
    pub fn missing(message: impl Into<String>) -> Fault {
        Fault { status: StatusCode::NOT_FOUND, kind: "not-found", message: message.into() }
    }

    /// The token is missing or wrong.
    pub fn closed() -> Fault {
        let message = "this needs the dashboard's token: open the address that `hpcdag status` prints, or \
                       send it as `Authorization: Bearer TOKEN`";
        Fault { status: StatusCode::UNAUTHORIZED, kind: "unauthorized", message: message.into() }
    }

    /// Only reading is possible.
    pub fn read_only() -> Fault {
        let message = "the dashboard is read-only: GET and HEAD are all there is";
        Fault { status: StatusCode::METHOD_NOT_ALLOWED, kind: "bad-request", message: message.into() }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Fault {
        let (status, kind) = match error.kind {
            Kind::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Kind::Usage => (StatusCode::BAD_REQUEST, "bad-request"),
            Kind::Refused => (StatusCode::SERVICE_UNAVAILABLE, "refused"),
            Kind::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            Kind::NoScheduler => (StatusCode::SERVICE_UNAVAILABLE, "no-scheduler"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "internal"),
        };
        Fault { status, kind, message: error.message }
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "kind": self.kind, "message": self.message } });
        (self.status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
    }
}
