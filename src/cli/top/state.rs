//! What stands on the screen of `top`: the page, the rows that are chosen, and what the keys do. Owns no data
//! of the cluster and draws nothing.

use crate::base::ids::RunUuid;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

/// Seconds of the task stream that can be looked at at once.
const WINDOWS: [f64; 9] = [2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0];

/// A page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Overview,
    Workers,
    Tasks,
    Stream,
    Events,
}

impl Page {
    /// All, in the order of their keys.
    pub const ALL: [Page; 5] = [Page::Overview, Page::Workers, Page::Tasks, Page::Stream, Page::Events];

    /// What it is called.
    pub fn title(self) -> &'static str {
        ["Overview", "Workers", "Tasks", "Stream", "Events"][self as usize]
    }
}

/// What the page of tasks lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Listed {
    /// Groups.
    #[default]
    Groups,
    /// Tasks of a group.
    Group(String),
    /// Tasks that failed.
    Failed,
}

/// A text in front of the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Detail {
    /// Of what.
    pub title: String,
    /// Harmless lines.
    pub lines: Vec<String>,
    /// The first line that is shown.
    pub top: usize,
}

/// What a key asks for that the screen cannot do by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Nothing.
    None,
    /// The end.
    Quit,
    /// What is listed has changed: ask at once.
    Ask,
    /// Show what is behind the chosen row.
    Open,
}

/// The screen.
#[derive(Clone, Debug)]
pub(super) struct Screen {
    pub page: Page,
    /// The chosen row of each page.
    chosen: [usize; Page::ALL.len()],
    pub listed: Listed,
    /// The run whose groups and tasks are listed, and its name; those of all otherwise.
    pub run: Option<(RunUuid, String)>,
    /// The group that was chosen when its tasks were opened.
    group_before: usize,
    pub detail: Option<Detail>,
    pub help: bool,
    /// Nothing moves.
    pub paused: bool,
    window: usize,
    /// How far back from now the right edge of the stream is, seconds.
    pub back: f64,
}

impl Screen {
    /// Whether what is shown beside the page is this task or worker.
    pub fn shows(&self, detail: &Detail) -> bool {
        self.detail.as_ref().is_some_and(|shown| shown.title == detail.title)
    }

    pub fn new() -> Screen {
        Screen {
            page: Page::Overview,
            chosen: Default::default(),
            listed: Listed::Groups,
            run: None,
            group_before: 0,
            detail: None,
            help: false,
            paused: false,
            window: 3,
            back: 0.0,
        }
    }

    /// Seconds of the stream from left to right.
    pub fn window(&self) -> f64 {
        WINDOWS[self.window]
    }

    /// The chosen row of the page.
    pub fn chosen(&self) -> usize {
        self.chosen[self.page as usize]
    }

    /// Makes sure that the chosen row exists.
    pub fn clamp(&mut self, rows: usize) {
        let chosen = &mut self.chosen[self.page as usize];
        *chosen = (*chosen).min(rows.saturating_sub(1));
    }

    fn step(&mut self, rows: isize) {
        match &mut self.detail {
            Some(detail) => {
                let last = detail.lines.len().saturating_sub(1);
                detail.top = detail.top.saturating_add_signed(rows).min(last);
            }
            None => {
                let chosen = &mut self.chosen[self.page as usize];
                *chosen = chosen.saturating_add_signed(rows);
            }
        }
    }

    fn turn_to(&mut self, page: Page) -> Act {
        (self.page, self.detail) = (page, None);
        Act::Ask
    }

    fn list(&mut self, listed: Listed) -> Act {
        let chosen = &mut self.chosen[Page::Tasks as usize];
        match (&self.listed, &listed) {
            (Listed::Groups, Listed::Groups) => {}
            (Listed::Groups, _) => (self.group_before, *chosen) = (*chosen, 0),
            (_, Listed::Groups) => *chosen = self.group_before,
            _ => *chosen = 0,
        }
        self.listed = listed;
        Act::Ask
    }

    /// Lists the groups of a run, or of all.
    pub fn open_run(&mut self, run: Option<(RunUuid, String)>) -> Act {
        (self.page, self.listed, self.run) = (Page::Tasks, Listed::Groups, run);
        (self.chosen[Page::Tasks as usize], self.group_before) = (0, 0);
        Act::Ask
    }

    /// Lists the tasks of a group.
    pub fn open_group(&mut self, name: &str) -> Act {
        self.list(Listed::Group(name.to_owned()))
    }

    /// Goes back by one step.
    fn leave(&mut self) -> Act {
        if self.help {
            self.help = false;
        } else if self.detail.is_some() {
            self.detail = None;
        } else if self.page == Page::Tasks && self.listed != Listed::Groups {
            return self.list(Listed::Groups);
        } else if self.page == Page::Tasks && self.run.is_some() {
            return self.open_run(None);
        } else {
            self.back = 0.0;
        }
        Act::None
    }

