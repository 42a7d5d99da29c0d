//! Judges requests for a WebSocket and says yes with 101, or no with a reason.
//!
//! - Owns: nothing. Takes: the head of a request, before any routing. Gives: an [`Agreement`] with one
//!   [`Endpoint`], or a [`Refusal`] and the HTTP answer that tells it.
//! - Bound: heads are bounded by `limits::HTTP_HEAD_BYTES_MAX`; the rest by the endpoint.
//! - Source: RFC 6455 §4.2; MQTT 5.0 §6 (subprotocol `mqtt`).

use std::{collections::HashMap, net::SocketAddr, rc::Rc};

use actix_http::{
    RequestHead, StatusCode, Version,
    header::{self, HeaderName},
    ws::{self, HandshakeError},
};
use bytes::BytesMut;
use tokio::net::TcpStream;

/// Subprotocols of MQTT; the second is what old 3.1 and 3.1.1 libraries offer.
pub const MQTT_SUBPROTOCOLS: &[&str] = &["mqtt", "mqttv3.1"];

/// What waits behind a path.
pub trait Endpoint {
    /// Returns the subprotocols that are spoken here.
    fn subprotocols(&self) -> &[&'static str];

    /// Returns whether a client that offers no subprotocol at all is refused.
    fn needs_subprotocol(&self) -> bool {
        true
    }

    /// Returns whether a page may come here; both are header values as they were sent.
    fn allows_origin(&self, origin: Option<&str>, host: Option<&str>) -> bool;

    /// Returns whether one more connection fits.
    fn has_room(&self) -> bool;

    /// Takes over the socket. The client has been told yes; nothing of HTTP is left.
    fn accept(&self, upgraded: Upgraded);
}

/// A socket on which only WebSocket frames flow from now on.
#[derive(Debug)]
pub struct Upgraded {
    /// The socket itself.
    pub stream: TcpStream,
    /// What the client sent behind its request.
    pub replay: BytesMut,
    /// What both agreed on.
    pub subprotocol: Option<&'static str>,
    /// Who.
    pub peer: Option<SocketAddr>,
}

/// Path → endpoint.
pub type Endpoints = HashMap<String, Rc<dyn Endpoint>>;

/// What the client will be told with the 101.
pub struct Agreement {
    /// Who takes over.
    pub endpoint: Rc<dyn Endpoint>,
    /// The chosen subprotocol.
    pub subprotocol: Option<&'static str>,
    accept_key: String,
}

/// Why a request for a WebSocket is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not GET.
    #[error("a WebSocket is opened with GET")]
    Method,
    /// CONNECT, or HTTP/1.0, or headers that are missing or in disagreement.
    #[error("this is not a WebSocket handshake of HTTP/1.1: {0}")]
    Handshake(&'static str),
    /// Another `Sec-WebSocket-Version`.
    #[error("only version 13 of the WebSocket protocol is spoken here")]
    Version,
    /// No endpoint.
    #[error("no WebSocket is served at this path")]
    Path,
    /// A page of a site that is not allowed.
    #[error("WebSockets from this origin are not allowed")]
    Origin,
    /// None offered, or none that is spoken here.
    #[error("no subprotocol in common: offer one in Sec-WebSocket-Protocol (for MQTT: mqtt)")]
    Subprotocol,
    /// The listener's limit is reached.
    #[error("the limit of connections is reached, try again later")]
    Full,
    /// The node starts, or sends its clients elsewhere.
    #[error("this node lets no clients in now, try another one")]
    Away,
}

/// Decides about a request.
///
/// # Errors
/// The first reason to refuse.
pub fn judge(head: &RequestHead, endpoints: &Endpoints) -> Result<Agreement, Refusal> {
    let endpoint = endpoints.get(head.uri.path());
    check_handshake(head)?;
    let endpoint = endpoint.ok_or(Refusal::Path)?;
    let host = text(head, &header::HOST)?;
    if !endpoint.allows_origin(text(head, &header::ORIGIN)?, host) {
        return Err(Refusal::Origin);
    }
    let subprotocol = choose_subprotocol(head, endpoint.as_ref())?;
    if !endpoint.has_room() {
        return Err(Refusal::Full);
    }
    let key = text(head, &header::SEC_WEBSOCKET_KEY)?.unwrap_or_default();
    let accept_key = ws::hash_key(key.as_bytes()).iter().copied().map(char::from).collect();
    Ok(Agreement { endpoint: Rc::clone(endpoint), subprotocol, accept_key })
}

fn check_handshake(head: &RequestHead) -> Result<(), Refusal> {
    if head.version != Version::HTTP_11 {
        return Err(Refusal::Handshake("another version of HTTP"));
    }
    ws::verify_handshake(head).map_err(|error| match error {
        HandshakeError::GetMethodRequired => Refusal::Method,
        HandshakeError::UnsupportedVersion | HandshakeError::NoVersionHeader => Refusal::Version,
        HandshakeError::BadWebsocketKey => {
            Refusal::Handshake("Sec-WebSocket-Key is not 16 bytes in base64")
        }
        HandshakeError::NoWebsocketUpgrade => Refusal::Handshake("Upgrade is not websocket"),
        HandshakeError::NoConnectionUpgrade => Refusal::Handshake("Connection is not upgrade"),
    })?;
    text(head, &header::SEC_WEBSOCKET_KEY)?;
    text(head, &header::SEC_WEBSOCKET_VERSION)?;
    match text(head, &header::HOST)? {
        Some(_) => Ok(()),
        None => Err(Refusal::Handshake("Host is missing")),
    }
}

/// Returns the value of a header that may be there once.
fn text<'a>(head: &'a RequestHead, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = head.headers().get_all(name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| Refusal::Handshake("a header is not ASCII"))
        }
        _ => Err(Refusal::Handshake("a header is repeated")),
    }
}

