// Takes the pictures of the documentation.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { browser, dev, eventually, jobStatus, repository, submit } from "./support.mjs";

const folder = process.argv[2] ?? join(repository, "docs/images");
mkdirSync(folder, { recursive: true });
const endpoint = await dev(3);
const { page, failures, close } = await browser();
const shot = (opened, name) => opened.screenshot({ path: join(folder, `${name}.png`) });
try {
  const story = (prompt, max_tokens = 40) => submit(endpoint.url, { prompt, max_tokens, pause_ms: 70 });
  // A history worth a chart: more work than the workers can do, then less, then more.
  const seconds = Number(process.env.SHOT_SECONDS ?? 140);
  let due = 0;
  for (let second = 0; second < seconds; second += 1) {
    for (due += 0.85 - 0.75 * Math.cos((second / 48) * 2 * Math.PI + 0.7); due >= 1; due -= 1) {
      if (second % 17 === 3) await submit(endpoint.url, { prompt: "a lost letter", max_tokens: 40, fail: true });
      else await story("a machine by the sea", 24 + ((second * 13) % 32));
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  for (let index = 0; index < 9; index += 1) await story("forty ships", 45);
  const overview = await page({ width: 1280, height: 900 });
  await overview.goto(endpoint.url);
  await overview.getByLabel("prompt").fill("A machine that waits for work");
  await overview.waitForTimeout(2500);
  await shot(overview, "queue-busy");

  const phone = await page({ width: 375, height: 812 });
  await phone.goto(endpoint.url);
  await phone.getByRole("heading", { name: "Jobs", level: 2 }).first().waitFor();
  await phone.waitForTimeout(1500);
  await shot(phone, "phone");
  await fetch(`${endpoint.url}/v2/local/purge-queue`, { method: "POST" });

  const streaming = await submit(endpoint.url, { prompt: "The lamps of the harbour", max_tokens: 120, pause_ms: 60, style: "poem" });
  const job = await page({ width: 1280, height: 760 });
  await job.goto(`${endpoint.url}/#/local/jobs/${streaming}`);
  await eventually("items", async () => (await job.locator(".stream li").count()) > 45);
  await shot(job, "job-streaming");

  const failing = await submit(endpoint.url, { prompt: "A lost letter", max_tokens: 30, pause_ms: 40, fail: true });
  await eventually("failure", async () => (await jobStatus(endpoint.url, failing)) === "FAILED");
  await job.emulateMedia({ colorScheme: "dark" });
  await job.goto(`${endpoint.url}/#/local/jobs/${failing}`);
  await job.getByRole("heading", { name: "Error" }).waitFor();
  await shot(job, "job-failed");
  if (failures.length > 0) throw new Error(failures.join("\n"));
} finally {
  await close();
  await endpoint.stop();
}
