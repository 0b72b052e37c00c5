//! Draws the model.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span, Text};
use ratatui::widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table, TableState, Wrap};
use runpod_log_line::printable;
use serde_json::Value;

use super::documents::{Details, Job, Worker};
use super::model::{Input, Model, Screen};
use crate::local::Gpu;
use crate::store::Status;

/// Workers shown at most; the first ones.
const MAX_WORKERS: usize = 12;
/// Lines of one payload.
const MAX_PAYLOAD_LINES: usize = 2000;
/// Below this height the chart is left out.
const HEIGHT_OF_CHART: u16 = 24;
/// Below this width the list of jobs leaves out retries and workers in favour of the ids.
const WIDTH_OF_ALL: u16 = 100;

const OVERVIEW_HELP: &str = "q quit  ↑↓ j k select  Enter details  c cancel  / filter";
const JOB_HELP: &str = "Esc back  ↑↓ j k scroll  c cancel";
const FILTER_HELP: &str = "a state or part of an id; Enter keep, Esc clear";

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) colours: bool,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    fn status(self, status: Status) -> Style {
        match status {
            Status::InQueue => self.colour(Color::Yellow),
            Status::InProgress => self.colour(Color::Cyan),
            Status::Completed => self.colour(Color::Green),
            Status::Failed | Status::TimedOut => self.colour(Color::Red),
            Status::Cancelled => Style::new().add_modifier(Modifier::DIM),
        }
    }

    fn worker(self, state: &str) -> Style {
        match state {
            "running" => self.colour(Color::Cyan),
            "idle" => self.colour(Color::Green),
            "unhealthy" => self.colour(Color::Red),
            _ => self.colour(Color::Yellow),
        }
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);

pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme) {
    let [title, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(frame.area());
    frame.render_widget(title_line(model, theme), title);
    match &model.screen {
        Screen::Overview => draw_overview(frame, body, model, theme),
        Screen::Job { id, scroll } => draw_job(frame, body, model, id, *scroll, theme),
    }
    frame.render_widget(foot_line(model, theme), foot);
}

fn title_line(model: &Model, theme: Theme) -> Line<'_> {
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(model.overview.counters.at);
    let time = humantime::format_rfc3339_seconds(at).to_string();
    let time = time.get(11..19).unwrap_or_default().to_owned();
    let paused = if model.overview.counters.paused { "  PAUSED" } else { "" };
    Line::from(vec![
        Span::styled("runpod-endpoint top", BOLD),
        Span::styled(paused, theme.colour(Color::Yellow).add_modifier(Modifier::BOLD)),
        Span::raw(format!("  {}  ", model.url)),
        Span::styled(format!("{time} UTC"), DIM),
    ])
}

fn foot_line(model: &Model, theme: Theme) -> Line<'_> {
    match &model.input {
        Input::Filter => {
            Line::from(vec![Span::styled(format!("/{}▏ ", model.filter), BOLD), Span::styled(FILTER_HELP, DIM)])
        }
        Input::Confirm(id) => Line::styled(format!("cancel {id}? y yes, any other key no"), BOLD),
        Input::Commands => match &model.message {
            Some(message) if model.is_stale => {
                Line::styled(printable(message), theme.colour(Color::Red).add_modifier(Modifier::BOLD))
            }
            Some(message) => Line::styled(printable(message), BOLD),
            None if matches!(model.screen, Screen::Overview) => Line::styled(OVERVIEW_HELP, DIM),
            None => Line::styled(JOB_HELP, DIM),
        },
    }
}

fn draw_overview(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let shown: Vec<_> = model.overview.workers.iter().flatten().take(MAX_WORKERS).collect();
    let lines: usize = shown.iter().map(|worker| worker.gpus.len().max(1)).sum();
    let workers = if shown.is_empty() { 0 } else { u16::try_from(lines).unwrap_or(u16::MAX).saturating_add(2) };
    let chart = if area.height >= HEIGHT_OF_CHART { 4 } else { 0 };
    let [counters, chart, workers, jobs] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(chart),
        Constraint::Length(workers.min(area.height / 2)),
        Constraint::Min(3),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(counter_lines(model, theme)), counters);
    if chart.height > 0 {
        let history = model.queue_history(usize::from(chart.width));
        let title = Line::styled("Queue depth", BOLD);
        let block = Block::new().borders(Borders::TOP).border_style(DIM).title(title);
        frame.render_widget(Sparkline::default().block(block).data(history).style(theme.colour(Color::Yellow)), chart);
    }
    if workers.height > 0 {
        frame.render_widget(worker_table(&shown, theme), workers);
    }
    draw_jobs(frame, jobs, model, theme);
}

