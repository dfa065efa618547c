"use strict";
// Draws a report. Text from it is set by textContent only.
const report = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes = {}, ...children) {
  const node = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children.filter(child => child !== null));
  return node;
}

function short(number) {
  const units = ["", "k", "M", "G", "T", "P"];
  let unit = 0;
  while (number >= 999.5 && unit + 1 < units.length) { number /= 1000; unit++; }
  return unit === 0 || number >= 99.95 ? Math.round(number) + units[unit] : number.toFixed(1) + units[unit];
}

function duration(seconds) {
  if (seconds < 1) return Math.round(seconds * 1000) + " ms";
  if (seconds < 100) return seconds.toFixed(1) + " s";
  if (seconds < 6000) return Math.round(seconds / 60) + " min";
  return seconds < 360000 ? Math.round(seconds / 3600) + " h" : Math.round(seconds / 86400) + " d";
}

const calls = site => site.hits + site.misses + site.calls_seen;
const known = site => !site.calls_at_least ? short(calls(site)) : calls(site) ? `≥ ${short(calls(site))}` : "?";
const title = site => site.symbol ?? site.address;
const promoted = site => site.state === "promoted" || site.state === "linked";
const percent = share => (share * 100).toFixed(1) + " %";

// The head.
at("title").textContent = report.program;
document.title = report.program + " – relpoline";
at("facts").textContent = `process ${report.pid}, ${duration(report.seconds ?? 0)}, engine ${report.engine.version}` +
  (report.engine.why_disabled ? `, not promoting: ${report.engine.why_disabled}` : "");
const tiles = [
  [report.coverage === null ? "–" : percent(report.coverage), report.coverage === null ? "coverage: not counted (run --count)" : report.coverage_is_bound ? "of the calls, at most, were direct" : "of the calls were direct"],
  [report.sites_total, "sites found"],
  [report.sites_run, "sites ran"],
  [report.sites_promoted, "sites promoted"],
  [short(report.engine.patches), `patches, at most ${report.engine.patches_per_s_max} in a second`],
  [((report.engine.learn_share ?? 0) * 100).toFixed(2) + " %", "of the time spent learning"],
  [short(report.engine.arena_bytes) + "B", "of code"],
  [`${report.costs.direct.toFixed(1)} / ${report.costs.retpoline.toFixed(1)}`, "cycles of a call: direct / retpoline"],
];
at("tiles").append(...tiles.map(([value, what]) => element("div", { class: "tile" }, element("b", {}, String(value)), element("span", {}, what))));

// Plots.
const W = 560, H = 220, LEFT = 48, BOTTOM = 22, TOP = 18;
function none(id, why) { at(id).append(element("p", { class: "none" }, why)); }

