// The submit form, made from the JSON Schema of the handler's input where it is known.

import { part, post, request } from "./api.js";
import { h } from "./dom.js";

const EXAMPLE = '{\n  "prompt": "Hello"\n}';

/** Follows local references; schemas of Rust enums and nested structs use them. */
function resolve(schema, root, depth = 0) {
  if (!schema || typeof schema !== "object" || depth > 8) return {};
  if (typeof schema.$ref === "string" && schema.$ref.startsWith("#/")) {
    const target = schema.$ref.slice(2).split("/").reduce((at, key) => at?.[key.replace(/~1/g, "/").replace(/~0/g, "~")], root);
    const { $ref, ...own } = schema;
    return { ...resolve(target, root, depth + 1), ...own };
  }
  for (const name of ["anyOf", "oneOf"]) {
    // An `Option<T>` is T or null.
    const others = schema[name]?.filter((choice) => choice.type !== "null");
    if (others?.length === 1) return { ...resolve(others[0], root, depth + 1), ...schema, [name]: undefined };
    if (others?.length > 1 && others.every((choice) => "const" in choice)) {
      return { ...schema, enum: others.map((choice) => choice.const) };
    }
  }
  if (Array.isArray(schema.type)) {
    const types = schema.type.filter((type) => type !== "null");
    if (types.length === 1) return { ...schema, type: types[0] };
  }
  return schema;
}

let numbers = 0;

/** One control: its element and `read()`, which throws what is wrong and returns undefined for nothing. */
function control(name, schema, required) {
  const id = `field-${(numbers += 1)}`;
  const hint = schema.description ? h("span", { class: "hint", id: `${id}-hint` }, schema.description) : null;
  const title = [name, required ? h("i", { "aria-hidden": "true" }, " *") : null];
  const common = { id, name };
  if (hint) common["aria-describedby"] = `${id}-hint`;

  if (schema.type === "boolean") {
    const box = h("input", { ...common, type: "checkbox", checked: schema.default === true });
    const label = h("label", { class: "name", for: id }, title);
    const untouched = () => !required && schema.default === undefined && !box.checked;
    return { element: h("div", { class: "field check" }, box, label, hint), read: () => (untouched() ? undefined : box.checked) };
  }

  let input;
  let kind;
  let parse = (text) => text;
  if (Array.isArray(schema.enum)) {
    kind = "choice";
    const options = schema.enum.filter((value) => value !== null).map((value) => h("option", { value: JSON.stringify(value) }, String(value)));
    if (!required) options.unshift(h("option", { value: "" }, "(default)"));
    input = h("select", common, options);
    if (schema.default !== undefined && schema.default !== null) input.value = JSON.stringify(schema.default);
    parse = JSON.parse;
  } else if (schema.type === "integer" || schema.type === "number") {
    kind = schema.type;
    input = h("input", { ...common, type: "number", step: schema.type === "integer" ? "1" : "any", min: schema.minimum ?? "", max: schema.maximum ?? "" });
    parse = Number;
  } else if (schema.type === "string") {
    kind = schema.format ?? "text";
    input = h("textarea", { ...common, rows: 2 });
  } else {
    kind = schema.type === "array" ? "JSON list" : "JSON";
    input = h("textarea", { ...common, rows: 3, class: "mono", spellcheck: false });
    parse = (text) => {
      try {
        return JSON.parse(text);
      } catch (error) {
        throw new Error(`${name}: not JSON: ${error.message}`);
      }
    };
  }
  if (schema.default !== undefined && schema.default !== null && kind !== "choice") {
    input.value = typeof schema.default === "string" && schema.type === "string" ? schema.default : JSON.stringify(schema.default);
  }
  if (required && schema.type !== "string") input.required = true;
  const label = h("label", { class: "name", for: id }, title, " ", h("span", { class: "type" }, kind));
  const read = () => {
    if (input.value === "" && !(required && schema.type === "string")) return undefined;
    return parse(input.value);
  };
  return { element: h("div", { class: "field" }, label, input, hint), read };
}

