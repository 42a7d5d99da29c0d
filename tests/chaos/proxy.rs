//! What stands between the nodes: each link and direction has a weather of its own.
//!
//! ```text
//! node a ─ dials the front of b ─▶ proxy ─ dials b from the address that stands for a ─▶ node b
//!           bytes a ─▶ b wait as the weather of (a, b) says, bytes b ─▶ a as that of (b, a)
//! ```
//!
//! - Owns: the fronts that nodes advertise, one per node, and every connection through them.
//! - Takes: weather per link and direction. Gives: delay, jitter, loss as TCP shows it, a rate, a stall, the
//!   end of connections.
//! - Bound: `QUEUE_CHUNKS` of `CHUNK_BYTES` per connection and direction; then the sender waits.
//! - Who calls is read off the first message of the handshake, so it works on loopback, too.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::support::wait::now;

const CHUNK_BYTES: usize = 16 * 1_024;
const QUEUE_CHUNKS: usize = 64;
/// What a lost segment costs: the time until TCP sends it again.
const RESEND: Duration = Duration::from_millis(200);
/// Prefix, kind, versions and cluster of a hello; then comes the node's id.
const HELLO_HEAD_BYTES: usize = 39;
const HELLO_NODE_AT: usize = 31;
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// How bytes of one link and direction travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weather {
    /// On their way for so long.
    pub(super) delay: Duration,
    /// And for up to so much longer.
    pub(super) jitter: Duration,
    /// Chunks of a hundred that come `RESEND` later.
    pub(super) lost_percent: u32,
    pub(super) bytes_per_second: Option<u32>,
    /// Nothing passes.
    pub(super) stalled: bool,
}

/// Where one node really listens, and who stands for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    pub(super) back: SocketAddr,
    /// Others see this address when the node calls them.
    pub(super) alias: Option<IpAddr>,
}

struct Way {
    weather: watch::Sender<Weather>,
    /// Grows when all connections of the link end.
    resets: watch::Sender<u64>,
    carried_bytes: AtomicU64,
}

struct Shared {
    hosts: Vec<Host>,
    /// From node to node, row by row.
    ways: Vec<Way>,
}

impl Shared {
    fn way(&self, from: usize, to: usize) -> &Way {
        &self.ways[from * self.hosts.len() + to]
    }
}

/// All fronts of a run.
pub(super) struct Proxy {
    shared: Arc<Shared>,
    fronts: Vec<SocketAddr>,
    // Dropped with all that runs on it.
    _runtime: Runtime,
}

impl Proxy {
    /// Opens the front of each host at its address (port 0: any).
    pub(super) fn new(hosts: Vec<Host>, fronts: &[SocketAddr]) -> io::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let way = || Way {
            weather: watch::Sender::default(),
            resets: watch::Sender::default(),
            carried_bytes: AtomicU64::new(0),
        };
        let ways = (0..hosts.len() * hosts.len()).map(|_| way()).collect();
        let shared = Arc::new(Shared { hosts, ways });
        let mut bound = Vec::new();
        for (to, front) in fronts.iter().enumerate() {
            let listener = runtime.block_on(TcpListener::bind(front))?;
            bound.push(listener.local_addr()?);
            runtime.spawn(accept(Arc::clone(&shared), to, listener));
        }
        Ok(Self { shared, fronts: bound, _runtime: runtime })
    }

    /// What a node advertises.
    pub(super) fn front(&self, host: usize) -> SocketAddr {
        self.fronts[host]
    }

    pub(super) fn set(&self, from: usize, to: usize, weather: Weather) {
        self.shared.way(from, to).weather.send_replace(weather);
    }

    /// Stops what goes one way, or lets it pass again.
    pub(super) fn stall(&self, from: usize, to: usize, stalled: bool) {
        self.shared.way(from, to).weather.send_modify(|weather| weather.stalled = stalled);
    }

    /// Ends every connection between two nodes.
    pub(super) fn reset(&self, one: usize, two: usize) {
        for (from, to) in [(one, two), (two, one)] {
            self.shared.way(from, to).resets.send_modify(|resets| *resets += 1);
        }
    }

    /// Bytes that have passed from one node to the other.
    pub(super) fn carried_bytes(&self, from: usize, to: usize) -> u64 {
        self.shared.way(from, to).carried_bytes.load(Ordering::Relaxed)
    }
}

async fn accept(shared: Arc<Shared>, to: usize, listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // Whatever goes wrong, both sides see the end of a connection.
            let _ = carry(&shared, to, socket).await;
        });
    }
}

