use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::Color;
use serde_json::json;

use super::documents::{Details, Health, Overview};
use super::model::{Action, Input, Model, Screen};
use super::view::{self, Theme};

/// 2026-01-01 12:00:00 UTC.
const NOW: u64 = 1_767_268_800_000;

fn overview() -> Overview {
    serde_json::from_value(json!({
        "counters": {
            "at": NOW, "completed": 120, "failed": 2, "inProgress": 1, "inQueue": 2, "retried": 0,
            "idle": 1, "initializing": 0, "running": 1, "unhealthy": 1,
        },
        "oldestWait": 4200,
        "jobs": [
            {"id": "job-5", "status": "IN_QUEUE", "submittedAt": NOW - 1500, "retries": 0},
            {"id": "job-4", "status": "IN_QUEUE", "submittedAt": NOW - 4200, "retries": 0},
            {"id": "job-3", "status": "IN_PROGRESS", "submittedAt": NOW - 9000, "delay": 250, "worker": "local-0", "retries": 0},
            {"id": "job-2", "status": "FAILED", "submittedAt": NOW - 95_000, "delay": 10, "execution": 800, "worker": "local-1", "retries": 1},
            {"id": "job-1", "status": "COMPLETED", "submittedAt": NOW - 7_300_000, "delay": 10, "execution": 12_340, "worker": "local-0", "retries": 0},
        ],
        "workers": [
            {"id": "local-0", "state": "running", "jobs": 1, "silentSeconds": 0, "cpuPercent": 41.5, "memoryPercent": 12.2, "gpus": [
                {"id": "GPU-5f1c", "name": "NVIDIA L4", "gpuUtilPercent": 97.0, "memoryUtilPercent": 61.4, "powerWatts": 71.6, "temperatureCelsius": 66.0},
                {"id": "GPU-7a2b0c9d-aaaa", "gpuUtilPercent": 3.0, "throttleReasons": ["sw_power_cap"]},
            ]},
            {"id": "local-1", "state": "idle", "jobs": 0, "silentSeconds": 0, "batching": [
                {"maxJobs": 32, "maxCost": 4096, "budget": 2048, "running": 16, "waiting": 8, "meanBatch": 12.4, "lastBatch": {"jobs": 16, "closedBy": "full"}},
            ]},
            {"id": "remote", "state": "unhealthy", "jobs": 0, "silentSeconds": 50},
        ],
    }))
    .unwrap()
}

fn model() -> Model {
    let mut before = overview();
    (before.counters.at, before.counters.completed, before.counters.in_queue) = (NOW - 30_000, 100, 7);
    let mut model = Model::new("http://127.0.0.1:8000/v2/local", before);
    model.update(overview());
    model
}

fn details(status: &str) -> Details {
    serde_json::from_value(json!({
        "id": "job-2", "now": NOW, "status": status, "delay": 10, "execution": 800, "worker": "local-1", "retries": 1,
        "input": {"prompt": "a red bicycle", "steps": 20},
        "output": null,
        "error": "out of memory:\nasked for 2 GiB\u{1b}[2J",
        "history": [
            {"status": "IN_QUEUE", "at": NOW - 95_000, "worker": null},
            {"status": "IN_PROGRESS", "at": NOW - 94_990, "worker": "local-1"},
            {"status": "FAILED", "at": NOW - 94_190, "worker": null},
        ],
        "firstItem": 4, "items": ["step 5", {"n": 6}],
    }))
    .unwrap()
}

fn draw(model: &Model, width: u16, height: u16, colours: bool) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, model, Theme { colours })).unwrap();
    terminal
}

