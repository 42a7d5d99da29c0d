//! The command line of `hongqiao bench`.
//!
//! - Takes: arguments. Gives: typed options, checked.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _},
    path::PathBuf,
    str::FromStr,
};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};

use crate::{front::mqtt::client::Client, model::message::Qos};

/// Loads any MQTT server and tells what it did and what it cost.
///
/// With --server-pid the CPU time and memory of a server on this machine are read before and after.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    pub(super) scenario: Scenario,
}

#[derive(Debug, Subcommand)]
pub(super) enum Scenario {
    /// Open connections; latency from TCP connect to CONNACK.
    Connect(ConnectArgs),
    /// Hold quiet connections; memory of the server for each.
    Idle(IdleArgs),
    /// Connect and disconnect in a loop.
    Churn(ChurnArgs),
    /// Few publishers, one topic, many subscribers.
    Fanout(FanoutArgs),
    /// Pairs of one publisher and one subscriber.
    P2p(P2pArgs),
    /// Publish to absent durable clients, then let them come back and drain.
    Replay(ReplayArgs),
    /// Kill a server of a cluster under load; how long its clients feel it.
    ///
    /// Durable sessions are left behind; they expire after an hour.
    Failover(FailoverArgs),
}

/// What all scenarios share.
#[derive(Args, Clone, Debug)]
pub(super) struct Common {
    /// Name or address of the server.
    #[arg(long, default_value = "127.0.0.1")]
    pub(super) host: String,
    /// TCP port of the server.
    #[arg(long, default_value_t = 1883)]
    pub(super) port: u16,
    /// Members of a cluster, instead of --host and --port; clients connect to them in turn, the two of a pair
    /// never to the same one.
    #[arg(long = "server", value_name = "HOST:PORT", value_delimiter = ',')]
    pub(super) servers: Vec<String>,
    /// Version of MQTT.
    #[arg(long, value_enum, default_value_t = Protocol::V4)]
    pub(super) protocol: Protocol,
    /// User name.
    #[arg(long)]
    pub(super) username: Option<String>,
    /// Password.
    #[arg(long, env = "HONGQIAO_BENCH_PASSWORD", hide_env_values = true)]
    pub(super) password: Option<String>,
    /// Local addresses to connect from in turn: one, or FIRST..LAST. A local address has about 28,000
    /// ports; on loopback take 127.0.0.2..127.0.0.9.
    #[arg(long, value_name = "ADDRESS[..ADDRESS]")]
    pub(super) source: Option<Sources>,
    /// Threads of the generator.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) threads: u16,
    /// Connections being opened at one time, per thread.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) concurrency: u16,
    /// Seconds of keep alive; 0 is none.
    #[arg(long, default_value_t = 0)]
    pub(super) keep_alive: u16,
    /// Process id of the server, if it runs on this machine; of several, their sum is told.
    #[arg(long = "server-pid", value_name = "PID", value_delimiter = ',')]
    pub(super) server_pids: Vec<u32>,
    /// Start of client ids and topics, for several generators at once.
    #[arg(long, default_value = "bench")]
    pub(super) prefix: String,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Draw the latencies as SVG.
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ConnectArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// How many connections to open.
    #[arg(long, default_value_t = 1_000)]
    pub(super) connections: u32,
}

#[derive(Args, Clone, Debug)]
pub(super) struct IdleArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// How many connections to hold at the end.
    #[arg(long, default_value_t = 18_000)]
    pub(super) connections: u32,
    /// How many to hold when memory is read first; the slope leaves the fixed part out.
    #[arg(long, default_value_t = 2_000)]
    pub(super) first: u32,
    /// Each client subscribes to a 20-byte filter of its own.
    #[arg(long)]
    pub(super) subscribe: bool,
    /// Seconds to wait before memory is read.
    #[arg(long, default_value_t = 3)]
    pub(super) settle: u16,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ChurnArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Clients that connect and disconnect side by side.
    #[arg(long, default_value_t = 50)]
    pub(super) clients: u32,
    #[command(flatten)]
    pub(super) time: Time,
}

/// How long a load runs.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Time {
    /// Seconds to measure.
    #[arg(long, default_value_t = 10)]
    pub(super) seconds: u32,
    /// Seconds before measuring begins.
    #[arg(long, default_value_t = 2)]
    pub(super) warm_up: u32,
}

/// What is published, and how.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Messages {
    /// QoS of publishes and subscriptions.
    #[arg(long, default_value = "0", value_parser = parse_qos)]
    pub(super) qos: Qos,
    /// Bytes of a payload; the first 16 carry a time stamp and a number.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=67_108_864))]
    pub(super) payload: u32,
    /// Messages per second of all publishers together; without it, as many as the window lets through.
    #[arg(long)]
    pub(super) rate: Option<u32>,
    /// Messages a publisher may have under way: unacknowledged at QoS 1 and 2, not yet delivered at QoS
    /// 0. 0 is no limit at QoS 0.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(0..=65_000))]
    pub(super) window: u16,
}

