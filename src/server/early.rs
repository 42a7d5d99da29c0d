//! The HTTP ports of a node before it lets clients in: alive, not ready, and why.
//!
//! - Owns: tasks of this thread that accept on the sockets which the workers will have. Takes: bound sockets, and what
//!   the start waits for. Gives: `/healthz` 200, 503 with that reason else.
//! - Bound: that of a port (`PortSettings`) for each socket.

use std::{collections::HashMap, rc::Rc};

use actix_service::map_config;
use actix_web::dev::AppConfig;
use anyhow::Context as _;
use tokio::sync::watch;

use super::listeners::HttpBound;
use crate::{
    front::ws::port::{self, Phase, PortSettings},
    http,
};

/// See the file header. Ports end with it.
pub(super) struct Early {
    says: watch::Sender<&'static str>,
    phase: watch::Sender<Phase>,
}

impl Early {
    /// Begins to answer.
    ///
    /// # Errors
    /// The process has no descriptors left.
    pub(super) fn open(bound: &HttpBound, settings: PortSettings) -> anyhow::Result<Self> {
        let says = watch::Sender::new("the node is starting");
        // No client is let in: there is no endpoint that could serve it.
        let phase = watch::Sender::new(Phase::Away);
        for (name, bound) in bound {
            for socket in &bound.listeners {
                // The same socket: who comes while the workers take over waits in its queue.
                let socket = socket.try_clone().with_context(|| format!("listener {name}"))?;
                let app = map_config(http::starting(says.subscribe()), |_| AppConfig::default());
                let nobody = Rc::new(HashMap::new());
                let serve = port::serve(socket, app, nobody, settings, phase.subscribe());
                let name = name.clone();
                actix_rt::spawn(async move {
                    if let Err(error) = serve.await {
                        tracing::error!(listener = name, %error, "the HTTP port ended");
                    }
                });
            }
        }
        Ok(Self { says, phase })
    }

    /// Says what the start waits for.
    pub(super) fn waits_for(&self, what: &'static str) {
        self.says.send_replace(what);
    }

    /// Leaves the sockets to the workers. Who is connected already is answered here, once.
    pub(super) fn leave(&self) {
        self.phase.send_replace(Phase::Left);
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Ended);
    }
}
