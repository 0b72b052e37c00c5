//! The terminal: taken over and given back, and its keys.

use std::io;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::sync::mpsc;

/// How long the thread that reads keys may outlive its listener.
const LOOK_UP: Duration = Duration::from_millis(100);
/// Keys that may wait.
const MAX_KEYS: usize = 64;

/// The whole screen, until it is dropped. A panic gives it back too, before its message is printed.
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

/// What the user types.
pub(super) struct Keys(mpsc::Receiver<Option<KeyEvent>>);

impl Keys {
    pub(super) fn listen() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(MAX_KEYS);
        std::thread::Builder::new().name("keys".to_owned()).spawn(move || read(&sender))?;
        Ok(Self(receiver))
    }

    /// The next key; `Some(None)` when the terminal has another size now, `None` when it is gone.
    pub(super) async fn next(&mut self) -> Option<Option<KeyEvent>> {
        self.0.recv().await
    }
}

fn read(keys: &mpsc::Sender<Option<KeyEvent>>) {
    while !keys.is_closed() {
        let key = match event::poll(LOOK_UP) {
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