async fn carry(shared: &Shared, to: usize, mut near: TcpStream) -> io::Result<()> {
    let mut head = vec![0; HELLO_HEAD_BYTES];
    timeout(HELLO_PATIENCE, near.read_exact(&mut head)).await??;
    let id: [u8; 8] = head[HELLO_NODE_AT..].try_into().map_err(io::Error::other)?;
    let from = usize::try_from(u64::from_le_bytes(id)).unwrap_or_default();
    let known = (1..=shared.hosts.len()).contains(&from);
    let from = known.then(|| from - 1).ok_or(io::ErrorKind::InvalidData)?;
    let back = shared.hosts[to].back;
    let socket = if back.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(alias) = shared.hosts[from].alias {
        socket.bind(SocketAddr::new(alias, 0))?;
    }
    let far = socket.connect(back).await?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    let (there, back) = (shared.way(from, to), shared.way(to, from));
    let mut resets = there.resets.subscribe();
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::select! {
        _ = async {
            tokio::join!(pump(there, near_in, far_out, head), pump(back, far_in, near_out, Vec::new()))
        } => {}
        _ = resets.changed() => {}
    }
    Ok(())
}

/// Carries one direction until an end is reached; then the other side sees it.
async fn pump(way: &Way, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, head: Vec<u8>) {
    let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(QUEUE_CHUNKS);
    let read = async move {
        let mut chunk = head;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            if !chunk.is_empty() && queue.send((way.due(), chunk)).await.is_err() {
                return;
            }
            match from.read(&mut buffer).await {
                Ok(count) if count > 0 => chunk = buffer[..count].to_vec(),
                _ => return,
            }
        }
    };
    let write = async move {
        let mut weather = way.weather.subscribe();
        while let Some((due, bytes)) = waiting.recv().await {
            sleep_until(due).await;
            if weather.wait_for(|weather| !weather.stalled).await.is_err() {
                return;
            }
            let rate = weather.borrow().bytes_per_second;
            if let Some(rate) = rate {
                sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate))).await;
            }
            way.carried_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

impl Way {
    /// When what comes now may go on.
    fn due(&self) -> Instant {
        let weather = *self.weather.borrow();
        let jitter = weather.jitter.mul_f64(rand::random());
        let lost = rand::random_range(0..100) < weather.lost_percent;
        let resend = if lost { RESEND } else { Duration::ZERO };
        Instant::from_std(now()) + weather.delay + jitter + resend
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// A proxy of two hosts, a connection from the first to the second, and what the second accepted.
    fn pair() -> (Proxy, TcpStream, TcpStream) {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = TcpListener::bind(any).unwrap();
        let back = listener.local_addr().unwrap();
        let host = Host { back, alias: None };
        let proxy = Proxy::new(vec![host, host], &[any, any]).unwrap();
        let mut near = TcpStream::connect(proxy.front(1)).unwrap();
        let mut head = [0; HELLO_HEAD_BYTES];
        head[HELLO_NODE_AT] = 1;
        near.write_all(&head).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        }
        let mut came = [0; HELLO_HEAD_BYTES];
        far.read_exact(&mut came).unwrap();
        assert_eq!(came, head);
        (proxy, near, far)
    }

    fn crossing(near: &mut TcpStream, far: &mut TcpStream) -> Duration {
        let start = now();
        near.write_all(b"x").unwrap();
        let mut came = [0];
        far.read_exact(&mut came).unwrap();
        start.elapsed()
    }

    #[test]
    fn proxy_when_one_way_is_slow_then_only_that_one() {
        let (proxy, mut near, mut far) = pair();
        let delay = Duration::from_millis(300);
        proxy.set(0, 1, Weather { delay, ..Weather::default() });
        assert!(crossing(&mut near, &mut far) >= delay);
        assert!(crossing(&mut far, &mut near) < delay);
        proxy.set(0, 1, Weather { bytes_per_second: Some(5), ..Weather::default() });
        assert!(crossing(&mut near, &mut far) >= Duration::from_millis(200));
        proxy.set(0, 1, Weather { lost_percent: 100, ..Weather::default() });
        assert!(crossing(&mut near, &mut far) >= RESEND);
        assert!(proxy.carried_bytes(0, 1) > proxy.carried_bytes(1, 0));
    }

    #[test]
    fn proxy_when_stalled_then_it_holds_and_when_reset_then_both_ends_see_it() {
        let (proxy, mut near, mut far) = pair();
        proxy.stall(0, 1, true);
        near.write_all(b"held").unwrap();
        far.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut came = [0; 4];
        assert!(far.read(&mut came).is_err());
        far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        proxy.stall(0, 1, false);
        far.read_exact(&mut came).unwrap();
        assert_eq!(&came, b"held");
        proxy.reset(0, 1);
        for stream in [&mut near, &mut far] {
            assert!(!stream.read(&mut came).is_ok_and(|count| count > 0));
        }
    }
}
