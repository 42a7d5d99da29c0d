//! The actors: who owns what, and who may message whom.
//!
//! | actor | how many | owns | takes from | gives to |
//! |---|---|---|---|---|
//! | `connection::Connection` | one per socket | its session | hub, home (replies), appender (replies) | router, home, appender |
//! | `topic_router::TopicRouter` | one per worker thread (and one per hot topic) | filters and local subscribers | connections, other routers | links of its thread |
//! | `hub::Hub` | one per worker thread | nothing: finds connections by id | homes, server | connections |
//! | `home::Home` | one per shard, acts where the shard is led | register of online sessions of all nodes | connections, shard facts | hubs, appender |
//! | `upkeep::Upkeep` | one per shard, acts where the shard is led | the round under way | home, its timer | appender, publish, home, groups, routers |
//! | `groups::Groups` | one per worker thread | shared groups and their members | connections, publishers, upkeeps | routers, appender |
//! | `appender::Appender` | one per worker thread | commands on their way to shards | connections, homes | cluster |
//!
//! Nodes ask each other through `peer`: a question of a peer goes into the mailbox of the actor that owns the
//! matter, as if it came from this node.
//!
//! A worker thread is an actix arbiter. Everything of a connection lives on one worker; deliveries
//! are written directly to the links of the router's own thread (rule 6).

pub mod socket;
pub mod memory_socket;
pub mod counters;
pub mod outbox;
pub mod wheel;
pub mod link;
pub mod context;
pub mod table;
pub mod worker;
pub mod flusher;
pub mod interest;
pub mod subscribers;
pub mod topic_router;
#[cfg(test)]
pub(crate) mod testing;
pub mod view;
pub mod hub;
pub mod peer;
pub mod home;
pub mod upkeep;
pub mod facts;
pub mod route_tables;
pub mod route_book;
pub mod meta;
pub mod live_routes;
pub mod durable_routes;
pub mod groups;
pub mod quota_ledger;
pub mod suback_barrier;
pub mod cluster_port;
pub mod relay;
pub mod publish;
pub mod redispatch;
pub mod retained;
pub mod appender;
pub mod line;
mod beginnings;
pub mod connection;
mod durable_reader;
mod release_order;
#[doc(hidden)]
pub mod doors;
