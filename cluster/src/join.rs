//! How a node comes into a cluster: who asks, and who answers.
//!
//! ```text
//! new node ── Ask ──▶ any member: cluster id, hash key, shards, peers      (a new folder is made of that)
//!          ── Add ──▶ any member: NodeUp in the directory ─▶ the meta leader adds it to the meta group
//! ```
//!
//! - Owns: the words of [`MemberKind::Join`]. Takes: requests of nodes that know the cluster's secret.
//! - Gives: what a new node needs; a clear refusal where an id is in use.
//! - Bound: messages of at most `BYTES_MAX`; an ask is repeated for `JOIN_TIMEOUT`.
//! - Source: own design. Version 1 is the first.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bincode::Options as _;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    clock,
    desks::MemberKind,
    error::StartError,
    id::{NodeId, ShardId},
    meta::{MetaCommand, MetaHandle, MetaReply},
    raft_group::group::Group,
    storage::format::{FORMAT, Format},
    transport::{Class, LinkError, Network, PeerService},
};

const VERSION: u8 = 1;
const BYTES_MAX: u64 = 1 << 20;

/// A new node asks for this long, then its start fails.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How often it asks.
const JOIN_INTERVAL: Duration = Duration::from_millis(300);

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

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_fixint_encoding().with_limit(BYTES_MAX)
}

fn encode(head: &[u8], value: &impl Serialize) -> Bytes {
    let mut out = head.to_vec();
    // Texts come from configurations, and lists from what fits a directory.
    let _ = options().serialize_into(&mut out, value);
    out.into()
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Option<T> {
    let (version, fields) = body.split_first()?;
    if *version != VERSION {
        return None;
    }
    options().deserialize(fields).ok()
}

/// Reads bytes as any message, for `crate::doors`.
pub(crate) fn read(bytes: &[u8]) {
    if let Some(request) = decode::<Request>(bytes) {
        assert_eq!(decode(&encode(&[VERSION], &request)), Some(request));
    }
    if let Some(answer) = decode::<Answer>(bytes) {
        assert_eq!(decode(&encode(&[VERSION], &answer)), Some(answer));
    }
}

fn question(request: &Request) -> Bytes {
    encode(&[MemberKind::Join as u8, VERSION], request)
}

/// Asks each address in turn, until one lets this node in.
///
/// # Errors
/// `Join` when a member refuses for good, or nobody answers for `JOIN_TIMEOUT`.
pub(crate) async fn ask(
    network: &dyn Network,
    node: NodeId,
    addresses: &[String],
) -> Result<Admission, StartError> {
    let deadline = clock::now() + JOIN_TIMEOUT;
    let mut last = "nobody was asked".to_owned();
    let mut told = String::new();
    while clock::now() < deadline {
        for address in addresses {
            match knock(network, address, &Request::Ask { node }).await {
                Ok(Answer::Cluster(admission)) => return Ok(admission),
                Ok(Answer::Refused(reason)) => {
                    return Err(StartError::Join { address: address.clone(), reason });
                }
                Ok(Answer::NotYet(why)) => last = format!("{address}: {why}"),
                Ok(_) => last = format!("{address}: the answer means nothing"),
                Err(why) => last = format!("{address}: {why}"),
            }
            if last != told {
                tracing::warn!(problem = %last, "no member lets this node in yet");
                told.clone_from(&last);
            }
        }
        tokio::time::sleep(JOIN_INTERVAL).await;
    }
    Err(StartError::Join { address: addresses.join(", "), reason: last })
}

async fn knock(
    network: &dyn Network,
    address: &str,
    request: &Request,
) -> Result<Answer, LinkError> {
    let answer = network.knock(address.to_owned(), question(request), ASK_TIMEOUT).await?;
    decode(&answer).ok_or_else(|| LinkError::Refused("the answer cannot be read".to_owned()))
}

/// Tells any of `addresses` that this node is up; gives whether one of them has put it into the directory.
pub(crate) async fn add(network: &dyn Network, addresses: &[String], up: &MetaCommand) -> bool {
    for address in addresses {
        match knock(network, address, &Request::Add { up: up.clone() }).await {
            Ok(Answer::Added) => return true,
            Ok(Answer::Refused(reason)) => {
                tracing::error!(member = %address, %reason, "the cluster refuses this node");
            }
            Ok(_) => {}
            Err(why) => tracing::debug!(member = %address, %why, "not added yet"),
        }
    }
    false
}

/// Asks `members` whether the leader of a group has just these voters.
pub(crate) async fn has_voters(
    network: &dyn Network,
    members: &[NodeId],
    group: ShardId,
    voters: &BTreeSet<NodeId>,
) -> bool {
    let question = question(&Request::HasVoters { group, voters: voters.clone() });
    for to in members {
        let desk = crate::transport::Desk::Member;
        let asked = network.request(*to, Class::Control, desk, question.clone(), ASK_TIMEOUT);
        let answer = asked.await.ok().and_then(|answer| decode(&answer));
        if answer == Some(Answer::HasVoters(true)) {
            return true;
        }
    }
    false
}

/// Answers them.
pub(crate) struct JoinClerk {
    pub(crate) format: Format,
    pub(crate) meta: MetaHandle,
    pub(crate) groups: Vec<Arc<Group>>,
}

impl PeerService for JoinClerk {
    fn serve(
        &self,
        from: NodeId,
        _class: Class,
        body: Bytes,
    ) -> BoxFuture<'static, Result<Bytes, String>> {
        let request: Option<Request> = decode(&body);
        let answer: BoxFuture<'static, Answer> = match request {
            None => {
                tracing::warn!(from = from.0, "a request to join cannot be read");
                return Box::pin(std::future::ready(Err("it cannot be read".to_owned())));
            }
            Some(Request::Ask { node }) => Box::pin(std::future::ready(self.admit(node))),
            Some(Request::Add { up }) => Box::pin(put_up(self.meta.clone(), up)),
            Some(Request::HasVoters { group, voters }) => {
                let group = self.groups.get(usize::from(group.0));
                let here = group.filter(|group| group.lead.now().here);
                let has = here.is_some_and(|group| group.has_voters(&voters));
                Box::pin(std::future::ready(Answer::HasVoters(has)))
            }
        };
        Box::pin(async move { Ok(encode(&[VERSION], &answer.await)) })
    }
}

