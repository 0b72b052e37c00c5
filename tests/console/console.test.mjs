// What a person does with the console, in a real browser.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { browser, dev, eventually, fakeWorker, freePort, jobStatus, serve, submit } from "./support.mjs";

const LIMIT = { timeout: 120_000 };
let endpoint;
let chrome;

before(async () => {
  endpoint = await dev(2);
  chrome = await browser();
});

after(async () => {
  await chrome?.close();
  await endpoint?.stop();
  assert.deepEqual(chrome?.failures, [], "scripts failed in the browser");
});

const badge = (page) => page.locator(".headline .badge");
const jobUrl = (id) => `${endpoint.url}/#/local/jobs/${id}`;
const open = async (path = "/", options = {}) => {
  const page = await chrome.page(options);
  await page.goto(endpoint.url + path);
  return page;
};
const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

describe("jobs", LIMIT, () => {
  test("a job submitted with the form streams to its end", async () => {
    const page = await open();
    await page.getByLabel("prompt").fill("a lighthouse");
    await page.getByLabel("max_tokens").fill("30");
    await page.getByLabel("style").selectOption("poem");
    await page.getByRole("button", { name: "Submit job" }).click();
    await badge(page).filter({ hasText: "In progress" }).waitFor();
    await eventually("first items", async () => (await page.locator(".stream li").count()) > 2);
    assert.ok((await page.locator(".stream li").count()) < 30, "items arrive one after another");
    await badge(page).filter({ hasText: "Completed" }).waitFor();
    assert.equal(await page.locator(".stream li").count(), 30);
    const steps = await page.locator(".timeline .what span:first-child").allTextContents();
    assert.deepEqual(steps, ["In queue", "In progress", "Completed"]);
    const output = JSON.parse(await page.getByLabel("Output", { exact: true }).locator("pre").textContent());
    assert.deepEqual([output.prompt, output.words, output.style], ["a lighthouse", 30, "poem"]);
    const input = JSON.parse(await page.getByLabel("Input", { exact: true }).locator("pre").textContent());
    assert.deepEqual(input, { prompt: "a lighthouse", max_tokens: 30, style: "poem", fail: false });
    await page.close();
  });

  test("a running job can be cancelled", async () => {
    const id = await submit(endpoint.url, { prompt: "long", max_tokens: 400, pause_ms: 50 });
    const page = await open(`/#/local/jobs/${id}`);
    await badge(page).filter({ hasText: "In progress" }).waitFor();
    await page.getByRole("button", { name: "Cancel job" }).click();
    await badge(page).filter({ hasText: "Cancelled" }).waitFor();
    assert.equal(await jobStatus(endpoint.url, id), "CANCELLED");
    assert.equal(await page.getByRole("button", { name: "Cancel job" }).isVisible(), false);
    await page.close();
  });

  test("a failed job shows its error and can be retried", async () => {
    const id = await submit(endpoint.url, { prompt: "lost", max_tokens: 4, fail: true });
    const page = await open(`/#/local/jobs/${id}`);
    await badge(page).filter({ hasText: "Failed" }).waitFor();
    assert.match(await page.getByLabel("Error", { exact: true }).locator("pre").textContent(), /^InputError: the story got lost after 2 words\n\nstoryteller::tell\n/);
    const lines = page.getByLabel("Log lines").locator("li");
    await eventually("its log", async () => (await lines.count()) === 2);
    assert.match(await lines.nth(1).textContent(), /ERROR.*the story got lost after 2 words/);
    await page.getByRole("button", { name: "Retry job" }).click();
    await eventually("both runs", async () => (await page.locator(".timeline li").count()) === 6);
    const steps = await page.locator(".timeline .what span:first-child").allTextContents();
    assert.deepEqual(steps, ["In queue", "In progress", "Failed", "Back in queue", "In progress", "Failed"]);
    await page.close();
  });

  test("an input that is no JSON is refused before it is sent", async () => {
    const page = await open();
    await page.getByRole("button", { name: "JSON" }).click();
    await page.getByLabel("Input JSON").fill("{nope");
    await page.getByRole("button", { name: "Submit job" }).click();
    assert.match(await page.locator(".submit .problem").textContent(), /^The input is not JSON/);
    await page.getByLabel("Input JSON").fill('{"prompt": "x", "max_tokens": 1}');
    await page.getByRole("button", { name: "Submit job" }).click();
    await badge(page).filter({ hasText: "Completed" }).waitFor();
    await page.close();
  });

  test("what a job contains stays text", async () => {
    const attack = `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`;
    const id = await submit(endpoint.url, { prompt: attack, max_tokens: 2 });
    const page = await open(`/#/local/jobs/${id}`);
    await badge(page).filter({ hasText: "Completed" }).waitFor();
    assert.ok((await page.getByLabel("Input", { exact: true }).locator("pre").textContent()).includes("<img src=x"));
    assert.equal(await page.locator("main img, main script").count(), 0);
    assert.notEqual(await page.title(), "owned");
    await page.close();
  });

  test("an unknown job is said to be unknown", async () => {
    const page = await open("/#/local/jobs/none");
    await page.getByText("This job does not exist").waitFor();
    await page.close();
  });
});

