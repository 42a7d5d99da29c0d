//! What the tests share: a real server process, clients with control over each packet, patience.

pub(crate) mod wait;
pub(crate) mod property;
pub(crate) mod packet;
pub(crate) mod wire;
pub(crate) mod ws_client;
pub(crate) mod http_client;
pub(crate) mod dial;
pub(crate) mod mqtt_client;
pub(crate) mod half_done;
pub(crate) mod process;
pub(crate) mod node;
pub(crate) mod cluster;
pub(crate) mod broker;
