//! What is on the screen, and what keys do to it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::rows::{Order, Row, Rows};
use crate::list::Line;
use crate::shown::Shown;

/// Rates of the past that are kept for the curve.
const PAST: usize = 240;
/// Lines that PgUp and PgDn move.
const PAGE: usize = 10;

/// What is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum View {
    /// All engines.
    Engines,
    /// The sites of one.
    Sites,
    /// One site.
    Detail,
    /// The keys.
    Help,
}

/// What has to be done after a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Nothing but drawing.
    Stay,
    /// End.
    Quit,
    /// Look at this process.
    Into(u32),
    /// Back to all engines.
    Out,
}

/// The state of the screen.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct Screen {
    /// What is shown.
    pub view: View,
    /// What was shown before the help.
    behind: View,
    /// A process was named: there is no way out to all engines.
    pub is_for_one: bool,
    /// Nothing is looked at anew.
    pub is_paused: bool,
    /// The user is typing a filter.
    pub is_typing: bool,
    /// Rows must contain it.
    pub filter: String,
    /// Order of the sites.
    pub order: Order,
    /// The other way round.
    pub is_reversed: bool,
    /// The engines.
    pub engines: Vec<Line>,
    /// The sites.
    pub sites: Rows,
    /// Calls per second that took the retpoline, in the past.
    pub past: Vec<u64>,
    /// The chosen line.
    pub selected: usize,
    /// The site that is shown in detail, by its address.
    chosen: Option<Shown>,
    /// First line of the detail that is shown.
    pub scrolled: u16,
    /// Something to tell.
    pub message: Option<Shown>,
}

impl Screen {
    /// An empty one.
    pub fn new(order: Order, filter: &str) -> Self {
        Self {
            view: View::Engines,
            behind: View::Engines,
            is_for_one: false,
            is_paused: false,
            is_typing: false,
            filter: filter.to_owned(),
            order,
            is_reversed: false,
            engines: Vec::new(),
            sites: Rows::default(),
            past: Vec::new(),
            selected: 0,
            chosen: None,
            scrolled: 0,
            message: None,
        }
    }

    /// Takes a new list of engines.
    pub fn show_engines(&mut self, engines: Vec<Line>) {
        self.engines = engines;
        self.keep_selection();
    }

    /// Takes new sites.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a height on the screen")]
    pub fn show_sites(&mut self, sites: Rows) {
        if self.view == View::Engines {
            self.view = View::Sites;
        }
        self.past.push(sites.retpoline_rate as u64);
        let surplus = self.past.len().saturating_sub(PAST);
        self.past.drain(..surplus);
        self.sites = sites;
        self.keep_selection();
    }

    /// The process that is shown is gone.
    pub fn has_ended(&mut self, pid: u32) {
        self.is_paused = true;
        self.say(format!("process {pid} has ended; these are its last figures"));
    }

    /// Tells something, until the next key.
    pub fn say(&mut self, message: String) {
        self.message = Some(message.into());
    }

    /// The rows that are shown.
    pub fn rows(&self) -> Vec<&Row> {
        self.sites.chosen(&self.filter, self.order, self.is_reversed)
    }

    /// The site that is shown in detail.
    pub fn detail(&self) -> Option<&Row> {
        self.sites.rows.iter().find(|row| Some(&row.site.address) == self.chosen.as_ref())
    }

    fn count(&self) -> usize {
        if self.view == View::Engines { self.engines.len() } else { self.rows().len() }
    }

    fn keep_selection(&mut self) {
        self.selected = self.selected.min(self.count().saturating_sub(1));
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> Next {
        self.message = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Next::Quit;
        }
        if self.is_typing {
            self.write(key.code);
            return Next::Stay;
        }
        match key.code {
            KeyCode::Char('q') => return Next::Quit,
            KeyCode::Char('?' | 'h') => {
                self.behind = if self.view == View::Help { self.behind } else { self.view };
                self.view = View::Help;
            }
            KeyCode::Char('s') => self.order = self.order.next(),
            KeyCode::Char('r') => self.is_reversed = !self.is_reversed,
            KeyCode::Char(' ') => self.is_paused = !self.is_paused,
            KeyCode::Char('/') if self.view == View::Sites => self.is_typing = true,
            KeyCode::Enter => return self.enter(),
            KeyCode::Esc => return self.back(),
            code => self.travel(code),
        }
        Next::Stay
    }