describe("overview", LIMIT, () => {
  test("the list is filtered by state and by id and follows new jobs", async () => {
    const failed = await submit(endpoint.url, { prompt: "lost", max_tokens: 2, fail: true });
    await eventually("failure", async () => (await jobStatus(endpoint.url, failed)) === "FAILED");
    const page = await open();
    const row = (id) => page.locator(`tr[data-id="${id}"]`);
    await row(failed).waitFor();
    await page.getByRole("radio", { name: "Completed" }).check({ force: true });
    await row(failed).waitFor({ state: "detached" });
    await page.getByRole("radio", { name: "Failed" }).check({ force: true });
    await row(failed).waitFor();
    const states = await page.locator(".jobs .badge").allTextContents();
    assert.ok(states.every((state) => state === "Failed"), states.join());
    await page.getByRole("radio", { name: "All" }).check({ force: true });
    await page.getByRole("searchbox", { name: "Job id contains" }).fill(failed.slice(3, 20));
    await eventually("one row", async () => (await page.locator(".jobs tbody tr").count()) === 1);
    await page.getByRole("searchbox", { name: "Job id contains" }).fill("");
    const next = await submit(endpoint.url, { prompt: "new", max_tokens: 1 });
    await row(next).waitFor();
    await page.close();
  });

  test("the history is searched by text, state and time", async () => {
    const marker = `history-${Date.now()}`;
    const failed = await submit(endpoint.url, { prompt: marker, max_tokens: 1, fail: true });
    await eventually("failure", async () => (await jobStatus(endpoint.url, failed)) === "FAILED");
    const page = await open();
    await page.getByRole("link", { name: "History" }).click();
    const found = (id) => page.locator(".jobs a", { hasText: id });
    await found(failed).waitFor();
    assert.ok((await page.locator(".why").count()) > 0, "why a job failed is in the list");
    const text = page.getByRole("searchbox", { name: "Id, worker or error contains" });
    await text.fill("no such job");
    await page.keyboard.press("Enter");
    await page.getByText("No job fits.").waitFor();
    assert.equal(await page.locator(".jobs").isVisible(), false);
    await text.fill(failed.slice(0, 12).toUpperCase());
    await page.getByLabel("State").selectOption("FAILED");
    await found(failed).waitFor();
    assert.equal(await page.locator(".jobs .badge").count(), 1);
    await page.getByLabel("until").fill("2020-01-01T00:00:01");
    await page.getByRole("button", { name: "Search" }).click();
    await page.getByText("No job fits.").waitFor();
    await page.getByLabel("until").fill("");
    await text.fill("");
    await page.getByRole("button", { name: "Search" }).click();
    await found(failed).click();
    await page.getByRole("heading", { name: "Error" }).waitFor();
    await page.close();
  });

  test("older jobs of the history are shown on request", async () => {
    for (let index = 0; index < 55; index += 1) await submit(endpoint.url, { prompt: "old", max_tokens: 1 });
    const page = await open("/#/local/history");
    const more = page.getByRole("button", { name: "Show older jobs" });
    await more.waitFor();
    const rows = page.locator(".jobs .badge");
    assert.equal(await rows.count(), 50);
    await more.click();
    await eventually("older jobs", async () => (await rows.count()) > 54);
    assert.equal(await page.evaluate(() => document.activeElement.tagName), "A", "the first of them has the focus");
    await fetch(`${endpoint.url}/v2/local/purge-queue`, { method: "POST" });
    await page.close();
  });

  test("the queue is seen to fill and can be purged", async () => {
    const running = [];
    for (let index = 0; index < 6; index += 1) running.push(await submit(endpoint.url, { prompt: "long", max_tokens: 400, pause_ms: 50 }));
    const page = await open();
    const figure = (name) => page.locator(".tile", { hasText: name }).locator("dd").first();
    await eventually("a queue", async () => (await figure("In queue").textContent()) === "4");
    assert.equal(await figure("In progress").textContent(), "2");
    await eventually("a chart", async () => /in queue 4/.test(await page.getByRole("img", { name: /^Queue depth/ }).getAttribute("aria-label")));
    page.once("dialog", (dialog) => dialog.accept());
    await page.getByRole("button", { name: "Purge queue" }).click();
    await eventually("an empty queue", async () => (await figure("In queue").textContent()) === "0");
    for (const id of running) await fetch(`${endpoint.url}/v2/local/cancel/${id}`, { method: "POST" });
    await page.close();
  });
});

