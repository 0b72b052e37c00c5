//! `top`: a live view of an endpoint in the terminal.

mod look;
mod model;
mod source;
mod terminal;
mod view;

use std::io::IsTerminal;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::args::TopArgs;
use super::exit::Exit;
use super::http::{ClientError, Endpoint};
use super::outcome::{CommandError, Outcome};
use super::output::Output;
use super::signals::StopRequests;
use look::{Details, Look};
use model::{Action, Model, Screen};
use source::Source;
use terminal::{Keys, Screen as Terminal};
use view::Theme;

/// Requests to the endpoint that may wait for the one under way.
const MAX_WAITING: usize = 16;

/// What the endpoint is asked.
enum Question {
    /// The overview of what fits the filter, and one job if it is shown.
    Refresh {
        filter: String,
        job: Option<String>,
    },
    Cancel(String),
}

/// What it answered.
enum Answer {
    Look(Look),
    Details(Box<Details>),
    Cancelled(String),
    Trouble(ClientError),
}

pub(crate) async fn top(args: &TopArgs, output: &mut Output) -> Outcome {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Ok(output.fail(
            &"top draws on a terminal, and this is none: use `runpod-endpoint health --watch` instead",
            Exit::Usage,
        ));
    }
    let endpoint = Endpoint::new(&args.server)?;
    let url = endpoint.url().to_owned();
    let mut source = Source::new(endpoint);
    // Before the screen is taken over, so that a wrong address or key is read like any other error.
    let first = source.look("").await?;
    let stops = StopRequests::watch().map_err(CommandError::Signals)?;
    let theme = Theme { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let mut terminal = Terminal::take().map_err(CommandError::Terminal)?;
    let shown = show(&mut terminal, Model::new(&url, first), source, args.interval, theme, stops).await;
    drop(terminal);
    shown.map_err(CommandError::Terminal)
}

/// Draws and reacts until the user has seen enough.
async fn show(
    terminal: &mut Terminal,
    mut model: Model,
    source: Source,
    period: Duration,
    theme: Theme,
    mut stops: StopRequests,
) -> std::io::Result<Exit> {
    let (questions, asked) = mpsc::channel(MAX_WAITING);
    let (answering, mut answers) = mpsc::channel(MAX_WAITING);
    tokio::spawn(answer(source, asked, answering));
    let mut keys = Keys::listen()?;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        terminal.draw(|frame| view::draw(frame, &model, theme))?;
        // A question that finds no room is asked again at the next tick.
        let refresh = |model: &Model| {
            let job = match &model.screen {
                Screen::Job { id, .. } => Some(id.clone()),
                Screen::Overview => None,
            };
            let _ = questions.try_send(Question::Refresh { filter: model.filter.clone(), job });
        };
        tokio::select! {
            key = keys.next() => match key {
                None => return Ok(Exit::Success),
                Some(None) => {}
                Some(Some(key)) => match model.press(key) {
                    Action::Nothing => {}
                    Action::Quit => return Ok(Exit::Success),
                    Action::Refresh => refresh(&model),
                    Action::Cancel(id) => {
                        let _ = questions.try_send(Question::Cancel(id));
                        refresh(&model);
                    }
                },
            },
            _ = ticks.tick() => refresh(&model),
            Some(answer) = answers.recv() => match answer {
                Answer::Look(look) => model.update(look),
                Answer::Details(details) => model.show(*details),
                Answer::Cancelled(id) => model.message = Some(format!("{id} is cancelled")),
                Answer::Trouble(error) => model.trouble(error.to_string()),
            },
            () = stops.next() => return Ok(Exit::Success),
        }
    }
}

/// Asks the endpoint, one question after the other, so that a slow one never holds up the keys.
async fn answer(mut source: Source, mut questions: mpsc::Receiver<Question>, answers: mpsc::Sender<Answer>) {
    while let Some(question) = questions.recv().await {
        let sent = match question {
            Question::Refresh { filter, job } => {
                let look = source.look(&filter).await.map_or_else(Answer::Trouble, Answer::Look);
                let mut sent = answers.send(look).await;
                if let Some(id) = job {
                    let details = source.details(&id).await.map(Box::new);
                    sent = answers.send(details.map_or_else(Answer::Trouble, Answer::Details)).await;
                }
                sent
            }
            Question::Cancel(id) => {
                let cancelled = source.cancel(&id).await;
                answers.send(cancelled.map_or_else(Answer::Trouble, |()| Answer::Cancelled(id))).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