fn counter_lines<'a>(model: &Model, theme: Theme) -> Text<'a> {
    let counters = &model.overview.counters;
    let number = |name: &str, count: u64, style: Style| {
        let style = if count == 0 { Style::new() } else { style };
        [Span::raw(format!("  {name} ")), Span::styled(count.to_string(), style.add_modifier(Modifier::BOLD))]
    };
    let red = theme.colour(Color::Red);
    let mut jobs = vec![Span::styled("Jobs   ", BOLD)];
    jobs.extend(number("in queue", counters.in_queue, theme.status(Status::InQueue)));
    jobs.extend(number("in progress", counters.in_progress, theme.status(Status::InProgress)));
    jobs.extend(number("completed", counters.completed, theme.status(Status::Completed)));
    jobs.extend(number("failed", counters.failed, red));
    jobs.extend(number("retried", counters.retried, theme.colour(Color::Yellow)));
    let mut workers = vec![Span::styled("Workers", BOLD)];
    workers.extend(number("running", counters.running, theme.worker("running")));
    workers.extend(number("idle", counters.idle, theme.worker("idle")));
    workers.extend(number("initializing", counters.initializing, theme.worker("initializing")));
    workers.extend(number("throttled", counters.throttled, theme.colour(Color::Yellow)));
    workers.extend(number("unhealthy", counters.unhealthy, red));
    let mut rate_line = vec![Span::styled("Rate   ", BOLD)];
    rate_line.push(Span::raw(match model.ended_per_minute() {
        Some(rate) => format!("  {rate:.0} jobs a minute"),
        None => "  –".to_owned(),
    }));
    if let Some(wait) = model.overview.oldest_wait {
        rate_line.push(Span::raw(format!("  the oldest job has waited for {}", span(wait))));
    }
    Text::from(vec![Line::from(jobs), Line::from(workers), Line::from(rate_line)])
}

fn worker_table<'a>(workers: &[&'a Worker], theme: Theme) -> Table<'a> {
    let rows = workers.iter().map(|worker| {
        let batches = worker.batching.iter().map(|batching| printable(&batching.summary()).into_owned());
        let lines: Vec<_> = worker.gpus.iter().map(gpu_text).chain(batches).collect();
        let height = u16::try_from(lines.len().max(1)).unwrap_or(1);
        let percent = |percent: Option<f64>| percent.map(|percent| format!("{percent:.0} %")).unwrap_or_default();
        Row::new(vec![
            Cell::from(worker.id.as_str()),
            Cell::from(worker.state.as_str()).style(theme.worker(&worker.state)),
            Cell::from(worker.jobs.to_string()),
            Cell::from(percent(worker.cpu_percent)),
            Cell::from(percent(worker.memory_percent)),
            Cell::from(if worker.silent_seconds == 0 { String::new() } else { format!("{} s", worker.silent_seconds) }),
            Cell::from(lines.join("\n")),
        ])
        .height(height)
    });
    let widths = [
        Constraint::Length(24),
        Constraint::Length(12),
        Constraint::Length(4),
        Constraint::Length(5),
        Constraint::Length(6),
        Constraint::Length(6),
        Constraint::Min(10),
    ];
    Table::new(rows, widths)
        .header(Row::new(["WORKER", "STATE", "JOBS", "CPU", "MEMORY", "SILENT", "GPUS, BATCHES"]).style(DIM))
        .block(Block::new().borders(Borders::TOP).border_style(DIM))
}

fn gpu_text(gpu: &Gpu) -> String {
    let mut text = gpu.name.clone().unwrap_or_else(|| gpu.id.chars().take(12).collect());
    let mut add = |name: &str, figure: Option<f64>, unit: &str| {
        if let Some(figure) = figure {
            text.push_str(&format!("  {name}{figure:.0} {unit}"));
        }
    };
    add("", gpu.gpu_util_percent, "%");
    add("memory ", gpu.memory_util_percent, "%");
    add("", gpu.power_watts, "W");
    add("", gpu.temperature_celsius, "°C");
    if !gpu.throttle_reasons.is_empty() {
        text.push_str(&format!("  slowed down: {}", gpu.throttle_reasons.join(", ")));
    }
    printable(&text).into_owned()
}

