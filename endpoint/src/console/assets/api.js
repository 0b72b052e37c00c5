// Requests and event streams, with the API key where the server asks for one.

const KEY = "endpoint-console-key";
const dialog = document.getElementById("key-dialog");
const field = document.getElementById("key");
const problem = document.getElementById("key-problem");
const forget = document.getElementById("forget-key");
let asking = null;

const savedKey = () => sessionStorage.getItem(KEY);

function saveKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  forget.hidden = !key;
}

/** Asks for the key, once for all requests that need it. */
function askKey() {
  asking ??= new Promise((resolve) => {
    problem.textContent = savedKey() ? "The endpoint does not accept this key." : "";
    saveKey(null);
    field.value = "";
    dialog.showModal();
    document.getElementById("key-form").onsubmit = (event) => {
      event.preventDefault();
      saveKey(field.value.trim());
      dialog.close();
      asking = null;
      resolve();
    };
  });
  return asking;
}

dialog.addEventListener("cancel", (event) => event.preventDefault());
forget.addEventListener("click", () => {
  saveKey(null);
  location.reload();
});
forget.hidden = !savedKey();

/** Paths are those of the endpoint. A proxy may serve it under a prefix, which is the folder of this page. */
const here = (path) => new URL(`.${path}`, document.baseURI);

/** A request that is repeated with a new key when the key was missing or wrong. */
async function send(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers };
    const key = savedKey();
    if (key) headers.Authorization = `Bearer ${key}`;
    const response = await fetch(here(path), { ...options, headers });
    if (response.status !== 401) return response;
    await askKey();
  }
}

/** The JSON of a reply. Throws the server's error text. */
export async function request(path, options) {
  const response = await send(path, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw Object.assign(new Error(body.error ?? body.detail ?? `the endpoint answered ${response.status}`), { status: response.status });
  }
  return body;
}

/** The text of a reply, for documents that must not be written anew. */
export async function rawText(path) {
  const response = await send(path);
  if (!response.ok) throw new Error(`the endpoint answered ${response.status}`);
  return response.text();
}

export const post = (path, body = {}) =>
  request(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export const part = encodeURIComponent;

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 10_000;

/**
 * Reads server-sent events until `stop()`, opening the stream again when it ends. `EventSource` cannot send a key.
 * `handlers` maps event names to functions. `onState(connected)` is called on every change, `onRefusal()` on a final error.
 */
export function listen(path, handlers, onState, onRefusal) {
  const abort = new AbortController();
  (async () => {
    let pause = FIRST_PAUSE;
    while (!abort.signal.aborted) {
      try {
        const response = await send(path, { signal: abort.signal, headers: { Accept: "text/event-stream" } });
        if (response.status === 404) return void onRefusal?.();
        if (!response.ok) throw new Error(`${response.status}`);
        onState(true);
        pause = FIRST_PAUSE;
        if ((await read(response.body, handlers)) === "gone") return;
      } catch (error) {
        if (abort.signal.aborted) return;
        onState(false);
      }
      await new Promise((resolve) => setTimeout(resolve, pause * (0.75 + Math.random() / 2)));
      pause = Math.min(pause * 2, LONGEST_PAUSE);
    }
  })();
  return () => abort.abort();
}

async function read(body, handlers) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return null;
    text += value;
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      let name = "message";
      const data = [];
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      if (data.length > 0) handlers[name]?.(JSON.parse(data.join("\n")));
      if (name === "gone") return name;
    }
  }
}
