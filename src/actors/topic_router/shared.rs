//! The router's part in shared subscriptions: a share is written to one link.
//!
//! - Takes: `DeliverTo` of the group's home, `Offer` of the mover of orphans. Gives: frames to the member's
//!   link, or the share back to the home when the member is gone.
//! - Bound: a member whose window is full gets nothing while another has room. Of an `Offer` no more is taken than the client has room for.

use std::{num::NonZeroU32, sync::Arc};

use actix::{Context, Handler, MessageResult};

use super::TopicRouter;
use crate::{
    actors::{
        groups::{DeliverTo, GivenBack, Gone, GroupKey, Member, Offer},
        link::{AnyLink, Terms, live::Share},
        worker::Worker,
    },
    clock, limits,
    model::{connection_id::ConnectionId, message::Message},
};

impl Handler<DeliverTo> for TopicRouter {
    type Result = MessageResult<DeliverTo>;

    fn handle(&mut self, deliver: DeliverTo, _ctx: &mut Context<Self>) -> Self::Result {
        let DeliverTo { group, member, connection, mut messages, forced } = deliver;
        let Some(link) = self.worker.find(connection).filter(|link| !link.is_closing()) else {
            // Without it a group whose last member is gone would send the messages round for ever.
            self.say_gone(group, member, connection);
            let homes = self.worker.groups();
            if let Some(home) = homes.get(group.home(homes.len())) {
                actix_rt::spawn(home.send(GivenBack { group, messages }));
            }
            return MessageResult(Vec::new());
        };
        let now_ms = clock::wall_ms();
        let taken = messages.iter().take_while(|message| {
            let has_room = forced || link.has_room_for_share(message.qos.min(member.options.qos));
            if has_room {
                write_share(&self.worker, &link, (group, member), message, now_ms);
            }
            has_room
        });
        let taken = taken.count();
        messages.drain(..taken);
        MessageResult(messages)
    }
}

impl Handler<Offer> for TopicRouter {
    type Result = usize;

    fn handle(&mut self, offer: Offer, _ctx: &mut Context<Self>) -> Self::Result {
        let Offer { group, member, connection, messages } = offer;
        let Some(link) = self.worker.find(connection) else {
            self.say_gone(group, member, connection);
            return 0;
        };
        let now_ms = clock::wall_ms();
        let mut taken = 0;
        for message in messages {
            let (_, waiting) = link.live_deliveries();
            let room = waiting == 0 && link.outbox_bytes() < limits::RETAINED_OUTBOX_BYTES;
            if !room || link.is_closing() {
                break;
            }
            write_share(&self.worker, &link, (group, member), &message, now_ms);
            taken += 1;
        }
        taken
    }
}

impl TopicRouter {
    fn say_gone(&self, group: GroupKey, member: Member, connection: ConnectionId) {
        let homes = self.worker.groups();
        if let Some(home) = homes.get(group.home(homes.len())) {
            actix_rt::spawn(home.send(Gone { group, who: member.key, connection }));
        }
    }
}

fn write_share(
    worker: &Worker,
    link: &AnyLink,
    (group, member): (GroupKey, Member),
    message: &Arc<Message>,
    now_ms: u64,
) {
    let id = NonZeroU32::new(member.subscription_id);
    let terms = Terms {
        qos: message.qos.min(member.options.qos),
        dup: false,
        retain: message.retain && member.options.retain_as_published,
        subscription_ids: id.as_slice(),
    };
    let share = Share { group, message: Arc::clone(message) };
    link.queue_share(worker, message, &terms, Some(share), now_ms);
}
