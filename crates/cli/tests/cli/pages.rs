//! The HTML report and the flame graph in headless Chromium: that they draw, that keys, search and clicks do what they are
//! for, and that a page on several processes tells of all of them.
//!
//! A page is opened with a script behind its own, which presses keys and notes in an attribute what came of it. Each note is
//! of something that was otherwise before.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use relpoline_cli::report::Report;
use serde_json::Value;

use crate::compiled::{Compiled, RETPOLINE};
use crate::observed::Running;
use crate::reported::FAMILY;
use crate::started::{output, relpoline, stdout};

/// What is in the page once its scripts have run; nothing without a browser. `part` is what stands behind `#` in the address.
fn dom(page: &Path, part: &str) -> Option<String> {
    let is_there =
        |name: &&str| Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(is_there) else {
        println!("skipped: there is no chromium");
        return None;
    };
    let profile = tempfile::tempdir().unwrap();
    let mut browse = Command::new(browser);
    browse.args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]);
    browse.arg(format!("--user-data-dir={}", profile.path().display())).arg(format!("file://{}{part}", page.display()));
    Some(String::from_utf8_lossy(&output(&mut browse).stdout).into_owned())
}

/// Opens a page with `script` behind its own, just before `end`; what that put into the attribute `data-told` of the document.
fn told(page: &Path, part: &str, end: &str, script: &str) -> Option<Value> {
    // XML takes a script for markup that does not say that it is none; HTML does not know of that.
    let (open, close) = if end == "</svg>" { ("<![CDATA[", "]]>") } else { ("", "") };
    let text = fs::read_to_string(page).unwrap();
    let (before, behind) = text.rsplit_once(end).unwrap();
    fs::write(page, format!("{before}<script>{open}{{{script}}}{close}</script>{end}{behind}")).unwrap();
    let dom = dom(page, part)?;
    let told = dom.split("data-told=\"").nth(1).unwrap_or_else(|| panic!("the script did not come to its end:\n{dom}"));
    Some(serde_json::from_str(&told.split('"').next().unwrap().replace("&quot;", "\"")).unwrap())
}

#[test]
fn the_html_report_draws_in_a_browser() {
    let running = Running::new(&[]);
    let page = running.program.directory().join("r.html");
    stdout(relpoline(&["report", &running.pid(), "--format", "html", "-o"]).arg(&page));
    let Some(dom) = dom(&page, "") else { return };
    assert!(dom.contains("data-drawn=\"yes\""), "the script did not come to its end:\n{dom}");
    assert!(dom.matches("class=\"curve\"").count() >= 4 && dom.matches("class=\"bar\"").count() >= 4, "{dom}");
    assert!(dom.contains("class=\"site\"") && dom.contains("steady+0x"), "{dom}");
}

