//! From CONNECT to CONNACK: terms, who the client is, the claim of the session.
//!
//! - Owns: the packet while it is being answered. Takes: CONNECT and the replies to it.
//! - Gives: CONNACK, an installed durable session. CONNACK comes after a takeover is finished.
//! - Bound: nothing else of the client is decoded meanwhile; `connect_secs` of the worker's wheel.
//! - Source: MQTT 5.0 sections 3.1.4, 3.2; SESSION-TRUE, FENCED.

use crate::{
    actors::{
        durable_reader::DurableReader,
        home::{Claim, ClaimError},
        link::ClientTerms,
    },
    auth::{Credentials, Principal, Verdict},
    clock,
    model::{
        id::{Epoch, SessionKey},
        message::Message,
        reason::Reason,
        session::{
            admission::{self, Ending, Terms},
            intake::Intake,
        },
        wire::{Connect, Outbound, Will},
    },
    shard::command::{Claimed, StoredWill},
};

use super::{Connection, Event, Phase, Stop, flag};

/// A CONNECT that is being answered.
#[derive(Debug)]
pub(super) struct Connecting {
    connect: Connect,
    terms: Terms,
    session: SessionKey,
    session_present: bool,
}

impl Connection {
    pub(super) fn on_connect(&mut self, mut connect: Box<Connect>) {
        self.link.set_dialect(connect.dialect);
        self.phase = Phase::Connecting;
        let terms = match admission::admit(&connect, &self.listener.offer, fresh_client_id) {
            Ok(terms) => terms,
            Err(reason) => return self.refuse((reason, "CONNECT is not acceptable")),
        };
        self.assign(flag::EXPIRY_ASKED, terms.expiry_asked);
        let credentials =
            Credentials { user_name: connect.user_name.take(), password: connect.password.take() };
        let session = SessionKey(0);
        let connecting = Connecting { connect: *connect, terms, session, session_present: false };
        self.rare().connecting = Some(Box::new(connecting));
        match self.backend.authenticate(&self.listener.admission, credentials) {
            Verdict::Now(principal) => self.on_principal(principal),
            Verdict::Later(answer) => {
                self.works.push(async move { Event::Authenticated(answer.await) });
            }
        }
    }

    pub(super) fn on_principal(&mut self, principal: Result<Principal, Reason>) {
        if self.phase != Phase::Connecting {
            return;
        }
        let principal = match principal {
            Ok(principal) => principal,
            Err(reason) => return self.refuse((reason, "not let in")),
        };
        self.app = principal.app;
        let Some(connecting) = self.rare.as_mut().and_then(|rare| rare.connecting.as_mut()) else {
            return;
        };
        let terms = &connecting.terms;
        let session = self.backend.session_key(principal.app, &terms.client_id);
        connecting.session = session;
        let will = connecting.connect.will.take().map(|will| {
            let (delay_secs, expiry_secs) = (will.delay_secs, will.expiry_secs);
            let message = will_message(will, principal.app, session);
            Box::new(StoredWill { message, delay_secs, expiry_secs })
        });
        let claim = Claim {
            key: session,
            app: principal.app,
            client_id: terms.client_id.clone(),
            clean_start: terms.clean_start,
            expiry_secs: terms.expiry_secs,
            will,
            connection: self.link.id(),
        };
        self.flags |= flag::CLAIMED | flag::CLAIMING;
        let claimed = self.backend.claim(claim);
        self.works.push(async move { Event::Claimed(claimed.await) });
    }

