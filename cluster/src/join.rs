//! How a node comes into a cluster: who asks, and who answers.
//!
//! ```text
//! new node ── Ask ──▶ any member: cluster id, hash key, shards, peers      (a new folder is made of that)
//!          ── Enter ▶ the same, and an id for a node that has none, or the place of a member that is lost
//!          ── Add ──▶ any member: NodeUp in the directory ─▶ the meta leader adds it to the meta group
//! ```
//!
//! - Owns: the words of [`MemberKind::Join`]. Takes: requests of nodes that know the cluster's secret.
//! - Gives: what a new node needs; a clear refusal where an id is in use.
//! - Bound: messages of at most `CODEC.bytes_max`; an ask is repeated for `JOIN_TIMEOUT`.
//! - Source: own design. Version 1 is the first.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    clock,
    codec::Codec,
    desks::MemberKind,
    error::{ProposeError, StartError},
    id::{NodeId, ShardId},
    membership::{error::MemberError, handle::all_know},
    meta::{MetaCommand, MetaHandle, MetaReply, Refusal},
    raft_group::group::Group,
    storage::folder::format::{FORMAT, Format},
    transport::{Class, LinkError, Network, PeerService, Served},
};

const CODEC: Codec = Codec { version: 1, bytes_max: 1 << 20 };

/// A new node asks for this long, then its start fails.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it asks.
const JOIN_INTERVAL: Duration = Duration::from_millis(300);

/// A node that may make a cluster does so when nobody has had one for so many rounds.
const FOUND_ROUNDS: u32 = 5;

/// How long one question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Request {
    /// A node with an empty folder wants to become a member.
    Ask { node: NodeId },
    /// A node with this cluster's folder says that it is up.
    Add { up: MetaCommand },
    /// Does the leader of this group, if it is here, have just these voters?
    HasVoters { group: ShardId, voters: BTreeSet<NodeId> },
    /// As `Ask`, for a node that may have no id yet, and may take the place of a member that is lost.
    Enter { node: Option<NodeId>, replaces: Option<NodeId> },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Answer {
    Cluster(Admission),
    Added,
    /// Not now; another member, or this one later.
    NotYet(String),
    /// Never, as things are.
    Refused(String),
    HasVoters(bool),
    /// The node has been removed, for ever.
    Removed,
    /// A cluster, and the id of the new member.
    Entered {
        admission: Admission,
        node: NodeId,
    },
    /// The member of that id is another folder.
    OtherFolder,
}

/// What a new node learns of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Admission {
    cluster: [u8; 16],
    hash_key: [u8; 16],
    shards: u16,
    pub(crate) peers: Vec<(NodeId, String)>,
}

impl Admission {
    pub(crate) fn format(&self) -> Format {
        let Self { cluster, hash_key, shards, .. } = *self;
        Format { number: FORMAT, cluster, hash_key, shards, joined: true }
    }
}

/// Reads bytes as any message, for `crate::doors`.
pub(crate) fn read(bytes: &[u8]) {
    if let Some(request) = CODEC.decode::<Request>(bytes) {
        assert_eq!(CODEC.decode(&CODEC.encode(&request)), Some(request));
    }
    if let Some(answer) = CODEC.decode::<Answer>(bytes) {
        assert_eq!(CODEC.decode(&CODEC.encode(&answer)), Some(answer));
    }
}

fn question(request: &Request) -> Bytes {
    CODEC.encode_as(MemberKind::Join as u8, request)
}

/// Who asks to be let in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Applicant<'a> {
    /// Or `NONE`.
    pub(crate) node: NodeId,
    pub(crate) replaces: Option<NodeId>,
    /// See [`crate::Options::founds_with`].
    pub(crate) founds_with: Option<usize>,
    /// Names and addresses; behind a name may be many.
    pub(crate) addresses: &'a [String],
}