describe("operations", LIMIT, () => {
  test("the endpoint is paused and resumed", async () => {
    const page = await open();
    await page.getByRole("button", { name: "Pause" }).click();
    await page.getByText("This endpoint is paused").waitFor();
    const id = await submit(endpoint.url, { prompt: "patience", max_tokens: 1 });
    await page.locator(`tr[data-id="${id}"] .badge`, { hasText: "In queue" }).waitFor();
    await page.waitForTimeout(500);
    assert.equal(await jobStatus(endpoint.url, id), "IN_QUEUE");
    // Another page shows it too.
    const other = await open();
    await other.getByRole("button", { name: "Resume" }).click();
    await page.getByRole("button", { name: "Pause" }).waitFor();
    await page.getByText("This endpoint is paused").waitFor({ state: "hidden" });
    await eventually("its end", async () => (await jobStatus(endpoint.url, id)) === "COMPLETED");
    await other.close();
    await page.close();
  });

  test("all failed jobs are retried at once", async () => {
    const failed = [];
    for (let index = 0; index < 2; index += 1) failed.push(await submit(endpoint.url, { prompt: "lost", max_tokens: 2, fail: true }));
    for (const id of failed) await eventually("failure", async () => (await jobStatus(endpoint.url, id)) === "FAILED");
    const page = await open();
    page.once("dialog", (dialog) => dialog.accept());
    await page.getByRole("button", { name: "Retry failed" }).click();
    await page.locator(".toast", { hasText: /failed jobs? queued again/ }).waitFor();
    await page.goto(jobUrl(failed[0]));
    await page.locator(".timeline").getByText("Back in queue").waitFor();
    await page.close();
  });

  test("failed jobs that do not fit into the queue are left, with the reason", async () => {
    const small = await serve(0, "--max-queued", "1");
    for (let index = 0; index < 2; index += 1) {
      const id = await submit(small.url, { prompt: "lost" });
      await fetch(`${small.url}/v2/local/job-take/w`);
      await fetch(`${small.url}/v2/local/job-done/w/${id}?isStream=false`, { method: "POST", body: JSON.stringify({ error: "no" }) });
    }
    try {
      const page = await chrome.page();
      await page.goto(`${small.url}/#/local`);
      page.once("dialog", (dialog) => dialog.accept());
      await page.getByRole("button", { name: "Retry failed" }).click();
      await page.locator(".toast", { hasText: "1 failed job queued again; 1 left: as many jobs wait as may" }).waitFor();
      assert.equal(await overflow(page), 0);
      await page.close();
    } finally {
      await small.stop();
    }
  });

  test("a file becomes a batch whose results are saved as they were written", async () => {
    const page = await open();
    const lines = ["a", "b", "c"].map((prompt) => JSON.stringify({ prompt, max_tokens: 2, pause_ms: 10 }));
    lines.push(JSON.stringify({ input: { prompt: "lost", max_tokens: 2, fail: true } }));
    // As other systems write it: with a byte order mark and their line ends.
    const buffer = Buffer.from(`\ufeff${lines.join("\r\n")}\r\n\r\n`);
    await page.getByLabel("File of inputs").setInputFiles({ name: "stories.jsonl", mimeType: "text/plain", buffer });
    const batch = page.locator(".batches li", { hasText: "stories.jsonl" });
    await batch.getByText("Ended · 4 of 4 · 1 failed").waitFor();
    assert.equal(await batch.getByRole("progressbar").getAttribute("value"), "1");
    assert.equal(await batch.getByRole("button", { name: "Cancel" }).isVisible(), false);
    const saved = page.waitForEvent("download");
    await batch.getByRole("button", { name: "Results" }).click();
    const results = JSON.parse(readFileSync(await (await saved).path(), "utf8"));
    assert.deepEqual(results.map(({ status, output }) => [status, output?.prompt]),
      [["COMPLETED", "a"], ["COMPLETED", "b"], ["COMPLETED", "c"], ["FAILED", undefined]]);
    await page.close();
  });

  test("a running batch can be cancelled, and a file that is no batch is refused", async () => {
    const page = await open();
    const lines = Array.from({ length: 6 }, (_, index) => JSON.stringify({ prompt: `${index}`, max_tokens: 60, pause_ms: 30 }));
    const choose = (text) => page.getByLabel("File of inputs").setInputFiles({ name: "long.jsonl", mimeType: "text/plain", buffer: Buffer.from(text) });
    await choose(lines.join("\n"));
    const batch = page.locator(".batches li", { hasText: "long.jsonl" });
    await batch.getByText(/Running .* 2 in progress/).waitFor();
    page.once("dialog", (dialog) => dialog.accept());
    await batch.getByRole("button", { name: "Cancel" }).click();
    await batch.getByText("Cancelled · 6 of 6").waitFor();
    await choose("{}\nno json");
    await page.locator(".toast", { hasText: "line 2 is not JSON" }).waitFor();
    for (const encoding of ["latin1", "utf16le"]) {
      await choose(Buffer.from('{"prompt": "Möwe"}\n', encoding));
      await page.locator(".toast", { hasText: "long.jsonl is not UTF-8" }).waitFor();
      await page.locator(".toast").evaluateAll((toasts) => toasts.forEach((toast) => toast.remove()));
    }
    assert.equal(await page.locator(".batches li").count(), 2, "nothing was created");
    // A page that is left while it sends the file leaves no draft.
    await page.route("**/batch/*/requests", () => {});
    await choose(lines.join("\n"));
    const newest = async () => (await (await fetch(`${endpoint.url}/v2/local/batch?limit=1`)).json()).batches[0].status;
    await eventually("a draft", async () => (await newest()) === "DRAFT");
    await page.goto("about:blank");
    await eventually("its end", async () => (await newest()) === "CANCELLED");
    await page.goto(endpoint.url);
    await page.locator(".batches li").nth(2).waitFor();
    assert.equal(await overflow(page), 0);
    await page.setViewportSize({ width: 375, height: 812 });
    assert.equal(await overflow(page), 0, "at phone width");
    await page.close();
  });
});

