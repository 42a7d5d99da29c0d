"""paho-mqtt against a broker: python paho_client.py HOST PORT [tcp|websockets]

Runs every scenario with MQTT 3.1.1 and 5.0. Prints one line each; exits with 1 at the first failure.
"""

import queue
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

HOST, PORT = sys.argv[1], int(sys.argv[2])
TRANSPORT = sys.argv[3] if len(sys.argv) > 3 else "tcp"
PATIENCE = 20
RUN = f"paho-{int(time.time() * 1000)}"


class Client:
    """A client whose callbacks fill queues, so that a scenario reads like a story."""

    def __init__(self, name, version, clean=True, will=None, keepalive=60):
        self.version = version
        self.messages = queue.Queue()
        self.acks = queue.Queue()
        self.subacks = queue.Queue()
        self.connacks = queue.Queue()
        v5 = version == mqtt.MQTTv5
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{RUN}-{name}",
            clean_session=None if v5 else clean,
            protocol=version,
            transport=TRANSPORT,
        )
        self.client.ws_set_options(path="/mqtt")
        self.client.max_inflight_messages_set(50)
        self.client.on_message = lambda client, data, message: self.messages.put(message)
        self.client.on_publish = lambda client, data, mid, code, props: self.acks.put((mid, code))
        self.client.on_subscribe = lambda client, data, mid, codes, props: self.subacks.put(codes)
        self.client.on_connect = lambda client, data, flags, code, props: self.connacks.put(
            (flags, code, props)
        )
        if will is not None:
            self.client.will_set(*will)
        if v5:
            props = Properties(PacketTypes.CONNECT)
            props.SessionExpiryInterval = 0 if clean else 300
            self.client.connect(HOST, PORT, keepalive, clean_start=clean, properties=props)
        else:
            self.client.connect(HOST, PORT, keepalive)
        self.client.loop_start()
        flags, code, self.props = self.connacks.get(timeout=PATIENCE)
        assert not code.is_failure, f"refused: {code}"
        self.session_present = flags.session_present

    def subscribe(self, topic, qos, **options):
        if options or self.version == mqtt.MQTTv5:
            self.client.subscribe(topic, options=SubscribeOptions(qos=qos, **options))
        else:
            self.client.subscribe(topic, qos)
        (code,) = self.subacks.get(timeout=PATIENCE)
        assert code.value == qos, f"granted {code}"

    def publish(self, topic, payload, qos, retain=False, properties=None):
        info = self.client.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(PATIENCE)
        assert info.is_published()

    def next(self, timeout=PATIENCE):
        return self.messages.get(timeout=timeout)

    def silent(self, timeout=0.4):
        try:
            message = self.messages.get(timeout=timeout)
        except queue.Empty:
            return
        raise AssertionError(f"unexpected {message.topic}: {message.payload[:80]}")

    def disconnect(self):
        self.client.disconnect()
        self.client.loop_stop()

    def die(self):
        """Goes without DISCONNECT."""
        self.client.loop_stop()
        self.client.socket().close()


def three_qos(version):
    topic = f"{RUN}/{version}/qos"
    client = Client("qos", version)
    client.subscribe(topic, 2)
    for qos in range(3):
        client.publish(topic, f"qos {qos}", qos)
        message = client.next()
        assert (message.payload, message.qos) == (f"qos {qos}".encode(), qos)
    client.disconnect()


