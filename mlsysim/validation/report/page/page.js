"use strict";
// Fills the page from the report that stands in it as JSON: sections of tables, plots, and the table of cases.

const report = JSON.parse(document.getElementById("report").textContent);
const specs = JSON.parse(document.getElementById("specs").textContent);
const element = (tag, text, attributes = {}) => {
  const made = Object.assign(document.createElement(tag), attributes);
  if (text !== undefined) made.textContent = text;
  return made;
};

// ---- sections ----
const LONG = 40; // a text of more letters needs room
function tableOf({ header, body, left }) {
  const table = element("table"), head = element("tr"), rows = element("tbody");
  const numeric = header.map((_, column) => column >= left && body.every((row) => /^[^a-zA-Z]*$|^[-+\d.,e ]+\D{0,6}$/.test(row[column])));
  header.forEach((name, column) => head.append(element("th", name, { className: numeric[column] ? "number" : "" })));
  for (const row of body) {
    const line = element("tr");
    row.forEach((cell, column) => line.append(element("td", cell, { className: numeric[column] ? "number" : cell.length > LONG ? "long" : "" })));
    rows.append(line);
  }
  const thead = element("thead");
  thead.append(head);
  table.append(thead, rows);
  const box = element("div", undefined, { className: "scrolled" });
  box.append(table);
  return box;
}

function fillSections() {
  const verdict = document.getElementById("verdict");
  verdict.textContent = report.verdict;
  verdict.classList.toggle("failed", report.verdict.includes("FAILED"));
  document.getElementById("total").textContent = report.total;
  for (const [name, { said, tables }] of Object.entries(report.sections)) {
    const section = document.getElementById(name);
    section.hidden = !tables.length;
    document.querySelector(`nav a[href="#${name}"]`).hidden = section.hidden;
    const place = section.querySelector(".said");
    if (place) place.textContent = said;
    const places = section.querySelectorAll(".tables");
    tables.forEach((table, number) => places[Math.min(number, places.length - 1)].append(tableOf(table)));
  }
}

// ---- cases ----
// Columns travel as lists; those of few texts as the texts and, for each case, the place of its own.
const columns = Object.fromEntries(
  Object.entries(report.cases).map(([name, column]) => [name, column.texts ? column.places.map((place) => column.texts[place]) : column]),
);
const shown = (value, unit) => {
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  const text = size >= 1e4 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  return `${text} ${unit === "percent" ? "%" : unit}`.trim();
};
const percent = (share) => `${share < 0 ? "" : "+"}${(100 * share).toFixed(1)} %`;

const cases = columns.case.map((own, number) => {
  const one = Object.fromEntries(Object.entries(columns).map(([name, column]) => [name, column[number]]));
  const source = report.sources[one.source];
  one.id = `${one.source}-${own}`;
  one.citation = source.citation;
  one.url = source.url;
  one.group = one.unit ? `${one.family}, ${one.unit}` : one.family;
  one.intervalText = one.low === null ? "" : `${shown(one.low, "")} to ${shown(one.high, "")}`;
  one.figures = `measured ${shown(one.measured, one.unit)}, predicted ${shown(one.predicted, one.unit)}`
    + (one.intervalText && ` (90 %: ${one.intervalText})`) + (one.error === null ? "" : `, ${percent(one.error)}`);
  one.ran = [one.model, one.accelerator, one.stack].filter(Boolean).join(", ");
  one.why = one.standing === "in band" ? "" : [one.reason, one.known_miss || "NOT KNOWN"].filter((told, place, all) => told && all.indexOf(told) === place).join("; ");
  one.words = [one.id, one.ran, one.plan, one.citation, one.locator, one.why, one.metric, one.unit].join(" ").toLowerCase();
  return one;
});

const form = document.getElementById("filters"), text = document.getElementById("text");
const selects = [...form.querySelectorAll("select")];
let chosen = cases, sorted = { by: "error", descending: true }, listed = 100;
const STEP = 200;

function fillSelects() {
  for (const select of selects) {
    const counts = new Map();
    for (const one of cases) counts.set(one[select.dataset.column], (counts.get(one[select.dataset.column]) ?? 0) + 1);
    select.append(element("option", "all", { value: "" }));
    for (const name of [...counts.keys()].filter(Boolean).sort()) {
      select.append(element("option", `${name} (${counts.get(name)})`, { value: name }));
    }
  }
}

function choose() {
  const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = selects.filter((select) => select.value).map((select) => [select.dataset.column, select.value]);
  chosen = cases.filter((one) => wanted.every(([name, value]) => one[name] === value) && words.every((word) => one.words.includes(word)));
  listed = 100;
  document.getElementById("count").textContent = `${chosen.length.toLocaleString("en")} of ${cases.length.toLocaleString("en")} cases`;
  list();
  return plot();
}

