//! Drawing the screen: in 80 columns and 24 lines, and in whatever else there is.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Paragraph, Row as TableRow, Sparkline, StatefulWidget, Table, TableState, Widget, Wrap};

use super::rows::{Row, short};
use super::screen::{Screen, View};
use crate::live::clock;
use crate::report::why;
use crate::shown::{count, cut, percent};

/// Columns of the text form.
const WIDTH: u16 = 80;
/// Width of a target's bar.
const BAR: f64 = 20.0;

const KEYS: &str = " ↑↓ move  Enter details  Esc back  s order  / filter  space pause  ? keys  q quit";

const HELP: &str = "\
 ↑ ↓ PgUp PgDn Home End  move          Enter  into the process, or the site
 s  next order: cost, calls, misses,   Esc    back; with a filter: all sites
    targets, patches, state, name      r      the other way round
 /  filter: part of a name, object,    space  pause
    state, reason, target              q      quit

 HIT/s       calls per second that took a direct jump
 RETP/s      calls per second that took the retpoline
             ~ is estimated from how fast it was called when it was counted
             last; - is not known; --count in the process counts all
 HIT%        share of the calls so far that hit, where they are counted
 TGT         targets in the site's tree
 cost        how much more retpolined calls cost than direct ones would

 cold        called too rarely to be learned
 learning    its calls are being recorded, to be judged
 promoted    its calls go through its gate to a tree of direct jumps
 linked      promoted, and the site itself jumps to the tree
 retpolined  judged and left alone, for now: a tree would not be faster
 refused     left as it was found, for good; its calls are not counted
 disabled    switched off              gone   its library was unloaded";

/// Draws the screen.
pub fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    render(frame.area(), frame.buffer_mut(), screen);
}

/// The screen as text, with all its rows.
pub fn to_text(screen: &Screen) -> String {
    let rows = if screen.view == View::Engines { screen.engines.len() } else { screen.rows().len() };
    let height = u16::try_from(rows.saturating_add(6)).unwrap_or(u16::MAX / WIDTH).min(u16::MAX / WIDTH);
    let area = Rect::new(0, 0, WIDTH, height.max(7));
    let mut buffer = Buffer::empty(area);
    let [head, body] = Layout::vertical([Constraint::Length(4), Constraint::Min(1)]).areas(area);
    if screen.view == View::Engines {
        engines(area, &mut buffer, screen, None);
    } else {
        heading(head, &mut buffer, screen);
        sites(body, &mut buffer, screen, None);
    }
    let line = |y| (0..WIDTH).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned() + "\n";
    let text: String = (0..area.height).map(line).collect();
    text.trim_end().to_owned() + "\n"
}

fn render(area: Rect, buffer: &mut Buffer, screen: &Screen) {
    let head = if matches!(screen.view, View::Engines | View::Help) { 0 } else { 5 };
    let [top, body, foot] =
        Layout::vertical([Constraint::Length(head), Constraint::Min(1), Constraint::Length(1)]).areas(area);
    if head > 0 {
        let [facts, curve] = Layout::vertical([Constraint::Length(4), Constraint::Length(1)]).areas(top);
        heading(facts, buffer, screen);
        let width = usize::from(curve.width);
        let past = &screen.past[screen.past.len().saturating_sub(width)..];
        Sparkline::default().data(past).style(Style::new().fg(Color::Yellow)).render(curve, buffer);
    }
    match screen.view {
        View::Engines => engines(body, buffer, screen, Some(screen.selected)),
        View::Sites => sites(body, buffer, screen, Some(screen.selected)),
        View::Detail => detail(body, buffer, screen),
        View::Help => Paragraph::new(HELP).render(body, buffer),
    }
    footer(foot, buffer, screen);
}

