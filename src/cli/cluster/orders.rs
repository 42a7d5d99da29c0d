//! `hongqiao cluster leave | move-shard | transfer | snapshot`: orders to a running cluster.
//!
//! - Takes: the data folder of any node of it on this machine. Gives: progress until the order is carried out, or
//!   as soon as it is decided with `--no-wait`; JSON with `--json`.
//! - Blocks: for as long as shards move; Ctrl-C ends the watching alone.

use anyhow::Context as _;
use serde_json::{Value, json};
use ureq::http::Method;

use super::{
    super::{
        admin_client::AdminClient,
        config_args::ConfigArguments,
        table::{rows, table, text_of},
    },
    watch::{Seen, watch},
};

/// Lets a member leave the cluster for good.
///
/// Its shards move to the others, its leads are handed over, then it is removed and its process stops. Its id
/// is never used again. With --lost the member is down and will not come back with its data; its replicas
/// are made anew elsewhere.
#[derive(clap::Args, Debug)]
pub(super) struct Leave {
    /// Which member [default: the one that is asked].
    #[arg(value_name = "NODE")]
    node: Option<u64>,

    /// It is down and will not come back with its data.
    #[arg(long, requires = "node")]
    lost: bool,

    #[command(flatten)]
    how: How,
}

/// Moves a replica of a shard from one member to another.
///
/// It stays there until it is moved again or that member leaves.
#[derive(clap::Args, Debug)]
pub(super) struct MoveShard {
    /// Which shard.
    #[arg(value_name = "SHARD")]
    shard: u16,

    /// Where a replica is.
    #[arg(long, value_name = "NODE")]
    from: u64,

    /// Where it shall be.
    #[arg(long, value_name = "NODE")]
    to: u64,

    #[command(flatten)]
    how: How,
}

/// Gives the lead of a group to a member that has a replica of it.
///
/// It stays there for ten minutes; then it goes back to the replica that is placed first.
#[derive(clap::Args, Debug)]
pub(super) struct Transfer {
    /// Number of a shard, or `meta`.
    #[arg(value_name = "GROUP")]
    group: String,

    /// Who shall lead it.
    #[arg(value_name = "NODE")]
    node: u64,

    /// Prints JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// Writes checkpoints of a node's groups and lets go of the log behind them.
///
/// It does so by itself all the time; before a planned stop this makes the next start short.
#[derive(clap::Args, Debug)]
pub(super) struct Snapshot {
    /// Numbers of shards, or `meta` [default: all that the node has].
    #[arg(value_name = "GROUP")]
    groups: Vec<String>,

    /// Prints JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// How an order is given.
#[derive(clap::Args, Debug)]
struct How {
    /// Returns once it is decided, and lets it go on by itself.
    #[arg(long)]
    no_wait: bool,

