//! `top`: a live view of an endpoint in the terminal.

mod documents;
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
use super::outcome::{CommandError, CommandResult};
use super::output::Output;
use super::signals::StopRequests;
use documents::{Details, Overview};
use model::{Action, Model, Screen};
use source::Source;
use terminal::{Keys, Screen as Terminal};
use view::Theme;

/// Requests to the endpoint that may wait while one is in flight.
const MAX_WAITING: usize = 16;

/// A request to the endpoint.
enum Question {
    /// The jobs that match the filter, and one job if its screen is open.
    Refresh {
        filter: String,
        job: Option<String>,
    },
    Cancel(String),
}

/// Its reply.
enum Answer {
    Overview(Overview),
    Details(Box<Details>),
    Cancelled(String),
    Failed(ClientError),
}

pub(crate) async fn top(args: &TopArgs, output: &mut Output) -> CommandResult {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Ok(output.fail(
            &"top needs a terminal, and this is not one: use `runpod-endpoint health --watch` instead",
            Exit::Usage,
        ));
    }
    let endpoint = Endpoint::new(&args.server)?;
    let url = endpoint.url().to_owned();
    let mut source = Source::new(endpoint);
    // Before the screen is taken over, so that a wrong address or key is printed like any other error.
    let first = source.overview("").await?;
    let stops = StopRequests::watch().map_err(CommandError::Signals)?;
    let theme = Theme { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    let mut terminal = Terminal::take().map_err(CommandError::Terminal)?;
    let shown = show(&mut terminal, Model::new(&url, first), source, args.interval, theme, stops).await;
    drop(terminal);
    shown.map_err(CommandError::Terminal)
}

/// Draws and reacts to keys until the user quits.
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
        // If the channel is full, the next tick asks again.
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
                Answer::Overview(overview) => model.update(overview),
                Answer::Details(details) => model.show(*details),
                Answer::Cancelled(id) => model.message = Some(format!("{id} is cancelled")),
                Answer::Failed(error) => model.fail(error.to_string()),
            },
            () = stops.next() => return Ok(Exit::Success),
        }
    }
}

/// Sends the requests one after the other, in a task of its own: a slow reply does not delay the keys.
async fn answer(mut source: Source, mut questions: mpsc::Receiver<Question>, answers: mpsc::Sender<Answer>) {
    while let Some(question) = questions.recv().await {
        let sent = match question {
            Question::Refresh { filter, job } => {
                let overview = source.overview(&filter).await.map_or_else(Answer::Failed, Answer::Overview);
                let mut sent = answers.send(overview).await;
                if let Some(id) = job {
                    let details = source.details(&id).await.map(Box::new);
                    sent = answers.send(details.map_or_else(Answer::Failed, Answer::Details)).await;
                }
                sent
            }
            Question::Cancel(id) => {
                let cancelled = source.cancel(&id).await;
                answers.send(cancelled.map_or_else(Answer::Failed, |()| Answer::Cancelled(id))).await
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
