// The bundled MQTT.js on a page of headless Chromium: node browser.js ws://HOST:PORT/mqtt
//
// The page is answered in place of the server, so that its origin is the server's own.

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const url = process.argv[2];
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
const file = (path) => readFile(fileURLToPath(new URL(path, import.meta.url)), "utf8");
const library = await file("../node_modules/mqtt/dist/mqtt.min.js");
const scenarios = await file("scenarios.js");
const page_text = `<!doctype html><title>MQTT.js</title>
<script src="/test/mqtt.js"></script>
<script type="module">
  import { run } from "/test/scenarios.js";
  try {
    await run(mqtt, ${JSON.stringify(url)}, (line) => console.log(line));
    window.outcome = "passed";
  } catch (error) {
    window.outcome = String(error?.stack ?? error);
  }
</script>`;

const browser = await chromium.launch({
  executablePath,
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
    "--disable-component-update", "--no-first-run",
    // The answered page has no address; Chromium then takes it for one of the public Internet.
    "--disable-features=LocalNetworkAccessChecks"],
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.log(message.text()));
  const answer = (contentType, body) => (route) => route.fulfill({ contentType, body });
  await page.route("**/test/page", answer("text/html", page_text));
  await page.route("**/test/mqtt.js", answer("text/javascript", library));
  await page.route("**/test/scenarios.js", answer("text/javascript", scenarios));
  await page.route("**/favicon.ico", (route) => route.fulfill({ status: 204 }));
  await page.goto(`${url.replace(/^ws/, "http").replace(/\/[^/]*$/, "")}/test/page`);
  await page.waitForFunction(() => window.outcome !== undefined, undefined, { timeout: 120_000 });
  const outcome = await page.evaluate(() => window.outcome);
  if (outcome !== "passed") throw new Error(outcome);
} finally {
  await browser.close();
}