fn draw_jobs(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let jobs = model.jobs();
    let now = model.overview.counters.at;
    let block = Block::new().borders(Borders::TOP).border_style(DIM);
    if jobs.is_empty() {
        let text = if model.filter.is_empty() { "no jobs" } else { "no job matches the filter; Esc clears it" };
        return frame.render_widget(Paragraph::new(text).block(block), area);
    }
    let columns = if area.width < WIDTH_OF_ALL { 5 } else { 7 };
    let rows = jobs.iter().map(|job| {
        let cells = vec![
            Cell::from(job.id.as_str()),
            Cell::from(job.status.name()).style(theme.status(job.status)),
            Cell::from(job.submitted_at.map(|at| span(now.saturating_sub(at))).unwrap_or_default()),
            Cell::from(job.delay.map(span).unwrap_or_default()),
            Cell::from(execution(job, now).map(span).unwrap_or_default()),
            Cell::from(if job.retries == 0 { String::new() } else { job.retries.to_string() }),
            Cell::from(job.worker.as_deref().unwrap_or_default()),
        ];
        Row::new(cells.into_iter().take(columns))
    });
    let widths = [
        Constraint::Max(44),
        Constraint::Length(11),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(7),
        Constraint::Min(8),
    ];
    let header = ["JOB", "STATE", "AGE", "DELAY", "RAN", "RETRIES", "WORKER"];
    let header = Row::new(header.into_iter().take(columns)).style(DIM);
    let table = Table::new(rows, widths.into_iter().take(columns))
        .header(header)
        .block(block)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(model.selected());
    frame.render_stateful_widget(table, area, &mut state);
}

/// How long the last attempt took, or has taken so far.
fn execution(job: &Job, now: u64) -> Option<u64> {
    let running = job.submitted_at.zip(job.delay).filter(|_| job.status == Status::InProgress && job.retries == 0);
    job.execution.or_else(|| running.map(|(submitted, delay)| now.saturating_sub(submitted + delay)))
}

fn draw_job(frame: &mut Frame<'_>, area: Rect, model: &Model, id: &str, scroll: usize, theme: Theme) {
    let block = Block::new().borders(Borders::TOP).border_style(DIM).title(Line::styled(id, BOLD));
    let text = match &model.details {
        Some(details) => job_text(details, theme),
        None => Text::raw("loading"),
    };
    let last = text.lines.len().saturating_sub(1);
    let scroll = u16::try_from(scroll.min(last)).unwrap_or(u16::MAX);
    frame.render_widget(Paragraph::new(text).block(block).wrap(Wrap { trim: false }).scroll((scroll, 0)), area);
}

fn job_text(details: &Details, theme: Theme) -> Text<'_> {
    let job = &details.job;
    let mut facts = vec![Span::styled(job.status.name(), theme.status(job.status).add_modifier(Modifier::BOLD))];
    let times = [("delay", job.delay), ("ran", job.execution)];
    facts.extend(times.into_iter().filter_map(|(name, time)| Some(Span::raw(format!("  {name} {}", span(time?))))));
    facts.extend(job.worker.as_ref().map(|worker| Span::raw(format!("  on {worker}"))));
    if job.retries > 0 {
        facts.push(Span::raw(format!("  retries {}", job.retries)));
    }
    let mut lines = vec![Line::from(facts)];
    let start = details.history.first().map(|step| step.at).unwrap_or_default();
    for step in &details.history {
        let after = span(step.at.saturating_sub(start));
        let worker = step.worker.as_deref().unwrap_or_default();
        lines.push(Line::raw(format!("  +{after:<8} {:<11} {worker}", step.status.name())));
    }
    if !details.items.is_empty() {
        lines.push(Line::default());
        lines.push(Line::styled("Unread stream items", BOLD));
        lines.extend(details.items.iter().flat_map(payload_lines).take(MAX_PAYLOAD_LINES).map(Line::raw));
    }
    for (name, value) in [("Error", &details.error), ("Input", &details.input), ("Output", &details.output)] {
        if let Some(value) = value {
            lines.push(Line::default());
            lines.push(Line::styled(name, BOLD));
            lines.extend(payload_lines(value).map(Line::raw));
        }
    }
    Text::from(lines)
}

/// The lines of a string, or of any other value as indented JSON. Control characters would move the cursor: they are escaped.
fn payload_lines(value: &Value) -> impl Iterator<Item = String> {
    let text = match value {
        Value::String(text) => text.clone(),
        value => serde_json::to_string_pretty(value).unwrap_or_default(),
    };
    let lines: Vec<_> =
        text.lines().take(MAX_PAYLOAD_LINES).map(|line| printable(&line.replace('\t', "    ")).into_owned()).collect();
    lines.into_iter()
}

/// Milliseconds in two or three digits.
fn span(millis: u64) -> String {
    match millis {
        ..1000 => format!("{millis} ms"),
        1000..60_000 => format!("{}.{} s", millis / 1000, millis % 1000 / 100),
        60_000..3_600_000 => format!("{} min", millis / 60_000),
        _ => format!("{} h", millis / 3_600_000),
    }
}