const SHOWN = [
  ["case", "id"], ["error", "error"], ["measured", "measured"], ["predicted", "predicted"], ["standing", "standing"],
  ["model", "model"], ["device", "accelerator"], ["stack", "stack"], ["family", "family"], ["role", "role"],
];
const keyOf = (one, by) => (by === "error" ? (one.error === null ? -1 : Math.abs(one.error)) : one[by]);

function compared(first, second) {
  const [one, other] = [keyOf(first, sorted.by), keyOf(second, sorted.by)];
  const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other));
  return (sorted.descending ? -order : order) || first.id.localeCompare(second.id);
}

function rowOf(one) {
  const row = element("tr");
  const cell = (label, value, className = "") => {
    const made = element("td", value, { className });
    if (label) made.dataset.label = label;
    row.append(made);
    return made;
  };
  const name = cell("", undefined, "case");
  name.append(/^https?:/.test(one.url) ? element("a", one.id, { href: one.url, title: one.citation }) : element("span", one.id));
  name.append(element("small", `${one.citation}, ${one.locator}`));
  cell("error", one.error === null ? "-" : percent(one.error), "number");
  cell("measured", shown(one.measured, ""), "number").append(element("small", one.unit));
  cell("predicted", shown(one.predicted, ""), "number").append(element("small", one.intervalText));
  cell("standing", one.standing, `standing-${one.standing.replace(" ", "-")}`);
  for (const [label, column] of SHOWN.slice(5)) cell(label, one[column].replaceAll("_", "_\u200b")); // where a line may end
  if (one.standing !== "in band") name.append(element("small", one.why));
  return row;
}

function list() {
  chosen.sort(compared);
  document.querySelector("#table tbody").replaceChildren(...chosen.slice(0, listed).map(rowOf));
  document.getElementById("more").hidden = listed >= chosen.length;
  for (const head of document.querySelectorAll("#table th")) {
    const order = head.dataset.by === sorted.by ? (sorted.descending ? "descending" : "ascending") : "none";
    head.setAttribute("aria-sort", order);
  }
}

function fillHead() {
  for (const [label, by] of SHOWN) {
    const head = element("th", undefined, { scope: "col" }), button = element("button", label, { type: "button" });
    head.dataset.by = by;
    button.addEventListener("click", () => {
      sorted = { by, descending: sorted.by === by ? !sorted.descending : by === "error" };
      list();
    });
    head.append(button);
    document.querySelector("#table thead tr").append(head);
  }
}

// ---- plots ----
const views = {}, group = document.getElementById("group");
const plotted = () => chosen.filter((one) => one.error !== null);
const ofGroup = () => plotted().filter((one) => one.group === group.value && one.measured > 0 && one.predicted > 0);

function fillLegend() {
  const place = document.getElementById("legend"), { color, shape } = specs.shared;
  const signs = { circle: "\u25cb", "triangle-up": "\u25b3", cross: "\u271a" };
  color.scale.domain.forEach((name, number) => {
    const made = element("span", name);
    made.dataset.sign = "\u25cf";
    made.style.setProperty("--sign", color.scale.range[number]);
    place.append(made);
  });
  shape.scale.domain.forEach((name, number) => {
    const made = element("span", name);
    made.dataset.sign = signs[shape.scale.range[number]];
    place.append(made);
  });
}

async function draw(name, values) {
  const spec = structuredClone(specs[name]);
  const { tooltip, ...encoding } = specs.shared;
  const points = spec.layer[0];
  points.encoding = { ...points.encoding, ...encoding, tooltip };
  spec.datasets = { cases: values };
  const made = await vegaEmbed(`#${name}`, spec, { mode: "vega-lite", actions: false, renderer: "svg", config: specs.config });
  made.view.addEventListener("click", (_, item) => {
    if (item?.datum?.id) {
      text.value = item.datum.id;
      choose();
      document.getElementById("cases").scrollIntoView();
    }
  });
  views[name]?.finalize();
  views[name] = made;
}

async function plot() {
  const counts = new Map();
  for (const one of plotted()) counts.set(one.group, (counts.get(one.group) ?? 0) + 1);
  const names = [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one));
  const before = group.value;
  group.replaceChildren(...names.map((name) => element("option", `${name} (${counts.get(name)})`, { value: name })));
  if (counts.has(before)) group.value = before;
  document.getElementById("plots").hidden = !names.length;
  if (names.length) await Promise.all([draw("overview", plotted()), plotGroup()]);
}
const plotGroup = () => Promise.all([draw("parity", ofGroup()), draw("error", ofGroup())]);

// ---- the page ----
let waiting;
const later = () => {
  clearTimeout(waiting);
  waiting = setTimeout(choose, 150);
};
text.addEventListener("input", later);
for (const select of selects) select.addEventListener("change", later);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", later);
group.addEventListener("change", plotGroup);
document.getElementById("more").addEventListener("click", () => {
  listed += STEP;
  list();
});

fillSections();
document.getElementById("explore").hidden = !cases.length;
fillSelects();
fillHead();
fillLegend();
choose().then(() => { document.body.dataset.drawn = "yes"; });
