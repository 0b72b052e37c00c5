// The page of one job.

import { listen, part, post } from "./api.js";
import { clock, duration, errorParts, h, isOver, setBadge, setText, showJson, stateName, toast, tone } from "./dom.js";

/** Stream items, and log lines, on the page; older ones leave it. */
const MAX_ITEMS = 2000;
const LOUD = new Set(["WARN", "ERROR"]);

/** Whether a list shows its end, and is to follow what is added. */
const isAtTail = (element) => element.scrollHeight - element.scrollTop - element.clientHeight < 40;

function payloadPanel(title) {
  const pre = h("pre", { tabIndex: 0, "aria-label": title });
  const copy = h("button", { type: "button", class: "quiet", onclick: async () => {
    await navigator.clipboard.writeText(pre.textContent).then(() => toast(`${title} copied`), () => toast("The browser refused to copy"));
  } }, "Copy");
  const panel = h("section", { class: "panel", "aria-label": title }, h("header", {}, h("h2", {}, title), h("span", { class: "spacer" }), copy), pre);
  return { panel, pre };
}

/** Shows one job in `main`; returns what ends it. */
export function jobPage(main, endpoint, id, onState) {
  const home = `#/${part(endpoint)}`;
  const path = (action) => `/v2/${part(endpoint)}/${action}/${part(id)}`;
  let job = null;
  let offset = 0;
  let items = [];
  let stop = () => {};

  const act = (name, said) => async (event) => {
    event.target.disabled = true;
    try {
      const { status } = await post(path(name));
      toast(said(status));
    } catch (error) {
      toast(error.message);
    } finally {
      event.target.disabled = false;
    }
  };
  const state = h("span", { role: "status" });
  const cancel = h("button", { type: "button", class: "danger", hidden: true, onclick: act("cancel", (status) => (status === "CANCELLED" ? "Job cancelled" : "The job had ended already")) }, "Cancel job");
  const retry = h("button", { type: "button", hidden: true, onclick: act("retry", () => "Job queued again") }, "Retry job");
  const facts = h("dl", { class: "facts" });
  const error = payloadPanel("Error");
  error.panel.classList.add("error-panel");
  const output = payloadPanel("Output");
  const input = payloadPanel("Input");
  const count = h("span", { class: "soft" });
  const list = h("ol", { class: "stream", tabIndex: 0, "aria-label": "Stream items" });
  const text = h("pre", { class: "stream-text", tabIndex: 0, "aria-label": "Stream as text", hidden: true });
  const asText = h("button", { type: "button", "aria-pressed": "false" }, "Text");
  const asItems = h("button", { type: "button", "aria-pressed": "true" }, "Items");
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "How to show the stream" }, asItems, asText);
  const missing = h("p", { class: "note", hidden: true });
  const stream = h("section", { class: "panel", "aria-label": "Stream", hidden: true }, h("header", {}, h("h2", {}, "Stream"), count, tabs), list, text, missing);
  const logs = h("ol", { class: "log", tabIndex: 0, "aria-label": "Log lines" });
  const logPanel = h("section", { class: "panel", "aria-label": "Log", hidden: true }, h("header", {}, h("h2", {}, "Log")), logs);
  const steps = h("ol", { class: "timeline" });
  const timeline = h("section", { class: "panel", "aria-label": "Timeline" }, h("header", {}, h("h2", {}, "Timeline")), steps);
  const gone = h("p", { class: "panel empty", hidden: true }, "This job does not exist, or its record has expired. ", h("a", { href: home }, "All jobs"));
  const waiting = h("section", { class: "panel empty", hidden: true });
  const content = h("div", { class: "split" }, h("div", { class: "stack" }, error.panel, stream, output.panel, waiting, logPanel, input.panel), timeline);
  main.replaceChildren(h("div", { class: "headline" }, h("a", { class: "back", href: home }, "← All jobs"),
    h("div", { class: "row" }, h("h1", {}, id), state, h("span", { class: "spacer" }), retry, cancel), facts), gone, content);
  error.panel.hidden = output.panel.hidden = true;

  function mode(useText) {
    text.hidden = !useText;
    list.hidden = useText;
    asText.setAttribute("aria-pressed", String(useText));
    asItems.setAttribute("aria-pressed", String(!useText));
  }
  asText.onclick = () => mode(true);
  asItems.onclick = () => mode(false);

  const inText = (item) => (typeof item === "string" ? item : `${JSON.stringify(item?.cut ?? item)}\n`);

  function addItems(next) {
    const [tailList, tailText] = [isAtTail(list), isAtTail(text)];
    if (items.length === 0 && next.items.length > 0) mode(next.items.every((item) => typeof item === "string"));
    next.items.forEach((item, index) => {
      const line = h("li", {}, h("span", {}, typeof item === "string" ? item : JSON.stringify(item?.cut ?? item)));
      line.dataset.number = String(next.firstItem + index + 1);
      items.push(item);
      list.append(line);
      text.append(inText(item));
    });
    while (list.childElementCount > MAX_ITEMS) {
      list.firstElementChild.remove();
      text.firstChild.remove();
    }
    if (tailList) list.scrollTop = list.scrollHeight;
    if (tailText) text.scrollTop = text.scrollHeight;
    const total = next.firstItem + next.items.length;
    const unseen = total - items.length;
    stream.hidden = total === 0;
    setText(count, `${total} ${total === 1 ? "item" : "items"}`);
    missing.hidden = unseen === 0;
    setText(missing, `${unseen} ${unseen === 1 ? "item was" : "items were"} read by a client before this page could show ${unseen === 1 ? "it" : "them"}.`);
  }

  function addLines(lines) {
    const atTail = isAtTail(logs);
    for (const { at, level, text: words } of lines) {
      logs.append(h("li", { class: LOUD.has(level) ? "loud" : "" }, h("span", { class: "soft" }, clock(at)), h("b", {}, level), h("span", {}, words)));
    }
    while (logs.childElementCount > MAX_ITEMS) logs.firstElementChild.remove();
    if (atTail) logs.scrollTop = logs.scrollHeight;
    logPanel.hidden = false;
  }

  function show(next) {
    const isNews = job === null || job.status !== next.status;
    if (next.input !== null) {
      showJson(input.pre, next.input);
      // A reopened event stream starts from the beginning.
      items = [];
      list.replaceChildren();
      text.replaceChildren();
      logs.replaceChildren();
    }
    offset = next.now - Date.now();
    if (job === null || JSON.stringify(job.output) !== JSON.stringify(next.output)) showJson(output.pre, next.output);
    setText(error.pre, errorParts(next.error).filter(Boolean).join("\n\n"));
    job = next;
    if (isNews) setBadge(state, next.status);
    const hasOutput = next.output !== null && !(Array.isArray(next.output) && next.output.length === 0 && next.firstItem + next.items.length > 0);
    output.panel.hidden = !hasOutput;
    error.panel.hidden = next.error === null;
    cancel.hidden = isOver(next.status);
    retry.hidden = !["FAILED", "TIMED_OUT"].includes(next.status);
    addItems(next);
    waiting.hidden = isOver(next.status) || hasOutput || !stream.hidden;
    setText(waiting, next.status === "IN_QUEUE" ? "Waiting for a worker." : "Running. Output appears here as it arrives.");
    refresh();
  }

  function refresh() {
    if (job === null) return;
    const now = Date.now() + offset;
    const last = job.history.at(-1);
    const runs = job.status === "IN_PROGRESS" && last?.status === "IN_PROGRESS";
    const rows = [["Endpoint", endpoint], ["Worker", job.worker ?? "–"], [job.status === "IN_QUEUE" ? "Waiting" : "Waited", duration(job.delay ?? (job.status === "IN_QUEUE" && last ? now - last.at : null))],
      [runs ? "Running" : "Ran", duration(job.execution ?? (runs ? now - last.at : null))]];
    if (job.retries > 0) rows.push(["Retries", String(job.retries)]);
    while (facts.childElementCount > rows.length) facts.lastElementChild.remove();
    rows.forEach(([name, value], index) => {
      const row = facts.children[index] ?? facts.appendChild(h("div", {}, h("dt"), h("dd")));
      setText(row.firstElementChild, name);
      setText(row.lastElementChild, value);
    });
    while (steps.childElementCount > job.history.length) steps.lastElementChild.remove();
    job.history.forEach((step, index) => {
      const entry = steps.children[index] ?? steps.appendChild(h("li", {}, h("div", { class: "what" }, h("span"), h("span", { class: "took" })), h("div", { class: "when" })));
      const end = job.history[index + 1]?.at ?? (isOver(step.status) ? null : now);
      entry.className = tone(step.status);
      const again = step.status === "IN_QUEUE" && index > 0;
      setText(entry.querySelector(".what span"), again ? "Back in queue" : stateName(step.status));
      setText(entry.querySelector(".took"), end === null ? "" : duration(Math.max(0, end - step.at)));
      setText(entry.querySelector(".when"), [clock(step.at), step.worker].filter(Boolean).join(" · "));
    });
  }

  function vanish() {
    gone.hidden = false;
    cancel.hidden = retry.hidden = true;
    content.hidden = job === null;
    onState(true);
  }
  function open() {
    stop();
    stop = listen(`/console/${part(endpoint)}/jobs/${part(id)}/events`, { job: show, log: addLines, gone: vanish }, onState, vanish);
  }
  const ticking = setInterval(() => {
    if (job !== null && !isOver(job.status)) refresh();
  }, 200);
  open();
  return {
    pause: () => stop(),
    resume: open,
    end: () => {
      clearInterval(ticking);
      stop();
    },
  };
}