    /// Does what a key says.
    pub fn on_key(&mut self, key: KeyEvent) -> Act {
        if key.kind == KeyEventKind::Release {
            return Act::None;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if matches!(key.code, KeyCode::Char('c' | 'd')) { Act::Quit } else { Act::None };
        }
        let at = self.page as usize;
        match key.code {
            KeyCode::Char('q') => return Act::Quit,
            KeyCode::Esc | KeyCode::Backspace => return self.leave(),
            KeyCode::Char('?' | 'h') => self.help = !self.help,
            KeyCode::Char(c @ '1'..='5') => return self.turn_to(Page::ALL[c as usize - '1' as usize]),
            KeyCode::Tab => return self.turn_to(Page::ALL[(at + 1) % Page::ALL.len()]),
            KeyCode::BackTab => return self.turn_to(Page::ALL[(at + Page::ALL.len() - 1) % Page::ALL.len()]),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::PageDown => self.step(10),
            KeyCode::PageUp => self.step(-10),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Char(' ' | 'p') => self.paused = !self.paused,
            KeyCode::Char('f') => {
                self.page = Page::Tasks;
                self.detail = None;
                let failed = self.listed == Listed::Failed;
                return self.list(if failed { Listed::Groups } else { Listed::Failed });
            }
            KeyCode::Char('+' | '=') => self.window = self.window.saturating_sub(1),
            KeyCode::Char('-') => self.window = (self.window + 1).min(WINDOWS.len() - 1),
            KeyCode::Left => self.back += self.window() / 4.0,
            KeyCode::Right => self.back = (self.back - self.window() / 4.0).max(0.0),
            KeyCode::Enter => return Act::Open,
            _ => {}
        }
        Act::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(screen: &mut Screen, code: KeyCode) -> Act {
        screen.on_key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_turn_pages_and_end() {
        let mut screen = Screen::new();
        assert_eq!((press(&mut screen, KeyCode::Char('4')), screen.page), (Act::Ask, Page::Stream));
        press(&mut screen, KeyCode::Tab);
        press(&mut screen, KeyCode::Tab);
        assert_eq!(screen.page, Page::Overview);
        press(&mut screen, KeyCode::BackTab);
        assert_eq!(screen.page, Page::Events);
        assert_eq!(press(&mut screen, KeyCode::Char('q')), Act::Quit);
        let control = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(screen.on_key(control), Act::Quit);
    }

    #[test]
    fn rows_are_chosen_page_by_page_and_stay_there() {
        let mut screen = Screen::new();
        screen.page = Page::Workers;
        press(&mut screen, KeyCode::Up);
        assert_eq!(screen.chosen(), 0);
        press(&mut screen, KeyCode::End);
        screen.clamp(7);
        assert_eq!(screen.chosen(), 6);
        press(&mut screen, KeyCode::Char('5'));
        assert_eq!(screen.chosen(), 0);
        press(&mut screen, KeyCode::Char('2'));
        assert_eq!(screen.chosen(), 6);
        screen.clamp(0);
        assert_eq!(screen.chosen(), 0);
    }

    #[test]
    fn failed_tasks_are_one_key_away_and_the_way_back_ends_at_the_group() {
        let mut screen = Screen::new();
        screen.page = Page::Tasks;
        (0..3).for_each(|_| _ = press(&mut screen, KeyCode::Down));
        assert_eq!(screen.open_group("day"), Act::Ask);
        assert_eq!((screen.chosen(), &screen.listed), (0, &Listed::Group("day".into())));
        assert_eq!((press(&mut screen, KeyCode::Char('f')), &screen.listed), (Act::Ask, &Listed::Failed));
        screen.detail = Some(Detail { title: "x".into(), lines: vec!["a".into(), "b".into()], top: 0 });
        press(&mut screen, KeyCode::PageDown);
        assert_eq!(screen.detail.as_ref().unwrap().top, 1, "it scrolls the text, not the page");
        assert_eq!((press(&mut screen, KeyCode::Esc), screen.detail.is_none()), (Act::None, true));
        assert_eq!(press(&mut screen, KeyCode::Esc), Act::Ask);
        assert_eq!((screen.chosen(), &screen.listed), (3, &Listed::Groups));
    }

    #[test]
    fn a_run_narrows_the_list_until_one_goes_back() {
        let mut screen = Screen::new();
        let run = Some((RunUuid::from_u128(7), "days".to_owned()));
        assert_eq!((screen.open_run(run.clone()), screen.page), (Act::Ask, Page::Tasks));
        screen.open_group("day");
        assert_eq!((press(&mut screen, KeyCode::Esc), screen.run.clone()), (Act::Ask, run));
        assert_eq!((press(&mut screen, KeyCode::Esc), screen.run.clone()), (Act::Ask, None));
        assert_eq!(press(&mut screen, KeyCode::Esc), Act::None);
    }

    #[test]
    fn the_stream_zooms_and_pans_within_bounds() {
        let mut screen = Screen::new();
        (0..20).for_each(|_| _ = press(&mut screen, KeyCode::Char('+')));
        assert_eq!(screen.window(), WINDOWS[0]);
        press(&mut screen, KeyCode::Left);
        assert_eq!(screen.back, 0.5);
        (0..5).for_each(|_| _ = press(&mut screen, KeyCode::Right));
        assert_eq!(screen.back, 0.0);
        (0..20).for_each(|_| _ = press(&mut screen, KeyCode::Char('-')));
        assert_eq!(screen.window(), WINDOWS[8]);
    }
}
