//! What the module has learned and done, as text or JSON.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::device::{Control, Site, Stats};
use super::named::name_of;

/// `relpoline kernel status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// All figures, as JSON.
    #[arg(long)]
    json: bool,
}

/// `relpoline kernel sites`.
#[derive(Debug, Args)]
pub struct SitesArgs {
    /// Only promoted sites.
    #[arg(long)]
    promoted: bool,
    /// Only sites that have a name: those of the dynamic-call patches (pt_prev->func, dst_input, the list
    /// receive path), UDP's receive offload, reading and writing files, security hooks.
    #[arg(long)]
    named: bool,
    /// Only sites in functions whose name holds TEXT.
    #[arg(long, value_name = "TEXT")]
    function: Option<String>,
    /// Sites that were never called too.
    #[arg(long)]
    all: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// `relpoline kernel top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Seconds between two screens.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Screens until it ends [default: until it is interrupted]
    #[arg(long, value_name = "N")]
    screens: Option<u64>,
    /// Sites on a screen.
    #[arg(long, value_name = "N", default_value_t = 20)]
    lines: usize,
}

/// `relpoline kernel count`.
#[derive(Debug, Args)]
pub struct CountArgs {
    /// For how long.
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
}

/// Shows what is promoted and what was done.
///
/// # Errors
/// The module is not loaded, or may not be asked.
pub fn status(arguments: &StatusArgs) -> Result<()> {
    let stats = Control::open()?.stats()?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&stats)?);
        return Ok(());
    }
    let get = |name| stats.get(name);
    println!("promotion    {}", if get("enabled") == 1 { "on" } else { "off" });
    println!("sites        {} in the kernel, {} in its modules", get("sites_kernel"), get("sites_modules"));
    if get("sites_without_number") > 0 {
        println!(
            "no room      {} sites of the kernel's modules keep their retpolines: the module has room for 32,768 sites",
            get("sites_without_number")
        );
    }
    println!(
        "now          {} promoted, {} learning, {} cold, {} left to the retpoline, {} barred",
        get("now_promoted"),
        get("now_learning"),
        get("now_cold"),
        get("now_retpolined"),
        get("now_barred"),
    );
    println!(
        "so far       {} promotions of {} sites, {} learnings anew, {} demotions",
        get("promotions"),
        get("ever_promoted"),
        get("relearned"),
        get("demotions"),
    );
    println!(
        "text changed {} times, at {} µs of late; {} tree slots free",
        get("pokes"),
        1000 * get("patch_cycles") / get("cycles_per_ms").max(1),
        get("tree_slots_free")
    );
    if get("now_pending") > 0 {
        println!("waiting      {} sites have a probe on them", get("now_pending"));
    }
    if get("counting") == 1 {
        coverage(&stats);
    }
    Ok(())
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn coverage(stats: &Stats) {
    let (calls, hits) = (stats.get("counted_calls"), stats.get("counted_tree_hits"));
    println!("counted      {calls} calls at {} sites", stats.get("counted_sites"));
    println!("covered      {:.1} % of them took a direct jump", percent(hits, calls));
    println!("hit          {:.1} % of the calls of promoted sites", percent(hits, stats.get("counted_tree_calls")));
}

/// Counts for a time and shows what was covered.
///
/// # Errors
/// The module is not loaded, or may not be asked.
pub fn count(arguments: &CountArgs) -> Result<()> {
    let control = Control::open()?;
    let _counting = Counting::begin(&control)?;
    wait(Duration::from_secs(arguments.seconds));
    coverage(&control.stats()?);
    Ok(())
}

/// Lists sites.
///
/// # Errors
/// The module is not loaded, or may not be asked.
pub fn sites(arguments: &SitesArgs) -> Result<()> {
    let mut sites = Control::open()?.sites()?;
    sites.retain(|site| {
        (!arguments.promoted || site.phase == "promoted")
            && (!arguments.named || name_of(site).is_some())
            && arguments.function.as_deref().is_none_or(|text| site.function().contains(text))
            && (arguments.all || arguments.named || site.cold + site.promotions > 0)
    });
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&sites)?);
        return Ok(());
    }
    for site in &sites {
        println!("{}", line(site));
    }
    Ok(())
}