    /// Prints JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

fn find(config: ConfigArguments) -> anyhow::Result<AdminClient> {
    AdminClient::find(&config.load()?.storage.data_dir)
}

/// # Errors
/// The cluster refuses, or the member is still there and its node cannot be asked any more.
pub(super) fn leave(leave: Leave) -> anyhow::Result<()> {
    let node = find(leave.how.config)?;
    let own = node.get("cluster")?["node"].as_u64().context("the node does not know its id")?;
    let leaver = leave.node.unwrap_or(own);
    node.send(Method::POST, "cluster/leave", &json!({ "node": leaver, "lost": leave.lost }))?;
    if leave.how.no_wait {
        return say(
            leave.how.json,
            &format!("node {leaver} is leaving"),
            &json!({ "leaving": leaver }),
        );
    }
    // Who has left stops, and can be asked no more; the last that was seen of it was that it may.
    let ended = watch(&node, leave.how.json, |report| {
        let mut members = rows(&report["nodes"]);
        match members.find(|member| member["node"] == leaver) {
            None => Seen::Done,
            Some(member) if leaver == own && member["leaving"] == "released" => Seen::MayStop,
            Some(_) => Seen::Moving,
        }
    })?;
    let text = match ended {
        Seen::Done => format!("node {leaver} has left the cluster"),
        _ => format!("node {leaver} has given everything away and stops"),
    };
    say(leave.how.json, &text, &json!({ "left": leaver }))
}

/// # Errors
/// The cluster refuses, or the node cannot be asked any more.
pub(super) fn move_shard(order: MoveShard) -> anyhow::Result<()> {
    let node = find(order.how.config)?;
    let MoveShard { shard, from, to, .. } = order;
    node.send(
        Method::POST,
        "cluster/move-shard",
        &json!({ "shard": shard, "from": from, "to": to }),
    )?;
    let done = json!({ "shard": shard, "from": from, "to": to });
    if order.how.no_wait {
        return say(
            order.how.json,
            &format!("shard {shard} is to move from {from} to {to}"),
            &done,
        );
    }
    watch(&node, order.how.json, |report| {
        let is_it = |group: &&Value| group["group"] == shard;
        let group = rows(&report["groups"]).find(is_it);
        let has =
            |node: u64| group.is_some_and(|group| rows(&group["replicas"]).any(|at| *at == node));
        let moves = rows(&report["groups_moving"]).any(|moving| moving["group"] == shard);
        if has(to) && !has(from) && !moves { Seen::Done } else { Seen::Moving }
    })?;
    say(order.how.json, &format!("shard {shard} has moved from node {from} to node {to}"), &done)
}

/// # Errors
/// There is no such group, the member cannot lead it, or nobody leads it now.
pub(super) fn transfer(order: Transfer) -> anyhow::Result<()> {
    let node = find(order.config)?;
    let report = node.get("cluster")?;
    let (group, to) = (group_of(&report, &order.group)?, order.node);
    node.send(Method::POST, "cluster/transfer", &json!({ "group": group, "to": to }))?;
    let text = format!("node {to} leads group {}", order.group);
    say(order.json, &text, &json!({ "group": group, "leader": to }))
}

/// # Errors
/// There is no such group, or the node stops.
pub(super) fn snapshot(order: Snapshot) -> anyhow::Result<()> {
    let node = find(order.config)?;
    let body = if order.groups.is_empty() {
        json!({})
    } else {
        let report = node.get("cluster")?;
        let groups = order.groups.iter().map(|name| group_of(&report, name));
        json!({ "groups": groups.collect::<anyhow::Result<Vec<u16>>>()? })
    };
    let done = node.send(Method::POST, "cluster/snapshot", &body)?;
    if order.json {
        println!("{}", serde_json::to_string_pretty(&done)?);
        return Ok(());
    }
    let lines =
        rows(&done["groups"]).map(|of| ["group", "covered", "purged"].map(|key| text_of(&of[key])));
    print!("{}", table(["group", "checkpoint up to", "log begins behind"], lines));
    Ok(())
}

/// Returns the number of a group that people have named.
fn group_of(report: &Value, name: &str) -> anyhow::Result<u16> {
    let is_it = |group: &&Value| match name {
        "meta" => group["meta"] == true,
        number => group["meta"] == false && group["group"].as_u64() == number.parse().ok(),
    };
    let group = rows(&report["groups"]).find(is_it);
    let number = group.and_then(|group| u16::try_from(group["group"].as_u64()?).ok());
    number.with_context(|| format!("there is no group {name}"))
}

fn say(as_json: bool, text: &str, value: &Value) -> anyhow::Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(value)?);
    } else {
        println!("{text}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_number_and_the_metadata_by_name() {
        let report = json!({ "groups": [
            { "group": 0, "meta": false }, { "group": 1, "meta": false }, { "group": 2, "meta": true },
        ] });
        assert_eq!(group_of(&report, "1").unwrap(), 1);
        assert_eq!(group_of(&report, "meta").unwrap(), 2);
        for wrong in ["2", "3", "", "Meta"] {
            assert!(group_of(&report, wrong).is_err(), "{wrong}");
        }
    }
}
