// Which page is shown, for which endpoint.

import { part, request } from "./api.js";
import { h, setText } from "./dom.js";
import { jobPage } from "./job.js";
import { overview } from "./overview.js";

const main = document.getElementById("main");
const live = document.getElementById("live");
const picker = document.getElementById("endpoint");
const DEFAULT_ENDPOINT = "local";
let page = null;
let endpoints = [];

/** `#/endpoint` or `#/endpoint/jobs/id`. */
function route() {
  const [endpoint, section, id] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  return { endpoint: endpoint || endpoints[0] || DEFAULT_ENDPOINT, id: section === "jobs" ? id : undefined };
}

function onState(isOn) {
  live.className = `live ${isOn ? "on" : "off"}`;
  setText(live, isOn ? "Live" : "Reconnecting");
}

async function loadEndpoints() {
  try {
    ({ endpoints } = await request("/console/endpoints"));
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
  const { endpoint, id } = route();
  page?.end();
  showPicker(endpoint);
  document.title = id ? `Job ${id.slice(0, 13)} – ${endpoint}` : `${endpoint} – Endpoint console`;
  page = id ? jobPage(main, endpoint, id, onState) : overview(main, endpoint, onState);
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
