//! `relpoline top`: engines, and the sites of one of them, as they are, again and again.
//!
//! ```text
//! live::all ──▶ [list::Line] ─┐
//! live::one ──▶ Report ──(previous Report)──▶ [rows] ─┴─▶ [screen] ◀── keys
//!                                                            └──▶ [draw] ──▶ terminal
//! ```
//! The screen is a state that keys change; drawing looks at it and changes nothing. So both are tested
//! without a terminal.

mod draw;
pub mod rows;
mod screen;
pub(crate) mod terminal;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use serde::Serialize;

use crate::list::Line;
use crate::live::{self, Engine};
use crate::report::{Report, now};
use crate::shown;
use rows::{Order, Rows};
use screen::{Next, Screen};

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline top                                 all engines; Enter goes into one
  relpoline top 4711 --sort misses              the sites of process 4711
  relpoline top 4711 --once --json              one look, for scripts
  relpoline top 4711 --once --filter ngx_http

Keys: arrows, PgUp, PgDn, Home, End  move     Enter  details     Esc  back
      s  next order     r  reverse     /  filter     space  pause
      ?  help           q  quit

Without --count in the process, calls that hit are estimated (`~`), from how fast sites were called when \
they were counted last; what is not known is `-`. Reading never stops the process. What was counted since a site's last judgement is included where you may read the process' \
memory (as root, or with kernel.yama.ptrace_scope 0).";

/// `relpoline top`.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The process; without it, all that have an engine.
    pub pid: Option<u32>,
    /// Look once, write what is there, and end.
    #[arg(long)]
    pub once: bool,
    /// With --once: as JSON.
    #[arg(long, requires = "once")]
    pub json: bool,
    /// Seconds between two looks.
    #[arg(long, short = 'd', value_name = "SECONDS", default_value_t = 1.0, value_parser = interval, conflicts_with = "once")]
    pub interval: f64,
    /// Order of the sites.
    #[arg(long, value_name = "ORDER", value_enum, default_value_t = Order::Cost)]
    pub sort: Order,
    /// Only sites whose name, object, state, reason or targets contain TEXT.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub filter: String,
}

fn interval(text: &str) -> Result<f64, String> {
    let seconds = text.parse().map_err(|_| "it is not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) { Ok(seconds) } else { Err("it must be between 0.1 and 3600".into()) }
}

/// Does what the command line asks.
///
/// # Errors
/// When there is no such engine, or no terminal.
pub fn run(arguments: &TopArgs) -> anyhow::Result<ExitCode> {
    if arguments.once {
        let is_default = arguments.sort == Order::Cost && arguments.filter.is_empty();
        ensure!(
            is_default || (arguments.pid.is_some() && !arguments.json),
            "--sort and --filter are for the sites of one process, and not for JSON, which has all of them"
        );
        once(arguments)?;
    } else {
        ensure!(
            io::stdout().is_terminal() && io::stdin().is_terminal(),
            "top needs a terminal; use --once, with --json for scripts"
        );
        watch(arguments)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// All engines, as JSON.
#[derive(Serialize)]
struct Engines {
    schema: u32,
    engines: Vec<Line>,
}

fn once(arguments: &TopArgs) -> anyhow::Result<()> {
    let mut screen = Screen::new(arguments.sort, &arguments.filter);
    let mut out = io::stdout().lock();
    match arguments.pid {
        Some(pid) => {
            let engine = live::one(pid)?;
            let report = now::report(&engine, &mut engine.symbols());
            if arguments.json {
                return Ok(shown::write_json(&mut out, &report)?);
            }
            screen.show_sites(Rows::of(&report, None));
        }
        None => {
            let engines: Vec<Line> = live::all().engines.iter().map(Line::of).collect();
            if arguments.json {
                let all = Engines { schema: crate::list::SCHEMA, engines };
                return Ok(shown::write_json(&mut out, &all)?);
            }
            screen.show_engines(engines);
        }
    }
    Ok(shown::write(&mut out, &draw::to_text(&screen))?)
}

/// What is being looked at.
struct Watched {
    engine: Engine,
    last: Option<(Instant, Report)>,
}

impl Watched {
    fn look(&mut self) -> Rows {
        let report = now::report(&self.engine, &mut self.engine.symbols());
        let before = self.last.as_ref().map(|(at, report)| (at.elapsed().as_secs_f64(), report));
        let rows = Rows::of(&report, before);
        self.last = Some((Instant::now(), report));
        rows
    }
}

fn watch(arguments: &TopArgs) -> anyhow::Result<()> {
    let mut screen = Screen::new(arguments.sort, &arguments.filter);
    let mut watched =
        arguments.pid.map(|pid| live::one(pid).map(|engine| Watched { engine, last: None })).transpose()?;
    screen.is_for_one = watched.is_some();
    let mut terminal = terminal::take()?;
    let outcome = (|| -> anyhow::Result<()> {
        loop {
            refresh(&mut screen, &mut watched);
            if !serve(&mut terminal, &mut screen, &mut watched, Duration::from_secs_f64(arguments.interval))? {
                return Ok(());
            }
        }
    })();
    ratatui::restore();
    outcome
}

/// Looks again at whatever is shown.
fn refresh(screen: &mut Screen, watched: &mut Option<Watched>) {
    if screen.is_paused {
        return;
    }
    match watched {
        Some(one) => {
            if one.engine.refresh() {
                screen.show_sites(one.look());
            } else {
                screen.has_ended(one.engine.process.pid);
            }
        }
        None => screen.show_engines(live::all().engines.iter().map(Line::of).collect()),
    }
}

/// Draws, and takes keys until it is time for the next look. False when the user has had enough.
fn serve(
    terminal: &mut ratatui::DefaultTerminal,
    screen: &mut Screen,
    watched: &mut Option<Watched>,
    interval: Duration,
) -> anyhow::Result<bool> {
    let until = Instant::now() + interval;
    loop {
        terminal.draw(|frame| draw::draw(frame, screen))?;
        if !event::poll(until.saturating_duration_since(Instant::now()))? {
            return Ok(true);
        }
        let Event::Key(key) = event::read()? else { continue };
        if key.kind != KeyEventKind::Press {
            continue;
        }
        match screen.press(key) {
            Next::Stay => {}
            Next::Quit => return Ok(false),
            Next::Into(pid) => match live::one(pid) {
                Ok(engine) => {
                    *watched = Some(Watched { engine, last: None });
                    return Ok(true);
                }
                Err(error) => screen.say(format!("{error:#}")),
            },
            Next::Out => {
                *watched = None;
                return Ok(true);
            }
        }
    }
}
