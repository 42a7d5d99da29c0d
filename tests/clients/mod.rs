//! Real foreign clients.

mod websocket;
mod scripts;
mod mosquitto;
mod rumqttc;