impl JoinClerk {
    fn admit(&self, node: NodeId) -> Answer {
        let directory = self.meta.directory();
        if directory.nodes.is_empty() {
            return Answer::NotYet("it is no member itself yet".to_owned());
        }
        if directory.removed.contains(&node) {
            let why = format!("node id {} was removed from this cluster; take another", node.0);
            return Answer::Refused(why);
        }
        if let Some(member) = directory.nodes.get(&node) {
            return Answer::Refused(format!(
                "node id {} is the member at {}, whose data folder is another; take another id, or \
                 remove that member first",
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

async fn put_up(meta: MetaHandle, up: MetaCommand) -> Answer {
    let MetaCommand::NodeUp { node, incarnation, cluster_addr, .. } = &up else {
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
        Ok((other, _)) => Answer::Refused(format!("the directory refuses it: {other:?}")),
        Err(why) => Answer::NotYet(format!("the directory cannot be written: {why}")),
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
        assert_eq!(decode(&body[1..]), Some(request));
        assert_eq!(decode::<Request>(&body[1..body.len() - 1]), None);
        let mut newer = body[1..].to_vec();
        newer[0] = VERSION + 1;
        assert_eq!(decode::<Request>(&newer), None);
        assert_eq!(decode::<Request>(&[]), None);
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
        write("join_cluster", &encode(&[VERSION], &Answer::Cluster(admission)));
        write("join_refused", &encode(&[VERSION], &Answer::Refused("no".into())));
    }
}