/// What holds for the whole process.
fn heading(area: Rect, buffer: &mut Buffer, screen: &Screen) {
    let (all, report) = (&screen.sites, &screen.sites.report);
    let in_state = |state: &str| all.rows.iter().filter(|row| row.site.state == state).count();
    let promoted = all.rows.iter().filter(|row| row.site.is_promoted()).count();
    let switch = match &report.engine.why_disabled {
        Some(why) => format!("off: {why}"),
        None => "promotion on".into(),
    };
    let first = format!(
        " {} (pid {}), {} so far, {switch}",
        cut(&report.program, 36),
        report.pid,
        clock::words(report.seconds)
    );
    let second = format!(
        " sites: {} found, {promoted} promoted, {} learning, {} left alone, {} cold, {} refused",
        report.sites_total,
        in_state("learning"),
        in_state("retpolined"),
        in_state("cold"),
        in_state("refused")
    );
    let about = if report.calls_are_estimated { "~" } else { "" };
    let hits = if report.engine.counts || report.calls_are_estimated {
        format!("{about}{}/s", short(all.hit_rate))
    } else {
        "not counted".into()
    };
    let at_most = if report.coverage_is_bound { "at most " } else { "" };
    let estimate = || report.coverage_estimate().filter(|_| report.calls_are_estimated);
    let coverage = match (report.coverage, estimate()) {
        (Some(share), _) => format!("{at_most}{} %", percent(share, 1)),
        (None, Some(share)) => format!("{at_most}~{} %", percent(share, 0)),
        (None, None) => "not known".into(),
    };
    let third =
        format!(" direct: {hits}  retpoline: {about}{}/s  coverage: {coverage} of calls", short(all.retpoline_rate));
    let at_least = if report.coverage_is_bound { "at least " } else { "" };
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let patches = report.engine.patches as f64;
    let fourth = format!(
        " saved: ~{}  lost: {at_least}~{}  patches: {} ({}/s)  learning: {:.2} %",
        clock::words(report.seconds_saved),
        clock::words(report.seconds_lost),
        short(patches),
        short(all.patch_rate),
        report.engine.learn_share * 100.0
    );
    let bold = Style::new().add_modifier(Modifier::BOLD);
    Paragraph::new(vec![Text::styled(first, bold), second.into(), third.into(), fourth.into()]).render(area, buffer);
}

fn footer(area: Rect, buffer: &mut Buffer, screen: &Screen) {
    let order = if screen.is_reversed { "↑" } else { "↓" };
    let text = match &screen.message {
        Some(message) => format!(" {message}"),
        None if screen.is_typing => format!(" filter: {}▏ (Enter: done, Esc: none)", screen.filter),
        None if screen.view == View::Sites => {
            let filter = if screen.filter.is_empty() { String::new() } else { format!("  /{}", screen.filter) };
            let pause = if screen.is_paused { "  PAUSED" } else { "" };
            format!(" {}{order}{filter}{pause}  Enter details  s order  / filter  ? keys  q quit", screen.order.name())
        }
        None => KEYS.into(),
    };
    Paragraph::new(text).style(Style::new().add_modifier(Modifier::REVERSED)).render(area, buffer);
}