const KEYS_OF_THE_REPORT: &str = r##"
const told = {}, find = selector => document.querySelector(selector), all = selector => [...document.querySelectorAll(selector)];
const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
// Zoom: what is drawn changes, the axis too, and comes back.
const plot = find("#calls svg.zooms"), curve = () => find("#calls polyline.curve").getAttribute("points");
const axis = () => all("#calls svg text").map(node => node.textContent + node.getAttribute("x")).join(" ");
const [whole, times] = [curve(), axis()];
press(plot, "+");
told.zoomed = curve() !== whole && axis() !== times && !!find("#calls .zoomed");
const near = axis();
press(plot, "ArrowLeft");
told.moved = axis() !== near;
press(plot, "-"); press(plot, "-"); press(plot, "0");
told.back = curve() === whole && axis() === times && !find("#calls .zoomed");
// Dragging over the middle third zooms into it.
const box = plot.getBoundingClientRect(), at = share => ({ clientX: box.left + box.width * share, clientY: box.top + 50, pointerId: 1, bubbles: true });
plot.setPointerCapture = () => {};
plot.dispatchEvent(new PointerEvent("pointerdown", at(0.4)));
plot.dispatchEvent(new PointerEvent("pointermove", at(0.6)));
told.chosen = !!find("#calls .chosen");
plot.dispatchEvent(new PointerEvent("pointerup", at(0.6)));
told.dragged = !!find("#calls .zoomed") && !find("#calls .chosen");
plot.dispatchEvent(new MouseEvent("dblclick", { bubbles: true }));
told.double = curve() === whole;
// The filter.
const rows = () => all("#sites tr.site");
const sites = rows().length;
press(document.body, "/");
told.focused = document.activeElement === find("#filter");
const type = text => { find("#filter").value = text; find("#filter").dispatchEvent(new Event("input")); };
type("chaos+0x");
told.filtered = sites > 1 && rows().length === 1 && rows()[0].textContent.includes("chaos+0x") && find("#shown").textContent.startsWith("1 of ");
type("no such site");
told.none = rows().length === 0;
press(find("#filter"), "Escape");
told.unfiltered = rows().length === sites;
// Rows: the history comes and goes, arrows move.
rows()[0].focus();
press(rows()[0], "Enter");
told.opened = all("#sites tr.history").length === 1 && rows()[0].getAttribute("aria-expanded") === "true";
told.stayed = document.activeElement === rows()[0];
press(rows()[0], "ArrowDown");
told.down = document.activeElement === rows()[1];
press(rows()[0], " ");
told.closed = all("#sites tr.history").length === 0;
// The order: by time until a column is chosen.
const heads = all("#sites th");
told.unsorted = heads.every(head => head.getAttribute("aria-sort") === "none");
heads[7].querySelector("button").click();
const names = () => rows().map(row => row.cells[7].textContent);
told.sorted = heads[7].getAttribute("aria-sort") === "ascending" && names().join() === names().sort().join();
heads[7].querySelector("button").click();
told.reversed = heads[7].getAttribute("aria-sort") === "descending" && names().join() === names().sort().reverse().join();
// Colours.
const back = () => getComputedStyle(document.body).backgroundColor;
find("#theme").click();
const light = back();
find("#theme").click();
told.dark = back() !== light && document.documentElement.style.colorScheme === "dark" && find("#theme").textContent === "colours: dark";
document.documentElement.dataset.told = JSON.stringify(told);
"##;

/// All that `told` holds is true, and nothing of it is missing.
fn all_true(told: &Value, names: &[&str]) {
    let object = told.as_object().unwrap();
    let wrong: Vec<&str> =
        names.iter().filter(|name| object.get(**name) != Some(&Value::Bool(true))).copied().collect();
    assert!(wrong.is_empty() && object.len() == names.len(), "{wrong:?}: {told:#}");
}

#[test]
fn keys_and_clicks_do_what_the_html_report_says() {
    let running = Running::new(&[]);
    let page = running.program.directory().join("r.html");
    stdout(relpoline(&["report", &running.pid(), "--format", "html", "-o"]).arg(&page));
    let Some(told) = told(&page, "", "</body>", KEYS_OF_THE_REPORT) else { return };
    let zooms = ["zoomed", "moved", "back", "chosen", "dragged", "double"];
    let filters = ["focused", "filtered", "none", "unfiltered"];
    let rows = ["opened", "stayed", "down", "closed", "unsorted", "sorted", "reversed", "dark"];
    all_true(&told, &[&zooms[..], &filters, &rows].concat());
}

const KEYS_OF_THE_FLAME_GRAPH: &str = r##"
const told = {}, every = [...document.querySelectorAll("g.frame")];
const title = frame => frame.querySelector("title").textContent, width = frame => Number(frame.querySelector("rect").getAttribute("width"));
const key = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const found = () => every.filter(frame => frame.querySelector("rect").getAttribute("fill") === "#b05cd6").map(title);
const note = () => document.getElementById("matched").textContent;
// What is looked for may stand in the address.
told.hash = found().length === 1 && found()[0].startsWith("twist: ") && /^"twist": 1 frame, [0-9.]+ % of the calls$/.test(note());
window.prompt = () => "STEADY";
key(document.documentElement, "/");
// Its site lies within its function: they are one share, not two.
told.searched = found().length === 2 && found().every(name => name.startsWith("steady"));
told.share = Number(note().match(/([0-9.]+) %/)[1]) <= 100 && note().includes("2 frames");
const steady = every.find(frame => title(frame).startsWith("steady: ")), chaos = every.find(frame => title(frame).startsWith("chaos: "));
const before = width(chaos), widest = width(steady);
key(chaos, "Enter");
told.zoomed = width(chaos) > 1190 && before < 600 && steady.style.display === "none";
key(document.documentElement, "Escape");
told.reset = Math.abs(width(chaos) - before) < 0.2 && Math.abs(width(steady) - widest) < 0.2 && steady.style.display === "" && found().length === 0 && note() === "";
steady.dispatchEvent(new MouseEvent("click", { bubbles: true }));
told.clicked = width(steady) > 1190;
document.getElementById("reset").dispatchEvent(new MouseEvent("click", { bubbles: true }));
told.all = Math.abs(width(steady) - widest) < 0.2;
document.documentElement.setAttribute("data-told", JSON.stringify(told));
"##;

