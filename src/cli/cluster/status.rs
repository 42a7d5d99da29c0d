//! `hongqiao cluster status`: how the cluster of a running node does.
//!
//! - Takes: the data folder of a node on this machine. Gives: tables for people, or JSON.

use serde_json::Value;

use super::super::{
    admin_client::AdminClient,
    config_args::ConfigArguments,
    table::{rows, table, text_of},
};

/// Shows nodes, groups and links, as the node of the data folder sees them.
///
/// How far followers are behind is known to the leader of a group alone; ask that node.
#[derive(clap::Args, Debug)]
pub(super) struct Status {
    /// Prints the answer of the node as it is.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    config: ConfigArguments,
}

/// # Errors
/// No node runs on the data folder, or it refuses.
pub(super) fn run(status: Status) -> anyhow::Result<()> {
    let config = status.config.load()?;
    let report = AdminClient::find(&config.storage.data_dir)?.get("cluster")?;
    if status.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", tables(&report));
    }
    Ok(())
}

/// Writes the report for people.
fn tables(report: &Value) -> String {
    let lease = if report["has_lease"] == true { "up to date" } else { "out of date" };
    let mut text = format!(
        "cluster {}, seen by node {} ({lease}), {} routes\n\n",
        text_of(&report["cluster"]),
        report["node"],
        report["routes"]
    );
    text += &table(
        ["node", "state", "start", "peers at", "clients at", "version"],
        rows(&report["nodes"]).map(|node| {
            let state = match (node["up"] == true, node["leaving"].as_str()) {
                (true, None) => "up",
                (false, None) => "down",
                (_, Some("lost")) => "lost",
                (_, Some("released")) => "has left",
                (true, Some(_)) => "leaving",
                (false, Some(_)) => "leaving, down",
            };
            let own = |key: &str| text_of(&node[key]);
            let (node_id, start) = (own("node"), own("incarnation"));
            let (peers, clients) = (own("cluster_address"), own("client_address"));
            [node_id, state.to_owned(), start, peers, clients, own("version")]
        }),
    );
    text.push('\n');
    text += &table(
        ["group", "leader", "term", "voters", "learners", "applied", "behind"],
        rows(&report["groups"]).map(|group| {
            let own = |key: &str| text_of(&group[key]);
            let name = if group["meta"] == true { "meta".to_owned() } else { own("group") };
            let behind =
                rows(&group["lag"]).map(|lag| format!("{}:{}", lag["node"], lag["entries"]));
            let behind = behind.collect::<Vec<_>>().join(" ");
            [
                name,
                own("leader"),
                own("term"),
                own("voters"),
                own("learners"),
                own("applied"),
                behind,
            ]
        }),
    );
    if rows(&report["links"]).next().is_none() {
        return text;
    }
    text + "\n" + &links(report)
}

fn links(report: &Value) -> String {
    table(
        ["link to", "class", "state", "for", "protocol", "under way", "last error"],
        rows(&report["links"]).map(|link| {
            let state = if link["connected"] == true { "connected" } else { "broken" };
            let secs = link["since_ms"].as_u64().unwrap_or(0) / 1_000;
            let own = |key: &str| text_of(&link[key]);
            let bytes = format!("{} B", link["in_flight_bytes"]);
            [
                own("node"),
                own("class"),
                state.to_owned(),
                format!("{secs} s"),
                own("protocol"),
                bytes,
                own("last_error"),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_becomes_aligned_tables() {
        let report = serde_json::json!({
            "cluster": "0123", "node": 1, "has_lease": true, "routes": 7,
            "nodes": [
                { "node": 1, "up": true, "incarnation": 4, "cluster_address": "n1:7001",
                  "client_address": "", "version": "0.1.0" },
                { "node": 12, "up": false, "incarnation": 1, "cluster_address": "n12:7001",
                  "client_address": "n12:1883", "version": "0.1.0" },
            ],
            "groups": [
                { "group": 0, "meta": false, "leader": 1, "term": 3, "voters": [1, 12],
                  "learners": [], "applied": 99, "lag": [{ "node": 12, "entries": 5 }] },
                { "group": 1, "meta": true, "leader": null, "term": 2, "voters": [1],
                  "learners": [12], "applied": 9, "lag": [] },
            ],
            "links": [{ "node": 12, "class": "control", "connected": false, "since_ms": 2500,
                        "protocol": 1, "in_flight_bytes": 0, "last_error": "refused" }],
        });
        let text = tables(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "cluster 0123, seen by node 1 (up to date), 7 routes");
        for line in [
            "NODE  STATE  START  PEERS AT  CLIENTS AT  VERSION",
            "1     up     4      n1:7001               0.1.0",
            "12    down   1      n12:7001  n12:1883    0.1.0",
            "0      1       3     1 12              99       12:5",
            "meta   -       2     1       12        9",
            "12       control  broken  2 s  1         0 B        refused",
        ] {
            assert!(lines.contains(&line), "{line}\n{text}");
        }
    }
}
