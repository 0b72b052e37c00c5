// An endpoint to look at, and a browser to look with.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
export const repository = join(here, "../..");
const program = process.env.RUNPOD_ENDPOINT_BIN ?? join(repository, "target/debug/runpod-endpoint");

/** Runs `runpod-endpoint` with these arguments; `url` is where it listens. */
async function start(args) {
  const env = { RUST_LOG: "warn", ...process.env };
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "inherit"], env });
  const url = await new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`runpod-endpoint ended with ${code}`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      const found = line.match(/^RunPod-compatible endpoint: (http:\S+)\/v2\//);
      if (found) resolve(found[1]);
    });
  });
  const stop = () => new Promise((resolve) => {
    child.once("exit", resolve);
    child.kill("SIGTERM");
  });
  return { url, stop };
}

/** The endpoint alone; port 0 lets the system choose. */
export const serve = (port = 0, ...args) => start(["serve", "--bind", `127.0.0.1:${port}`, ...args]);

/** A port that is free now. */
export const freePort = () => new Promise((resolve) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => resolve(port));
  });
});

const isFree = (port) => new Promise((resolve) => {
  const server = createServer().once("error", () => resolve(false)).listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
});

/** The first of so many free ports in a row. They are below those that the system gives to connections. */
const freePorts = async (count) => {
  for (;;) {
    const first = 15_000 + Math.floor(Math.random() * 10_000);
    const free = await Promise.all(Array.from({ length: count }, (_, index) => isFree(first + index)));
    if (free.every(Boolean)) return first;
  }
};

export const fakeWorker = join(here, "fake-worker.mjs");

/** The endpoint with fake workers, which serve `/health` at ports in a row. */
export const dev = async (workers, ...args) =>
  start(["dev", "--bind", "127.0.0.1:0", "--workers", String(workers), "--worker-http-port", String(await freePorts(workers)),
    "--stop-grace", "2s", "--worker-bin", fakeWorker, ...args, "--", "./storyteller"]);

export async function submit(url, input, more = {}) {
  const response = await fetch(`${url}/v2/local/run`, { method: "POST", body: JSON.stringify({ input, ...more }) });
  return (await response.json()).id;
}

export async function jobStatus(url, id) {
  return (await (await fetch(`${url}/v2/local/status/${id}`)).json()).status;
}

/** Waits until `check` returns something true, at most ten seconds. */
export async function eventually(what, check) {
  const end = Date.now() + 10_000;
  while (Date.now() < end) {
    const found = await check();
    if (found) return found;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`not within ten seconds: ${what}`);
}

/** Debian's chromium with an empty profile. `page(options)` opens a page on which no script may fail. */
export async function browser({ args = [], ...more } = {}) {
  const profile = mkdtempSync(join(tmpdir(), "console-test-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync", ...args],
    viewport: { width: 1280, height: 860 },
    reducedMotion: "reduce",
    ...more,
  });
  context.setDefaultTimeout(10_000);
  const failures = [];
  async function page({ width = 1280, height = 860, dark = false } = {}) {
    const opened = await context.newPage();
    await opened.setViewportSize({ width, height });
    await opened.emulateMedia({ colorScheme: dark ? "dark" : "light" });
    opened.on("pageerror", (error) => failures.push(error.message));
    // The browser itself reports what the network refuses; some tests provoke that.
    opened.on("console", (message) => message.type() === "error" && !/status of (401|404)|ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED/.test(message.text()) && failures.push(message.text()));
    return opened;
  }
  async function close() {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
  return { page, failures, close };
}
