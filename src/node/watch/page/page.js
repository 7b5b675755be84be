// Draws what /figures says, every few seconds. Uses nothing from elsewhere.
"use strict";

const PERIOD = 5000;
const SVG = "http://www.w3.org/2000/svg";

const short = (value) => {
  if (value === null || value === undefined) return "–";
  const units = ["", "k", "M", "G", "T"];
  let unit = 0;
  while (Math.abs(value) >= 10000 && unit < units.length - 1) { value /= 1000; unit += 1; }
  const digits = Math.abs(value) >= 100 || Number.isInteger(value) ? 0 : Math.abs(value) >= 10 ? 1 : 2;
  return value.toFixed(digits) + units[unit];
};
const bytes = (value) => {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value.toFixed(value < 10 && unit > 0 ? 1 : 0)} ${units[unit]}`;
};
const millis = (value) => (value === null ? "–" : `${short(value)} ms`);
const age = (seconds) => {
  if (seconds === null) return "–";
  const [days, hours, minutes] = [seconds / 86400, (seconds / 3600) % 24, (seconds / 60) % 60].map(Math.floor);
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min` : `${Math.floor(seconds)} s`;
};

// What is drawn: a title, the field, how it is written; maybe a second field, and from where on the first is bad.
const CHARTS = [
  { title: "Requests carried out, each second", field: "requests", show: short },
  { title: "Messages accepted, each second", field: "messages", show: short },
  { title: "Answered within, half of them / 99 of 100", field: "p50", show: millis, second: "p99" },
  { title: "Refused, each second: overloaded / too often", field: "overloaded", show: short, second: "limited", bad: 0 },
  { title: "Failures, each second", field: "internal", show: short, bad: 0 },
  { title: "Open connections", field: "connections", show: short },
  { title: "Exchanges under way", field: "exchanges", show: short },
  { title: "Synced writes, each second / batches in each", field: "writes", show: short, second: "batches_per_write", apart: true },
  { title: "A synced write takes", field: "write_ms", show: millis },
  { title: "Entries in queues", field: "queued", show: short },
  { title: "Waiting for other homeservers", field: "relayed", show: short },
  { title: "Processors in use", field: "cpu", show: short },
  { title: "Memory", field: "memory", show: bytes },
  { title: "Free on the disk", field: "disk_free", show: bytes },
];

const element = (name, text, className) => {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
};

function line(values, top, className) {
  const drawn = document.createElementNS(SVG, "polyline");
  const width = Math.max(values.length - 1, 1);
  const points = [];
  values.forEach((value, at) => {
    if (value !== null) points.push(`${((at / width) * 100).toFixed(2)},${(30 - (value / top) * 30).toFixed(2)}`);
  });
  drawn.setAttribute("points", points.join(" "));
  if (className) drawn.setAttribute("class", className);
  return drawn;
}

function chart(of, fields, rows) {
  const column = (name) => rows.map((row) => row[fields.indexOf(name)]);
  const last = (values) => (values.length ? values[values.length - 1] : null);
  const first = column(of.field);
  const second = of.second ? column(of.second) : [];
  const figure = element("figure");
  figure.id = `chart-${of.field}`;
  const now = last(first);
  figure.append(element("figcaption", of.title));
  if (of.second) figure.append(element("span", of.show === millis ? millis(last(second)) : short(last(second)), "more"));
  figure.append(element("strong", now === null ? "–" : of.show(now)));
  if (of.bad !== undefined && now > of.bad) figure.className = "bad";
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 100 30");
  drawing.setAttribute("preserveAspectRatio", "none");
  drawing.setAttribute("role", "img");
  const known = (values) => values.filter((value) => value !== null);
  const most = Math.max(1e-9, ...known(first), ...(of.apart ? [] : known(second)));
  drawing.setAttribute("aria-label", `${of.title}: now ${now === null ? "nothing" : of.show(now)}, at most ${of.show(most)}`);
  const floor = document.createElementNS(SVG, "line");
  for (const [name, value] of [["x1", 0], ["x2", 100], ["y1", 30], ["y2", 30]]) floor.setAttribute(name, value);
  drawing.append(floor);
  if (of.second) drawing.append(line(second, of.apart ? Math.max(1e-9, ...known(second)) : most, "second"));
  drawing.append(line(first, most));
  figure.append(drawing);
  return figure;
}

function fill(id, rows) {
  const table = document.getElementById(id);
  table.hidden = rows.length === 0;
  table.parentElement.querySelector(".none").hidden = rows.length > 0;
  table.tBodies[0].replaceChildren(...rows.map((cells) => {
    const row = element("tr");
    row.append(...cells.map((cell) => element("td", cell.text ?? cell, cell.bad ? "bad" : "")));
    return row;
  }));
}

function draw(figures) {
  document.title = `${figures.domain}: ${figures.condition}`;
  document.getElementById("domain").textContent = figures.domain;
  document.getElementById("facts").textContent = `Bennu ${figures.version}, up for ${age(figures.uptime)}`;
  const { fields, rows } = figures.history;
  document.getElementById("charts").replaceChildren(...CHARTS.map((of) => chart(of, fields, rows)));
  const methods = figures.methods.sort((one, other) => other[1] - one[1]);
  fill("methods", methods.map(([name, count, refused, mean]) => [name, short(count), short(refused), millis(mean)]));
  const queues = figures.queues.filter(([, count]) => count > 0);
  fill("queues", queues.map(([entries, count]) => [entries, short(count)]));
  fill("peers", figures.peers.map(([domain, state, waiting, failures, oldest, why]) => {
    const failing = state === "failing";
    const text = failing ? `failing, ${failures} times: ${why}` : state;
    return [domain, { text, bad: failing }, short(waiting), age(oldest)];
  }));
}

function tell(state, condition, alert) {
  document.body.dataset.state = state;
  document.getElementById("condition").textContent = condition;
  const shown = document.getElementById("alert");
  shown.hidden = !alert;
  shown.textContent = alert;
}

async function refresh() {
  try {
    const response = await fetch("figures", { cache: "no-store" });
    if (!response.ok) {
      tell("unready", "not ready", `The homeserver says: ${(await response.text()).trim()}`);
      return;
    }
    const figures = await response.json();
    draw(figures);
    if (figures.condition === "ready") tell("ready", "ready", "");
    else tell("unready", "not ready", `Not ready: ${figures.condition}.`);
  } catch {
    const before = document.getElementById("charts").childElementCount > 0;
    tell("lost", "no answer", `The homeserver does not answer.${before ? " What is shown is how it was before." : ""}`);
  }
}

async function run() {
  await refresh();
  setTimeout(run, PERIOD);
}

run();
