//! Conformance with MQTT 3.1.1 and 5.0, one file per chapter, against one shared broker.

mod connect;
mod publish_qos;
mod subscribe;
mod unsubscribe;
mod retained;
mod will;
mod session;
mod flow;
mod alias;
mod shared;
mod order;
mod keepalive;
mod limits;
mod malformed;
mod malformed_connect;
mod v311;
mod websocket;
mod interop;
