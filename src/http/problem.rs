//! Errors as `application/problem+json`.
//!
//! - Takes: a status and words. Gives: RFC 9457 with `title`, `status` and `detail`.
//! - Never: internals of the server in `detail`; they go to the log.

use std::fmt;

use actix_web::{
    Error, HttpResponse, ResponseError,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    error::JsonPayloadError,
    http::{StatusCode, header},
    middleware::Next,
};

/// An answer that says what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    /// Puts status and words together.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into() }
    }

    /// Writes the body of the answer.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "title": self.status.canonical_reason().unwrap_or("error"),
            "status": self.status.as_u16(),
            "detail": self.detail,
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.status, self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            response.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
        }
        response.body(self.to_json().to_string())
    }
}

/// Says what is wrong with a body.
pub(super) fn from_json_error(error: &JsonPayloadError) -> Problem {
    let status = error.status_code();
    let detail = match error {
        JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
            "the body is larger than http.body_bytes_max".to_owned()
        }
        JsonPayloadError::ContentType => "expected content type application/json".to_owned(),
        other => other.to_string(),
    };
    Problem::new(status, detail)
}

/// Middleware: gives errors that no handler explained (404, 405, …) the same form.
pub(super) async fn explain_errors(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<EitherBody<BoxBody>>, Error> {
    let path = request.path().to_owned();
    let response = match next.call(request).await {
        Ok(response) => response.map_into_boxed_body(),
        Err(error) => return Err(error),
    };
    let explained = response.headers().contains_key(header::CONTENT_TYPE);
    let detail = match response.status() {
        _ if explained => None,
        StatusCode::NOT_FOUND => Some(format!("nothing is at {path}")),
        StatusCode::METHOD_NOT_ALLOWED => Some(format!("{path} does not take this method")),
        status if status.is_client_error() || status.is_server_error() => {
            Some(status.canonical_reason().unwrap_or("error").to_ascii_lowercase())
        }
        _ => None,
    };
    let Some(detail) = detail else { return Ok(response.map_into_left_body()) };
    let problem = Problem::new(response.status(), detail);
    Ok(response.into_response(problem.error_response()).map_into_right_body())
}
