//! Clients on any node: sessions resumed elsewhere, takeovers across nodes. Promises SESSION-TRUE, FENCED.

use super::alone;
use crate::support::cluster::Cluster;

#[test]
fn client_of_any_node_connects_and_keeps_its_session() {
    let _turn = alone();
    let cluster = Cluster::start(3);
    for number in cluster.numbers() {
        let client = format!("any{number}");
        let mut first = cluster.broker(number).v5(&client).durable().connect();
        assert!(!first.connack.present);
        first.subscribe(&format!("own/{number}"), 1);
        first.publish(&format!("own/{number}"), "hello", 1);
        assert_eq!(first.expect_publish().text(), "hello");
        first.disconnect();
    }
}
