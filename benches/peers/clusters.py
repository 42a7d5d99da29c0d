"""Clusters on this machine, of three nodes if nothing else is said: how each is configured, formed, and ended by its process ids."""

import json
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

from servers import HONGQIAO, Failed, Hongqiao, Nats, debian, free_port, output, see_end

# Replicas of a shard.
REPLICAS = 3
START_SECONDS = 90


class Cluster:
    """Some server programs; `start` gives a formed cluster on free ports, with empty data folders."""

    name = "?"
    promise = "?"
    durable_protocol = "3.1.1"

    def __init__(self, options, nodes=3):
        self.options = options
        self.nodes = nodes
        self.folder = None
        self.processes = [None] * nodes
        self.ports = []

    def command(self, node):
        """The command line of one node, and more environment for it."""
        raise NotImplementedError

    def prepare(self):
        """Chooses ports, writes configuration."""

    def is_formed(self):
        """Whether all nodes know each other and can serve."""
        raise NotImplementedError

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="cluster-", dir=self.options.data))
        self.ports = [free_port() for _ in range(self.nodes)]
        self.prepare()
        for node in range(self.nodes):
            self.launch(node)
        self.wait("does not form a cluster", self.is_formed)

    def launch(self, node):
        command, environment = self.command(node)
        with open(self.folder / f"log{node}", "ab") as log:
            self.processes[node] = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **environment})

    def wait(self, what, is_so):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for node, process in enumerate(self.processes):
                if process and process.poll() is not None:
                    raise Failed(f"node {node} of {self.name} ended: {self.tail(node)}")
            if is_so():
                return
            time.sleep(0.1)
        raise Failed(f"{self.name} {what}: {self.tail()}")

    def listens(self):
        """Whether every node takes MQTT connections."""
        for port in self.ports:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                return False
        return True

    def tail(self, node=0):
        text = (self.folder / f"log{node}").read_text(errors="replace").strip()
        return text[-300:].replace("\n", " ") or "it said nothing"

    def addresses(self):
        return ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def pid(self, node):
        """The process that does the work of a node."""
        return self.processes[node].pid

    def kill(self, node):
        os.kill(self.pid(node), signal.SIGKILL)
        self.processes[node].wait()
        self.processes[node] = None

    def end(self):
        for process in filter(None, self.processes):
            process.send_signal(signal.SIGTERM)
        for process in filter(None, self.processes):
            see_end(process)

    def remove(self):
        self.end()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


class HongqiaoCluster(Cluster):
    name = "hongqiao"
    promise = "`os`: on two of three nodes, survives kill -9"
    durability = "os"
    durable_protocol = "5"
    version = Hongqiao.version

    def prepare(self):
        self.http = [free_port() for _ in range(self.nodes)]
        self.links = [free_port() for _ in range(self.nodes)]
        self.secret = secrets.token_hex(16)

    def command(self, node):
        settings = {
            "listeners.mqtt.address": f"127.0.0.1:{self.ports[node]}",
            "listeners.http.address": f"127.0.0.1:{self.http[node]}",
            "storage.durability": self.durability,
            "auth.demo_user": "false",
            "cluster.node": node + 1,
            "cluster.listen": f"127.0.0.1:{self.links[node]}",
            "cluster.secret": self.secret,
        }
        if node > 0:
            settings["cluster.join"] = json.dumps([f"127.0.0.1:{self.links[0]}"])
        parts = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        parts += [part for line in self.options.hongqiao_set for part in ("--set", line)]
        return [str(HONGQIAO), "serve", "--data", str(self.folder / f"data{node}"), *parts], {}

    def is_formed(self):
        """All replicas are in place and leads are spread: what users see after some seconds."""
        try:
            for port in self.http:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2).close()
        except OSError:
            return False
        groups = {}
        for node in range(self.nodes):
            run = subprocess.run(
                [str(HONGQIAO), "cluster", "status", "--json", "--data", str(self.folder / f"data{node}")],
                capture_output=True, text=True)
            if run.returncode != 0:
                return False
            # Who the members of a group are is known to those that are some of them.
            known = json.loads(run.stdout)
            if known["members_moving"] or known["groups_moving"]:
                return False
            groups.update({group["group"]: group for group in known["groups"] if not group["meta"] and group["voters"]})
        leads = [sum(group["leader"] == node + 1 for group in groups.values()) for node in range(self.nodes)]
        replicas = min(self.nodes, REPLICAS)
        return all(len(group["voters"]) == replicas for group in groups.values()) and max(leads) - min(leads) <= 1


class HongqiaoClusterDisk(HongqiaoCluster):
    name = "hongqiao disk"
    promise = "`disk`: fdatasync on two of three nodes before the acknowledgement"
    durability = "disk"