/// Messages to receivers that are there, for some time.
#[derive(Args, Clone, Debug)]
pub(super) struct Traffic {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(flatten)]
    pub(super) messages: Messages,
    #[command(flatten)]
    pub(super) time: Time,
}

#[derive(Args, Clone, Debug)]
pub(super) struct FanoutArgs {
    #[command(flatten)]
    pub(super) traffic: Traffic,
    /// Publishers.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) publishers: u32,
    /// Subscribers.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) subscribers: u32,
    /// Topics, with an equal part of the subscribers each; every publisher takes them in turn.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) topics: u32,
}

#[derive(Args, Clone, Debug)]
pub(super) struct P2pArgs {
    #[command(flatten)]
    pub(super) traffic: Traffic,
    /// Pairs.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) pairs: u32,
}

#[derive(Args, Clone, Debug)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Durable clients that are away.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) clients: u32,
    /// Publishers, QoS 1. A server that takes few unacknowledged publishes from each needs more of them
    /// to fill the window.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) publishers: u32,
    /// Unacknowledged publishes, all publishers together.
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u16).range(1..=65_000))]
    pub(super) window: u16,
    /// Messages to publish; each goes to one of the clients in turn.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) messages: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=67_108_864))]
    pub(super) payload: u32,
    /// Which part to run; with a server killed in between, `publish` then `drain` counts what was lost.
    #[arg(long, value_enum, default_value_t = Part::All)]
    pub(super) part: Part,
    /// Seconds without a message after which draining ends.
    #[arg(long, default_value_t = 5)]
    pub(super) patience: u16,
}

#[derive(Args, Clone, Debug)]
pub(super) struct FailoverArgs {
    #[command(flatten)]
    pub(super) common: Common,
    /// Process id of the first --server; it is killed (-9).
    #[arg(long, value_name = "PID")]
    pub(super) kill: u32,
    /// Durable clients, connected, with a topic each.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) sessions: u32,
    /// Publishers, QoS 1, one message under way each.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) publishers: u32,
    /// Messages per second of all publishers together.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rate: u32,
    /// Bytes of a payload.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..=67_108_864))]
    pub(super) payload: u32,
    /// Seconds of load before the kill.
    #[arg(long, default_value_t = 5)]
    pub(super) warm_up: u32,
    /// Seconds after which waiting for recovery ends.
    #[arg(long, default_value_t = 60)]
    pub(super) patience: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Part {
    /// Publish, then drain, then remove the sessions.
    All,
    /// Create the sessions and publish.
    Publish,
    /// Drain, then remove the sessions.
    Drain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Protocol {
    /// MQTT 3.1.1
    #[value(name = "3.1.1", alias = "4")]
    V4,
    /// MQTT 5.0
    #[value(name = "5")]
    V5,
}

impl Common {
    /// The codec of the version asked for.
    pub(super) fn client(&self) -> Client {
        match self.protocol {
            Protocol::V4 => Client::V4,
            Protocol::V5 => Client::V5,
        }
    }

    /// Finds the addresses of the servers, at least one.
    pub(super) fn addresses(&self) -> anyhow::Result<Vec<SocketAddr>> {
        self.names().iter().map(|name| address_of(name)).collect()
    }

    /// Names the servers, for people.
    pub(super) fn names(&self) -> Vec<String> {
        if self.servers.is_empty() {
            return vec![format!("{}:{}", self.host, self.port)];
        }
        self.servers.clone()
    }
}

fn address_of(name: &str) -> anyhow::Result<SocketAddr> {
    let unknown = || format!("no address for {name}");
    name.to_socket_addrs().with_context(unknown)?.next().with_context(unknown)
}

/// Local addresses to connect from.
#[derive(Clone, Debug)]
pub(super) struct Sources(Vec<Ipv4Addr>);

impl Sources {
    /// The address of the `index`th connection.
    pub(super) fn address(&self, index: u32) -> IpAddr {
        let index = usize::try_from(index).unwrap_or(0);
        IpAddr::V4(self.0[index % self.0.len()])
    }
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| part.parse::<Ipv4Addr>().map_err(|error| error.to_string());
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let (first, last) = (u32::from(parse(first)?), u32::from(parse(last)?));
        if first > last || last - first > 4_095 {
            return Err("the range is empty or has more than 4,096 addresses".to_owned());
        }
        Ok(Self((first..=last).map(Ipv4Addr::from).collect()))
    }
}

fn parse_qos(text: &str) -> Result<Qos, String> {
    match text {
        "0" => Ok(Qos::AtMostOnce),
        "1" => Ok(Qos::AtLeastOnce),
        "2" => Ok(Qos::ExactlyOnce),
        _ => Err("QoS is 0, 1 or 2".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::Sources;

    #[test]
    fn sources_when_a_range_then_used_in_turn() {
        let sources: Sources = "127.0.0.2..127.0.0.4".parse().unwrap();
        let used: Vec<String> = (0..4).map(|index| sources.address(index).to_string()).collect();
        assert_eq!(used, ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.2"]);
        assert!("127.0.0.4..127.0.0.2".parse::<Sources>().is_err());
        assert!("127.0.0.1..128.0.0.1".parse::<Sources>().is_err());
    }
}
