//! Takes over the terminal, restores it, and reads its keys.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::sync::mpsc;

/// How long the thread that reads keys may run after its listener is dropped.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Keys that may wait.
const MAX_KEYS: usize = 64;

/// The terminal's alternate screen. Dropping it restores the terminal, and so does a panic, before its message is printed.
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    pub(super) fn take() -> io::Result<Self> {
        ratatui::try_init().map(Self)
    }
}

impl Deref for Screen {
    type Target = DefaultTerminal;

    fn deref(&self) -> &DefaultTerminal {
        &self.0
    }
}

impl DerefMut for Screen {
    fn deref_mut(&mut self) -> &mut DefaultTerminal {
        &mut self.0
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// The keys that the user presses.
pub(super) struct Keys(mpsc::Receiver<Option<KeyEvent>>);

impl Keys {
    pub(super) fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(MAX_KEYS);
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || read(&sender))?;
        Ok(Self(receiver))
    }

    /// The next key; `Some(None)` when the terminal was resized, `None` when it was closed.
    pub(super) async fn next(&mut self) -> Option<Option<KeyEvent>> {
        self.0.recv().await
    }
}

fn read(keys: &mpsc::Sender<Option<KeyEvent>>) {
    while !keys.is_closed() {
        let key = match event::poll(POLL_INTERVAL) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        let sent = match key {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => keys.blocking_send(Some(key)),
            Ok(Event::Resize(..)) => keys.blocking_send(None),
            Ok(_) => continue,
            Err(_) => return,
        };
        if sent.is_err() {
            return;
        }
    }
}