class NatsCluster(Cluster):
    name = "nats-server"
    promise = "three replicas, file, synced every 2 minutes: on two of three nodes, survives kill -9"
    version = Nats.version

    def prepare(self):
        routes = [free_port() for _ in range(self.nodes)]
        self.monitors = [free_port() for _ in range(self.nodes)]
        others = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        for node in range(self.nodes):
            (self.folder / f"conf{node}").write_text(
                f"server_name: node{node}\nlisten: 127.0.0.1:-1\nhttp: 127.0.0.1:{self.monitors[node]}\n"
                f"cluster {{ name: bench, listen: 127.0.0.1:{routes[node]}, routes: [{others}] }}\n"
                f'jetstream {{ store_dir: "{self.folder}/js{node}", max_memory_store: 1GB, max_file_store: 8GB }}\n'
                f"mqtt {{ listen: 127.0.0.1:{self.ports[node]}, max_ack_pending: 65535, stream_replicas: 3 }}\n"
                "max_connections: 100000\n"
            )

    def command(self, node):
        return [debian("nats-server"), "-c", str(self.folder / f"conf{node}")], {}

    def is_formed(self):
        leaders = set()
        for port in self.monitors:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/jsz", timeout=2) as answer:
                    meta = json.load(answer).get("meta_cluster", {})
            except OSError:
                return False
            if meta.get("cluster_size") != self.nodes:
                return False
            leaders.add(meta.get("leader"))
        return len(leaders) == 1 and None not in leaders and self.listens()


class Rabbit(Cluster):
    name = "rabbitmq"
    promise = "mirrored queues on three nodes, written in the background"

    @classmethod
    def home(cls):
        debian("rabbitmq-server")
        found = sorted(pathlib.Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin"))
        if not found:
            raise Failed("no rabbitmq_server below /usr/lib/rabbitmq/lib")
        return found[-1]

    @classmethod
    def version(cls):
        return "RabbitMQ " + cls.home().parent.name.rpartition("-")[2]

    def prepare(self):
        self.environments = []
        epmd, cookie = free_port(), secrets.token_hex(10)
        names = [f"bench{node}@localhost" for node in range(self.nodes)]
        for node, name in enumerate(names):
            base = self.folder / f"node{node}"
            base.mkdir()
            cookie_file = base / ".erlang.cookie"
            cookie_file.write_text(cookie)
            cookie_file.chmod(0o400)
            (base / "enabled_plugins").write_text("[rabbitmq_mqtt].\n")
            members = "".join(f"cluster_formation.classic_config.nodes.{n + 1} = {other}\n" for n, other in enumerate(names))
            (base / "rabbitmq.conf").write_text(
                f"listeners.tcp.1 = 127.0.0.1:{free_port()}\nmqtt.listeners.tcp.1 = 127.0.0.1:{self.ports[node]}\n"
                "mqtt.allow_anonymous = true\nmqtt.prefetch = 65535\nlog.console = true\nlog.console.level = error\n"
                f"cluster_formation.peer_discovery_backend = classic_config\n{members}"
            )
            self.environments.append({
                "HOME": str(base), "ERL_EPMD_PORT": str(epmd), "RABBITMQ_NODENAME": name,
                "RABBITMQ_DIST_PORT": str(free_port()), "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
                "RABBITMQ_LOG_BASE": str(base / "log"), "RABBITMQ_PID_FILE": str(base / "pid"),
                "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq"), "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
                "RABBITMQ_CONF_ENV_FILE": str(base / "none"),
            })
        self.policy = False

    def command(self, node):
        return [str(self.home() / "rabbitmq-server")], self.environments[node]

    def control(self, *arguments):
        environment = {**os.environ, **self.environments[0]}
        command = [str(self.home() / "rabbitmqctl"), "-q", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)

    def is_formed(self):
        if not self.listens():
            return False
        status = self.control("cluster_status", "--formatter", "json")
        if status.returncode != 0 or len(json.loads(status.stdout).get("running_nodes", [])) != self.nodes:
            return False
        mirrored = json.dumps({"ha-mode": "all", "ha-sync-mode": "automatic"})
        return self.control("set_policy", "mirrored", "^mqtt-", mirrored, "--apply-to", "queues").returncode == 0

    def pid(self, node):
        # The program that was started is a shell script around it.
        return int((self.folder / f"node{node}" / "pid").read_text())

    def end(self):
        super().end()
        if self.folder:
            # The port mapper outlives them; it is that of this run alone.
            environment = {**os.environ, **self.environments[0]}
            subprocess.run(["epmd", "-kill"], env=environment, capture_output=True, check=False)


ALL = {kind.name: kind for kind in (HongqiaoCluster, HongqiaoClusterDisk, NatsCluster, Rabbit)}