// Curves over time: each has a name, a colour and a value per moment.
function curves(id, times, all) {
  const end = times[times.length - 1] || 1, most = Math.max(1, ...all.flatMap(curve => curve.values));
  const x = time => LEFT + (W - LEFT - 8) * time / end, y = value => H - BOTTOM - (H - BOTTOM - TOP) * value / most;
  const svg = element("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "img" });
  for (const share of [0, .5, 1]) {
    svg.append(element("svg:line", { class: "axis", x1: LEFT, x2: W - 8, y1: y(most * share), y2: y(most * share) }),
      element("svg:text", { x: LEFT - 5, y: y(most * share) + 4, "text-anchor": "end" }, short(most * share)),
      element("svg:text", { x: x(end * share), y: H - 6, "text-anchor": share === 0 ? "start" : share === 1 ? "end" : "middle" }, duration(end * share)));
  }
  all.forEach((curve, n) => {
    const points = curve.values.map((value, i) => `${x(times[i]).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
    svg.append(element("svg:polyline", { class: "curve", points, fill: "none", stroke: `var(--${curve.colour})`, "stroke-width": 1.6 }),
      element("svg:text", { x: LEFT + 8 + n * 150, y: 11, style: `fill: var(--${curve.colour})` }, curve.name));
  });
  at(id).append(svg);
}

const timeline = report.timeline ?? [];
if (timeline.length < 2) {
  none("calls", "No samples: the process ended too soon, or no site was learned.");
  none("states-over-time", "No samples.");
} else {
  // A rate over a moment says nothing: moments nearer than a hundredth of the time to the one before go with the next, the last with the one before.
  const least = timeline.at(-1).at / 100;
  const apart = timeline.reduce((kept, moment) => kept.length === 0 || moment.at - kept.at(-1).at >= least ? [...kept, moment] : kept, []);
  if (apart.at(-1) !== timeline.at(-1)) apart.splice(apart.length > 1 ? -1 : 1, 1, timeline.at(-1));
  const rate = key => apart.slice(1).map((moment, i) => Math.max(0, moment[key] - apart[i][key]) / Math.max(1e-6, moment.at - apart[i].at));
  const all = [{ name: "through the retpoline, per s", colour: "retpoline", values: rate("retpolined") }];
  if (report.engine.counts) all.unshift({ name: "direct, per s", colour: "direct", values: rate("hits") });
  curves("calls", apart.slice(1).map(moment => moment.at), all);
  curves("states-over-time", timeline.map(moment => moment.at), [
    { name: "promoted", colour: "direct", values: timeline.map(moment => moment.promoted) },
    { name: "learning", colour: "learning", values: timeline.map(moment => moment.learning) },
    { name: "left alone", colour: "left", values: timeline.map(moment => moment.left) },
  ]);
}

// Horizontal bars of parts: a label, and shares with colours and titles.
function bars(id, rows) {
  const step = 20, height = rows.length * step + 6;
  const svg = element("svg:svg", { viewBox: `0 0 ${W} ${height}`, role: "img" });
  rows.forEach((row, n) => {
    const y = n * step + 4;
    svg.append(element("svg:text", { x: 176, y: y + 11, "text-anchor": "end" }, row.label.length > 28 ? row.label.slice(0, 27) + "…" : row.label));
    let x = 184;
    for (const part of row.parts) {
      const width = (W - 250) * part.share;
      svg.append(element("svg:rect", { class: "bar", x, y, width: Math.max(width, .5), height: 14, fill: `var(--${part.colour})`, "fill-opacity": part.opacity ?? 1, stroke: "var(--back)", "stroke-width": .5 },
        element("svg:title", {}, part.title)));
      x += width;
    }
    svg.append(element("svg:text", { x: W - 58, y: y + 11 }, row.value));
  });
  at(id).append(svg);
}

const COLOURS = { linked: "direct", promoted: "direct", learning: "learning", retpolined: "left", refused: "left" };
const states = new Map();
for (const site of report.sites) states.set(site.state, (states.get(site.state) ?? 0) + 1);
const unseen = report.sites_total - report.sites.length;
if (unseen > 0) states.set("never judged", unseen);
if (states.size === 0) none("states", "No sites.");
else {
  const most = Math.max(...states.values());
  bars("states", [...states].sort((a, b) => b[1] - a[1]).map(([state, count]) =>
    ({ label: state, value: String(count), parts: [{ share: count / most, colour: COLOURS[state] ?? "cold", title: `${count} ${state}` }] })));
}
// They come with the busiest first, also where calls were not counted.
const hottest = report.sites.slice(0, 10);
if (hottest.length === 0) none("targets", "No sites.");
else bars("targets", hottest.map(site => {
  const parts = site.targets.map((target, n) => ({ share: target.share, colour: "direct", opacity: Math.max(.25, 1 - n * .14), title: `${percent(target.share)} ${target.symbol ?? target.address}` }));
  const rest = 1 - parts.reduce((sum, part) => sum + part.share, 0);
  if (rest > 1e-3) parts.push({ share: rest, colour: promoted(site) ? "retpoline" : COLOURS[site.state] ?? "cold", title: promoted(site) ? "the retpoline, or targets beyond the eighth" : site.reason });
  return { label: title(site), value: known(site), parts };
}));

// Tables: columns are name, value, text, and whether they are numbers.
function table(id, rows, columns, key, make) {
  const head = at(id).tHead.rows[0], body = at(id).tBodies[0];
  let order = { column: key, down: true };
  const draw = () => {
    const { column, down } = order, value = columns[column].value;
    const sorted = [...rows()].sort((a, b) => { const [x, y] = [value(a), value(b)]; return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
    [...head.cells].forEach((cell, n) => cell.setAttribute("aria-sort", n === column ? (down ? "descending" : "ascending") : "none"));
    body.replaceChildren(...sorted.flatMap(make));
  };
  head.append(...columns.map((column, n) => {
    const cell = element("th", { class: column.number ? "number" : "", scope: "col" }, column.name);
    cell.addEventListener("click", () => { order = { column: n, down: order.column === n ? !order.down : !!column.number }; draw(); });
    return cell;
  }));
  draw();
  return draw;
}

function line(columns, row, attributes) {
  return element("tr", attributes, ...columns.map(column => {
    const cell = element("td", { class: [column.number ? "number" : "name", column.mark?.(row) ?? ""].join(" ") });
    cell.textContent = (column.text ?? (r => String(column.value(r))))(row);
    return cell;
  }));
}

const verdict = site => promoted(site)
  ? site.targets.map(target => `${(target.share * 100).toFixed(0)} % ${target.symbol ?? target.address}`).join(", ") : site.reason;
const siteColumns = [
  { name: "calls", value: calls, text: known, number: true },
  { name: "hit", value: site => site.hits / Math.max(1, calls(site)), text: site => site.hits ? percent(site.hits / calls(site)) : "–", number: true },
  { name: "state", value: site => site.state, mark: site => site.state },
  { name: "targets", value: site => site.target_count, number: true },
  { name: "learned again", value: site => site.relearned, number: true },
  { name: "site", value: title, mark: () => "place" },
  { name: "where to, or why not", value: verdict },
];
const open = new Set();
const filter = at("filter");
const said = site => [title(site), site.address, site.object, site.kind, site.state, site.reason, verdict(site)].join("\n").toLowerCase();
const chosen = () => { const text = filter.value.toLowerCase(); return report.sites.filter(site => said(site).includes(text)); };
function history(site) {
  const events = (site.history ?? []).map(change => `${duration(change.at).padStart(8)}  ${change.state}` +
    (change.figures ? `: ${change.target_count} targets cover ${percent(change.figures.covered)}, ${change.figures.tree.toFixed(1)} instead of ${change.figures.retpoline.toFixed(1)} cycles` : change.reason === change.state ? "" : `: ${change.reason}`));
  const facts = `${site.kind} at ${site.address} in ${site.object ?? "?"}, target in ${site.register ?? "?"}; ${site.misses} misses, ${site.calls_seen} calls counted while it learned or was left alone, ${site.patches ?? 0} patches`;
  return element("tr", { class: "history" }, element("td", { colspan: siteColumns.length }, [facts, ...events].join("\n")));
}
const drawSites = table("sites", chosen, siteColumns, 0, site => {
  const row = line(siteColumns, site, { class: "site" });
  row.addEventListener("click", () => { if (!open.delete(site)) open.add(site); drawSites(); });
  return open.has(site) ? [row, history(site)] : [row];
});
const count = () => { at("shown").textContent = `${chosen().length} of ${report.sites.length} sites; click one for its history`; };
filter.addEventListener("input", () => { drawSites(); count(); });
count();
const objectColumns = [
  { name: "sites", value: object => object.sites, number: true },
  { name: "promoted", value: object => object.promoted, number: true },
  { name: "refused", value: object => object.refused, number: true },
  { name: "thunks", value: object => object.thunks, number: true },
  { name: "object", value: object => object.path },
  { name: "build-id", value: object => object.build_id ?? "–" },
  { name: "left alone because", value: object => object.reason ?? "" },
];
table("objects", () => report.objects.filter(object => object.thunks > 0), objectColumns, 0, object => [line(objectColumns, object, {})]);
document.body.dataset.drawn = "yes";