/** Controls for an object's properties, or null if a form cannot represent the schema. */
function controls(root) {
  const schema = resolve(root, root);
  const properties = Object.entries(schema.properties ?? {});
  if (schema.type !== "object" || properties.length === 0 || properties.length > 40) return null;
  const required = new Set(schema.required ?? []);
  return properties.map(([name, property]) => [name, control(name, resolve(property, root), required.has(name))]);
}

/** The panel with the form; `onSubmitted(id)` is called with the id of the new job. */
export function submitPanel(endpoint, onSubmitted) {
  const json = h("textarea", { id: "input-json", class: "mono", rows: 9, spellcheck: false, value: EXAMPLE });
  const jsonField = h("div", { class: "field" }, h("label", { class: "name", for: "input-json" }, "Input ", h("span", { class: "type" }, "JSON")), json);
  const timeout = h("input", { id: "input-timeout", type: "number", min: "5", max: "604800", step: "any", placeholder: "600" });
  const options = h("details", {}, h("summary", {}, "Options"),
    h("div", { class: "field" }, h("label", { class: "name", for: "input-timeout" }, "Execution timeout ", h("span", { class: "type" }, "seconds")), timeout));
  const problem = h("p", { class: "problem", role: "alert" });
  const send = h("button", { class: "primary", type: "submit" }, "Submit job");
  const fields = h("div", { class: "stack", hidden: true });
  const form = h("form", { class: "submit", noValidate: false }, fields, jsonField, options, problem, h("div", { class: "actions" }, send));
  const asForm = h("button", { type: "button" }, "Form");
  const asJson = h("button", { type: "button" }, "JSON");
  const tabs = h("div", { class: "tabs", role: "group", "aria-label": "How to write the input", hidden: true }, asForm, asJson);
  const panel = h("section", { class: "panel", "aria-labelledby": "submit-title" },
    h("header", {}, h("h2", { id: "submit-title" }, "Submit a job"), tabs), h("div", { class: "body" }, form));
  let list = null;

  const readFields = () => {
    const input = {};
    for (const [name, { read }] of list) {
      const value = read();
      if (value !== undefined) input[name] = value;
    }
    return input;
  };
  const readJson = () => {
    try {
      return JSON.parse(json.value);
    } catch (error) {
      throw new Error(`The input is not JSON: ${error.message}`);
    }
  };
  function mode(useForm) {
    fields.hidden = !useForm;
    // Hidden controls must not block the form's validation.
    fields.inert = !useForm;
    for (const element of fields.querySelectorAll("input, select, textarea")) element.disabled = !useForm;
    jsonField.hidden = useForm;
    asForm.setAttribute("aria-pressed", String(useForm));
    asJson.setAttribute("aria-pressed", String(!useForm));
    problem.textContent = "";
  }
  asForm.onclick = () => mode(true);
  asJson.onclick = () => {
    try {
      if (!fields.hidden) json.value = JSON.stringify(readFields(), null, 2);
    } catch {
      // Invalid input stays in the form.
    }
    mode(false);
  };
  form.onsubmit = async (event) => {
    event.preventDefault();
    problem.textContent = "";
    send.disabled = true;
    try {
      const body = { input: fields.hidden ? readJson() : readFields() };
      if (timeout.value) body.policy = { executionTimeout: Math.round(Number(timeout.value) * 1000) };
      const { id } = await post(`/v2/${part(endpoint)}/run`, body);
      onSubmitted(id);
    } catch (error) {
      problem.textContent = error.message;
    } finally {
      send.disabled = false;
    }
  };
  request(`/console/${part(endpoint)}/manifest`).then((manifest) => {
    list = controls(manifest.input_schema);
    if (!list) return;
    fields.append(...list.map(([, { element }]) => element));
    tabs.hidden = false;
    mode(true);
  }).catch(() => {
    // Without a schema the JSON editor is the form.
  });
  return panel;
}