    fn write(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char(c) => self.filter.push(c),
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            KeyCode::Enter => self.is_typing = false,
            _ => {}
        }
        self.keep_selection();
    }

    fn travel(&mut self, code: KeyCode) {
        let at = if self.view == View::Detail { usize::from(self.scrolled) } else { self.selected };
        let last = if self.view == View::Detail { usize::from(u16::MAX) } else { self.count().saturating_sub(1) };
        let to = match code {
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::PageUp => at.saturating_sub(PAGE),
            KeyCode::PageDown => at + PAGE,
            KeyCode::Home => 0,
            KeyCode::End if self.view != View::Detail => last,
            _ => return,
        };
        let to = to.min(last);
        if self.view == View::Detail {
            self.scrolled = u16::try_from(to).unwrap_or(u16::MAX);
        } else {
            self.selected = to;
        }
    }

    fn enter(&mut self) -> Next {
        match self.view {
            View::Engines => self.engines.get(self.selected).map_or(Next::Stay, |line| {
                self.selected = 0;
                self.past.clear();
                Next::Into(line.pid)
            }),
            View::Sites => {
                self.chosen = self.rows().get(self.selected).map(|row| row.site.address.clone());
                if self.chosen.is_some() {
                    self.view = View::Detail;
                    self.scrolled = 0;
                }
                Next::Stay
            }
            View::Detail | View::Help => self.back(),
        }
    }

    fn back(&mut self) -> Next {
        match self.view {
            View::Help => self.view = self.behind,
            View::Detail => self.view = View::Sites,
            View::Sites if !self.filter.is_empty() => self.filter.clear(),
            View::Sites if !self.is_for_one => {
                self.view = View::Engines;
                self.is_paused = false;
                self.selected = 0;
                return Next::Out;
            }
            View::Sites | View::Engines => {}
        }
        Next::Stay
    }
}

#[cfg(test)]
mod tests {
    use super::super::rows::tests::report;
    use super::*;

    fn press(screen: &mut Screen, code: KeyCode) -> Next {
        screen.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    fn with_sites() -> Screen {
        let mut screen = Screen::new(Order::Cost, "");
        screen.show_sites(Rows::of(&report(5000), None));
        screen
    }

    #[test]
    fn down_enter_and_back() {
        let mut screen = with_sites();
        press(&mut screen, KeyCode::Down);
        press(&mut screen, KeyCode::Enter);
        assert_eq!((screen.view, screen.detail().unwrap().site.name()), (View::Detail, "steady+0x4d"));
        // The site stays chosen when the order changes.
        screen.show_sites(Rows::of(&report(9), None));
        assert_eq!(screen.detail().unwrap().site.name(), "steady+0x4d");
        assert_eq!(press(&mut screen, KeyCode::Esc), Next::Stay);
        assert_eq!((screen.view, press(&mut screen, KeyCode::Esc)), (View::Sites, Next::Out));
    }

    #[test]
    fn a_filter_is_typed_and_taken_back() {
        let mut screen = with_sites();
        for code in [KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Backspace, KeyCode::Char('r'), KeyCode::Char('a')]
        {
            assert_eq!(press(&mut screen, code), Next::Stay);
        }
        press(&mut screen, KeyCode::Enter);
        assert_eq!((screen.rows().len(), screen.is_typing), (1, false));
        press(&mut screen, KeyCode::Esc);
        assert_eq!((screen.rows().len(), screen.view), (3, View::Sites));
    }

    #[test]
    fn nothing_is_selected_beyond_the_end() {
        let mut screen = with_sites();
        press(&mut screen, KeyCode::PageDown);
        assert_eq!(screen.selected, 2);
        screen.filter = "chaos".into();
        screen.show_sites(Rows::of(&report(1), None));
        assert_eq!(screen.selected, 0);
    }

    #[test]
    fn one_process_has_no_way_out_but_quitting() {
        let mut screen = with_sites();
        screen.is_for_one = true;
        assert_eq!(press(&mut screen, KeyCode::Esc), Next::Stay);
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Next::Quit);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.press(control_c), Next::Quit);
    }
}
