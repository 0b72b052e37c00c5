// The batches of an endpoint: their progress, their results, and a new one from a file.

import { part, post, rawText, request } from "./api.js";
import { h, setText, toast } from "./dom.js";

const PERIOD = 2000;
/** Batches in the list. */
const SHOWN = 10;
/** Bytes of requests that are sent at once: less than the endpoint takes (10 MiB). */
const CHUNK = 8 << 20;
/** Requests in one page of results. */
const PAGE = 1000;

const ended = (batch) => batch.requestCompleted + batch.requestFailed + (batch.requestCancelled ?? 0);
const isOver = (batch) => batch.status === "CANCELLED" || (batch.status === "FINALIZED" && ended(batch) === batch.requestTotal);

/** The request of one line: an object with `input` as it is, any other JSON as an input. The text is sent as it stands. */
function asRequest(line, number) {
  let value;
  try {
    value = JSON.parse(line);
  } catch (error) {
    throw new Error(`line ${number} is not JSON: ${error.message}`);
  }
  const isRequest = value !== null && typeof value === "object" && !Array.isArray(value) && "input" in value;
  return isRequest ? line : `{"input":${line}}`;
}

/** The text of a file. Bytes of another encoding would silently become other inputs. */
async function textOf(file) {
  const bytes = await file.arrayBuffer();
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Error(`${file.name} is not UTF-8: save it in that encoding, and choose it again`);
  }
}

/** Submits the lines of a file as one batch. */
async function submit(base, file, onProgress) {
  const lines = (await textOf(file)).split("\n").map((line, index) => [line.trim(), index + 1]).filter(([line]) => line);
  if (lines.length === 0) throw new Error(`${file.name} has no inputs: one JSON value a line`);
  const requests = lines.map(([line, number]) => asRequest(line, number));
  const { id } = await post(base, []);
  // A draft that nobody finishes would stay for days.
  const cancel = (options) => request(`${base}/${part(id)}/cancel`, { method: "POST", ...options }).catch(() => {});
  const leave = () => cancel({ keepalive: true });
  addEventListener("pagehide", leave);
  try {
    for (let sent = 0; sent < requests.length;) {
      const chunk = [];
      for (let bytes = 0; sent < requests.length; sent += 1) {
        bytes += new Blob([requests[sent]]).size + 1;
        if (bytes > CHUNK && chunk.length > 0) break;
        chunk.push(requests[sent]);
      }
      await request(`${base}/${part(id)}/requests`, { method: "POST", body: `{"requests":[${chunk.join(",")}]}` });
      onProgress(sent, requests.length);
    }
    await request(`${base}/${part(id)}`, { method: "PUT", body: JSON.stringify({ name: file.name.slice(0, 256) }) });
    await post(`${base}/${part(id)}/finalize`);
  } catch (error) {
    await cancel();
    throw error;
  } finally {
    removeEventListener("pagehide", leave);
  }
}

/** Saves the requests of a batch as a JSON array. Results are written as the handler wrote them: numbers keep all their digits. */
async function save(base, id) {
  const parts = [];
  for (let offset = 0, total = 1; offset < total; offset += PAGE) {
    const text = await rawText(`${base}/${part(id)}/requests?offset=${offset}&limit=${PAGE}`);
    ({ total } = JSON.parse(text));
    parts.push(text.slice(text.indexOf('"requests":[') + 12, text.lastIndexOf('],"total":')));
  }
  const url = URL.createObjectURL(new Blob(["[", parts.filter(Boolean).join(",\n"), "]\n"], { type: "application/json" }));
  h("a", { href: url, download: `${id}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** The panel; `start` and `stop` it with the page. */
export function batchesPanel(endpoint) {
  const base = `/v2/${part(endpoint)}/batch`;
  const list = h("ul", { class: "batches" });
  const none = h("div", { class: "empty" }, "No batches. Submit a file with one JSON input a line: it runs when no other job waits.");
  const file = h("input", { type: "file", accept: ".jsonl,.ndjson,.json,.txt", hidden: true, "aria-label": "File of inputs", onchange: async () => {
    const [chosen] = file.files;
    file.value = "";
    if (!chosen) return;
    add.disabled = true;
    try {
      await submit(base, chosen, (sent, all) => setText(add, `Sent ${sent} of ${all}`));
      await refresh();
    } catch (error) {
      toast(error.message);
    }
    add.disabled = false;
    setText(add, "New batch");
  } });
  const add = h("button", { type: "button", onclick: () => file.click() }, "New batch");
  const panel = h("section", { class: "panel", "aria-labelledby": "batches-title" },
    h("header", {}, h("h2", { id: "batches-title" }, "Batches"), h("span", { class: "spacer" }), file, add), list, none);

  function item(id) {
    const name = h("span", { class: "id" });
    const state = h("span", { class: "soft" });
    const bar = h("progress", { "aria-label": "Progress", max: 1 });
    const attempt = (what) => async (event) => {
      const button = event.currentTarget;
      button.disabled = true;
      await what().catch((error) => toast(error.message));
      button.disabled = false;
    };
    const results = h("button", { type: "button", onclick: attempt(() => save(base, id)) }, "Results");
    const cancel = h("button", { type: "button", class: "danger", onclick: attempt(async () => {
      if (!confirm("Cancel the requests of this batch that wait? Those that run end as they would.")) return;
      await post(`${base}/${part(id)}/cancel`);
      await refresh();
    }) }, "Cancel");
    const element = h("li", {}, name, state, bar, h("div", { class: "actions" }, results, cancel));
    element.dataset.id = id;
    element.show = (batch) => {
      const failed = batch.requestFailed > 0 ? ` · ${batch.requestFailed} failed` : "";
      const running = batch.requestInProgress > 0 ? ` · ${batch.requestInProgress} in progress` : "";
      const word = { DRAFT: "Draft", CANCELLED: "Cancelled" }[batch.status] ?? (isOver(batch) ? "Ended" : "Running");
      setText(name, batch.name ?? id);
      name.title = id;
      setText(state, `${word} · ${ended(batch)} of ${batch.requestTotal}${running}${failed}`);
      bar.value = batch.requestTotal > 0 ? ended(batch) / batch.requestTotal : 0;
      results.hidden = ended(batch) === 0;
      cancel.hidden = isOver(batch);
    };
    return element;
  }

  async function refresh() {
    const { batches } = await request(`${base}?limit=${SHOWN}`);
    const known = new Map([...list.children].map((element) => [element.dataset.id, element]));
    batches.forEach((batch, index) => {
      const element = known.get(batch.id) ?? item(batch.id);
      known.delete(batch.id);
      element.show(batch);
      if (list.children[index] !== element) list.insertBefore(element, list.children[index] ?? null);
    });
    for (const element of known.values()) element.remove();
    list.hidden = batches.length === 0;
    none.hidden = batches.length > 0;
  }

  let timer = 0;
  let isOn = false;
  async function tick() {
    // The event stream reports that the server cannot be reached.
    await refresh().catch((error) => {
      // Where jobs are kept, there may be no batches.
      if (error.status === 501) panel.hidden = true;
    });
    if (isOn && !panel.hidden) timer = setTimeout(tick, PERIOD);
  }
  function start() {
    if (isOn) return;
    isOn = true;
    tick();
  }
  function stop() {
    isOn = false;
    clearTimeout(timer);
  }
  list.hidden = true;
  return { panel, start, stop };
}
