//! Binds the configured listeners and gives each worker its part of them.
//!
//! - Owns: nothing that stays. Takes: validated configuration. Gives: bound sockets; accepted ones go to
//!   `connection::start` on their worker.
//! - Bound: `connections_max` of each listener.

use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroU32},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::Arbiter;
use actix_service::map_config;
use actix_web::dev::AppConfig;
use anyhow::Context as _;
use tokio::sync::watch;

use super::{apps::Apps, workers::on};
use crate::{
    actors::{
        connection::{self, options::ListenerOptions},
        worker::LinkLimits,
    },
    auth::Admission,
    config::{Config, Listener, ListenerKind},
    data_folder::Listening,
    front::{
        transport::{self, Bound},
        ws::{
            self,
            port::{self, Phase, PortSettings},
        },
    },
    http::{self, HttpState},
    limits,
    model::{message::Qos, session::admission::Offer, wire::DecodeLimits},
};

/// One listener, bound, with what its connections may use.
pub(super) struct Prepared {
    name: String,
    listener: Listener,
    bound: Bound,
    options: Arc<ListenerOptions>,
}

/// Sockets of the HTTP listeners, by their names.
pub(super) type HttpBound = BTreeMap<String, Bound>;

/// Binds the HTTP listeners, which answer probes before there is anything else.
pub(super) fn bind_http(config: &Config, workers: usize) -> anyhow::Result<HttpBound> {
    let http = config.listeners_enabled().filter(|(_, of)| of.kind == ListenerKind::Http);
    http.map(|(name, listener)| Ok((name.to_owned(), bind_one(name, listener, workers)?))).collect()
}

fn bind_one(name: &str, listener: &Listener, workers: usize) -> anyhow::Result<Bound> {
    transport::bind(listener.address, workers).with_context(|| format!("listener {name}"))
}

/// Binds every other enabled listener; nothing accepts yet. Clients that come are kept waiting from here on, so that
/// this is done last.
pub(super) fn bind(
    config: &Config,
    apps: &Apps,
    workers: usize,
    mut http: HttpBound,
) -> anyhow::Result<Vec<Prepared>> {
    let mut prepared = Vec::new();
    for (index, (name, listener)) in config.listeners_enabled().enumerate() {
        let app = apps.get(&listener.app).context("the app of a listener was not created")?;
        let admission = Admission {
            app_name: listener.app.as_str().into(),
            app,
            anonymous: config.allows_anonymous(listener),
        };
        let bound = match http.remove(name) {
            Some(bound) => bound,
            None => bind_one(name, listener, workers)?,
        };
        let limits = &listener.limits;
        let options = ListenerOptions::new(
            name,
            admission,
            (offer(listener), decode_limits(listener)),
            limits.connections_max,
            limits.inbound_bytes_max as usize,
            limits.filters_per_session_max,
        )
        .at(u8::try_from(index).context("too many listeners")?);
        let (name, listener) = (name.to_owned(), listener.clone());
        prepared.push(Prepared { name, listener, bound, options: Arc::new(options) });
    }
    Ok(prepared)
}

/// Limits of links, in the order of the listeners.
pub(super) fn link_limits(config: &Config) -> Vec<LinkLimits> {
    let of = |(_, listener): (_, &Listener)| {
        let limits = &listener.limits;
        LinkLimits {
            outbox_messages_max: limits.outbound_messages_max.get(),
            outbox_bytes_max: limits.outbound_bytes_max,
            pending_messages_max: limits.outbound_messages_max.get(),
            pending_bytes_max: limits.outbound_bytes_max,
            topic_aliases_max: limits.topic_alias_max,
            connect_secs: whole_secs(limits.connect_timeout),
            ..LinkLimits::DEFAULT
        }
    };
    config.listeners_enabled().map(of).collect()
}

/// Where each listener listens, by its name.
pub(super) fn listening(prepared: &[Prepared]) -> Listening {
    let of = |each: &Prepared| (each.name.clone(), vec![each.bound.address]);
    prepared.iter().map(of).collect::<BTreeMap<_, _>>()
}

/// Begins to accept on every worker: MQTT until clients are sent away, HTTP until the end.
pub(super) async fn accept(
    prepared: Vec<Prepared>,
    arbiters: &[Arbiter],
    http_state: &HttpState,
    settings: PortSettings,
    phase: &watch::Receiver<Phase>,
) -> anyhow::Result<()> {
    for Prepared { name, listener, bound, options } in prepared {
        for (arbiter, socket) in arbiters.iter().zip(bound.listeners) {
            let (options, phase) = (Arc::clone(&options), phase.clone());
            match listener.kind {
                ListenerKind::Mqtt => {
                    on(arbiter, move || accept_mqtt(socket, &options, phase)).await??;
                }
                ListenerKind::Http => {
                    let (state, listener) = (http_state.clone(), listener.clone());
                    let name = name.clone();
                    let serve = move || {
                        serve_http(name, socket, state, &listener, &options, settings, phase);
                    };
                    on(arbiter, serve).await?;
                }
            }
        }
    }
    Ok(())
}

fn accept_mqtt(
    socket: std::net::TcpListener,
    options: &Arc<ListenerOptions>,
    mut phase: watch::Receiver<Phase>,
) -> std::io::Result<()> {
    let options = Arc::clone(options);
    let accepting = transport::accept(socket, move |stream| connection::start(stream, &options))?;
    actix_rt::spawn(async move {
        let _ = phase.wait_for(|phase| *phase > Phase::Open).await;
        accepting.abort();
    });
    Ok(())
}

fn serve_http(
    name: String,
    socket: std::net::TcpListener,
    state: HttpState,
    listener: &Listener,
    options: &Arc<ListenerOptions>,
    settings: PortSettings,
    phase: watch::Receiver<Phase>,
) {
    let endpoints = ws::mqtt::endpoints(listener, options);
    let app = map_config(http::app(state), |_| AppConfig::default());
    let serve = port::serve(socket, app, Rc::new(endpoints), settings, phase);
    actix_rt::spawn(async move {
        if let Err(error) = serve.await {
            tracing::error!(listener = name, %error, "the HTTP port ended");
        }
    });
}

fn offer(listener: &Listener) -> Offer {
    let limits = &listener.limits;
    Offer {
        receive_maximum: limits.receive_maximum,
        packet_bytes_max: NonZeroU32::new(limits.packet_bytes_max).unwrap_or(NonZeroU32::MAX),
        topic_alias_maximum: limits.topic_alias_max,
        keep_alive_secs_max: limits.keep_alive_max_secs().map_or(0, NonZeroU16::get),
        session_expiry_secs_max: u32::try_from(limits.session_expiry_max.as_secs())
            .unwrap_or(u32::MAX),
        maximum_qos: Qos::ExactlyOnce,
        retain_available: true,
        client_id_bytes_max: limits::CLIENT_ID_BYTES_MAX,
    }
}

fn decode_limits(listener: &Listener) -> DecodeLimits {
    let limits = &listener.limits;
    DecodeLimits {
        packet_bytes_max: limits.packet_bytes_max,
        topic_bytes_max: limits.topic_bytes_max,
        topic_levels_max: limits.topic_levels_max,
        filters_per_packet_max: limits.filters_per_packet_max,
        user_properties_max: limits.user_properties_max,
    }
}

fn whole_secs(duration: Duration) -> u16 {
    u16::try_from(duration.as_millis().div_ceil(1_000)).unwrap_or(u16::MAX)
}