impl Applicant<'_> {
    fn request(&self) -> Request {
        match (self.node, self.replaces) {
            // In the words of the first release, as far as they go.
            (node, None) if node != NodeId::NONE => Request::Ask { node },
            (node, replaces) => {
                Request::Enter { node: (node != NodeId::NONE).then_some(node), replaces }
            }
        }
    }
}

/// What came of one round of asking.
enum Round {
    In(NodeId, Admission),
    /// Whoever was asked says no, and will not say anything else.
    Refused {
        address: String,
        reason: String,
    },
    /// Every address belongs to no cluster; so many there are.
    Nobody(usize),
    /// Nobody yet; the last reason.
    NotYet(String),
}

/// Asks each address in turn, until one lets this node in; `None`: there is no cluster, and this node is
/// to make one.
///
/// # Errors
/// `Join` at once when a member refuses for good, or when nobody lets it in for `JOIN_TIMEOUT`.
pub(crate) async fn ask(
    network: &dyn Network,
    who: Applicant<'_>,
) -> Result<Option<(NodeId, Admission)>, StartError> {
    let deadline = clock::now() + JOIN_TIMEOUT;
    let mut last = "nobody was asked".to_owned();
    let mut told = String::new();
    let mut nobody = 0;
    while clock::now() < deadline {
        match ask_all(network, &who).await {
            Round::In(node, admission) => return Ok(Some((node, admission))),
            Round::Refused { address, reason } => return Err(StartError::Join { address, reason }),
            Round::Nobody(count) if who.founds_with.is_some_and(|least| count >= least) => {
                nobody += 1;
                if nobody >= FOUND_ROUNDS {
                    return Ok(None);
                }
            }
            Round::Nobody(count) => {
                last = format!("none of {count} addresses belongs to a cluster yet");
            }
            Round::NotYet(why) => (last, nobody) = (why, 0),
        }
        if last != told {
            tracing::warn!(problem = %last, "no member lets this node in yet");
            told.clone_from(&last);
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    }
    Err(StartError::Join { address: who.addresses.join(", "), reason: last })
}

async fn ask_all(network: &dyn Network, who: &Applicant<'_>) -> Round {
    let (mut refused, mut not_yet, mut nobody) = (None, None, 0);
    for name in who.addresses {
        let addresses = network.resolve(name.clone()).await;
        if addresses.is_empty() {
            not_yet = Some(format!("{name}: the name has no address"));
        }
        for address in addresses {
            let told =
                if *name == address { address.clone() } else { format!("{name} ({address})") };
            match knock(network, &address, &who.request()).await {
                Ok(Answer::Cluster(admission)) => return Round::In(who.node, admission),
                Ok(Answer::Entered { admission, node }) => return Round::In(node, admission),
                Ok(Answer::Refused(reason)) => refused = Some((told, reason)),
                Ok(Answer::NotYet(why)) => not_yet = Some(format!("{told}: {why}")),
                Ok(_) => not_yet = Some(format!("{told}: the answer means nothing")),
                Err(LinkError::Denied(reason)) => refused = Some((told, reason)),
                Err(LinkError::NoCluster) => nobody += 1,
                Err(why) => not_yet = Some(format!("{told}: {why}")),
            }
        }
    }
    match (refused, not_yet) {
        (Some((address, reason)), _) => Round::Refused { address, reason },
        (None, Some(why)) => Round::NotYet(why),
        (None, None) => Round::Nobody(nobody),
    }
}

async fn knock(
    network: &dyn Network,
    address: &str,
    request: &Request,
) -> Result<Answer, LinkError> {
    let answer = network.knock(address.to_owned(), question(request), ASK_TIMEOUT).await?;
    CODEC.decode(&answer).ok_or_else(|| LinkError::Refused("the answer cannot be read".to_owned()))
}

/// What came of saying that this node is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    Yes,
    NotYet,
    /// It was removed from the cluster.
    Removed,
    /// The member of its id is another folder.
    OtherFolder,
}

