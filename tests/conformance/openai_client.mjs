// Asks the OpenAI routes of an endpoint with the unmodified official client, and prints what it got as one JSON document: the same as
// openai_client.py.
// usage: node openai_client.mjs PACKAGE_FOLDER BASE_URL [MODEL…]
// With models, only the failures of a chat with each of them.
const [, , folder, baseURL, ...models] = process.argv;
const { default: OpenAI, toFile } = await import(`${folder}/node_modules/openai/index.mjs`);

const MODEL = "SmolLM2-135M-Instruct";
const QUESTION = [{ role: "user", content: "What is the capital of Italy?" }];
const CHAT = { model: MODEL, messages: QUESTION, max_tokens: 3, temperature: 0 };
const TEXT = { model: MODEL, prompt: "The capital of France is", max_tokens: 2, temperature: 0 };

let requests = 0;
const counted = (url, ...options) => {
  // Before it sends a form, the client asks for a URL with data in it, to see what `fetch` can do.
  if (String(url).startsWith(baseURL)) requests += 1;
  return fetch(url, ...options);
};
// Retries are on, as they are for everybody who does not switch them off.
const client = new OpenAI({ baseURL, apiKey: "any", fetch: counted });

const chat = (changes) => client.chat.completions.create({ ...CHAT, ...changes });
const completion = (changes) => client.completions.create({ ...TEXT, ...changes });
const all = async (stream) => {
  const items = [];
  for await (const item of await stream) items.push(item);
  return items;
};
const spoken = (chunks) => chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
const written = (chunks) => chunks.map((chunk) => chunk.choices[0].text).join("");

// The error that a user of the client sees, and after how many requests.
const failure = async (call) => {
  const before = requests;
  try {
    return { error: null, answer: JSON.stringify(await call()) };
  } catch (error) {
    return {
      error: error.constructor.name,
      status: error.status,
      type: error.type,
      message: error.error?.message ?? error.message,
      requests: requests - before,
    };
  }
};

const failuresOf = async (models) => {
  const seen = {};
  for (const model of models) {
    seen[model] = await failure(() => chat({ model }));
    seen[`${model}, streamed`] = await failure(() => all(chat({ model, stream: true })));
  }
  return seen;
};

const everything = async () => {
  const seen = { models: (await all(client.models.list())).map((model) => model.id) };

  const answer = await chat();
  seen.chat = answer.choices[0].message.content;
  seen.chat_end = answer.choices[0].finish_reason;
  seen.chat_usage = answer.usage.completion_tokens;
  const chunks = await all(chat({ stream: true, stream_options: { include_usage: true } }));
  seen.chat_stream = spoken(chunks);
  seen.chat_stream_chunks = chunks.length;
  seen.chat_stream_role = chunks[0].choices[0].delta.role;
  seen.chat_stream_end = chunks.at(-2).choices[0].finish_reason;
  seen.chat_stream_usage = chunks.at(-1).usage.completion_tokens;
  // The helper that puts the pieces of a stream together.
  seen.chat_async = await client.chat.completions.stream(CHAT).finalContent();

  seen.completion = (await completion()).choices[0].text;
  seen.completion_stream = written(await all(completion({ stream: true })));
  const stopped = (await completion({ stop: ["."] })).choices[0];
  seen.stopped = [stopped.text, stopped.finish_reason];
  const pieces = await all(completion({ stop: ["."], stream: true }));
  seen.stopped_stream = [written(pieces), pieces.at(-1).choices[0].finish_reason];

  const recording = await toFile(Buffer.from("RIFF"), "a.wav");
  seen.failures = {
    temperature: await failure(() => chat({ temperature: 9 })),
    "temperature, streamed": await failure(() => all(chat({ temperature: 9, stream: true }))),
    "too many tokens": await failure(() => completion({ max_tokens: 8192 })),
    role: await failure(() => chat({ messages: [{ role: "nobody", content: "?" }] })),
    model: await failure(() => chat({ model: "gpt-5" })),
    "model, streamed": await failure(() => all(completion({ model: "gpt-5", stream: true }))),
    route: await failure(() => client.embeddings.create({ model: MODEL, input: "a" })),
    form: await failure(() => client.audio.transcriptions.create({ model: MODEL, file: recording })),
  };
  return seen;
};

console.log(JSON.stringify(models.length > 0 ? await failuresOf(models) : await everything()));
