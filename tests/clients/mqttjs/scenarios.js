// What MQTT.js does in Node and in a browser: the same scenarios in both.
//
// run(mqtt, url, log): `mqtt` is the library, `url` the broker; rejects at the first failure.

const PATIENCE = 20_000;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

function check(holds, what) {
  if (!holds) throw new Error(what);
}

const wait = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// A client whose messages are read one by one.
class Client {
  static async open(mqtt, url, options) {
    const self = new Client();
    self.queue = [];
    self.readers = [];
    self.client = mqtt.connect(url, { reconnectPeriod: 0, connectTimeout: PATIENCE, ...options });
    self.client.on("message", (topic, payload, packet) => {
      const message = { topic, payload, text: () => decoder.decode(payload), packet };
      const reader = self.readers.shift();
      if (reader) reader(message);
      else self.queue.push(message);
    });
    self.connack = await new Promise((resolve, reject) => {
      self.client.on("connect", resolve);
      self.client.on("error", reject);
      self.client.on("close", () => reject(new Error("closed before CONNACK")));
    });
    return self;
  }

  async next(patience = PATIENCE) {
    if (this.queue.length > 0) return this.queue.shift();
    return await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("no message in time")), patience);
      this.readers.push((message) => {
        clearTimeout(timer);
        resolve(message);
      });
    });
  }

  async silent() {
    await wait(400);
    check(this.queue.length === 0, `unexpected ${this.queue[0]?.topic}`);
  }

  async subscribe(topic, options) {
    const granted = await this.client.subscribeAsync(topic, options);
    check(granted.every((one) => one.qos === options.qos), JSON.stringify(granted));
  }

  publish(topic, payload, options) {
    return this.client.publishAsync(topic, payload, options);
  }

  close() {
    return this.client.endAsync();
  }

  // Goes without DISCONNECT.
  die() {
    this.client.stream.destroy();
  }
}

const versions = [
  { protocolVersion: 4 },
  { protocolVersion: 5 },
];

const scenarios = {
  async qos(open, name) {
    const client = await open("qos");
    await client.subscribe(name, { qos: 2 });
    for (const qos of [0, 1, 2]) {
      await client.publish(name, `qos ${qos}`, { qos });
      const message = await client.next();
      check(message.text() === `qos ${qos}` && message.packet.qos === qos, `qos ${qos}`);
    }
    await client.close();
  },

  async session(open, name, v5) {
    const durable = { clean: false, ...(v5 && { properties: { sessionExpiryInterval: 300 } }) };
    let client = await open("away", durable);
    check(!client.connack.sessionPresent, "a session before there was one");
    await client.subscribe(name, { qos: 2 });
    await client.close();
    const other = await open("other");
    for (let n = 0; n < 100; n++) await other.publish(name, `${n}`, { qos: n < 50 ? 1 : 2 });
    client = await open("away", durable);
    check(client.connack.sessionPresent, "session present");
    for (let n = 0; n < 100; n++) {
      const message = await client.next();
      check(message.text() === `${n}`, `wanted ${n}, got ${message.text()}`);
    }
    await client.silent();
    await client.close();
    await other.close();
    await (await open("away", { clean: true })).close();
  },

  async will(open, name) {
    const watcher = await open("watcher");
    await watcher.subscribe(name, { qos: 1 });
    const will = { topic: name, payload: encoder.encode("gone"), qos: 1 };
    (await open("mortal", { will })).die();
    check((await watcher.next()).text() === "gone", "the will");
    await (await open("mortal", { will })).close();
    await watcher.silent();
    await watcher.close();
  },

  async retained(open, name) {
    const client = await open("keeper");
    await client.publish(name, "kept", { qos: 1, retain: true });
    await client.subscribe(name, { qos: 1 });
    const message = await client.next();
    check(message.packet.retain && message.text() === "kept", "the retained copy");
    await client.publish(name, "", { qos: 1, retain: true });
    await client.next();
    const late = await open("late");
    await late.subscribe(name, { qos: 1 });
    await late.silent();
    await late.close();
    await client.close();
  },

  async large(open, name) {
    const payload = new Uint8Array(1 << 20).map((_, n) => n % 251);
    const client = await open("large");
    await client.subscribe(name, { qos: 2 });
    for (const qos of [0, 1, 2]) {
      await client.publish(name, payload, { qos });
      const came = (await client.next()).payload;
      check(came.length === payload.length && came.every((byte, n) => byte === n % 251), `${qos}`);
    }
    await client.close();
  },

  async burst(open, name) {
    const reader = await open("reader");
    await reader.subscribe(name, { qos: 1 });
    const writer = await open("writer");
    const count = 10_000;
    const sent = (async () => {
      for (let n = 0; n < count; n += 50) {
        const batch = Array.from({ length: 50 }, (_, m) =>
          writer.publish(name, `${n + m}`, { qos: 1 }));
        await Promise.all(batch);
      }
    })();
    for (let n = 0; n < count; n++) {
      const message = await reader.next();
      check(message.text() === `${n}`, `wanted ${n}, got ${message.text()}`);
    }
    await sent;
    await reader.close();
    await writer.close();
  },

  async shared(open, name, v5) {
    if (!v5) return;
    const members = await Promise.all([0, 1, 2].map((n) => open(`member${n}`)));
    for (const member of members) await member.subscribe(`$share/g/${name}`, { qos: 1 });
    const writer = await open("writer");
    for (let n = 0; n < 60; n++) await writer.publish(name, `${n}`, { qos: 1 });
    await wait(600);
    const got = members.flatMap((member) => member.queue.map((message) => Number(message.text())));
    got.sort((one, two) => one - two);
    check(got.length === 60 && got.every((n, at) => n === at), `${got}`);
    await Promise.all([...members, writer].map((client) => client.close()));
  },

  async properties(open, name, v5) {
    if (!v5) return;
    const client = await open("props");
    await client.subscribe(name, { qos: 1, properties: { subscriptionIdentifier: 42 } });
    const properties = {
      payloadFormatIndicator: true,
      contentType: "text/plain",
      responseTopic: `${name}/answer`,
      messageExpiryInterval: 60,
      userProperties: { a: ["1", "2"], b: "3" },
    };
    await client.publish(name, "with properties", { qos: 1, properties });
    const got = (await client.next()).packet.properties;
    check(got.contentType === "text/plain", "content type");
    check(got.responseTopic === `${name}/answer`, "response topic");
    check(JSON.stringify(got.userProperties.a) === '["1","2"]', "user properties");
    check(got.messageExpiryInterval >= 50 && got.messageExpiryInterval <= 60, "expiry");
    check(`${got.subscriptionIdentifier}` === "42", "subscription identifier");
    await client.close();
  },
};

export async function run(mqtt, url, log) {
  const prefix = `mqttjs-${Date.now()}-${Math.floor(Math.random() * 1e6)}`;
  for (const [name, scenario] of Object.entries(scenarios)) {
    for (const version of versions) {
      const start = performance.now();
      const topic = `${prefix}/${version.protocolVersion}/${name}`;
      const open = (id, options) =>
        Client.open(mqtt, url, { clientId: `${prefix}-${id}`, clean: true, ...version, ...options });
      try {
        await scenario(open, topic, version.protocolVersion === 5);
      } catch (error) {
        throw new Error(`${name} v${version.protocolVersion}: ${error?.message ?? error}`);
      }
      log(`${name} v${version.protocolVersion}: ${Math.round(performance.now() - start)} ms`);
    }
  }
}