/// A table with a header, and a selected line if there is one.
fn table(
    area: Rect,
    buffer: &mut Buffer,
    widths: &[Constraint],
    head: &[&str],
    rows: Vec<TableRow<'_>>,
    at: Option<usize>,
) {
    let header = TableRow::new(head.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
    let table = Table::new(rows, widths.to_vec())
        .header(header.style(Style::new().add_modifier(Modifier::BOLD | Modifier::UNDERLINED)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::new().with_selected(at);
    StatefulWidget::render(table, area, buffer, &mut state);
}

fn right(text: &str, width: usize) -> String {
    format!("{text:>width$}")
}

fn engines(area: Rect, buffer: &mut Buffer, screen: &Screen, selected: Option<usize>) {
    if screen.engines.is_empty() {
        let text = " No process that you may look at has an engine. Start one with `relpoline run -- PROG`.";
        Paragraph::new(text).wrap(Wrap { trim: false }).render(area, buffer);
        return;
    }
    let widths = [7, 8, 6, 5, 5, 5, 6, 7].map(Constraint::Length);
    let widths: Vec<Constraint> = widths.into_iter().chain([Constraint::Min(10)]).collect();
    let rows = screen.engines.iter().map(|line| {
        let command = line.why_disabled.as_ref().map_or_else(|| line.title().to_owned(), |why| format!("[off: {why}]"));
        TableRow::new([
            right(&line.pid.to_string(), 7),
            cut(&line.user, 8),
            right(&line.sites.to_string(), 6),
            right(&line.promoted.to_string(), 5),
            right(&line.learning.to_string(), 5),
            right(&line.retpolined.to_string(), 5),
            right(&format!("{:.2}", line.learn_share * 100.0), 6),
            right(&clock::words(line.seconds), 7),
            command,
        ])
    });
    let head = ["    PID", "USER", " SITES", " PROM", "LEARN", " LEFT", " COST%", "  SINCE", "COMMAND"];
    table(area, buffer, &widths, &head, rows.collect(), selected);
}

fn sites(area: Rect, buffer: &mut Buffer, screen: &Screen, selected: Option<usize>) {
    let rows = screen.rows();
    if rows.is_empty() {
        let none = if screen.filter.is_empty() { " No site has run yet." } else { " No site contains that." };
        Paragraph::new(none).render(area, buffer);
        return;
    }
    // The rest is divided between the site and its verdict.
    let rest = usize::from(area.width).saturating_sub(6 + 1 + 6 + 1 + 5 + 1 + 10 + 1 + 3 + 1);
    let name = rest * 11 / 20;
    let widths = [6, 6, 5, 10, 3, u16::try_from(name).unwrap_or(20)].map(Constraint::Length);
    let widths: Vec<Constraint> = widths.into_iter().chain([Constraint::Min(8)]).collect();
    let table_rows = rows.iter().map(|row| {
        let hits =
            if row.site.direct() == 0 { "-".into() } else { rate(row.hit_rate, row.site.estimated_direct() > 0) };
        // Cut off, not rounded, where there is no room for more decimals.
        let share: String = row.hit_share().map_or("-".into(), |share| percent(share, 1).chars().take(5).collect());
        TableRow::new([
            right(&hits, 6),
            right(&retpolined(row), 6),
            right(&share, 5),
            row.site.state.to_string(),
            right(&row.site.target_count.to_string(), 3),
            cut(row.site.name(), name),
            row.verdict(),
        ])
        .style(Style::new().fg(colour(row)))
    });
    let head = [" HIT/s", "RETP/s", " HIT%", "STATE", "TGT", "SITE", "WHERE TO, OR WHY NOT"];
    table(area, buffer, &widths, &head, table_rows.collect(), selected);
}

/// Its retpolined calls per second. Of sites that were refused nothing is known.
fn retpolined(row: &Row) -> String {
    let left = matches!(&*row.site.state, "retpolined" | "refused");
    let uncounted = left && !row.is_estimated() && row.retpoline_rate < 1.0;
    let is_estimated = row.site.calls_estimated > row.site.estimated_direct();
    if uncounted { "-".into() } else { rate(row.retpoline_rate, is_estimated) }
}

/// Calls per second; estimated ones say so.
fn rate(rate: f64, is_estimated: bool) -> String {
    let about = if is_estimated { "~" } else { "" };
    format!("{about}{}", short(rate))
}

/// Promoted sites are green, those that could be and are not are yellow.
fn colour(row: &Row) -> Color {
    match &*row.site.state {
        "promoted" | "linked" => Color::Green,
        "retpolined" | "refused" => Color::Yellow,
        "learning" => Color::Cyan,
        _ => Color::Reset,
    }
}

fn detail(area: Rect, buffer: &mut Buffer, screen: &Screen) {
    let Some(row) = screen.detail() else {
        Paragraph::new(" This site is gone.").render(area, buffer);
        return;
    };
    let lines = detail_lines(row, screen.sites.report.seconds);
    Paragraph::new(lines).wrap(Wrap { trim: false }).scroll((screen.scrolled, 0)).render(area, buffer);
}

fn detail_lines(row: &Row, now: f64) -> Vec<Text<'static>> {
    let site = &row.site;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let unknown = || "?".into();
    let mut lines = vec![
        Text::styled(format!(" {}", site.name()), bold),
        format!(
            " {} at {} in {}, target in {}",
            site.kind,
            site.address,
            site.object.clone().unwrap_or_else(unknown),
            site.register.clone().unwrap_or_else(unknown)
        )
        .into(),
        Text::from(vec![
            Span::styled(format!(" {}", site.state), Style::new().fg(colour(row)).add_modifier(Modifier::BOLD)),
            format!(" for {}: {}", clock::words(now - site.since), site.reason).into(),
        ]),
        format!(" {}", why::means(&site.reason)).into(),
        format!(
            " hits: {}, misses: {}, seen while learning: {}; learned again {}, {}",
            short_or_dash(site.hits),
            site.misses,
            site.calls_seen,
            count(site.relearned, "time"),
            if site.patches == 1 { "1 patch".to_owned() } else { format!("{} patches", site.patches) }
        )
        .into(),
        "".into(),
        Text::styled(format!(" {}, {} of them in the hot chain", count(site.target_count, "target"), site.chain), bold),
    ];
    lines.extend(site.targets.iter().map(|target| {
        let name = target.symbol.as_ref().unwrap_or(&target.address);
        Text::from(format!(" {:>5.1} % {:<20} {name}", target.share * 100.0, bar(target.share)))
    }));
    lines.push("".into());
    lines.push(Text::styled(" history, newest first", bold));
    lines.extend(site.history.iter().rev().map(|change| {
        let what = match (&change.target, &change.figures) {
            (Some(target), Some(figures)) => format!(
                "{}, {:.0} % covered, {:.1} instead of {:.1} cycles; hottest {target}",
                count(change.target_count, "target"),
                figures.covered * 100.0,
                figures.tree,
                figures.retpoline
            ),
            (Some(_), None) if change.reason == "learning" => change.reason_in_words().to_owned(),
            (Some(target), None) => format!("{}, hottest {target}", count(change.target_count, "target")),
            _ => change.reason_in_words().to_owned(),
        };
        Text::from(format!(" {:>8} ago  {:<10}  {what}", clock::words((now - change.at).max(0.0)), change.state))
    }));
    lines
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn short_or_dash(number: u64) -> String {
    if number == 0 { "-".into() } else { short(number as f64) }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of twenty")]
fn bar(share: f64) -> String {
    "█".repeat((share.clamp(0.0, 1.0) * BAR).round() as usize)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    use super::super::rows::tests::report;
    use super::super::rows::{Order, Rows};
    use super::*;

    fn shown(screen: &Screen, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, screen)).unwrap();
        let buffer = terminal.backend().buffer();
        (0..height).map(|y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>() + "\n").collect()
    }

    fn screen() -> Screen {
        let mut screen = Screen::new(Order::Cost, "");
        screen.show_sites(Rows::of(&report(5000), None));
        screen
    }

    #[test]
    fn sites_say_where_they_go_or_why_not() {
        let text = shown(&screen(), 80, 24);
        for part in ["pid 4711", "WHERE TO, OR WHY NOT", "90 % add", "unpredictable", "chaos+0x4b", "q quit"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    /// All of the help, and all of the head, with the largest figures, fit.
    #[test]
    fn eighty_columns_and_24_lines_hold_it_all() {
        let mut screen = screen();
        screen.view = View::Help;
        let text = shown(&screen, 80, 24);
        for line in HELP.lines() {
            assert!(line.chars().count() <= 80 && text.contains(line.trim_end()), "{line} in\n{text}");
        }
        let mut large = report(5000);
        large.sites[0].calls_estimated = 1 << 50;
        large.sites[1].calls_estimated = 1 << 50;
        large.calls_are_estimated = true;
        large.coverage_is_bound = true;
        (large.calls_direct, large.calls_retpolined) = (1 << 50, 1 << 50);
        (large.seconds_saved, large.seconds_lost) = (900_000.0, 900_000.0);
        large.engine.patches = 9_999_999;
        screen.show_sites(Rows::of(&large, None));
        screen.view = View::Sites;
        let text = shown(&screen, 80, 24);
        for part in ["at most ~50 % of calls", " lost: at least ~10 d", "learning: 0.00 %", "~113T"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn a_site_in_detail_has_its_history_and_what_the_reason_means() {
        let mut screen = screen();
        for code in [KeyCode::Down, KeyCode::Enter] {
            screen.press(KeyEvent::new(code, KeyModifiers::NONE));
        }
        let text = shown(&screen, 80, 24);
        for part in ["steady+0x4d", "linked", "A tree of direct jumps", "90.0 % █", "history", "8.5 s ago"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }

    #[test]
    fn every_size_can_be_drawn() {
        for view in [View::Engines, View::Sites, View::Detail, View::Help] {
            for (width, height) in [(1, 1), (3, 2), (20, 5), (80, 24), (300, 100)] {
                let mut screen = screen();
                screen.view = view;
                let _ = shown(&screen, width, height);
            }
        }
    }

    #[test]
    fn the_text_form_has_all_rows_in_80_columns() {
        let mut many = report(1);
        let site = many.sites[1].clone();
        many.sites.extend((0..100).map(|n| crate::report::schema::Site {
            symbol: Some(format!("site_number_{n}_with_a_very_long_name_that_does_not_fit").into()),
            address: format!("{n}").into(),
            ..site.clone()
        }));
        let mut screen = Screen::new(Order::Name, "");
        screen.show_sites(Rows::of(&many, None));
        let text = to_text(&screen);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(text.lines().filter(|line| line.contains("site_number_")).count(), 100);
    }
}
