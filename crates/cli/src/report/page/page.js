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

// Of a run with several processes: all of them, or the first.
const family = report.family ?? null;
let sites = family ? family.sites : report.sites;
// What is said of them all: of the family, where there is one.
const whole = family ?? report;
const calls = site => site.hits + site.misses + site.calls_seen;
const estimated = site => site.calls_estimated ?? 0;
const known = site => !site.calls_at_least ? short(calls(site)) : estimated(site) ? `~${short(calls(site) + estimated(site))}`
  : calls(site) ? `≥ ${short(calls(site))}` : "?";
const spent = seconds => (seconds ?? 0) < 0.0005 ? "–" : duration(seconds);
const bound = whole.coverage_is_bound;
function coverage() {
  const what = `of the calls${bound ? ", at most," : ""} were direct`;
  if (whole.coverage !== null && whole.calls_are_estimated && !bound) return [`~${percent(whole.coverage, 0)}`, `${what} (estimated)`];
  if (whole.coverage !== null) return [percent(whole.coverage), what];
  const all = (whole.calls_direct ?? 0) + (whole.calls_retpolined ?? 0);
  if (!whole.calls_are_estimated || all === 0) return ["–", "coverage: not counted (run --count)"];
  return [`~${percent(whole.calls_direct / all, 0)}`, `${what} (estimated)`];
}
const title = site => site.symbol ?? site.address;
const promoted = site => site.state === "promoted" || site.state === "linked";
// With more decimals where it would be rounded to all, and is not. An estimate is told without any, and has one then.
function percent(share, decimals = 1, most = decimals === 0 ? 1 : 4) {
  const text = (share * 100).toFixed(decimals);
  if (share >= 1 || !text.startsWith("100")) return text + " %";
  return decimals < most ? percent(share, decimals + 1, most) : most === 1 ? "99.9 %" : "99.9999 %";
}

// The head.
at("title").textContent = report.program;
document.title = report.program + " – relpoline";
at("facts").textContent = `process ${report.pid}, ${duration(report.seconds ?? 0)}, engine ${report.engine.version}` +
  (report.engine.why_disabled ? `, not promoting: ${report.engine.why_disabled}` : "");
const cycles = [`${report.costs.direct.toFixed(1)} / ${report.costs.retpoline.toFixed(1)}`, "cycles of a call: direct / retpoline"];
const took = cycles => report.cycles_per_s > 0 ? spent(cycles / report.cycles_per_s) : `${short(cycles)} cycles`;
const times = [
  coverage(),
  [spent(whole.seconds_saved), "of processor time saved, about"],
  [spent(whole.seconds_lost), `still lost to retpolines, ${bound ? "at least" : "about"}`],
];
const some = (number, one, more) => [number, number === 1 ? one : more];
const ran = site => calls(site) + estimated(site) > 0;
const tiles = family ? [
  ...times,
  [family.processes, "processes"],
  some(family.sites.filter(ran).length, "site ran in one of them or more", "sites ran in one of them or more"),
  some(family.sites.filter(promoted).length, "site promoted where it was called most", "sites promoted where they were called most"),
  [took(family.learn_cycles), "of processor time spent learning"],
  [took(family.startup_cycles), "of processor time spent at their starts"],
  cycles,
] : [
  ...times,
  some(report.sites_total, "site found", "sites found"),
  some(report.sites_run, "site ran", "sites ran"),
  some(report.sites_promoted, "site promoted", "sites promoted"),
  [short(report.engine.patches), `patch${report.engine.patches === 1 ? "" : "es"}, at most ${report.engine.patches_per_s_max} in a second`],
  [((report.engine.learn_share ?? 0) * 100).toFixed(2) + " %", "of the time spent learning"],
  [short(report.engine.arena_bytes) + "B", "of code"],
  cycles,
];
at("tiles").append(...tiles.map(([value, what]) => element("div", { class: "tile" }, element("b", {}, String(value)), element("span", {}, what))));

// Plots.
const W = 560, H = 220, LEFT = 48, BOTTOM = 22, TOP = 18, RIGHT = 8;
function none(id, why) { at(id).append(element("p", { class: "none" }, why)); }

// Round numbers from `from` to `to`, some four of them, none nearer to the next than `least`.
function ticks(from, to, least = 0) {
  const rough = Math.max((to - from) / 4, least, 1e-9), power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find(n => n * power >= rough * 0.999) * power, found = [];
  for (let n = Math.ceil(from / step - 1e-6); n * step <= to + step * 1e-6; n++) found.push(n * step);
  return [found, step];
}
const instant = (seconds, step) => seconds >= 100 ? duration(seconds) : seconds.toFixed(Math.max(0, Math.min(6, -Math.floor(Math.log10(step))))) + " s";

