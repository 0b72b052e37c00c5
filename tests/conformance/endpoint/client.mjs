// Drives an endpoint with the unmodified official JavaScript SDK and prints what it got as one JSON document.
// usage: node client.mjs SDK_FOLDER BASE_URL
const [, , folder, baseUrl] = process.argv;
const { default: sdk } = await import(`${folder}/node_modules/runpod-sdk/dist/src/index.js`);
const endpoint = sdk("any", { baseUrl }).endpoint("local");
const seen = {};
const log = console.log;
console.log = () => {};
seen.runSync = await endpoint.runSync({ input: { items: 2 } });
const { id } = await endpoint.run({ input: { items: 3 } });
seen.stream = [];
for await (const item of endpoint.stream(id)) seen.stream.push(item.output);
seen.status = await endpoint.status(id);
seen.statusSync = (await endpoint.statusSync(id)).status;
const other = await endpoint.run({ input: { items: 1 } });
seen.cancel = (await endpoint.cancel(other.id)).status;
seen.health = await endpoint.health();
seen.purge = await endpoint.purgeQueue();
log(JSON.stringify(seen));
