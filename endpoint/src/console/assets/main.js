// Which page is shown, for which endpoint.

import { part, request } from "./api.js";
import { h, setText } from "./dom.js";
import { historyPage } from "./history.js";
import { jobPage } from "./job.js";
import { overview } from "./overview.js";

const main = document.getElementById("main");
const live = document.getElementById("live");
const picker = document.getElementById("endpoint");
const DEFAULT_ENDPOINT = "local";
let page = null;
let endpoints = [];
/** Those whose requests go to workers without a queue. */
let loadBalancers = [];

/** `#/endpoint`, `#/endpoint/history` or `#/endpoint/jobs/id`. */
function route() {
  const [endpoint, section, id] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  return { endpoint: endpoint || endpoints[0] || DEFAULT_ENDPOINT, id: section === "jobs" ? id : undefined, isHistory: section === "history" };
}

function onState(isOn) {
  live.className = `live ${isOn ? "on" : "off"}`;
  setText(live, isOn ? "Live" : "Reconnecting");
}

async function loadEndpoints() {
  try {
    ({ endpoints, loadBalancers } = await request("/console/endpoints"));
  } catch {
    // The event stream reports that the server cannot be reached.
  }
}

function showPicker(current) {
  const all = endpoints.includes(current) ? endpoints : [current, ...endpoints];
  const same = all.length === picker.options.length && all.every((id, index) => picker.options[index].value === id);
  if (!same) picker.replaceChildren(...all.map((id) => h("option", { value: id }, id)));
  picker.value = current;
}

function show(moveFocus) {
  const { endpoint, id, isHistory } = route();
  page?.end();
  showPicker(endpoint);
  if (id) {
    document.title = `Job ${id.slice(0, 13)} – ${endpoint}`;
    page = jobPage(main, endpoint, id, onState);
  } else if (isHistory) {
    document.title = `History – ${endpoint}`;
    page = historyPage(main, endpoint, onState);
  } else {
    document.title = `${endpoint} – Endpoint console`;
    page = overview(main, endpoint, onState, loadBalancers.includes(endpoint));
  }
  window.scrollTo(0, 0);
  if (moveFocus) main.focus({ preventScroll: true });
}

picker.addEventListener("change", () => {
  location.hash = `#/${part(picker.value)}`;
});
picker.addEventListener("focus", async () => {
  await loadEndpoints();
  showPicker(route().endpoint);
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", () => show(true));
// A hidden page holds no connection.
document.addEventListener("visibilitychange", () => (document.hidden ? page?.pause() : page?.resume()));

await loadEndpoints();
show(false);