// Curves of steps: each has a name, a colour, and [from, to, value] per step, since a figure holds from one look to the next and
// nobody knows more. Dragging zooms into a time, as do + and -; arrows move, 0 or a double click shows all of it.
function curves(id, whole, all) {
  const svg = element("svg:svg", { viewBox: `0 0 ${W} ${H}`, role: "img", tabindex: 0, class: "zooms",
    "aria-label": `${all.map(curve => curve.name).join(", ")} over time; + and - zoom, arrows move, 0 shows all of it` });
  at(id).append(svg);
  let [from, to] = [0, whole], drag = null;
  const x = time => LEFT + (W - LEFT - RIGHT) * (time - from) / (to - from);
  const time = event => {
    const box = svg.getBoundingClientRect(), share = ((event.clientX - box.left) * W / box.width - LEFT) / (W - LEFT - RIGHT);
    return from + Math.max(0, Math.min(1, share)) * (to - from);
  };
  const show = (a, b) => {
    const least = whole / 1e4, length = Math.min(whole, Math.max(least, b - a)), start = Math.max(0, Math.min(whole - length, a));
    [from, to] = [start, start + length];
    draw();
  };
  function draw() {
    const seen = curve => curve.steps.filter(([a, b]) => b > from && a < to);
    const most = Math.max(1, ...all.flatMap(curve => seen(curve).map(step => step[2])));
    const least = Math.ceil(most / ticks(0, most, 1)[1]) * ticks(0, most, 1)[1], [values] = ticks(0, least, 1), top = least;
    const y = value => H - BOTTOM - (H - BOTTOM - TOP) * value / top;
    const [times, step] = ticks(from, to);
    svg.replaceChildren(
      ...values.flatMap(value => [element("svg:line", { class: "axis", x1: LEFT, x2: W - RIGHT, y1: y(value), y2: y(value) }),
        element("svg:text", { x: LEFT - 5, y: y(value) + 4, "text-anchor": "end" }, short(value))]),
      ...times.flatMap(moment => [element("svg:line", { class: "axis", x1: x(moment), x2: x(moment), y1: y(0), y2: y(0) + 4 }),
        element("svg:text", { x: x(moment), y: H - 5, "text-anchor": x(moment) > W - 40 ? "end" : x(moment) < LEFT + 10 ? "start" : "middle" }, instant(moment, step))]));
    all.forEach((curve, n) => {
      const clip = moment => x(Math.max(from, Math.min(to, moment))).toFixed(1);
      const points = seen(curve).map(([a, b, value]) => `${clip(a)},${y(value).toFixed(1)} ${clip(b)},${y(value).toFixed(1)}`).join(" ");
      svg.append(element("svg:polyline", { class: "curve", points, fill: "none", stroke: `var(--${curve.colour})`, "stroke-width": 1.6 }),
        element("svg:text", { x: LEFT + 8 + n * 150, y: 11, style: `fill: var(--${curve.colour})` }, curve.name));
    });
    if (from > 0 || to < whole) svg.append(element("svg:text", { x: W - RIGHT, y: 11, "text-anchor": "end", class: "zoomed" }, "zoomed; 0: all"));
    if (drag) svg.append(element("svg:rect", { class: "chosen", x: x(Math.min(...drag)), y: TOP, width: Math.abs(x(drag[1]) - x(drag[0])), height: H - TOP - BOTTOM }));
  }
  svg.addEventListener("pointerdown", event => { drag = [time(event), time(event)]; svg.setPointerCapture(event.pointerId); });
  svg.addEventListener("pointermove", event => { if (drag) { drag[1] = time(event); draw(); } });
  svg.addEventListener("pointerup", () => {
    const [a, b] = drag ?? [0, 0];
    drag = null;
    if (Math.abs(x(b) - x(a)) > 4) show(Math.min(a, b), Math.max(a, b)); else draw();
  });
  svg.addEventListener("dblclick", () => show(0, whole));
  svg.addEventListener("keydown", event => {
    const length = to - from, middle = (from + to) / 2;
    const views = { "+": [middle - length / 4, middle + length / 4], "-": [middle - length, middle + length], "0": [0, whole],
      ArrowLeft: [from - length / 4, to - length / 4], ArrowRight: [from + length / 4, to + length / 4] };
    const view = views[event.key === "=" ? "+" : event.key];
    if (view) { event.preventDefault(); show(...view); }
  });
  draw();
}

