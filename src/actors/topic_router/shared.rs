//! The router's part in shared subscriptions: a share is written to one link.
//!
//! - Takes: `DeliverTo` of the group's home. Gives: frames to the member's link, or the share back to
//!   the home when the member is gone.

use std::{num::NonZeroU32, sync::Arc};

use actix::{Context, Handler};

use super::TopicRouter;
use crate::{
    actors::{
        groups::{DeliverTo, Dispatch},
        link::{Terms, live::Share},
    },
    clock,
};

impl Handler<DeliverTo> for TopicRouter {
    type Result = ();

    fn handle(&mut self, deliver: DeliverTo, _ctx: &mut Context<Self>) {
        let DeliverTo { group, member, connection, messages } = deliver;
        let Some(link) = self.worker.find(connection).filter(|link| !link.is_closing()) else {
            let homes = self.worker.groups();
            if let Some(home) = homes.get(group.home(homes.len())) {
                actix_rt::spawn(home.send(Dispatch { group, messages }));
            }
            return;
        };
        let now_ms = clock::wall_ms();
        let id = NonZeroU32::new(member.subscription_id);
        for message in messages {
            let terms = Terms {
                qos: message.qos.min(member.options.qos),
                dup: false,
                retain: message.retain && member.options.retain_as_published,
                subscription_ids: id.as_slice(),
            };
            let share = Share { group, message: Arc::clone(&message) };
            link.queue_share(&self.worker, &message, &terms, Some(share), now_ms);
        }
    }
}