describe("access", LIMIT, () => {
  test("everything can be done with the keyboard alone", async () => {
    const page = await open();
    await page.getByLabel("prompt").waitFor();
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.id), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    const tabTo = async (what) => {
      for (let presses = 0; presses < 80; presses += 1) {
        await page.keyboard.press("Tab");
        if (await page.evaluate(what)) return;
      }
      assert.fail(`Tab never reaches: ${what}`);
    };
    await tabTo("document.activeElement.name === 'prompt'");
    await page.keyboard.type("typed");
    await tabTo("document.activeElement.name === 'max_tokens'");
    await page.keyboard.press("ControlOrMeta+a");
    await page.keyboard.type("400");
    await tabTo("document.activeElement.textContent === 'Submit job'");
    const outline = await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle);
    assert.equal(outline, "solid", "the focus is visible");
    await page.keyboard.press("Enter");
    await badge(page).filter({ hasText: "In progress" }).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.id), "main", "the new page has the focus");
    await tabTo("document.activeElement.textContent === 'Cancel job'");
    await page.keyboard.press("Enter");
    await badge(page).filter({ hasText: "Cancelled" }).waitFor();
    await page.keyboard.press("Shift+Tab");
    await page.close();
  });

  test("a row that has the focus keeps it while the list changes", async () => {
    const id = await submit(endpoint.url, { prompt: "x", max_tokens: 1 });
    const page = await open();
    await page.locator(`tr[data-id="${id}"] a`).focus();
    const next = await submit(endpoint.url, { prompt: "y", max_tokens: 1 });
    await page.locator(`tr[data-id="${next}"]`).waitFor();
    assert.equal(await page.evaluate(() => document.activeElement.closest("tr")?.dataset.id), id);
    await page.close();
  });

  test("every control has a name", async () => {
    const page = await open();
    await page.getByLabel("prompt").waitFor();
    const nameless = await page.evaluate(() => [...document.querySelectorAll("main :is(button, input, select, textarea, a), header :is(button, select, a)")]
      .filter((element) => element.offsetParent !== null)
      .filter((element) => !(element.textContent.trim() || element.getAttribute("aria-label") || element.labels?.length))
      .map((element) => element.outerHTML));
    assert.deepEqual(nameless, []);
    await page.close();
  });

  test("a local worker shows its batches", async () => {
    const page = await open();
    const line = page.locator(".workers .batching").first();
    await line.waitFor();
    assert.equal(await line.textContent(), "24 of 32 running, 7 waiting, batches of 21.4, last 24 (cost), budget 4096 of 8192");
    await page.close();
  });

  test("a load balancer shows its workers and their requests, and no jobs", async () => {
    const folder = mkdtempSync(join(tmpdir(), "console-test-"));
    const [file, port] = [join(folder, "endpoints.toml"), await freePort()];
    writeFileSync(file, `[[endpoint]]\nid = "chat"\nhandler = ["./chat"]\nworkers_min = 2\n`
      + `load_balancer = { bind = "127.0.0.1:${port}", concurrency = 4 }\n`);
    const balanced = await serve(0, "--config", file, "--worker-bin", fakeWorker, "--stop-grace", "0s");
    const page = await chrome.page({ width: 375, height: 812 });
    try {
      await page.goto(`${balanced.url}/#/chat`);
      await page.locator(".workers .badge", { hasText: "Idle" }).nth(1).waitFor();
      const slow = new AbortController();
      fetch(`http://127.0.0.1:${port}/slow`, { signal: slow.signal }).catch(() => {});
      await page.locator(".workers").getByText("1 request", { exact: true }).waitFor();
      slow.abort();
      assert.deepEqual(await page.getByRole("heading", { level: 2 }).allTextContents(), ["Worker states", "Workers"]);
      await page.getByRole("button", { name: "Pause" }).click();
      await page.getByText("new requests are refused until it is resumed").waitFor();
      assert.equal(await overflow(page), 0, "at phone width");
    } finally {
      await page.close();
      await balanced.stop();
      rmSync(folder, { recursive: true });
    }
  });

  test("nothing overflows at phone width", async () => {
    const id = await submit(endpoint.url, { prompt: "x".repeat(300), max_tokens: 12 });
    for (const path of ["/", `/#/local/jobs/${id}`, "/#/local/history"]) {
      const page = await open(path, { width: 375, height: 812 });
      await page.locator(".badge").first().waitFor();
      assert.equal(await overflow(page), 0, path);
      await page.close();
    }
  });

  test("text stands out in light and in dark", async () => {
    for (const dark of [false, true]) {
      const page = await open("/", { dark });
      await page.locator(".badge").first().waitFor();
      const weak = await page.evaluate(() => {
        // A badge of every tone, whatever happens to run now, on a row as the pointer shows it.
        for (const tone of ["queue", "run", "good", "bad", "off", "late"]) {
          const badge = document.createElement("span");
          badge.className = `badge tone-${tone}`;
          badge.textContent = tone;
          const row = document.createElement("div");
          row.style.background = "var(--sunken)";
          row.append(badge);
          document.querySelector(".panel").append(row);
        }
        const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
        const paint = (layers) => {
          canvas.clearRect(0, 0, 1, 1);
          for (const colour of layers) {
            canvas.fillStyle = colour;
            canvas.fillRect(0, 0, 1, 1);
          }
          return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const light = (rgb) => rgb.map((part) => part / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
          .reduce((sum, part, index) => sum + part * [0.2126, 0.7152, 0.0722][index], 0);
        const found = [];
        for (const element of document.querySelectorAll("body *")) {
          const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
          if (!own || element.offsetParent === null || element.closest(":disabled, option, .skip")) continue;
          const layers = [];
          for (let at = element; at; at = at.parentElement) layers.unshift(getComputedStyle(at).backgroundColor);
          const [back, front] = [light(paint(layers)), light(paint([...layers, getComputedStyle(element).color]))];
          const ratio = (Math.max(back, front) + 0.05) / (Math.min(back, front) + 0.05);
          if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.className || element.tagName} "${element.textContent.slice(0, 30)}"`);
        }
        return [...new Set(found)];
      });
      assert.deepEqual(weak, [], dark ? "dark" : "light");
      await page.close();
    }
  });

  test("an endpoint with a key asks for it once and keeps it in the tab", async () => {
    const guarded = await serve(0, "--api-key", "right", "--worker-key", "other");
    try {
      const page = await chrome.page();
      await page.goto(guarded.url);
      await page.getByRole("textbox", { name: "API key" }).fill("wrong");
      await page.getByRole("button", { name: "Continue" }).click();
      await page.getByText("does not accept this key").waitFor();
      await page.getByRole("textbox", { name: "API key" }).fill("right");
      await page.getByRole("button", { name: "Continue" }).click();
      await page.locator("#live.on").waitFor();
      await page.reload();
      await page.locator("#live.on").waitFor();
      assert.equal(await page.locator("#key-dialog").isVisible(), false);
      assert.equal(await page.evaluate(() => localStorage.length), 0);
      await page.close();
    } finally {
      await guarded.stop();
    }
  });

  test("the page comes back when the endpoint does", async () => {
    const first = await serve();
    const port = new URL(first.url).port;
    const page = await chrome.page();
    await page.goto(first.url);
    await page.locator("#live.on").waitFor();
    await first.stop();
    await page.locator("#live.off").waitFor();
    const second = await serve(port);
    try {
      await page.locator("#live.on").waitFor();
    } finally {
      await page.close();
      await second.stop();
    }
  });

  test("the API browser works without a network", async () => {
    const page = await chrome.page();
    const foreign = [];
    page.on("request", (request) => !request.url().startsWith(endpoint.url) && !request.url().startsWith("data:") && foreign.push(request.url()));
    await page.goto(`${endpoint.url}/docs`);
    await page.getByText("/v2/{endpoint}/runsync").first().waitFor();
    assert.deepEqual(foreign, []);
    await page.close();
  });
});
