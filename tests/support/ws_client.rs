//! A WebSocket under a test client, with control over frames.
//!
//! - Owns: one socket. Takes: bytes (one binary frame each), or any frame. Gives: the payload of
//!   binary frames as a stream.
//! - Source: RFC 6455; MQTT 5.0 section 6.

use std::{net::SocketAddr, net::TcpStream, time::Duration};

use tokio_tungstenite::tungstenite::{
    self, Message, WebSocket, client::IntoClientRequest, http::HeaderValue,
    protocol::WebSocketConfig,
};

use super::wire::{Came, Wire, is_timeout};

/// One WebSocket from a client's side.
pub(crate) struct Ws {
    socket: WebSocket<TcpStream>,
    /// Subprotocol that the server chose.
    pub(crate) subprotocol: Option<String>,
}

/// Why the upgrade was refused: the HTTP status.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refused(pub(crate) u16);

impl Ws {
    /// Asks for an upgrade, offering these subprotocols (comma separated).
    pub(crate) fn connect(
        addr: SocketAddr,
        path: &str,
        subprotocols: Option<&str>,
        origin: Option<&str>,
    ) -> Result<Self, Refused> {
        let stream = TcpStream::connect_timeout(&addr, super::wait::PATIENCE).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(super::wait::PATIENCE)).unwrap();
        stream.set_write_timeout(Some(super::wait::PATIENCE)).unwrap();
        let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
        if let Some(names) = subprotocols {
            let value = HeaderValue::from_str(names).unwrap();
            request.headers_mut().insert("Sec-WebSocket-Protocol", value);
        }
        if let Some(origin) = origin {
            request.headers_mut().insert("Origin", HeaderValue::from_str(origin).unwrap());
        }
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        match tungstenite::client::client_with_config(request, stream, Some(config)) {
            Ok((socket, response)) => {
                let chosen = response.headers().get("Sec-WebSocket-Protocol");
                let subprotocol = chosen.map(|name| name.to_str().unwrap().to_owned());
                Ok(Self { socket, subprotocol })
            }
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) => {
                Err(Refused(response.status().as_u16()))
            }
            Err(tungstenite::HandshakeError::Failure(
                tungstenite::Error::Protocol(_) | tungstenite::Error::Io(_),
            )) => Err(Refused(0)),
            Err(error) => panic!("websocket handshake: {error}"),
        }
    }

    /// Sends any message.
    pub(crate) fn send(&mut self, message: Message) -> bool {
        self.socket.send(message).is_ok()
    }

    /// Waits for the next message of any kind.
    pub(crate) fn receive(&mut self, patience: Duration) -> Option<Message> {
        let patience = patience.max(Duration::from_millis(1));
        self.socket.get_ref().set_read_timeout(Some(patience)).unwrap();
        self.socket.read().ok()
    }
}

impl Wire for Ws {
    fn read(&mut self, patience: Duration) -> Came {
        let patience = patience.max(Duration::from_millis(1));
        self.socket.get_ref().set_read_timeout(Some(patience)).unwrap();
        match self.socket.read() {
            Ok(Message::Binary(bytes)) => Came::Bytes(bytes.to_vec()),
            Ok(Message::Text(_)) => panic!("a text frame from an MQTT server"),
            Ok(Message::Close(_)) => Came::Closed,
            Ok(_) => Came::Nothing,
            Err(tungstenite::Error::Io(error)) if is_timeout(error.kind()) => Came::Nothing,
            Err(_) => Came::Closed,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> bool {
        self.send(Message::Binary(bytes.to_vec().into()))
    }

    fn cut(&mut self) {
        let _ = self.socket.get_ref().shutdown(std::net::Shutdown::Both);
    }

    fn socket(&self) -> &TcpStream {
        self.socket.get_ref()
    }
}
