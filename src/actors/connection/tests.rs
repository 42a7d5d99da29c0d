//! Connections over the in-memory socket against the real worker, router, groups, home, appender and
//! hub of one thread; the client's side of the codec speaks to them.

mod bench;
mod remote;
mod storage;
mod connect;
mod publish;
mod subscribe;
mod routes;
mod will;
mod durable;
mod durable_qos;
mod durable_will;
mod order;
mod abuse;
