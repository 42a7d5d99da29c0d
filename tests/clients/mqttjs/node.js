// MQTT.js in Node: node node.js URL, where URL is mqtt://HOST:PORT or ws://HOST:PORT/mqtt.

import mqtt from "mqtt";
import { run } from "./scenarios.js";

try {
  await run(mqtt, process.argv[2], console.log);
  process.exit(0);
} catch (error) {
  console.error(error);
  process.exit(1);
}