def persistent_session(version):
    topic = f"{RUN}/{version}/away"
    client = Client("away", version, clean=False)
    assert not client.session_present
    client.subscribe(topic, 2)
    client.disconnect()
    other = Client("other", version)
    for n in range(100):
        other.publish(topic, str(n), 1 + n // 50)
    client = Client("away", version, clean=False)
    assert client.session_present
    for n in range(100):
        assert client.next().payload == str(n).encode()
    client.silent()
    client.disconnect()
    other.disconnect()
    Client("away", version, clean=True).disconnect()


def will(version):
    topic = f"{RUN}/{version}/will"
    watcher = Client("watcher", version)
    watcher.subscribe(topic, 1)
    Client("mortal", version, will=(topic, "gone", 1)).die()
    assert watcher.next().payload == b"gone"
    Client("mortal", version, will=(topic, "gone", 1)).disconnect()
    watcher.silent()
    watcher.disconnect()


def retained(version):
    topic = f"{RUN}/{version}/kept"
    client = Client("keeper", version)
    client.publish(topic, "kept", 1, retain=True)
    client.subscribe(topic, 1)
    message = client.next()
    assert message.retain and message.payload == b"kept"
    client.publish(topic, "", 1, retain=True)
    assert not client.next().payload
    late = Client("late", version)
    late.subscribe(topic, 1)
    late.silent()
    late.disconnect()
    client.disconnect()


def large_payload(version):
    topic = f"{RUN}/{version}/large"
    payload = bytes(range(256)) * 4096
    client = Client("large", version)
    client.subscribe(topic, 2)
    for qos in range(3):
        client.publish(topic, payload, qos)
        assert client.next().payload == payload
    client.disconnect()


def burst(version):
    topic = f"{RUN}/{version}/burst"
    count = 10_000
    reader = Client("reader", version)
    reader.subscribe(topic, 1)
    writer = Client("writer", version)
    infos = [writer.client.publish(topic, str(n), 1) for n in range(count)]
    for n in range(count):
        assert reader.next().payload == str(n).encode()
    infos[-1].wait_for_publish(PATIENCE)
    assert all(info.is_published() for info in infos)
    reader.disconnect()
    writer.disconnect()


def shared(version):
    if version != mqtt.MQTTv5:
        return
    topic = f"{RUN}/{version}/shared"
    members = [Client(f"member{n}", version) for n in range(3)]
    for member in members:
        member.subscribe(f"$share/g/{topic}", 1)
    writer = Client("writer", version)
    for n in range(60):
        writer.publish(topic, str(n), 1)
    got = []
    for member in members:
        try:
            while True:
                got.append(int(member.next(timeout=0.6).payload))
        except queue.Empty:
            pass
    assert sorted(got) == list(range(60)), got
    for client in [*members, writer]:
        client.disconnect()


def properties(version):
    if version != mqtt.MQTTv5:
        return
    topic = f"{RUN}/{version}/props"
    client = Client("props", version)
    options = SubscribeOptions(qos=1, noLocal=False, retainAsPublished=True)
    sub_props = Properties(PacketTypes.SUBSCRIBE)
    sub_props.SubscriptionIdentifier = 42
    client.client.subscribe(topic, options=options, properties=sub_props)
    client.subacks.get(timeout=PATIENCE)
    props = Properties(PacketTypes.PUBLISH)
    props.PayloadFormatIndicator = 1
    props.ContentType = "text/plain"
    props.ResponseTopic = f"{topic}/answer"
    props.CorrelationData = b"\x00\xff"
    props.MessageExpiryInterval = 60
    props.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]
    client.publish(topic, "with properties", 1, retain=True, properties=props)
    message = client.next()
    got = message.properties
    assert message.retain
    assert got.PayloadFormatIndicator == 1 and got.ContentType == "text/plain"
    assert got.ResponseTopic == f"{topic}/answer" and got.CorrelationData == b"\x00\xff"
    assert got.UserProperty == [("b", "1"), ("a", "2"), ("b", "3")]
    assert 50 <= got.MessageExpiryInterval <= 60
    assert got.SubscriptionIdentifier == [42]
    client.publish(topic, "", 1, retain=True)
    client.disconnect()


SCENARIOS = [
    three_qos, persistent_session, will, retained, large_payload, burst, shared, properties,
]

for scenario in SCENARIOS:
    for version in (mqtt.MQTTv311, mqtt.MQTTv5):
        start = time.monotonic()
        scenario(version)
        print(f"{scenario.__name__} v{version}: {time.monotonic() - start:.2f} s", flush=True)
