// Building and formatting. Text reaches the page as text only: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element with properties, attributes (names with a dash, and `role`), listeners (`onclick`) and children. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes = {}, text) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Changes text only where it differs, so that selections survive. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const TONES = {
  IN_QUEUE: ["In queue", "queue"], IN_PROGRESS: ["In progress", "run"], COMPLETED: ["Completed", "good"],
  FAILED: ["Failed", "bad"], CANCELLED: ["Cancelled", "off"], TIMED_OUT: ["Timed out", "late"],
  initializing: ["Starting", "queue"], idle: ["Idle", "good"], running: ["Running", "run"],
  standby: ["Standby", "off"],
  throttled: ["Throttled", "late"], unhealthy: ["Unhealthy", "bad"], lost: ["Lost", "late"], leaving: ["Leaving", "off"],
};

export const STATES = ["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"];

export const isOver = (status) => !["IN_QUEUE", "IN_PROGRESS"].includes(status);
export const stateName = (state) => TONES[state]?.[0] ?? state;
export const tone = (state) => `tone-${TONES[state]?.[1] ?? "off"}`;

export function setBadge(element, state) {
  const busy = state === "IN_PROGRESS" || state === "running";
  element.className = `badge ${tone(state)}${busy ? " busy" : ""}`;
  setText(element, stateName(state));
}

export function badge(state) {
  const element = h("span");
  setBadge(element, state);
  return element;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.floor(ms / 1000);
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

export function ago(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return `${Math.floor(seconds / 3600)} h ago`;
}

export function clock(ms) {
  const time = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  const millis = String(time.getMilliseconds()).padStart(3, "0");
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${millis}`;
}

const MAX_COLOURED = 200_000;
const TOKEN = /("(?:[^"\\]|\\.)*")(\s*:)?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/g;

/** Fills `pre` with JSON, coloured unless it is long. */
export function showJson(pre, value) {
  if (value && typeof value === "object" && typeof value.cut === "string" && Object.keys(value).length === 2) {
    pre.replaceChildren(value.cut, h("span", { class: "soft" }, `\n… cut: ${value.bytes} bytes in all`));
    return;
  }
  if (typeof value === "string") return void pre.replaceChildren(value);
  const text = JSON.stringify(value, null, 2) ?? "";
  if (text.length > MAX_COLOURED) return void pre.replaceChildren(text);
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    parts.push(text.slice(end, match.index));
    const [token, string, colon] = match;
    if (string) parts.push(h("span", { class: colon ? "k" : "s" }, string), colon ?? "");
    else parts.push(h("span", { class: "n" }, token));
    end = match.index + token.length;
  }
  pre.replaceChildren(...parts, text.slice(end));
}

export function toast(text) {
  const element = h("div", { class: "toast" }, text);
  document.getElementById("toasts").append(element);
  setTimeout(() => element.remove(), 6000);
}

/** What an error says, and its traceback. Handlers send both as JSON. */
export function errorParts(raw) {
  try {
    const parts = JSON.parse(raw ?? "null");
    if (typeof parts?.error_message !== "string") return [raw ?? ""];
    const kind = parts.error_type ? `${parts.error_type}: ` : "";
    return [kind + parts.error_message, parts.error_traceback];
  } catch {
    return [raw ?? ""];
  }
}