/// Takes the first that the client offers and the endpoint speaks.
fn choose_subprotocol(
    head: &RequestHead,
    endpoint: &dyn Endpoint,
) -> Result<Option<&'static str>, Refusal> {
    let mut offered_any = false;
    for value in head.headers().get_all(&header::SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| Refusal::Handshake("a header is not ASCII"))?;
        for offered in value.split(',').map(str::trim).filter(|offered| !offered.is_empty()) {
            offered_any = true;
            if let Some(chosen) = endpoint.subprotocols().iter().find(|known| **known == offered) {
                return Ok(Some(chosen));
            }
        }
    }
    if offered_any || endpoint.needs_subprotocol() {
        return Err(Refusal::Subprotocol);
    }
    Ok(None)
}

impl Agreement {
    /// Writes the 101.
    #[must_use]
    pub fn answer(&self) -> String {
        let mut answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\n\
             Upgrade: websocket\r\n\
             Connection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n",
            self.accept_key
        );
        if let Some(subprotocol) = self.subprotocol {
            answer.push_str("Sec-WebSocket-Protocol: ");
            answer.push_str(subprotocol);
            answer.push_str("\r\n");
        }
        answer.push_str("\r\n");
        answer
    }
}

impl Refusal {
    /// Returns the status that tells it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Handshake(_) | Self::Subprotocol => StatusCode::BAD_REQUEST,
            Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Path => StatusCode::NOT_FOUND,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Full | Self::Away => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Writes the whole answer; the connection ends with it.
    #[must_use]
    pub fn answer(self) -> String {
        let status = self.status();
        let extra = match self {
            Self::Method => "Allow: GET\r\n",
            Self::Version => "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            Self::Full | Self::Away => "Retry-After: 5\r\n",
            _ => "",
        };
        let text = format!("{self}\n");
        format!(
            "HTTP/1.1 {} {}\r\n\
             Content-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {}\r\n\
             Connection: close\r\n\
             {extra}\r\n{text}",
            status.as_str(),
            status.canonical_reason().unwrap_or_default(),
            text.len(),
        )
    }
}

#[cfg(test)]
mod tests;
