// The console and the API browser behind a path prefix: Debian's nginx with the configuration that docs/endpoint.md shows, TLS included.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { nginx } from "./nginx.mjs";
import { browser, dev, eventually } from "./support.mjs";

const SITE = "https://gpu.example.org";
const HOME = `${SITE}/endpoint/`;
const KEY = "right";
let endpoint;
let proxy;
let chrome;

before(async () => {
  endpoint = await dev(2, "--api-key", KEY);
  proxy = await nginx(endpoint.url);
  chrome = await browser({
    ignoreHTTPSErrors: true,
    args: [`--host-resolver-rules=MAP gpu.example.org:443 127.0.0.1:${proxy.port}`],
  });
});

after(async () => {
  await chrome?.close();
  await proxy?.stop();
  await endpoint?.stop();
  assert.deepEqual(chrome?.failures, [], "scripts failed in the browser");
});

/** A page that notes every address outside the prefix that it asks for. */
async function open(path, options) {
  const page = await chrome.page(options);
  const strays = [];
  page.on("request", (request) => !/^(data:|https:\/\/gpu\.example\.org\/endpoint(\/|$))/.test(request.url()) && strays.push(request.url()));
  await page.goto(SITE + path);
  return { page, strays };
}

async function enterKey(page) {
  await page.getByLabel("API key", { exact: true }).fill(KEY);
  await page.getByRole("button", { name: "Continue" }).click();
}

describe("behind a prefix", { timeout: 120_000 }, () => {
  for (const [name, options] of [["a desk", {}], ["a phone in the dark", { width: 375, height: 812, dark: true }]]) {
    test(`a job is submitted, streams and is read again, on ${name}`, async () => {
      const { page, strays } = await open("/endpoint", options);
      await enterKey(page);
      await page.getByLabel("prompt").fill("a lighthouse");
      await page.getByLabel("max_tokens").fill("30");
      await page.getByRole("button", { name: "Submit job" }).click();
      const badge = page.locator(".headline .badge");
      await badge.filter({ hasText: "In progress" }).waitFor();
      await eventually("first items", async () => (await page.locator(".stream li").count()) > 2);
      assert.ok((await page.locator(".stream li").count()) < 30, "items arrive one after another");
      assert.equal(await page.locator("#live").textContent(), "Live");
      await badge.filter({ hasText: "Completed" }).waitFor();
      assert.equal(await page.locator(".stream li").count(), 30);
      assert.match(page.url(), /^https:\/\/gpu\.example\.org\/endpoint\/#\/local\/jobs\//);
      await page.reload();
      await badge.filter({ hasText: "Completed" }).waitFor();
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth), 0);
      if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/job-${name.replaceAll(" ", "-")}.png` });
      await page.getByRole("link", { name: "Endpoint console" }).click();
      await page.getByRole("heading", { name: "Jobs", level: 2 }).first().waitFor();
      if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/overview-${name.replaceAll(" ", "-")}.png` });
      assert.deepEqual(strays, []);
      await page.close();
    });
  }

  test("the API browser is reached from the console and sends its requests to the prefix", async () => {
    const { page, strays } = await open("/endpoint/");
    await enterKey(page);
    await page.getByRole("link", { name: "API" }).click();
    await page.getByText("/v2/{endpoint}/health").first().click();
    await page.getByPlaceholder("endpoint").fill("local");
    const answer = page.waitForResponse((response) => response.url().includes("/v2/local/health"));
    await page.getByRole("button", { name: "Execute" }).click();
    assert.equal((await answer).url(), `${HOME}v2/local/health`);
    assert.equal((await answer).status(), 401, "the API browser has not been given the key");
    assert.equal(page.url().split("#")[0], `${HOME}docs/`);
    if (process.env.SHOTS) await page.screenshot({ path: `${process.env.SHOTS}/docs.png` });
    assert.deepEqual(strays, []);
    await page.close();
  });

  test("redirects and the document of the API lead to the prefix", async () => {
    const { page } = await open("/endpoint/");
    // From a page of the site, because node does not know the certificate.
    const seen = await page.evaluate(async () => {
      const docs = await fetch("docs");
      const document = await fetch("openapi.json");
      const { servers } = await document.json();
      return { docs: docs.url, api: new URL(`${servers[0].url}/v2/local/run`, document.url).href };
    });
    assert.deepEqual(seen, { docs: `${HOME}docs/`, api: `${HOME}v2/local/run` });
    await page.close();
  });

  test("items and events pass the proxy while a job runs", async () => {
    const { page } = await open("/endpoint/");
    const chunks = await page.evaluate(async (key) => {
      const headers = { Authorization: `Bearer ${key}` };
      const input = { prompt: "ships", max_tokens: 20, pause_ms: 60 };
      const { id } = await (await fetch("v2/local/run", { method: "POST", headers, body: JSON.stringify({ input }) })).json();
      const events = await fetch(`console/local/jobs/${id}/events`, { headers });
      const reader = events.body.getReader();
      let count = 0;
      let text = "";
      const decoder = new TextDecoder();
      while (!text.includes("COMPLETED")) {
        const { done, value } = await reader.read();
        if (done) break;
        count += 1;
        text += decoder.decode(value, { stream: true });
      }
      await reader.cancel();
      return count;
    }, KEY);
    assert.ok(chunks > 5, `${chunks} pieces: the proxy keeps events back`);
    await page.close();
  });
});