fn line(site: &Site) -> String {
    let name = name_of(site).map(|name| format!("  [{name}]")).unwrap_or_default();
    let why = if site.phase == site.reason { String::new() } else { format!(" ({})", site.reason) };
    let targets: Vec<String> =
        site.targets.iter().map(|target| format!("{} {:.0} %", target.name, 100.0 * target.share)).collect();
    let before = site.before.as_ref().map(|name| format!("  before: {name}")).unwrap_or_default();
    format!("{:<58} {:<4} {}{why}  {}{before}{name}", site.place, site.kind, site.phase, targets.join(", "))
}

/// Shows the busiest sites until it is interrupted.
///
/// # Errors
/// The module is not loaded, or may not be asked.
pub fn top(arguments: &TopArgs) -> Result<()> {
    let control = Control::open()?;
    let _counting = Counting::begin(&control)?;
    let mut before: HashMap<u64, u64> = HashMap::new();
    for screen in 0.. {
        if screen > 0 && (is_interrupted() || arguments.screens == Some(screen - 1)) {
            break;
        }
        let sites = control.sites()?;
        if screen > 0 {
            let stats = control.stats()?;
            draw(&sites, &before, &stats, arguments)?;
        }
        before = sites.iter().map(|site| (site.address, seen(site))).collect();
        if arguments.screens != Some(screen) {
            wait(Duration::from_secs(arguments.seconds));
        }
    }
    Ok(())
}

fn seen(site: &Site) -> u64 {
    site.calls + site.plain
}

fn draw(sites: &[Site], before: &HashMap<u64, u64>, stats: &Stats, arguments: &TopArgs) -> Result<()> {
    let rate = |site: &Site| seen(site).saturating_sub(before.get(&site.address).copied().unwrap_or(0));
    let mut busiest: Vec<(u64, &Site)> = sites.iter().map(|site| (rate(site), site)).collect();
    busiest.sort_by_key(|&(rate, _)| std::cmp::Reverse(rate));
    let mut out = std::io::stdout().lock();
    if out.is_terminal() {
        write!(out, "\x1b[H\x1b[2J")?;
    }
    writeln!(
        out,
        "{} promoted, {} learning; {:.1} % of the calls take a direct jump",
        stats.get("now_promoted"),
        stats.get("now_learning"),
        percent(stats.get("counted_tree_hits"), stats.get("counted_calls")),
    )?;
    writeln!(out, "{:>10}  {:>6}  site", "calls/s", "hit")?;
    for (rate, site) in busiest.into_iter().take(arguments.lines).filter(|&(rate, _)| rate > 0) {
        let hit = percent(site.calls.saturating_sub(site.misses), seen(site));
        writeln!(out, "{:>10}  {hit:>5.1}%  {}", rate / arguments.seconds, line(site))?;
    }
    out.flush()?;
    Ok(())
}

/// Counting is on while this lives.
struct Counting<'a>(&'a Control);

impl<'a> Counting<'a> {
    fn begin(control: &'a Control) -> Result<Counting<'a>> {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(libc::SIGINT, note_interrupt as *const () as libc::sighandler_t) };
        control.tell("count on")?;
        Ok(Counting(control))
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        // The module may have been unloaded meanwhile; then nothing counts any more either.
        let _ = self.0.tell("count off");
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_interrupt(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

fn is_interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Waits, but not on after an interrupt.
fn wait(time: Duration) {
    const STEP: Duration = Duration::from_millis(50);
    let mut left = time;
    while !left.is_zero() && !is_interrupted() {
        thread::sleep(left.min(STEP));
        left = left.saturating_sub(STEP);
    }
}
