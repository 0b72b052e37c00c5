// The search in all jobs of which the endpoint keeps a record.

import { part, request } from "./api.js";
import { STATES, badge, duration, errorParts, h, setText, stateName } from "./dom.js";

const HEADS = ["Job", "State", "Submitted", "Waited", "Ran", "Worker"];

const when = (ms) => new Date(ms).toLocaleString([], { dateStyle: "short", timeStyle: "medium" });
const millis = (field) => (field.value ? new Date(field.value).getTime() : null);

/** Shows the search in `main`; returns what ends it. */
export function historyPage(main, endpoint, onState) {
  let next = null;
  /** Grows with each search, so that the answer to an earlier one is dropped. */
  let searches = 0;

  const text = h("input", { type: "search", class: "search", placeholder: "Id, worker or error", "aria-label": "Id, worker or error contains", spellcheck: false });
  const status = h("select", { "aria-label": "State" }, h("option", { value: "" }, "All states"), STATES.map((name) => h("option", { value: name }, stateName(name))));
  const from = h("input", { type: "datetime-local", step: "1" });
  const until = h("input", { type: "datetime-local", step: "1" });
  const form = h("form", { class: "filters", role: "search", onsubmit: (event) => {
    event.preventDefault();
    search();
  } }, text, status, h("label", { class: "time" }, "From ", from), h("label", { class: "time" }, "until ", until),
  h("button", { type: "submit", class: "primary" }, "Search"));
  const body = h("tbody");
  const table = h("table", { class: "jobs" }, h("thead", {}, h("tr", {}, HEADS.map((name, index) =>
    h("th", { scope: "col", class: index === 3 || index === 4 ? "number" : "" }, name)))), body);
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => load(false) }, "Show older jobs");
  const note = h("p", { class: "empty", role: "status" });
  main.replaceChildren(h("p", {}, h("a", { href: `#/${part(endpoint)}` }, `← ${endpoint}`)),
    h("section", { class: "panel", "aria-labelledby": "history-title" },
      h("header", {}, h("h2", { id: "history-title" }, "History")), form, table, more, note));

  function row(job) {
    const link = h("a", { href: `#/${part(endpoint)}/jobs/${part(job.id)}`, title: job.id }, job.id);
    const found = [h("tr", {}, h("td", { class: "id" }, link), h("td", { class: "state" }, badge(job.status)),
      h("td", { class: "when" }, when(job.submittedAt)), h("td", { class: "delay number" }, duration(job.delay)),
      h("td", { class: "execution number" }, duration(job.execution)), h("td", { class: "worker", title: job.worker ?? "" }, job.worker ?? "–"))];
    if (job.error) found.push(h("tr", { class: "why" }, h("td", { colSpan: HEADS.length, title: job.error }, errorParts(job.error)[0])));
    return found;
  }

  async function load(isFirst) {
    const mine = isFirst ? ++searches : searches;
    const query = new URLSearchParams();
    const given = { text: text.value.trim(), status: status.value, from: millis(from), until: millis(until), before: isFirst ? null : next };
    for (const [name, value] of Object.entries(given)) if (value) query.set(name, value);
    more.disabled = true;
    try {
      const page = await request(`/console/${part(endpoint)}/history?${query}`);
      if (mine !== searches) return;
      onState(true);
      if (isFirst) body.replaceChildren();
      const last = body.lastElementChild;
      body.append(...page.jobs.flatMap(row));
      if (!isFirst) (last ? last.nextElementSibling : body.firstElementChild)?.querySelector("a")?.focus();
      next = page.next ?? null;
      more.hidden = next === null;
      table.hidden = body.rows.length === 0;
      note.hidden = body.rows.length > 0 && page.jobs.length > 0;
      setText(note, next === null ? "No job fits." : "None of the jobs searched so far fits. There are older ones.");
    } catch (error) {
      if (mine !== searches) return;
      note.hidden = false;
      setText(note, error.message);
    } finally {
      more.disabled = false;
    }
  }

  const search = () => load(true);
  status.addEventListener("change", search);
  search();
  return { pause: () => {}, resume: () => {}, end: () => {
    searches += 1;
  } };
}
