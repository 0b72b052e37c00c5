// The overview of one endpoint: figures, charts, jobs, workers and the submit form.

import { listen, part, post, request } from "./api.js";
import { chart } from "./chart.js";
import { STATES, ago, badge, duration, h, setBadge, setText, stateName, toast } from "./dom.js";
import { batchesPanel } from "./batches.js";
import { submitPanel } from "./form.js";

const KEPT = 600;
/** Jobs shown at first, and how many more at a time. */
const PAGE = 15;

function tile(name, tone) {
  const value = h("dd", {}, "0");
  const detail = h("dd", {}, "\u00a0");
  return { element: h("div", { class: `tile ${tone}` }, h("dt", {}, name), value, detail), value, detail };
}

/** Shows the overview in `main`; returns what ends it. A load balancer has no jobs: only its workers are shown. */
export function overview(main, endpoint, onState, isBalanced) {
  const counted = isBalanced ? ["request", "requests"] : ["job", "jobs"];
  const filter = { status: "", id: "" };
  const points = [];
  let rows = [];
  let shown = PAGE;
  let offset = 0;
  let stop = () => {};

  const tiles = {
    queue: tile("In queue", "tone-queue"), run: tile("In progress", "tone-run"), done: tile("Completed", "tone-good"),
    failed: tile("Failed", "tone-bad"), workers: tile("Workers", "tone-off"),
  };
  const jobsChart = chart("Queue depth", [
    { key: "inProgress", name: "in progress", tone: "tone-run" }, { key: "inQueue", name: "in queue", tone: "tone-queue" },
  ]);
  const workersChart = chart("Worker states", [
    { key: "running", name: "running", tone: "tone-run" }, { key: "idle", name: "idle", tone: "tone-good" },
    { key: "initializing", name: "starting", tone: "tone-queue" }, { key: "throttled", name: "throttled", tone: "tone-late" },
    { key: "unhealthy", name: "unhealthy", tone: "tone-bad" },
  ]);

  const chips = h("fieldset", { class: "chips", "aria-label": "State" }, ["", ...STATES].map((status) =>
    h("label", {}, h("input", { type: "radio", name: "status", value: status, checked: status === "", onchange: () => {
      filter.status = status;
      open();
    } }), h("span", {}, status === "" ? "All" : stateName(status)))));
  let typing = 0;
  const search = h("input", { type: "search", class: "search", placeholder: "Job id", "aria-label": "Job id contains", spellcheck: false, oninput: () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      filter.id = search.value.trim();
      open();
    }, 200);
  } });
  const purge = h("button", { type: "button", class: "danger", disabled: true, onclick: async () => {
    if (!confirm("Cancel every job that no worker has taken yet?")) return;
    try {
      const { removed } = await post(`/v2/${part(endpoint)}/purge-queue`);
      toast(`${removed} queued ${removed === 1 ? "job" : "jobs"} cancelled`);
    } catch (error) {
      toast(error.message);
    }
  } }, "Purge queue");
  let isPaused = false;
  const pause = h("button", { type: "button", onclick: async () => {
    try {
      ({ paused: isPaused } = await post(`/v2/${part(endpoint)}/${isPaused ? "resume" : "pause"}`));
      showPaused();
    } catch (error) {
      toast(error.message);
    }
  } }, "Pause");
  const paused = h("p", { class: "panel notice", role: "status", hidden: true },
    isBalanced ? "This endpoint is paused: new requests are refused until it is resumed."
      : "This endpoint is paused: jobs are accepted, and none is given to a worker until it is resumed.");
  function showPaused() {
    setText(pause, isPaused ? "Resume" : "Pause");
    pause.classList.toggle("primary", isPaused);
    paused.hidden = !isPaused;
  }
  const retryFailed = h("button", { type: "button", disabled: true, onclick: async () => {
    try {
      const { total } = await request(`/v2/${part(endpoint)}/failed?limit=1`);
      if (total === 0) return void toast("No failed job is kept any more");
      if (!confirm(`Queue ${total} failed ${total === 1 ? "job" : "jobs"} again?`)) return;
      const { retried, left, reason } = await post(`/v2/${part(endpoint)}/retry-failed`);
      const rest = left > 0 ? `; ${left} left: ${reason}` : "";
      toast(`${retried} failed ${retried === 1 ? "job" : "jobs"} queued again${rest}`);
    } catch (error) {
      toast(error.message);
    }
  } }, "Retry failed");
  const batches = batchesPanel(endpoint);
  const body = h("tbody");
  const heads = ["Job", "State", "Submitted", "Waited", "Ran", "Worker"];
  const table = h("table", { class: "jobs" }, h("thead", {}, h("tr", {}, heads.map((name, index) =>
    h("th", { scope: "col", class: index === 3 || index === 4 ? "number" : "" }, name)))), body);
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => {
    const last = body.rows[body.rows.length - 1];
    shown += PAGE;
    showJobs(rows);
    last?.nextElementSibling?.querySelector("a").focus();
  } }, "Show more");
  const noJobs = h("div", { class: "empty" });
  const jobs = h("section", { class: "panel", "aria-labelledby": "jobs-title" },
    h("header", {}, h("h2", { id: "jobs-title" }, "Jobs"), h("span", { class: "spacer" }),
      h("a", { class: "quiet", href: `#/${part(endpoint)}/history` }, "History"), isBalanced ? [] : pause, retryFailed, purge),
    h("div", { class: "filters" }, chips, search), table, more, noJobs);

  const workerList = h("ul", { class: "workers" });
  const noWorkers = h("div", { class: "empty" }, "No worker has joined. Start one with ", h("br"), h("code", {}, "runpod-endpoint dev -- ./my-handler"));
  const workers = h("section", { class: "panel", "aria-labelledby": "workers-title" },
    h("header", {}, h("h2", { id: "workers-title" }, "Workers"), h("span", { class: "spacer" }), isBalanced ? pause : []), workerList, noWorkers);

  const submit = submitPanel(endpoint, (id) => {
    location.hash = `#/${part(endpoint)}/jobs/${part(id)}`;
  });
  const balanced = h("p", { class: "soft" }, "A load-balancing endpoint: requests go to its own address, and from there to the workers. There are no jobs.");
  if (isBalanced) main.replaceChildren(paused, balanced, h("div", { class: "charts" }, workersChart.panel, workers));
  else main.replaceChildren(paused,
    h("dl", { class: "panel tiles", "aria-label": "Counters" }, Object.values(tiles).map(({ element }) => element)),
    h("div", { class: "charts" }, jobsChart.panel, workersChart.panel),
    h("div", { class: "split" }, h("div", { class: "stack" }, jobs, batches.panel), h("div", { class: "stack" }, submit, workers)));

  function showPoint(point) {
    offset = point.at - Date.now();
    points.push(point);
    points.splice(0, Math.max(0, points.length - KEPT));
    const ended = point.completed + point.failed;
    const all = point.idle + point.initializing + point.running + point.throttled + point.unhealthy;
    setText(tiles.queue.value, String(point.inQueue));
    setText(tiles.queue.detail, point.paused ? "paused" : point.inQueue > 0 && all === 0 ? "no worker to run them" : "waiting for a worker");
    setText(tiles.run.value, String(point.inProgress));
    setText(tiles.run.detail, `on ${point.running} ${point.running === 1 ? "worker" : "workers"}`);
    setText(tiles.done.value, String(point.completed));
    setText(tiles.done.detail, `${point.retried} retried`);
    setText(tiles.failed.value, String(point.failed));
    setText(tiles.failed.detail, ended > 0 ? `${((100 * point.failed) / ended).toFixed(1)} % of finished` : "none finished");
    setText(tiles.workers.value, String(all));
    const trouble = ["throttled", "unhealthy", "lost"].filter((state) => point[state] > 0).map((state) => ` · ${point[state]} ${state}`).join("");
    setText(tiles.workers.detail, `${point.idle} idle · ${point.running} running${trouble}`);
    purge.disabled = point.inQueue === 0;
    retryFailed.disabled = point.failed === 0;
    isPaused = point.paused;
    showPaused();
    jobsChart.draw(points, point.at);
    workersChart.draw(points, point.at);
    for (const row of body.rows) row.refresh();
  }

  /** Keeps the rows that stay, so that focus and selection do too. */
  function showJobs(list) {
    rows = list;
    more.hidden = list.length <= shown;
    list = list.slice(0, shown);
    const known = new Map([...body.rows].map((row) => [row.dataset.id, row]));
    list.forEach((job, index) => {
      const row = known.get(job.id) ?? jobRow(job.id);
      known.delete(job.id);
      row.job = job;
      row.refresh();
      if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
    });
    for (const row of known.values()) row.remove();
    table.hidden = list.length === 0;
    noJobs.hidden = list.length > 0;
    setText(noJobs, filter.status || filter.id ? "No job passes the filter." : "No jobs yet. Submit the first one.");
  }

  function jobRow(id) {
    const state = badge("IN_QUEUE");
    const cells = ["when", "delay number", "execution number", "worker"].map((name) => h("td", { class: name }));
    const row = h("tr", {}, h("td", { class: "id" }, h("a", { href: `#/${part(endpoint)}/jobs/${part(id)}`, title: id }, id)),
      h("td", { class: "state" }, state), cells);
    row.dataset.id = id;
    row.refresh = () => {
      const { job } = row;
      const age = Date.now() + offset - job.submittedAt;
      setBadge(state, job.status);
      setText(cells[0], ago(age));
      setText(cells[1], duration(job.delay ?? (job.status === "IN_QUEUE" ? Math.max(0, age) : null)));
      setText(cells[2], duration(job.execution ?? (job.status === "IN_PROGRESS" && job.delay !== null ? Math.max(0, age - job.delay) : null)));
      setText(cells[3], job.worker ?? "–");
      cells[3].title = job.worker ?? "";
    };
    return row;
  }

  function showWorkers(list) {
    workerList.replaceChildren(...list.map((worker) => {
      const silent = worker.silentSeconds >= 20 ? `silent ${duration(worker.silentSeconds * 1000)}` : "";
      const held = worker.jobs > 0 ? `${worker.jobs} ${counted[worker.jobs === 1 ? 0 : 1]}` : silent;
      const note = worker.duplicate ? "a second process uses this id" : held;
      const batching = (worker.batching ?? []).map((line) => h("p", { class: "soft batching" }, line));
      return h("li", {}, h("span", { class: "id mono", title: worker.id }, worker.id), h("span", { class: "soft" }, note), badge(worker.state), batching);
    }));
    workerList.hidden = list.length === 0;
    noWorkers.hidden = list.length > 0;
  }

  function open() {
    stop();
    shown = PAGE;
    const query = new URLSearchParams();
    if (filter.status) query.set("status", filter.status);
    if (filter.id) query.set("id", filter.id);
    const history = (list) => points.splice(0, points.length, ...list);
    stop = listen(`/console/${part(endpoint)}/events?${query}`, { history, point: showPoint, jobs: showJobs, workers: showWorkers }, onState);
  }
  showJobs([]);
  showWorkers([]);
  const start = () => {
    open();
    if (!isBalanced) batches.start();
  };
  const halt = () => {
    stop();
    batches.stop();
  };
  start();
  return { pause: halt, resume: start, end: halt };
}
