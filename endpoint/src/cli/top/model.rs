//! What the screen shows and what each key does. This file does not draw, wait or send requests.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::documents::{Details, Job, Overview};
use crate::store::Status;

/// Samples kept for the chart and for rates.
const KEPT: usize = 600;
/// Rates are over the last minute.
const RATE_SPAN_MS: u64 = 60_000;
/// Lines that a page key moves.
const PAGE: usize = 10;
/// Longest filter.
const MAX_FILTER: usize = 64;

/// The open screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Screen {
    /// The lists.
    Overview,
    /// One job, from this line on.
    Job { id: String, scroll: usize },
}

/// What keys do at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    Commands,
    /// The text of the filter.
    Filter,
    /// Whether to stop this job.
    Confirm(String),
}

/// What a key does besides changing the screen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    Quit,
    /// Ask the endpoint at once, because the screen shows something else now.
    Refresh,
    Cancel(String),
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) url: String,
    pub(super) overview: Overview,
    pub(super) details: Option<Details>,
    /// Why the figures are old, or the outcome of the last command.
    pub(super) message: Option<String>,
    pub(super) is_stale: bool,
    pub(super) filter: String,
    pub(super) screen: Screen,
    pub(super) input: Input,
    selected: Option<String>,
    /// Time, waiting jobs and ended jobs of each overview.
    samples: VecDeque<(u64, u64, u64)>,
}

impl Model {
    pub(super) fn new(url: &str, first: Overview) -> Self {
        let mut model = Self {
            url: url.to_owned(),
            overview: Overview::default(),
            details: None,
            message: None,
            is_stale: false,
            filter: String::new(),
            screen: Screen::Overview,
            input: Input::Commands,
            selected: None,
            samples: VecDeque::new(),
        };
        model.update(first);
        model
    }

    /// Takes new figures.
    pub(super) fn update(&mut self, overview: Overview) {
        let counters = &overview.counters;
        if self.samples.len() == KEPT {
            self.samples.pop_front();
        }
        self.samples.push_back((counters.at, counters.in_queue, counters.completed + counters.failed));
        self.overview = overview;
        if self.is_stale {
            (self.message, self.is_stale) = (None, false);
        }
        let is_there = |id: &String| self.overview.jobs.iter().any(|job| job.id == *id);
        if !self.selected.as_ref().is_some_and(is_there) {
            self.selected = self.jobs().first().map(|job| job.id.clone());
        }
    }

    /// Notes that the endpoint did not answer.
    pub(super) fn fail(&mut self, error: String) {
        (self.message, self.is_stale) = (Some(error), true);
    }

    /// Takes the current details of the open job.
    pub(super) fn show(&mut self, details: Details) {
        if matches!(&self.screen, Screen::Job { id, .. } if *id == details.job.id) {
            self.details = Some(details);
        }
    }

    /// The jobs that match the filter: a state, or part of a job's or worker's id.
    pub(super) fn jobs(&self) -> Vec<&Job> {
        let status = status_named(&self.filter);
        let filter = self.filter.to_lowercase();
        let holds = |text: &str| text.to_lowercase().contains(&filter);
        let fits = |job: &&Job| match status {
            Some(status) => job.status == status,
            None => holds(&job.id) || job.worker.as_deref().is_some_and(holds),
        };
        self.overview.jobs.iter().filter(fits).collect()
    }

    /// The position of the selected job in [`jobs`](Self::jobs).
    pub(super) fn selected(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.jobs().iter().position(|job| job.id == *selected)
    }

    /// Jobs that end per minute, over the last minute.
    pub(super) fn ended_per_minute(&self) -> Option<f64> {
        let (now, _, ended) = *self.samples.back()?;
        let (then, _, before) = *self.samples.iter().find(|(at, ..)| at + RATE_SPAN_MS >= now)?;
        let span = now.saturating_sub(then);
        (span > 0).then(|| ended.saturating_sub(before) as f64 * 60_000.0 / span as f64)
    }

