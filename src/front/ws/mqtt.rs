//! MQTT over WebSocket: what waits behind the WebSocket paths of a listener.
//!
//! - Owns: nothing; what it starts belongs to its worker. Takes: `Upgraded` sockets. Gives: connections.
//! - Bound: connections as the listener says; frames `FRAME_PACKETS` times its packets. A message may have
//!   any length: nothing gathers it.
//! - Source: MQTT 5.0 §6.

use std::{rc::Rc, sync::Arc};

use super::{
    frame::Rules,
    socket::WsSocket,
    upgrade::{Endpoint, Endpoints, MQTT_SUBPROTOCOLS, Upgraded},
};
use crate::{
    actors::connection::{self, options::ListenerOptions},
    config::Listener,
    front::transport::TcpSocket,
};

/// Packets of full size in one frame. Frames are not gathered, and each packet is checked by the decoder,
/// so this only ends nonsense.
const FRAME_PACKETS: u64 = 2;

/// MQTT behind a path of one listener, on one worker.
struct MqttEndpoint {
    listener: Listener,
    options: Arc<ListenerOptions>,
    rules: Rc<Rules>,
}

/// Returns the table of a worker's HTTP port: MQTT behind each WebSocket path of `listener`. `options` are
/// shared by all workers.
#[must_use]
pub fn endpoints(listener: &Listener, options: &Arc<ListenerOptions>) -> Endpoints {
    let frame_bytes_max = FRAME_PACKETS * u64::from(listener.limits.packet_bytes_max);
    let rules = Rc::new(Rules { frame_bytes_max, message_bytes_max: u64::MAX, text: false });
    let endpoint: Rc<dyn Endpoint> =
        Rc::new(MqttEndpoint { listener: listener.clone(), options: Arc::clone(options), rules });
    listener.websocket_paths.iter().map(|path| (path.clone(), Rc::clone(&endpoint))).collect()
}

impl Endpoint for MqttEndpoint {
    fn subprotocols(&self) -> &[&'static str] {
        MQTT_SUBPROTOCOLS
    }

    fn allows_origin(&self, origin: Option<&str>, host: Option<&str>) -> bool {
        self.listener.allows_origin(origin, host)
    }

    fn has_room(&self) -> bool {
        self.options.open_connections() < self.options.connections_max
    }

    fn accept(&self, upgraded: Upgraded) {
        let Upgraded { stream, replay, .. } = upgraded;
        let socket = WsSocket::new(TcpSocket::new(stream), replay, Rc::clone(&self.rules));
        connection::start(socket, &self.options);
    }
}