/// Tells any of `addresses` that this node is up, until one of them has put it into the directory.
pub(crate) async fn add(network: &dyn Network, addresses: &[String], up: &MetaCommand) -> Added {
    for name in addresses {
        for address in network.resolve(name.clone()).await {
            match knock(network, &address, &Request::Add { up: up.clone() }).await {
                Ok(Answer::Added) => return Added::Yes,
                Ok(Answer::Removed) => return Added::Removed,
                Ok(Answer::OtherFolder) => return Added::OtherFolder,
                Ok(Answer::Refused(reason)) => {
                    tracing::error!(member = %address, %reason, "the cluster refuses this node");
                }
                Ok(_) => {}
                Err(why) => tracing::debug!(member = %address, %why, "not added yet"),
            }
        }
    }
    Added::NotYet
}

/// Answers them.
#[derive(Clone)]
pub(crate) struct JoinClerk {
    pub(crate) format: Format,
    pub(crate) meta: MetaHandle,
    pub(crate) groups: Vec<Arc<Group>>,
}

impl PeerService for JoinClerk {
    fn serve(&self, from: NodeId, _class: Class, body: Bytes) -> Served {
        let request: Option<Request> = CODEC.decode(&body);
        let answer: BoxFuture<'static, Answer> = match request {
            None => {
                tracing::warn!(from = from.0, "a request to join cannot be read");
                return Box::pin(std::future::ready(Err("it cannot be read".to_owned())));
            }
            Some(Request::Ask { node }) => Box::pin(std::future::ready(self.admit(node))),
            Some(Request::Enter { node, replaces }) => {
                let clerk = self.clone();
                Box::pin(async move { clerk.enter(node, replaces).await })
            }
            Some(Request::Add { up }) => Box::pin(put_up(self.meta.clone(), up)),
            Some(Request::HasVoters { group, voters }) => {
                let group = self.groups.get(usize::from(group.0));
                let here = group.filter(|group| group.lead.now().here);
                let has = here.is_some_and(|group| group.has_voters(&voters));
                Box::pin(std::future::ready(Answer::HasVoters(has)))
            }
        };
        Box::pin(async move { Ok(CODEC.encode(&answer.await)) })
    }
}

impl JoinClerk {
    /// Lets a node in that has no id yet, or that takes the place of another.
    async fn enter(&self, node: Option<NodeId>, replaces: Option<NodeId>) -> Answer {
        if self.meta.directory().nodes.is_empty() {
            return Answer::NotYet("it is no member itself yet".to_owned());
        }
        if let Err(old) = all_know(&self.meta.directory()) {
            return Answer::NotYet(old.to_string());
        }
        if let Some(gone) = replaces
            && let Some(no) = self.replace(gone).await
        {
            return no;
        }
        let node = match node {
            Some(node) => node,
            None => match self.meta.propose(MetaCommand::PromiseId).await {
                Ok((MetaReply::Promised(node), _)) => node,
                Ok((other, _)) => return Answer::Refused(format!("no id is left: {other:?}")),
                Err(why) => return Answer::NotYet(unwritten(why)),
            },
        };
        match self.admit(node) {
            Answer::Cluster(admission) => Answer::Entered { admission, node },
            other => other,
        }
    }

    /// Declares a member lost whose place is taken; gives why not.
    async fn replace(&self, gone: NodeId) -> Option<Answer> {
        let lost = MetaCommand::Leave { node: gone, lost: true };
        match self.meta.propose(lost).await {
            // A second try finds it removed.
            Ok((MetaReply::Done | MetaReply::Refused(Refusal::Removed), _)) => None,
            Ok((MetaReply::Refused(why), _)) => {
                let why = MemberError::of(why, gone, ShardId(0));
                Some(Answer::Refused(format!("node {} cannot be replaced: {why}", gone.0)))
            }
            Ok((other, _)) => Some(Answer::Refused(format!("the directory refuses it: {other:?}"))),
            Err(why) => Some(Answer::NotYet(unwritten(why))),
        }
    }