    /// Waiting jobs in the last `max` overviews, oldest first.
    pub(super) fn queue_history(&self, max: usize) -> Vec<u64> {
        let skipped = self.samples.len().saturating_sub(max);
        self.samples.iter().skip(skipped).map(|(_, waiting, _)| *waiting).collect()
    }

    pub(super) fn press(&mut self, key: KeyEvent) -> Action {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return if key.code == KeyCode::Char('c') { Action::Quit } else { Action::Nothing };
        }
        match &self.input {
            Input::Filter => self.edit_filter(key.code),
            Input::Confirm(id) => {
                let id = id.clone();
                self.input = Input::Commands;
                if matches!(key.code, KeyCode::Char('y' | 'Y')) { Action::Cancel(id) } else { Action::Nothing }
            }
            Input::Commands => {
                if !self.is_stale {
                    self.message = None;
                }
                match self.screen {
                    Screen::Overview => self.press_in_overview(key.code),
                    Screen::Job { .. } => self.press_in_job(key.code),
                }
            }
        }
    }

    fn press_in_overview(&mut self, key: KeyCode) -> Action {
        match key {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::PageDown => self.select(PAGE.cast_signed()),
            KeyCode::PageUp => self.select(-PAGE.cast_signed()),
            KeyCode::Home | KeyCode::Char('g') => self.select(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.select(isize::MAX),
            KeyCode::Char('/') => self.input = Input::Filter,
            KeyCode::Char('c') => self.ask_to_cancel(),
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                return Action::Refresh;
            }
            KeyCode::Enter => {
                if let Some(id) = self.selected().and_then(|at| self.jobs().get(at).map(|job| job.id.clone())) {
                    self.details = None;
                    self.screen = Screen::Job { id, scroll: 0 };
                    return Action::Refresh;
                }
            }
            _ => {}
        }
        Action::Nothing
    }

    fn press_in_job(&mut self, key: KeyCode) -> Action {
        let Screen::Job { scroll, .. } = &mut self.screen else { return Action::Nothing };
        match key {
            KeyCode::Down | KeyCode::Char('j') => *scroll += 1,
            KeyCode::Up | KeyCode::Char('k') => *scroll = scroll.saturating_sub(1),
            KeyCode::PageDown => *scroll += PAGE,
            KeyCode::PageUp => *scroll = scroll.saturating_sub(PAGE),
            KeyCode::Home | KeyCode::Char('g') => *scroll = 0,
            KeyCode::Char('c') => self.ask_to_cancel(),
            KeyCode::Esc | KeyCode::Enter | KeyCode::Char('q') => self.screen = Screen::Overview,
            _ => {}
        }
        Action::Nothing
    }

    fn edit_filter(&mut self, key: KeyCode) -> Action {
        match key {
            KeyCode::Enter => self.input = Input::Commands,
            KeyCode::Esc => {
                self.filter.clear();
                self.input = Input::Commands;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(letter) if self.filter.len() < MAX_FILTER => self.filter.push(letter),
            _ => return Action::Nothing,
        }
        Action::Refresh
    }

    fn ask_to_cancel(&mut self) {
        let job = match &self.screen {
            Screen::Job { id, .. } => self.details.as_ref().map(|details| &details.job).filter(|job| job.id == *id),
            Screen::Overview => self.selected().and_then(|at| self.jobs().get(at).copied()),
        };
        match job {
            Some(job) if job.status.is_terminal() => {
                self.message = Some(format!("this job has ended: {}", job.status.name()));
            }
            Some(job) => self.input = Input::Confirm(job.id.clone()),
            None => {}
        }
    }

    /// Moves the selection; it stops at the first and the last job.
    fn select(&mut self, by: isize) {
        let jobs = self.jobs();
        let at = self.selected().unwrap_or_default().saturating_add_signed(by);
        self.selected = jobs.get(at.min(jobs.len().saturating_sub(1))).map(|job| job.id.clone());
    }
}

/// The state that a filter names: `failed`, `in_queue` …
pub(super) fn status_named(filter: &str) -> Option<Status> {
    serde_json::from_value(filter.to_uppercase().into()).ok()
}
