"""The server programs that are measured: how each is configured, started, and ended by its process id."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools"
# Server and load generator; another build than the release one can be named.
HONGQIAO = pathlib.Path(os.environ.get("HONGQIAO") or ROOT / "target" / "release" / "hongqiao").absolute()
PEER = ROOT / "benches" / "peers" / "rumqttd"
START_SECONDS = 30


class Failed(Exception):
    """Why a cell has no number."""


def output(command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def debian(name):
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found:
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {name} from Debian (once)", file=sys.stderr)
        subprocess.run(["apt-get", "install", "-y", "-qq", name], stdout=sys.stderr, check=False)
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin")
    return found or sys.exit(f"{name} is missing; get it with: apt-get install {name}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def see_end(process):
    """Waits for a process that was asked to end, and ends it if it does not."""
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class Server:
    """One server program; `start` gives a running one on a free port, with an empty data folder."""

    name = "?"
    promise = "?"
    # What the durable rows speak: with MQTT 5 the receiver's window is 65,535.
    durable_protocol = "5"
    # MQTT 5 has a listener of its own.
    two_ports = False

    def __init__(self, options):
        self.options = options
        self.process = self.folder = self.log = None
        self.port = self.durable_port = None

    @classmethod
    def version(cls):
        """Names the version; the first call installs what is missing."""
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def start(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="peers-", dir=self.options.data))
        self.port = free_port()
        self.durable_port = free_port() if self.two_ports else self.port
        self.launch()

    def launch(self):
        self.log = open(self.folder / "log", "ab")
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=self.log, cwd=self.folder)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended at its start: {self.tail()}")
            try:
                for port in (self.port, self.durable_port):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise Failed(f"{self.name} does not listen: {self.tail()}")

    def tail(self):
        text = (self.folder / "log").read_text(errors="replace").strip()
        return text[-300:].replace("\n", " ") or "it said nothing"

    def end(self, how=signal.SIGTERM):
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            see_end(self.process)
        if self.log:
            self.log.close()

    def remove(self):
        self.end()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


class Hongqiao(Server):
    name = "hongqiao"
    promise = "`os`: survives kill -9"
    durability = "os"

    @classmethod
    def version(cls):
        if not HONGQIAO.exists():
            sys.exit(f"{HONGQIAO} is missing; build it with: make build")
        return output([str(HONGQIAO), "version"]).splitlines()[0]

    def command(self):
        return [
            str(HONGQIAO), "serve", "--data", str(self.folder / "data"),
            "--set", f"listeners.mqtt.address=127.0.0.1:{self.port}",
            "--set", "listeners.http.address=127.0.0.1:0",
            "--set", f"storage.durability={self.durability}",
            # Its password takes 19 MiB to hash, once, at the first start; that goes back to the system while
            # memory is measured.
            "--set", "auth.demo_user=false",
            *[part for line in self.options.hongqiao_set for part in ("--set", line)],
        ]


class HongqiaoDisk(Hongqiao):
    name = "hongqiao disk"
    promise = "`disk`: fdatasync before the acknowledgement"
    durability = "disk"


class Mosquitto(Server):
    name = "mosquitto"
    promise = "memory, written at the end and every 30 minutes"

    @classmethod
    def version(cls):
        run = subprocess.run([debian("mosquitto"), "-h"], capture_output=True, text=True)
        return run.stdout.splitlines()[0]

    def command(self):
        conf = (
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
            f"max_inflight_messages 0\npersistence true\npersistence_location {self.folder}/\n"
            "log_type error\n"
        )
        if os.geteuid() == 0:
            conf += "user root\n"
        (self.folder / "conf").write_text(conf)
        return [debian("mosquitto"), "-c", str(self.folder / "conf")]


class Nats(Server):
    name = "nats-server"
    promise = "file, synced every 2 minutes: survives kill -9"
    durable_protocol = "3.1.1"

    @classmethod
    def version(cls):
        return output([debian("nats-server"), "--version"]).strip()

    def command(self):
        # MQTT on JetStream: a file store, synced every two minutes, as it comes.
        (self.folder / "conf").write_text(
            f"server_name: peers\nlisten: 127.0.0.1:-1\n"
            f'jetstream {{ store_dir: "{self.folder}/js", max_memory_store: 1GB, max_file_store: 8GB }}\n'
            f"mqtt {{ listen: 127.0.0.1:{self.port}, max_ack_pending: 65535 }}\nmax_connections: 100000\n"
        )
        return [debian("nats-server"), "-c", str(self.folder / "conf")]


class Rumqttd(Server):
    name = "rumqttd"
    promise = "memory"
    two_ports = True
    program = TOOLS / "rumqttd" / "release" / "rumqttd-peer"

    @classmethod
    def version(cls):
        # Where nothing has changed this costs less than a second.
        print("building rumqttd (a few minutes the first time)", file=sys.stderr)
        built = subprocess.run(
            ["cargo", "build", "--quiet", "--release", "--locked", "--target-dir", str(TOOLS / "rumqttd"),
             "--manifest-path", str(PEER / "Cargo.toml")],
            cwd=PEER,
        )
        if built.returncode != 0:
            sys.exit("rumqttd could not be built; see above, or leave it out with --without rumqttd")
        lock = (PEER / "Cargo.lock").read_text().split('name = "rumqttd"\nversion = "')[1]
        return "rumqttd " + lock.split('"')[0]

    def command(self):
        # The limits of its own example where they bound memory, opened where they would refuse the load.
        listener = (
            '[{version}.1]\nname = "{version}"\nlisten = "127.0.0.1:{port}"\nnext_connection_delay_ms = 0\n'
            "[{version}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\n"
            "max_inflight_count = 1000\ndynamic_filters = true\n"
        )
        (self.folder / "conf.toml").write_text(
            "id = 0\n[router]\nid = 0\nmax_connections = 30000\nmax_outgoing_packet_count = 200\n"
            "max_segment_size = 104857600\nmax_segment_count = 10\n"
            + listener.format(version="v4", port=self.port)
            + listener.format(version="v5", port=self.durable_port)
        )
        return [str(self.program), str(self.folder / "conf.toml")]


ALL = {kind.name: kind for kind in (Hongqiao, HongqiaoDisk, Mosquitto, Nats, Rumqttd)}