const timeline = report.timeline ?? [];
if (timeline.length < 2) {
  none("calls", "No samples: the process ended too soon, or no site was learned.");
  none("states-over-time", "No samples.");
} else {
  const end = Math.max(report.seconds ?? 0, timeline.at(-1).at);
  // A rate over a moment says nothing: moments nearer than a hundredth of the time to the one before go with the next, the last with the one before.
  const least = timeline.at(-1).at / 100;
  const apart = timeline.reduce((kept, moment) => kept.length === 0 || moment.at - kept.at(-1).at >= least ? [...kept, moment] : kept, []);
  if (apart.at(-1) !== timeline.at(-1)) apart.splice(apart.length > 1 ? -1 : 1, 1, timeline.at(-1));
  const rate = key => apart.slice(1).map((moment, i) => [apart[i].at, moment.at, Math.max(0, moment[key] - apart[i][key]) / Math.max(1e-6, moment.at - apart[i].at)]);
  const all = [{ name: "retpoline, counted, per s", colour: "retpoline", steps: rate("retpolined") }];
  if (report.engine.counts) all.unshift({ name: "direct, per s", colour: "direct", steps: rate("hits") });
  curves("calls", end, all);
  const held = key => timeline.map((moment, i) => [moment.at, timeline[i + 1]?.at ?? end, moment[key]]);
  curves("states-over-time", end, [
    { name: "promoted", colour: "direct", steps: held("promoted") },
    { name: "learning", colour: "learning", steps: held("learning") },
    { name: "left alone", colour: "left", steps: held("left") },
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
for (const site of whole.sites) states.set(site.state, (states.get(site.state) ?? 0) + 1);
// How many sites all processes have together is not known: the same library may be in each.
const unseen = family ? 0 : report.sites_total - report.sites.length;
if (unseen > 0) states.set("never judged", unseen);
if (states.size === 0) none("states", "No sites.");
else {
  const most = Math.max(...states.values());
  bars("states", [...states].sort((a, b) => b[1] - a[1]).map(([state, count]) =>
    ({ label: state, value: String(count), parts: [{ share: count / most, colour: COLOURS[state] ?? "cold", title: `${count} ${state}` }] })));
}
// Those first at which the most time was saved, or is still lost: among them what was refused and is dear.
const stake = site => (site.seconds_saved ?? 0) + (site.seconds_lost ?? 0);
const dearest = sites => [...sites].sort((a, b) => stake(b) - stake(a) || calls(b) - calls(a));
const hottest = dearest(whole.sites).slice(0, 10);
if (hottest.length === 0) none("targets", "No sites.");
else bars("targets", hottest.map(site => {
  const parts = site.targets.map((target, n) => ({ share: target.share, colour: "direct", opacity: Math.max(.25, 1 - n * .14), title: `${percent(target.share)} ${target.symbol ?? target.address}` }));
  const rest = 1 - parts.reduce((sum, part) => sum + part.share, 0);
  if (rest > 1e-3) parts.push({ share: rest, colour: promoted(site) ? "retpoline" : COLOURS[site.state] ?? "cold", title: promoted(site) ? "the retpoline, or targets beyond the eighth" : site.reason });
  return { label: title(site), value: known(site), parts };
}));

// Tables: columns are name, value, text, and whether they are numbers. Rows come as they are given until a column is chosen.
function table(id, rows, columns, make) {
  const head = at(id).tHead.rows[0], body = at(id).tBodies[0];
  let order = { column: -1, down: true };
  const draw = () => {
    const { column, down } = order, value = columns[column]?.value;
    const sorted = [...rows()];
    if (value) sorted.sort((a, b) => { const [x, y] = [value(a), value(b)]; return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1); });
    [...head.cells].forEach((cell, n) => cell.setAttribute("aria-sort", n === column ? (down ? "descending" : "ascending") : "none"));
    body.replaceChildren(...sorted.flatMap(make));
  };
  head.append(...columns.map((column, n) => {
    const button = element("button", { type: "button", title: column.means ?? "" }, column.name);
    button.addEventListener("click", () => { order = { column: n, down: order.column === n ? !order.down : !!column.number }; draw(); });
    return element("th", { class: column.number ? "number" : "", scope: "col" }, button);
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
  { name: "calls", value: site => calls(site) + estimated(site), text: known, number: true },
  { name: "saved", value: site => site.seconds_saved ?? 0, text: site => spent(site.seconds_saved), number: true },
  { name: "lost", value: site => site.seconds_lost ?? 0, text: site => site.state === "refused" && !estimated(site) ? "?" : spent(site.seconds_lost), number: true },
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
const chosen = () => { const text = filter.value.toLowerCase(); return dearest(sites.filter(site => said(site).includes(text))); };
function history(site) {
  const events = (site.history ?? []).map(change => `${duration(change.at).padStart(8)}  ${change.state}` +
    (change.figures ? `: ${change.target_count} target${change.target_count === 1 ? " covers" : "s cover"} ${percent(change.figures.covered)}, ${change.figures.tree.toFixed(1)} instead of ${change.figures.retpoline.toFixed(1)} cycles` : change.reason === change.state ? "" : `: ${change.reason}`));
  const facts = `${site.kind} at ${site.address} in ${site.object ?? "?"}, target in ${site.register ?? "?"}; ${site.misses} misses, ${site.calls_seen} calls counted while it learned or was left alone, ${site.patches ?? 0} patches`;
  return element("tr", { class: "history" }, element("td", { colspan: siteColumns.length }, [facts, ...events].join("\n")));
}
const drawSites = table("sites", chosen, siteColumns, site => {
  const row = line(siteColumns, site, { class: "site", tabindex: 0, "aria-expanded": String(open.has(site)) });
  const toggle = () => { if (!open.delete(site)) open.add(site); drawSites(); document.querySelector(`[data-at="${CSS.escape(site.address)}"]`)?.focus(); };
  row.dataset.at = site.address;
  row.addEventListener("click", toggle);
  row.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(); }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      const rows = [...at("sites").querySelectorAll("tr.site")], next = rows[rows.indexOf(row) + step];
      if (next) { event.preventDefault(); next.focus(); }
    }
  });
  return open.has(site) ? [row, history(site)] : [row];
});
const count = () => { at("shown").textContent = `${chosen().length} of ${sites.length} site${sites.length === 1 ? "" : "s"}; by the time saved and lost; Enter or a click on one shows its history`; };
filter.addEventListener("input", () => { drawSites(); count(); });
count();
if (family) {
  const which = at("which");
  which.hidden = false;
  which.addEventListener("change", () => { sites = which.value === "all" ? family.sites : report.sites; drawSites(); count(); });
  at("family").hidden = false;
  for (const caption of document.querySelectorAll("[data-first]")) caption.textContent += ` (process ${report.pid}, the first)`;
  const memberColumns = [
    { name: "saved", value: one => one.seconds_saved, text: one => spent(one.seconds_saved), number: true },
    { name: "lost", value: one => one.seconds_lost, text: one => spent(one.seconds_lost), number: true },
    { name: "direct", value: one => one.calls_direct, text: one => short(one.calls_direct), number: true },
    { name: "retpoline", value: one => one.calls_retpolined, text: one => short(one.calls_retpolined), number: true },
    { name: "promoted", value: one => one.sites_promoted, number: true },
    { name: "pid", value: one => one.pid, number: true },
    { name: "forked from", value: one => one.forked_from ?? 0, text: one => String(one.forked_from ?? "–"), number: true },
    { name: "program", value: one => one.program },
    { name: "end", value: one => one.why_disabled ?? (one.ended ? "orderly" : "not orderly, or not yet") },
  ];
  at("family-title").textContent = `All ${family.processes} processes of the run`;
  const most = one => (one.seconds_saved ?? 0) + (one.seconds_lost ?? 0);
  table("members", () => [...family.members].sort((a, b) => most(b) - most(a)), memberColumns, one => [line(memberColumns, one, {})]);
}
addEventListener("keydown", event => {
  if (event.target instanceof HTMLInputElement) { if (event.key === "Escape") { filter.value = ""; filter.blur(); drawSites(); count(); } return; }
  if (event.key === "/") { event.preventDefault(); filter.focus(); }
});
// Light, dark, or as the system has it.
const themes = ["light dark", "light", "dark"], names = ["as the system", "light", "dark"];
let theme = 0;
at("theme").addEventListener("click", () => {
  theme = (theme + 1) % themes.length;
  document.documentElement.style.colorScheme = themes[theme];
  at("theme").textContent = `colours: ${names[theme]}`;
});
const objectColumns = [
  { name: "sites", value: object => object.sites, number: true },
  { name: "promoted", value: object => object.promoted, number: true },
  { name: "refused", value: object => object.refused, number: true },
  { name: "thunks", value: object => object.thunks, number: true },
  { name: "object", value: object => object.path },
  { name: "build-id", value: object => object.build_id ?? "–" },
  { name: "left alone because", value: object => object.reason ?? "" },
];
table("objects", () => report.objects.filter(object => object.thunks > 0).sort((a, b) => b.sites - a.sites), objectColumns, object => [line(objectColumns, object, {})]);
document.body.dataset.drawn = "yes";
