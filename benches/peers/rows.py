"""What is measured: the loads that are run, the numbers they give, and what each row of the table aims at."""

import json
import os
import signal
import subprocess

from servers import HONGQIAO, Failed

LIVE = ["hongqiao", "mosquitto", "nats-server", "rumqttd"]
DURABLE = ["hongqiao", "hongqiao disk", "mosquitto", "nats-server", "rumqttd"]
# All of them, in the order of the table.
NAMES = DURABLE


def generate(options, server, scenario, *arguments, durable=False):
    """Runs the generator; returns its results."""
    report = server.folder / "report.json"
    report.unlink(missing_ok=True)
    port, protocol = (server.durable_port, server.durable_protocol) if durable else (server.port, "3.1.1")
    command = [str(HONGQIAO), "bench", scenario, "--port", str(port), "--protocol", protocol]
    # rumqttd refuses a keep alive of 0; nothing here lasts long enough for a ping.
    command += ["--keep-alive", "600", "--server-pid", str(server.process.pid)]
    command += ["--json", str(report)]
    command += map(str, arguments)
    run = subprocess.run(command, capture_output=True, text=True, timeout=options.patience)
    if run.returncode != 0:
        why = (run.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        raise Failed(f"{scenario}: {why}; the server said: {server.tail()}")
    results = json.loads(report.read_text())["results"]
    lost = results.get("lost", 0)
    if lost > 0.01 * results.get("delivered", 1):
        raise Failed(f"{lost} messages lost")
    return results


def live(scenario, *arguments):
    """A load with subscribers: CPU of the server for a million deliveries, and what else the table takes."""

    def run(options, server):
        results = generate(options, server, scenario, "--payload", 256, "--window", 20,
                           "--seconds", options.seconds, "--warm-up", options.warm_up, *arguments)
        return {
            "cpu": results["server_cpu_seconds_per_million_deliveries"],
            "p99": results["delivery_latency_ms_p99"],
            "rate": results["delivered_per_second"],
        }

    return run


def churn(options, server):
    results = generate(options, server, "churn", "--clients", 50,
                       "--seconds", options.seconds, "--warm-up", options.warm_up)
    return {"cpu": results["server_cpu_seconds_per_million_cycles"], "rate": results["cycles_per_second"]}


def idle(*arguments):
    def run(options, server):
        connections = ["--connections", options.connections, "--first", options.connections // 9]
        slope = generate(options, server, "idle", *connections, *arguments)["bytes_per_connection"]
        if slope <= 0:
            raise Failed("memory fell while connections came; measure again with more of them")
        return {"bytes": slope}

    return run


def publish(options, server, messages):
    results = generate(options, server, "replay", "--part", "publish", "--messages", messages, durable=True)
    if results["refused"]:
        raise Failed(f"{results['refused']} publishes refused")
    return results["acknowledged_per_second"]


def drain(options, server, messages):
    return generate(options, server, "replay", "--part", "drain", "--messages", messages, durable=True)


def replay(options, server):
    numbers = {"acknowledged": publish(options, server, options.messages)}
    # The rate of publishing stands even where draining fails.
    try:
        results = drain(options, server, options.messages)
        missing = results["missing"]
        numbers["drained"] = Failed(f"{missing} messages missing") if missing else results["drained_per_second"]
    except (Failed, subprocess.TimeoutExpired) as error:
        numbers["drained"] = Failed(str(error))
    return numbers


def kill(options, server):
    publish(options, server, options.kill_messages)
    server.end(signal.SIGKILL)
    server.launch()
    return {"lost": drain(options, server, options.kill_messages)["missing"]}


# Load: key, servers, work, how often (a name of an option).
LOADS = {
    "fanout": (LIVE, live("fanout", "--qos", 0, "--subscribers", 1_000), "rounds"),
    "p2p0": (LIVE, live("p2p", "--qos", 0, "--pairs", 50), "rounds"),
    "p2p1": (LIVE, live("p2p", "--qos", 1, "--pairs", 50), "rounds"),
    "fixed": (LIVE, live("p2p", "--qos", 0, "--pairs", 50, "--rate", 5_000), "rounds"),
    "churn": (LIVE, churn, "rounds"),
    "idle": (LIVE, idle(), "rounds_memory"),
    "subscribed": (LIVE, idle("--subscribe"), "rounds_memory"),
    "replay": (DURABLE, replay, "rounds"),
    "kill": (DURABLE, kill, "rounds_kill"),
}


MET, MISSED = "met", "**missed**"


class Aim:
    """What a row of ours must reach, against the best peer (`None`: no peer has a number) or in itself."""

    def __init__(self, text, outcome):
        self.text, self.outcome = text, outcome


def times(factor, more=False):
    """At most (or at least) so many times the best peer."""

    def outcome(ours, best):
        if best is None:
            return "no peer to compare with"
        return MET if (ours >= factor * best if more else ours <= factor * best) else MISSED

    return Aim(f"{'≥' if more else '≤'} {factor} × best", outcome)


def at_least(number):
    return Aim(f"≥ {number:,}", lambda ours, _best: MET if ours >= number else MISSED)


def at_most(number):
    return Aim(f"≤ {number:,}", lambda ours, _best: MET if ours <= number else MISSED)


def must(number):
    """At most a number, and better no more than the best peer."""

    def outcome(ours, best):
        if ours > number:
            return MISSED
        return MET if best is None or ours <= best else "must met, aim **missed**"

    return Aim(f"must ≤ {number:,}; aim ≤ 1.0 × best", outcome)


# Row: title, load, number, whether more is better, the aim of each of ours.
ROWS = [
    ("CPU s per million deliveries, fan-out 1→1,000, QoS 0, 256 B, max", "fanout", "cpu", False,
     {"hongqiao": times(0.9)}),
    ("CPU s per million deliveries, 50 pairs, QoS 0, 256 B, max, window 20", "p2p0", "cpu", False,
     {"hongqiao": times(0.8)}),
    ("CPU s per million deliveries, 50 pairs, QoS 1, 256 B, max, window 20", "p2p1", "cpu", False,
     {"hongqiao": times(0.8)}),
    ("CPU s per million deliveries, 50 pairs, QoS 0, 5,000 messages/s", "fixed", "cpu", False,
     {"hongqiao": times(1.0)}),
    ("p99 of the delivery in ms, 50 pairs, QoS 0, 5,000 messages/s", "fixed", "p99", False,
     {"hongqiao": times(1.0)}),
    ("CPU s per million connect/disconnect cycles", "churn", "cpu", False, {"hongqiao": times(1.0)}),
    ("bytes of memory per idle connection", "idle", "bytes", False, {"hongqiao": must(900)}),
    ("bytes of memory per connection with one subscription", "subscribed", "bytes", False,
     {"hongqiao": must(1_150)}),
    ("acknowledged durable publishes/s, 100 absent clients, window 1,024", "replay", "acknowledged", True,
     {"hongqiao": times(3, more=True), "hongqiao disk": at_least(40_000)}),
    ("messages replayed per second, 100 clients", "replay", "drained", True,
     {"hongqiao": at_least(200_000), "hongqiao disk": at_least(200_000)}),
    ("acknowledged messages lost by kill -9", "kill", "lost", False,
     {"hongqiao": at_most(0), "hongqiao disk": at_most(0)}),
]
# A peer that acknowledges what only its memory holds is no measure for durable publishes.
SAME_PROMISE = {"acknowledged": {"nats-server"}}