    pub(super) fn on_claimed(&mut self, claimed: Result<Box<Claimed>, ClaimError>) {
        self.assign(flag::CLAIMING, false);
        let claimed = match claimed {
            Ok(claimed) => claimed,
            Err(error) => {
                self.assign(flag::CLAIMED, false);
                let reason = match error {
                    ClaimError::Unavailable | ClaimError::Moved { .. } => Reason::ServerUnavailable,
                    ClaimError::Busy => Reason::ServerBusy,
                };
                return self.refuse((reason, "the session cannot be claimed now"));
            }
        };
        let Some(mut connecting) = self.rare().connecting.take() else { return };
        connecting.session_present = claimed.session_present && !connecting.terms.clean_start;
        self.adopt(&mut connecting, &claimed);
        self.rare().connecting = Some(connecting);
        if self.phase != Phase::Connecting {
            // The socket ended while we waited; the session is ours now and must be given back.
            return self.release();
        }
        if claimed.subscriptions.is_empty() {
            return self.accept();
        }
        let shared = claimed.subscriptions.iter();
        let shared = shared.filter_map(|item| Some((item.share.clone()?, item.filter.clone())));
        self.rare().shared = shared.collect();
        let installed =
            self.backend.subscribe(self.subscriber(), claimed.subscriptions, 0, u32::MAX);
        self.works.push(async move {
            installed.await;
            Event::Installed
        });
    }

    /// Takes the claimed session over.
    fn adopt(&mut self, connecting: &mut Connecting, claimed: &Claimed) {
        let Connecting { connect, terms, session, .. } = connecting;
        let durable = claimed.epoch != Epoch::default();
        self.link.connect(&ClientTerms {
            dialect: connect.dialect,
            session: *session,
            durable,
            receive_maximum: connect.receive_maximum,
            packet_bytes_max: connect.packet_bytes_max.map_or(u32::MAX, |max| max.get()),
            topic_alias_maximum: connect.topic_alias_maximum,
            keep_alive_secs: terms.keep_alive_secs,
        });
        self.client_id = terms.client_id.clone().into_boxed_str();
        if claimed.will != Epoch::default() {
            self.rare().will = Some(claimed.will);
        }
        if durable {
            let reader = DurableReader::new(*session, connect.receive_maximum, claimed);
            self.durable = Some(Box::new(reader));
            if !claimed.incoming.is_empty() {
                let ids = claimed.incoming.iter().map(|(packet_id, _)| *packet_id).collect();
                self.intake = Some(Box::new(Intake::resume(ids)));
            }
        }
    }

    /// Lets the client in.
    pub(super) fn accept(&mut self) {
        let Some(connecting) = self.rare().connecting.take() else { return };
        let Connecting { connect, terms, session_present, .. } = *connecting;
        let connack = terms.connack(&connect, &self.listener.offer, session_present);
        if !self.link.send(&Outbound::Connack(Box::new(connack))) {
            // It takes no packet of that size (MQTT-3.1.2-24), so it cannot be told anything.
            return self.end(None, Ending::default());
        }
        self.phase = Phase::Open;
        tracing::debug!(
            client = %self.client_id, app = self.app.0, session_present,
            durable = self.durable.is_some(), listener = %self.listener.name, "connected"
        );
        if !self.has(flag::HELD) {
            self.drop_rare();
        }
    }

    /// Tells the client why it is not let in, as far as its dialect can, and closes.
    pub(super) fn refuse(&mut self, (reason, detail): Stop) {
        if self.phase >= Phase::Ending {
            return self.end(None, Ending::default());
        }
        let connack = admission::refusal(reason, Some(detail));
        self.link.send(&Outbound::Connack(Box::new(connack)));
        tracing::debug!(
            connection = ?self.link.id(), peer = ?self.link.socket().peer(), ?reason, detail,
            listener = %self.listener.name, "connect refused"
        );
        self.end(None, Ending::default());
    }
}

/// Makes a client id for a client without one.
fn fresh_client_id() -> String {
    format!("auto-{:032x}", rand::random::<u128>())
}

/// Turns a will into the message that will be published; time and expiry are set when it is.
fn will_message(will: Will, app: crate::model::id::AppId, session: SessionKey) -> Message {
    let now_ms = clock::wall_ms();
    Message {
        app,
        topic: will.topic,
        publisher: Some(session),
        id: None,
        qos: will.qos,
        retain: will.retain,
        published_at_ms: now_ms,
        expires_at_ms: will.expiry_secs.map(|secs| now_ms + u64::from(secs) * 1_000),
        properties: will.properties,
        payload: will.payload,
    }
}
