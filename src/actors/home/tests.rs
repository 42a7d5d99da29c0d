//! Tests of the register: hubs and appender are doubles that write down what they are asked.

use std::{cell::RefCell, rc::Rc};

use actix::Addr;
use futures_util::future::join_all;

use super::*;

type Log = Rc<RefCell<Vec<String>>>;

/// A hub, an appender and an upkeep in one.
struct Double {
    log: Log,
    epoch: u64,
    /// Released by the connection when it is kicked.
    home: Option<Addr<Home>>,
}

impl Actor for Double {
    type Context = Context<Self>;
}

impl Handler<Kick> for Double {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, kick: Kick, _: &mut Self::Context) -> Self::Result {
        self.log.borrow_mut().push(format!("kick {:?}", kick.connection));
        let (home, log) = (self.home.clone(), Rc::clone(&self.log));
        Box::pin(async move {
            let Some(home) = home else { return std::future::pending().await };
            home.send(release(kick.connection)).await.unwrap();
            log.borrow_mut().push("released".to_owned());
        })
    }
}

impl Handler<SessionsGrew> for Double {
    type Result = ();

    fn handle(&mut self, grew: SessionsGrew, _: &mut Self::Context) {
        self.log.borrow_mut().push(format!("grew {:?}", grew.connections));
    }
}

impl Handler<Look> for Double {
    type Result = ();

    fn handle(&mut self, _: Look, _: &mut Self::Context) {}
}

impl Handler<Submit> for Double {
    type Result = Result<Reply, SubmitError>;

    fn handle(&mut self, submit: Submit, _: &mut Self::Context) -> Self::Result {
        match submit.command {
            Command::Claim { holder, .. } => {
                self.epoch += 1;
                let id = ConnectionId::from_u64(holder.connection);
                self.log.borrow_mut().push(format!("claim {id:?}"));
                let epoch = Epoch(self.epoch);
                Ok(Reply::Claimed(Box::new(Claimed { epoch, ..Claimed::default() })))
            }
            Command::Release { .. } => {
                self.log.borrow_mut().push("release".to_owned());
                Ok(Reply::Done)
            }
            _ => Err(SubmitError::Unknown),
        }
    }
}

/// Sets the home that a kicked connection releases to.
#[derive(Message)]
#[rtype(result = "()")]
struct SetHome(Addr<Home>);

impl Handler<SetHome> for Double {
    type Result = ();

    fn handle(&mut self, set: SetHome, _: &mut Self::Context) {
        self.home = Some(set.0);
    }
}

const KEY: SessionKey = SessionKey(5);

fn connection(slot: u32) -> ConnectionId {
    ConnectionId::new(0, 1, slot)
}

fn claim(slot: u32, expiry_secs: u32) -> Claim {
    Claim {
        key: KEY,
        app: AppId(1),
        client_id: "c".to_owned(),
        clean_start: expiry_secs == 0,
        expiry_secs,
        will: None,
        connection: connection(slot),
    }
}

fn release(connection: ConnectionId) -> Release {
    Release {
        key: KEY,
        connection,
        epoch: Epoch(1),
        expiry_secs: None,
        will_dropped: false,
        inflight: Vec::new(),
    }
}

fn start() -> (Addr<Home>, Addr<Double>, Arc<News>, Log) {
    let log = Log::default();
    let double = Double { log: Rc::clone(&log), epoch: 0, home: None }.start();
    let neighbours = Neighbours {
        kick: vec![double.clone().recipient()],
        grew: vec![double.clone().recipient()],
        submit: double.clone().recipient(),
        look: double.clone().recipient(),
        groups: Vec::new(),
    };
    let news = Arc::<News>::default();
    let home = Home::new(ShardId(0), (1, 1), [], neighbours, Arc::clone(&news)).start();
    (home, double, news, log)
}

#[actix::test]
async fn claim_when_nothing_is_durable_commits_nothing() {
    let (home, _, _, log) = start();
    let claimed = home.send(claim(1, 0)).await.unwrap().unwrap();
    assert_eq!((claimed.epoch, claimed.session_present), (Epoch(0), false));
    assert!(log.borrow().is_empty());
    assert_eq!(home.send(WhoIs(KEY)).await.unwrap(), Some(connection(1)));
}

#[actix::test]
async fn claim_when_another_holds_the_session_waits_for_its_release() {
    let (home, double, _, log) = start();
    double.send(SetHome(home.clone())).await.unwrap();
    home.send(claim(1, 60)).await.unwrap().unwrap();
    home.send(claim(2, 60)).await.unwrap().unwrap();
    let want = ["claim c0.1.1", "kick c0.1.1", "release", "released", "claim c0.2.1"];
    assert_eq!(*log.borrow(), want);
    assert_eq!(home.send(WhoIs(KEY)).await.unwrap(), Some(connection(2)));
}

#[actix::test]
async fn claims_when_at_the_same_moment_follow_each_other_and_one_remains() {
    let (home, double, _, log) = start();
    double.send(SetHome(home.clone())).await.unwrap();
    let claims = join_all((1..=4).map(|slot| home.send(claim(slot, 60)))).await;
    assert!(claims.into_iter().all(|claimed| claimed.unwrap().is_ok()));
    let claims = log.borrow().iter().filter(|line| line.starts_with("claim")).count();
    let kicks = log.borrow().iter().filter(|line| line.starts_with("kick")).count();
    assert_eq!((claims, kicks), (4, 3));
}

#[actix::test]
async fn claims_beyond_the_limit_are_busy() {
    let (home, _, _, _) = start();
    home.send(claim(1, 0)).await.unwrap().unwrap();
    // The double never answers a kick without a home, so the first of these waits 2 s.
    let count = u32::try_from(limits::CLAIMS_WAITING_MAX).unwrap() + 2;
    let claims: Vec<_> = (2..2 + count).map(|slot| home.send(claim(slot, 0))).collect();
    let last = claims.into_iter().next_back().unwrap().await.unwrap();
    assert_eq!(last.unwrap_err(), ClaimError::Busy);
}

#[actix::test]
async fn release_by_an_older_connection_keeps_the_newer_one() {
    let (home, double, _, _) = start();
    double.send(SetHome(home.clone())).await.unwrap();
    home.send(claim(1, 60)).await.unwrap().unwrap();
    home.send(claim(2, 60)).await.unwrap().unwrap();
    home.send(release(connection(1))).await.unwrap();
    assert_eq!(home.send(WhoIs(KEY)).await.unwrap(), Some(connection(2)));
}

#[actix::test]
async fn news_of_an_online_session_reaches_its_hub() {
    let (home, _, news, log) = start();
    home.send(claim(7, 60)).await.unwrap().unwrap();
    news.add([KEY, SessionKey(99)]);
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(log.borrow().last().unwrap(), "grew [c0.7.1]");
}