    fn admit(&self, node: NodeId) -> Answer {
        let directory = self.meta.directory();
        if directory.nodes.is_empty() {
            return Answer::NotYet("it is no member itself yet".to_owned());
        }
        if directory.removed.contains(&node) {
            let why = format!(
                "node id {} was removed from this cluster; take another id, or none",
                node.0
            );
            return Answer::Refused(why);
        }
        if let Some(member) = directory.nodes.get(&node) {
            return Answer::Refused(format!(
                "node id {} is the member at {}, whose data folder is another; take another id, or none, \
                 and replace that member if its data is lost",
                node.0, member.cluster_addr
            ));
        }
        let members = directory.nodes.iter();
        Answer::Cluster(Admission {
            cluster: self.format.cluster,
            hash_key: self.format.hash_key,
            shards: self.format.shards,
            peers: members.map(|(node, member)| (*node, member.cluster_addr.clone())).collect(),
        })
    }
}

fn unwritten(why: ProposeError) -> String {
    format!("the directory cannot be written: {why}")
}

async fn put_up(meta: MetaHandle, up: MetaCommand) -> Answer {
    let (MetaCommand::NodeUp { node, incarnation, cluster_addr, .. }
    | MetaCommand::NodeUpFrom { node, incarnation, cluster_addr, .. }) = &up
    else {
        return Answer::Refused("only a start can be announced".to_owned());
    };
    if let Some(member) = meta.directory().nodes.get(node)
        && member.incarnation == *incarnation
        && member.up
        && member.cluster_addr != *cluster_addr
    {
        let (id, address) = (node.0, &member.cluster_addr);
        return Answer::Refused(format!("node id {id} is in use by the node at {address}"));
    }
    match meta.propose(up).await {
        Ok((MetaReply::Done, _)) => Answer::Added,
        Ok((MetaReply::Refused(Refusal::OtherFolder), _)) => Answer::OtherFolder,
        Ok((MetaReply::Refused(Refusal::Removed), _)) => Answer::Removed,
        Ok((other, _)) => Answer::Refused(format!("the directory refuses it: {other:?}")),
        Err(why) => Answer::NotYet(unwritten(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_when_damaged_or_of_another_version_then_refused() {
        let request = Request::HasVoters { group: ShardId(3), voters: [NodeId(1)].into() };
        let body = question(&request);
        assert_eq!(body[0], MemberKind::Join as u8);
        assert_eq!(CODEC.decode(&body[1..]), Some(request));
        assert_eq!(CODEC.decode::<Request>(&body[1..body.len() - 1]), None);
        let mut newer = body[1..].to_vec();
        newer[0] = CODEC.version + 1;
        assert_eq!(CODEC.decode::<Request>(&newer), None);
        assert_eq!(CODEC.decode::<Request>(&[]), None);
    }

    #[test]
    #[ignore = "writes seeds for the fuzzer to the folder that SEEDS names"]
    fn make_seeds() {
        let folder = std::path::PathBuf::from(std::env::var("SEEDS").unwrap());
        let up = MetaCommand::NodeUp {
            node: NodeId(2),
            incarnation: 1,
            cluster_addr: "n2:7000".into(),
            client_addr: "n2:1883".into(),
            version: "0".into(),
        };
        let admission = Admission {
            cluster: [1; 16],
            hash_key: [2; 16],
            shards: 16,
            peers: vec![(NodeId(1), "n1:7000".into())],
        };
        let voters = [NodeId(1), NodeId(2)].into();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
        write("join_ask", &question(&Request::Ask { node: NodeId(2) })[1..]);
        write("join_add", &question(&Request::Add { up })[1..]);
        write("join_voters", &question(&Request::HasVoters { group: ShardId(3), voters })[1..]);
        write("join_cluster", &CODEC.encode(&Answer::Cluster(admission)));
        write("join_refused", &CODEC.encode(&Answer::Refused("no".into())));
    }
}
