//! A client that does not give up: it dials one node after the other until one takes it.
//!
//! - Owns: one socket at a time. Takes: packets to send. Gives: packets, or the end of the connection.
//! - Bound: every wait has a time limit; a server that answers nothing is left for another one.
//! - Unlike `support::mqtt_client` nothing that a dying server does is a failed test here.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::pulse::Pulse;
use crate::support::{
    packet::{Connect, Packet, Version, Will, decode, packet_bytes},
    property::{Props, SESSION_EXPIRY},
    wait::{let_pass, now},
};

const DIAL_PATIENCE: Duration = Duration::from_secs(2);
const CONNACK_PATIENCE: Duration = Duration::from_secs(8);

/// Refuses every connection.
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// Where nodes listen, and when to stop.
#[derive(Clone)]
pub(super) struct World {
    addresses: Arc<Mutex<Vec<SocketAddr>>>,
    user: Option<(&'static str, &'static str)>,
    stop: Arc<AtomicBool>,
    pulse: Arc<Mutex<Pulse>>,
}

impl World {
    pub(super) fn new(
        addresses: Vec<SocketAddr>,
        user: Option<(&'static str, &'static str)>,
    ) -> Self {
        let pulse = Arc::new(Mutex::new(Pulse::new(now())));
        Self { addresses: Arc::new(Mutex::new(addresses)), user, stop: Arc::default(), pulse }
    }

    /// When acknowledgements came.
    pub(super) fn pulse(&self) -> MutexGuard<'_, Pulse> {
        self.pulse.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node that was started again may listen elsewhere.
    pub(super) fn moved(&self, node: usize, address: SocketAddr) {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)[node] = address;
    }

    /// Nobody reaches a node any more. Their addresses are nobody's once their network is gone, and packets
    /// to them would leave this machine.
    pub(super) fn end(&self) {
        let mut addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses.fill(NOWHERE);
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn pick(&self, random: &mut StdRng) -> SocketAddr {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        addresses[random.random_range(0..addresses.len())]
    }
}

/// One client id, and its connection of now.
pub(super) struct Client {
    world: World,
    pub(super) random: StdRng,
    connect: Connect,
    stream: Option<TcpStream>,
    bytes: Vec<u8>,
    /// What CONNACK said.
    pub(super) present: bool,
    /// Connections that were accepted.
    pub(super) connections: u64,
}

impl Client {
    pub(super) fn new(world: &World, version: Version, id: &str, durable: bool, seed: u64) -> Self {
        let mut props = Props::new();
        if durable && version == Version::V5 {
            props = props.number(SESSION_EXPIRY, 3_600);
        }
        let connect = Connect {
            version,
            client_id: id.to_owned(),
            clean: !durable,
            keep_alive: 30,
            user: world.user.map(|(name, _)| name.to_owned()),
            password: world.user.map(|(_, password)| password.as_bytes().to_vec()),
            will: None,
            props,
        };
        let random = StdRng::seed_from_u64(seed);
        let (world, bytes) = (world.clone(), Vec::new());
        Self { world, random, connect, stream: None, bytes, present: false, connections: 0 }
    }

    #[must_use]
    pub(super) fn with_will(mut self, will: Will) -> Self {
        self.connect.will = Some(will);
        self
    }

    pub(super) fn version(&self) -> Version {
        self.connect.version
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    pub(super) fn cut(&mut self) {
        self.stream = None;
    }

    /// Dials nodes until one accepts; `false` once `patience` is over.
    pub(super) fn connect(&mut self, patience: Duration) -> bool {
        let start = now();
        while start.elapsed() < patience {
            if self.connect_once() {
                return true;
            }
            let pause = self.random.random_range(20..200);
            let_pass(Duration::from_millis(pause));
        }
        false
    }

    /// Dials one node.
    pub(super) fn connect_once(&mut self) -> bool {
        let accepted = self.try_connect();
        if accepted {
            self.connections += 1;
        } else {
            self.stream = None;
        }
        accepted
    }

    fn try_connect(&mut self) -> bool {
        let address = self.world.pick(&mut self.random);
        let Ok(stream) = TcpStream::connect_timeout(&address, DIAL_PATIENCE) else { return false };
        let timed = stream.set_write_timeout(Some(DIAL_PATIENCE));
        if timed.is_err() || stream.set_nodelay(true).is_err() {
            return false;
        }
        self.bytes.clear();
        self.stream = Some(stream);
        let connect = self.connect.encode();
        if !self.send(&connect) {
            return false;
        }
        match self.receive(CONNACK_PATIENCE) {
            Some(Packet::Connack { present, code: 0, .. }) => {
                self.present = present;
                true
            }
            _ => false,
        }
    }

    /// Sends; an error ends the connection.
    pub(super) fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.stream.as_mut().is_some_and(|stream| stream.write_all(bytes).is_ok());
        if !sent {
            self.stream = None;
        }
        sent
    }

    /// Waits for a packet; `None`: nothing came, or the connection is gone.
    pub(super) fn receive(&mut self, patience: Duration) -> Option<Packet> {
        let start = now();
        loop {
            if let Ok(Some(length)) = packet_bytes(&self.bytes)
                && length <= self.bytes.len()
            {
                let packet: Vec<u8> = self.bytes.drain(..length).collect();
                return Some(decode(self.version(), &packet).expect("a packet as the rules want"));
            }
            let left = patience.checked_sub(start.elapsed())?.max(Duration::from_millis(1));
            let stream = self.stream.as_mut()?;
            let mut scratch = [0; 16 * 1_024];
            let read = match stream.set_read_timeout(Some(left)) {
                Ok(()) => stream.read(&mut scratch),
                Err(error) => Err(error),
            };
            match read {
                Ok(count) if count > 0 => self.bytes.extend(&scratch[..count]),
                Err(error) if crate::support::wire::is_timeout(error.kind()) => return None,
                _ => {
                    self.stream = None;
                    return None;
                }
            }
        }
    }
}