#[test]
fn keys_and_clicks_do_what_the_flame_graph_says() {
    let running = Running::new(&[]);
    let page = running.program.directory().join("r.svg");
    stdout(relpoline(&["report", &running.pid(), "--format", "flamegraph", "-o"]).arg(&page));
    let Some(told) = told(&page, "#twist", "</svg>", KEYS_OF_THE_FLAME_GRAPH) else { return };
    all_true(&told, &["hash", "searched", "share", "zoomed", "reset", "clicked", "all"]);
}

/// What a tile says, by what stands below it.
fn tile(dom: &str, what: &str) -> String {
    let tiles = dom.split("<div class=\"tile\">").skip(1);
    let found = tiles.filter_map(|tile| tile.strip_prefix("<b>")?.split_once("</b><span>"));
    let mut values = found.filter(|(_, said)| said.starts_with(what)).map(|(value, _)| value.to_owned());
    values.next().unwrap_or_else(|| panic!("no tile says {what}: {dom}"))
}

/// The first process of a run is often the one that does least: a server's master, a shell.
#[test]
fn a_page_on_several_processes_tells_of_all_of_them() {
    let program = Compiled::new(FAMILY, &RETPOLINE);
    let (file, page) = (program.directory().join("r"), program.directory().join("r.html"));
    let script = format!("{} return return; :", program.text());
    stdout(relpoline(&["run", "--count", "--report"]).arg(&file).args(["--", "sh", "-c", &script]));
    stdout(relpoline(&["report", "--format", "html", "-o"]).arg(&page).arg(&file));
    let report: Report = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let family = report.family.as_ref().unwrap();
    assert!(report.sites_promoted == 0 && report.seconds_saved < family.seconds_saved / 2.0, "{report:#?}");
    let Some(dom) = dom(&page, "") else { return };
    assert_eq!(tile(&dom, "processes"), family.processes.to_string());
    let promoted = family.sites.iter().filter(|site| site.is_promoted()).count();
    assert!(
        promoted > 0
            && tile(&dom, if promoted == 1 { "site promoted" } else { "sites promoted" }) == promoted.to_string(),
        "{dom}"
    );
    assert_ne!(tile(&dom, "of the calls"), "–", "the shell made none, its children millions");
    assert!(tile(&dom, "of processor time saved") != "–", "{dom}");
    assert!(dom.contains(&format!("left alone (process {}, the first)</figcaption>", report.pid)), "{dom}");
    // The bars of where sites go are of all of them, too.
    let bars = dom.split("id=\"targets\"").nth(1).unwrap().split("</figure>").next().unwrap();
    assert!(bars.contains("many+0x") && bars.contains(" add</title>"), "{bars}");
}

/// A site that was refused stands in front when it is the dearest, though nobody counted its calls.
#[test]
fn dear_sites_come_first_on_the_page() {
    use relpoline_cli::report::schema::Site;
    let site = |name: &str, state: &str, calls_seen, seconds_lost| Site {
        symbol: Some(name.into()),
        address: format!("0x{}", name.len()).into(),
        state: state.into(),
        calls_seen,
        seconds_lost,
        ..Site::default()
    };
    let sites = vec![site("cheap", "retpolined", 9_000_000, 0.1), site("dear", "refused", 0, 7.0)];
    let place = tempfile::tempdir().unwrap();
    let (file, page) = (place.path().join("r.json"), place.path().join("r.html"));
    fs::write(&file, serde_json::to_vec(&Report { sites, ..Report::default() }).unwrap()).unwrap();
    stdout(relpoline(&["report", "--format", "html", "-o"]).arg(&page).arg(&file));
    let Some(dom) = dom(&page, "") else { return };
    let table = dom.split("<table id=\"sites\">").nth(1).unwrap();
    assert!(table.find(">dear<") < table.find(">cheap<") && table.contains(">dear<"), "{table}");
}
