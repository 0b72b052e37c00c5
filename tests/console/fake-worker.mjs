#!/usr/bin/env node
// A worker that speaks the platform's protocol and does what the job's input says. Stands in for `runpod-worker`.

import { createServer } from "node:http";

const MANIFEST = {
  name: "storyteller",
  version: "1.0.0",
  idempotent: true,
  streams: true,
  input_schema: {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Input",
    type: "object",
    required: ["prompt"],
    properties: {
      prompt: { type: "string", description: "What the story is about." },
      max_tokens: { type: "integer", minimum: 1, maximum: 400, default: 24, description: "Length of the story." },
      style: { $ref: "#/$defs/Style", default: "plain" },
      temperature: { type: ["number", "null"], minimum: 0, maximum: 2 },
      fail: { type: "boolean", default: false, description: "End with an error." },
    },
    $defs: { Style: { type: "string", enum: ["plain", "poem", "letter"] } },
  },
  output_schema: true,
  chunk_schema: { type: "string" },
};

/** What `/health` of a worker says about batches. */
const BATCHING = { maxJobs: 32, maxCost: 8192, budget: 4096, running: 24, waiting: 7, batches: 90, meanBatch: 21.4, lastBatch: { jobs: 24, cost: 4010, closedBy: "cost" } };

const WORDS = `Once upon a time there was a small machine that waited for work. It slept most of the day, and woke whenever
somebody asked it a question. One evening a letter came from the harbour: the lamps had gone out, and forty ships were on
their way. So it counted the ships, lit the lamps one by one, and told each captain where to go.`.split(/\s+/);

const env = process.env;
const worker = env.RUNPOD_POD_ID;
const url = (name, job = "") =>
  env[`RUNPOD_WEBHOOK_${name}`].replaceAll("$RUNPOD_POD_ID", worker).replaceAll("$ID", name === "GET_JOB" ? worker : job);
const headers = { Authorization: env.RUNPOD_AI_API_KEY ?? "", "Content-Type": "application/json" };
const post = (name, job, body) => fetch(url(name, job), { method: "POST", headers, body: JSON.stringify(body) });
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const stopped = new Set();

const log = (id, level, text) => console.log(`${level.padEnd(7)}| ${id} | ${text}`);

async function work({ id, input }) {
  log(id, "INFO", "Started. attempt=1");
  const length = input.max_tokens ?? 24;
  const pause = input.pause_ms ?? 60;
  const story = [];
  for (let index = 0; index < length; index += 1) {
    if (stopped.has(id)) return;
    if (input.fail && index === Math.floor(length / 2)) {
      const error = {
        error_type: "InputError",
        error_message: `the story got lost after ${index} words`,
        error_traceback: "storyteller::tell\n    at src/story.rs:41:9\nstoryteller::run\n    at src/main.rs:17:5",
        hostname: "storyteller",
        worker_id: worker,
      };
      log(id, "ERROR", `Failed. Delivering the error. kind=inference_error reason="${error.error_message}"`);
      await post("POST_OUTPUT", id, { error: JSON.stringify(error) });
      return;
    }
    const word = `${WORDS[index % WORDS.length]} `;
    story.push(word);
    await post("POST_STREAM", id, { output: word });
    await sleep(pause);
  }
  log(id, "INFO", `Completed. Delivering the result. words=${length}`);
  await post("POST_OUTPUT", id, { output: { story: story.join("").trim(), words: length, style: input.style ?? "plain", prompt: input.prompt } });
}

async function listenForStops() {
  for (;;) {
    const response = await fetch(url("GET_JOB").replace("job-take", "job-stop"), { headers }).catch(() => null);
    if (response?.status === 200) for (const id of (await response.json()).jobsToStop) stopped.add(id);
    if (response === null) await sleep(200);
  }
}

function serveHealth() {
  const port = Number(env.RUNPOD_WORKER_HTTP_BIND?.split(":").pop() ?? 0);
  if (port === 0) return;
  const health = JSON.stringify({ worker: { processes: [{ id: 0, batching: BATCHING }] }, runtime: { gpus: [] } });
  createServer((_, response) => response.setHeader("Content-Type", "application/json").end(health)).listen(port, "127.0.0.1");
}

async function run() {
  serveHealth();
  listenForStops();
  let held = [];
  setInterval(() => fetch(`${url("PING")}&job_id=${held.join(",")}`, { headers }).catch(() => {}), 2000).unref();
  for (;;) {
    const response = await fetch(`${url("GET_JOB")}&job_in_progress=0`, { headers }).catch(() => null);
    if (response?.status === 200) {
      const job = await response.json();
      held = [job.id];
      await work(job).catch(() => {});
      held = [];
    }
    if (response === null) await sleep(200);
  }
}

/** A worker of a load-balancing endpoint; it leaves `/slow` unanswered. */
function serve() {
  createServer((request, response) => request.url === "/slow" || response.end("ok")).listen(Number(env.PORT), "127.0.0.1");
}

process.on("SIGTERM", () => process.exit(0));
if (process.argv[2] === "schema") console.log(JSON.stringify(MANIFEST));
else if (process.argv.includes("serve")) serve();
else await run();
