//! Turns a panic in user code into an error with its message and a backtrace.

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use crate::error::HandlerError;

#[derive(Debug)]
struct Caught {
    location: String,
    backtrace: String,
}

thread_local! {
    static IN_USER_CODE: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: RefCell<Option<Caught>> = const { RefCell::new(None) };
}

/// Installs the panic hook that keeps location and backtrace, which `catch_unwind` does not provide. The previous hook is
/// still called, so the panic also reaches the log.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if IN_USER_CODE.get() {
                remember(info);
            }
            previous(info);
        }));
    });
}

fn remember(info: &PanicHookInfo<'_>) {
    let location = info.location().map_or_else(String::new, |at| format!(" at {}:{}", at.file(), at.line()));
    let caught = Caught { location, backtrace: Backtrace::force_capture().to_string() };
    CAUGHT.with_borrow_mut(|last| *last = Some(caught));
}

/// Runs user code, and returns a panic as an error with its message and location. `what` begins the error's text.
pub(crate) fn catch<T>(what: &str, code: impl FnOnce() -> T) -> Result<T, HandlerError> {
    IN_USER_CODE.set(true);
    // Unwind safe: after a panic the caller drops everything that the code could have changed.
    let result = panic::catch_unwind(AssertUnwindSafe(code));
    IN_USER_CODE.set(false);
    result.map_err(|payload| {
        let caught = CAUGHT.with_borrow_mut(Option::take);
        let (location, backtrace) = caught.map_or_else(Default::default, |c| (c.location, c.backtrace));
        HandlerError::from_panic(format!("{what} panicked{location}: {}", text_of(payload.as_ref())), backtrace)
    })
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(the panic has no message)"
    }
}
