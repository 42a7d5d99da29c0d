"""What is measured on clusters: the loads that are run, the numbers they give, and what each row aims at."""

import json
import subprocess

from rows import at_least, at_most, times
from servers import HONGQIAO, Failed

NAMES = ["hongqiao", "hongqiao disk", "nats-server", "rabbitmq"]
LIVE = ["hongqiao", "nats-server", "rabbitmq"]
# rabbitmq acknowledges what the memory of mirrors holds.
SAME_PROMISE = {"acknowledged": {"nats-server"}, "cpu_durable": {"nats-server"}}


def generate(options, cluster, scenario, *arguments, durable=False, addresses=None):
    """Runs the generator over all nodes; returns its results."""
    report = cluster.folder / "report.json"
    report.unlink(missing_ok=True)
    protocol = cluster.durable_protocol if durable else "3.1.1"
    pids = ",".join(str(cluster.pid(node)) for node, process in enumerate(cluster.processes) if process)
    command = [str(HONGQIAO), "bench", scenario, "--server", addresses or cluster.addresses(), "--protocol", protocol,
               "--keep-alive", "600", "--json", str(report)]
    if scenario != "failover":
        command += ["--server-pid", pids]
    command += map(str, arguments)
    run = subprocess.run(command, capture_output=True, text=True, timeout=options.patience)
    if run.returncode != 0:
        why = (run.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        raise Failed(f"{scenario}: {why}; a node said: {cluster.tail()}")
    return json.loads(report.read_text())["results"]


def live(*arguments):
    """Pairs over two nodes each: what a delivery costs all nodes together, and how long it takes."""

    def run(options, cluster):
        results = generate(options, cluster, "p2p", "--pairs", 51, "--payload", 256,
                           "--seconds", options.seconds, "--warm-up", options.warm_up, *arguments)
        return {
            "cpu": results["server_cpu_seconds_per_million_deliveries"],
            "p50": results["delivery_latency_ms_p50"],
            "p99": results["delivery_latency_ms_p99"],
            "rate": results["delivered_per_second"],
        }

    return run


def publish(options, cluster, messages):
    results = generate(options, cluster, "replay", "--part", "publish", "--clients", 99, "--messages", messages, durable=True)
    if results["refused"]:
        raise Failed(f"{results['refused']} publishes refused")
    return results


def drain(options, cluster, messages, addresses=None):
    return generate(options, cluster, "replay", "--part", "drain", "--clients", 99, "--messages", messages, durable=True,
                    addresses=addresses)


def durable(options, cluster):
    messages = options.messages if cluster.name.startswith("hongqiao") else options.messages_slow
    results = publish(options, cluster, messages)
    numbers = {"acknowledged": results["acknowledged_per_second"],
               "cpu_durable": results["server_cpu_seconds_per_million_publishes"]}
    try:
        drained = drain(options, cluster, messages)
        missing = drained["missing"]
        numbers["drained"] = Failed(f"{missing} messages missing") if missing else drained["drained_per_second"]
    except (Failed, subprocess.TimeoutExpired) as error:
        numbers["drained"] = Failed(str(error))
    return numbers


def lost(options, cluster):
    """Publishes, kills a node, and drains over the two that are left."""
    messages = options.kill_messages if cluster.name.startswith("hongqiao") else min(options.kill_messages, options.messages_slow)
    publish(options, cluster, messages)
    cluster.kill(0)
    rest = ",".join(cluster.addresses().split(",")[1:])
    return {"lost": drain(options, cluster, messages, rest)["missing"]}


def failover(sessions):
    def run(options, cluster):
        results = generate(options, cluster, "failover", "--sessions", sessions(options), "--kill", cluster.pid(0),
                           "--rate", options.rate, durable=True)
        cluster.processes[0].wait()
        cluster.processes[0] = None
        missing = results["sessions_not_recovered"]
        waiting = results["not_acknowledged"]
        served = results["last_session_served_ms"] / 1000
        return {
            "wait": Failed(f"{waiting} publishes not acknowledged") if waiting
                    else results["longest_wait_for_acknowledgement_ms"] / 1000,
            "back": Failed(f"{missing} sessions without a message") if missing else results["last_session_back_ms"] / 1000,
            "served": Failed(f"{missing} sessions without a message") if missing else served,
            "forgotten": results["sessions_forgotten"],
        }

    return run


def idle(options, cluster):
    slope = generate(options, cluster, "idle", "--connections", options.connections,
                     "--first", options.connections // 9)["bytes_per_connection"]
    if slope <= 0:
        raise Failed("memory fell while connections came; measure again with more of them")
    return {"bytes": slope}


# Load: key, clusters, work, how often (a name of an option).
LOADS = {
    "durable": (NAMES, durable, "rounds"),
    "qos1": (LIVE, live("--qos", 1, "--window", 20), "rounds"),
    "qos0": (LIVE, live("--qos", 0, "--window", 20), "rounds"),
    "latency": (LIVE, live("--qos", 1, "--rate", 1_000), "rounds"),
    "failover": (NAMES, failover(lambda _options: 100), "rounds"),
    "recovery": (NAMES, failover(lambda options: options.sessions), "rounds_once"),
    "lost": (NAMES, lost, "rounds_once"),
    "idle": (["hongqiao", "nats-server"], idle, "rounds_once"),
}

# Row: title, load, number, whether more is better, the aim of each of ours.
ROWS = [
    ("acknowledged durable publishes/s, 99 absent clients, window 1,024", "durable", "acknowledged", True,
     {"hongqiao": times(5, more=True), "hongqiao disk": at_least(20_000)}),
    ("CPU s per million acknowledged durable publishes, all nodes", "durable", "cpu_durable", False,
     {"hongqiao": times(0.2)}),
    ("messages replayed per second, 99 clients", "durable", "drained", True, {"hongqiao": times(1.0, more=True)}),
    ("CPU s per million deliveries between nodes, 51 pairs, QoS 0, max, window 20", "qos0", "cpu", False,
     {"hongqiao": times(0.8)}),
    ("CPU s per million deliveries between nodes, 51 pairs, QoS 1, max, window 20", "qos1", "cpu", False,
     {"hongqiao": times(0.8)}),
    ("p50 of the delivery between nodes in ms, 51 pairs, QoS 1, 1,000 messages/s", "latency", "p50", False,
     {"hongqiao": times(1.0)}),
    ("p99 of the delivery between nodes in ms, 51 pairs, QoS 1, 1,000 messages/s", "latency", "p99", False,
     {"hongqiao": times(1.0)}),
    ("longest wait for an acknowledgement around kill -9 of a node in s, 100 topics", "failover", "wait", False,
     {"hongqiao": at_most(3), "hongqiao disk": at_most(3)}),
    ("from kill -9 of a node until all sessions are served again in s, 100 sessions", "failover", "served", False,
     {"hongqiao": at_most(10), "hongqiao disk": at_most(10)}),
    ("from kill -9 of a node until all its sessions are connected again in s, 10,000 sessions", "recovery", "back", False,
     {"hongqiao": at_most(10), "hongqiao disk": at_most(10)}),
    ("from kill -9 of a node until all sessions are served again in s, 10,000 sessions", "recovery", "served", False,
     {"hongqiao": at_most(10), "hongqiao disk": at_most(10)}),
    ("sessions that the other nodes did not know", "recovery", "forgotten", False,
     {"hongqiao": at_most(0), "hongqiao disk": at_most(0)}),
    ("acknowledged messages lost by kill -9 of a node", "lost", "lost", False,
     {"hongqiao": at_most(0), "hongqiao disk": at_most(0)}),
    ("bytes of memory per idle connection", "idle", "bytes", False, {"hongqiao": at_most(900)}),
]
