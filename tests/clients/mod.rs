//! Real foreign clients.

mod websocket;