fn press(model: &mut Model, code: KeyCode) -> Action {
    model.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn type_text(model: &mut Model, text: &str) {
    text.chars().for_each(|letter| drop(press(model, KeyCode::Char(letter))));
}

fn ids(model: &Model) -> Vec<&str> {
    model.jobs().iter().map(|job| &*job.id).collect()
}

#[test]
fn the_overview_shows_counters_jobs_and_workers() {
    insta::assert_snapshot!(draw(&model(), 120, 28, true).backend());
}

#[test]
fn a_small_terminal_shows_what_fits() {
    insta::assert_snapshot!(draw(&model(), 60, 12, true).backend());
    for (width, height) in [(1, 1), (10, 3), (400, 5)] {
        draw(&model(), width, height, true);
    }
}

#[test]
fn the_page_of_one_job_shows_its_error_and_q_leaves_it() {
    let mut model = model();
    type_text(&mut model, "jjj");
    assert_eq!(press(&mut model, KeyCode::Enter), Action::Refresh);
    model.show(details("FAILED"));
    insta::assert_snapshot!(draw(&model, 80, 22, true).backend());
    assert_eq!(press(&mut model, KeyCode::Char('q')), Action::Nothing);
    assert_eq!(model.screen, Screen::Overview);
}

#[test]
fn an_endpoint_with_nothing_but_health() {
    let health: Health = serde_json::from_value(json!({
        "jobs": {"completed": 1, "failed": 0, "inProgress": 0, "inQueue": 3, "retried": 0},
        "workers": {"idle": 0, "initializing": 1, "ready": 0, "running": 0, "throttled": 2, "unhealthy": 0},
    }))
    .unwrap();
    let overview = Overview { counters: health.counters(NOW), ..Overview::default() };
    let model = Model::new("https://api.runpod.ai/v2/abc", overview);
    insta::assert_snapshot!(draw(&model, 100, 12, true).backend());
}

#[test]
fn a_paused_endpoint_says_so_even_where_there_is_little_room() {
    let title = |model: &Model| draw(model, 60, 12, true).backend().to_string().lines().next().unwrap().to_owned();
    let mut paused = overview();
    paused.counters.paused = true;
    let mut model = model();
    assert!(!title(&model).contains("PAUSED"));
    model.update(paused);
    assert!(title(&model).contains("PAUSED"), "{}", title(&model));
    let health: Health = serde_json::from_value(json!({"jobs": {}, "paused": true, "workers": {}})).unwrap();
    let model = Model::new("x", Overview { counters: health.counters(NOW), ..Overview::default() });
    assert!(title(&model).contains("PAUSED"));
}

#[test]
fn without_colours_no_cell_has_one() {
    let has_colours = |colours| {
        let terminal = draw(&model(), 120, 28, colours);
        let cells = terminal.backend().buffer().content();
        cells.iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
    };
    assert_eq!((has_colours(true), has_colours(false)), (true, false));
}

#[test]
fn the_selection_follows_its_job_and_stays_within_the_list() {
    let mut model = model();
    type_text(&mut model, "jj");
    assert_eq!(model.selected(), Some(2));
    let mut next = overview();
    next.jobs.remove(0);
    model.update(next);
    assert_eq!(model.selected(), Some(1));
    press(&mut model, KeyCode::End);
    assert_eq!(model.selected(), Some(3));
    press(&mut model, KeyCode::PageDown);
    assert_eq!(model.selected(), Some(3));
    press(&mut model, KeyCode::Home);
    press(&mut model, KeyCode::Up);
    assert_eq!(model.selected(), Some(0));
    model.update(Overview::default());
    assert_eq!((model.selected(), press(&mut model, KeyCode::Enter)), (None, Action::Nothing));
}

#[test]
fn a_filter_is_a_state_or_part_of_an_id() {
    let mut model = model();
    press(&mut model, KeyCode::Char('/'));
    type_text(&mut model, "in_queue");
    assert_eq!(ids(&model), ["job-5", "job-4"]);
    assert_eq!(press(&mut model, KeyCode::Esc), Action::Refresh);
    assert_eq!((ids(&model).len(), &model.input), (5, &Input::Commands));
    press(&mut model, KeyCode::Char('/'));
    type_text(&mut model, "LOCAL-1q");
    press(&mut model, KeyCode::Backspace);
    assert_eq!(press(&mut model, KeyCode::Enter), Action::Refresh);
    assert_eq!(ids(&model), ["job-2"]);
    assert_eq!(press(&mut model, KeyCode::Esc), Action::Refresh);
    assert_eq!(ids(&model).len(), 5);
}

#[test]
fn a_job_is_cancelled_only_after_a_yes() {
    let mut model = model();
    press(&mut model, KeyCode::Char('c'));
    assert!(draw(&model, 80, 24, true).backend().to_string().contains("cancel job-5? y yes"));
    assert_eq!(press(&mut model, KeyCode::Char('n')), Action::Nothing);
    press(&mut model, KeyCode::Char('c'));
    assert_eq!(press(&mut model, KeyCode::Char('y')), Action::Cancel("job-5".to_owned()));
    press(&mut model, KeyCode::End);
    press(&mut model, KeyCode::Char('c'));
    assert_eq!((&model.input, model.message.as_deref()), (&Input::Commands, Some("this job has ended: COMPLETED")));
}

#[test]
fn q_and_control_c_end_the_view() {
    assert_eq!(press(&mut model(), KeyCode::Char('q')), Action::Quit);
    let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert_eq!(model().press(control_c), Action::Quit);
}

#[test]
fn a_failure_is_shown_until_figures_arrive_again() {
    let mut model = model();
    model.fail("no answer from there".to_owned());
    press(&mut model, KeyCode::Down);
    assert!(draw(&model, 80, 24, true).backend().to_string().contains("no answer from there"));
    model.update(overview());
    assert_eq!(model.message, None);
}

#[test]
fn the_rate_is_that_of_the_last_minute() {
    let mut model = Model::new("", Overview::default());
    for second in 0..=120_u64 {
        let mut next = overview();
        next.counters.at = NOW + second * 1000;
        next.counters.completed = if second <= 60 { 0 } else { (second - 60) * 2 };
        model.update(next);
    }
    assert_eq!(model.ended_per_minute(), Some(120.0));
}

#[test]
fn no_text_of_an_endpoint_reaches_the_terminal_as_a_sequence() {
    let mut document = json!({
        "counters": {"at": NOW},
        "jobs": [{"id": "j\u{1b}[2J\u{202e}", "status": "IN_PROGRESS", "worker": "w\u{9b}31m"}],
        "workers": [{"id": "w\u{7}", "state": "idle\r", "gpus": [{"id": "g", "name": "L4\u{1b}]0;title\u{7}"}]}],
    });
    let mut model = Model::new("http://x", serde_json::from_value(document.take()).unwrap());
    model.fail("down\u{1b}[2J".to_owned());
    let mut screen = draw(&model, 160, 28, true).backend().to_string();
    press(&mut model, KeyCode::Enter);
    let mut details = details("FAILED");
    details.job.id = model.overview.jobs[0].id.clone();
    model.show(details);
    screen.push_str(&draw(&model, 160, 28, true).backend().to_string());
    for part in [
        r"j\u{1b}[2J\u{202e}",
        r"w\u{9b}31m",
        r"w\u{7}",
        r"idle\r",
        r"L4\u{1b}]0;title\u{7}",
        r"down\u{1b}[2J",
        r"2 GiB\u{1b}[2J",
    ] {
        assert!(screen.contains(part), "{part} is not in\n{screen}");
    }
    let steers = |letter: char| (letter.is_control() && letter != '\n') || letter == '\u{202e}';
    assert!(!screen.contains(steers), "{screen:?}");
}
