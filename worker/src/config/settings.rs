//! Looks each setting up in flag, environment and default, and remembers where it was found.

use std::fmt::{Display, Write as _};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::environment::Environment;
use super::parse;

/// The variables of this program start so.
pub(super) const PREFIX: &str = "RUNPOD_WORKER_";

/// One line of [`super::Config::describe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    name: String,
    value: String,
    origin: String,
}

/// Reads settings and collects what is wrong with them.
pub(super) struct Settings<'a, E> {
    pub(super) env: &'a E,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) shown: Vec<Shown>,
    known: Vec<String>,
}

impl<'a, E: Environment> Settings<'a, E> {
    pub(super) fn new(env: &'a E) -> Self {
        Self { env, problems: Vec::new(), warnings: Vec::new(), shown: Vec::new(), known: Vec::new() }
    }

    /// The setting `--name`: its flag, else `RUNPOD_WORKER_NAME`, else one of the platform's variables, else the default.
    /// A value that cannot be used is noted, and the default stands in for it.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        flag: Option<&str>,
        platform: &[&str],
        default: T,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> String,
    ) -> T {
        let own = format!("{PREFIX}{}", name.replace('-', "_").to_ascii_uppercase());
        let given = flag.map(|text| (text.trim().to_owned(), format!("--{name}"))).or_else(|| {
            let variables = std::iter::once(own.as_str()).chain(platform.iter().copied());
            variables.filter_map(|name| Some((self.env.get(name)?, name.to_owned()))).next()
        });
        self.know(&own);
        let (value, origin) = match given {
            None => (default, "default".to_owned()),
            Some((text, origin)) => match parse(&text) {
                Ok(value) => (value, origin),
                Err(fix) => {
                    self.problems.push(format!("{origin}: `{}` cannot be used: {fix}", printable(&text)));
                    return default;
                }
            },
        };
        self.show(name, &show(&value), &origin);
        value
    }

    /// As [`Settings::read`], for a whole number.
    pub(super) fn number<T>(&mut self, name: &str, flag: Option<&str>, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        self.read(name, flag, &[], default, |text| parse::number(text, &range), T::to_string)
    }

    /// As [`Settings::read`], for a setting without a default; `none` switches it off.
    pub(super) fn optional<T: ToString>(
        &mut self,
        name: &str,
        flag: Option<&str>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let parse = |text: &str| if text.eq_ignore_ascii_case("none") { Ok(None) } else { parse(text).map(Some) };
        let show = |value: &Option<T>| value.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
        self.read(name, flag, &[], None, parse, show)
    }

    /// As [`Settings::read`], for a duration that may be zero.
    pub(super) fn duration(&mut self, name: &str, flag: Option<&str>, default: Duration) -> Duration {
        self.read(name, flag, &[], default, parse::duration, show_duration)
    }

    /// A variable that the platform sets; shown with its value.
    pub(super) fn variable(&mut self, name: &str) -> Option<String> {
        let value = self.env.get(name);
        if let Some(value) = &value {
            self.show(&name.to_ascii_lowercase().replace('_', "-"), value, name);
        }
        value
    }

    /// Adds a line to the description.
    pub(super) fn show(&mut self, name: &str, value: &str, origin: &str) {
        self.shown.push(Shown { name: name.to_owned(), value: printable(value), origin: origin.to_owned() });
    }

    /// Marks a variable as one of this program's.
    pub(super) fn know(&mut self, name: &str) {
        self.known.push(name.to_owned());
    }

    /// Variables that look like settings and are none. The platform may set some too, so they are no errors.
    pub(super) fn warn_of_unknown(&mut self) {
        for name in self.env.names() {
            if name.starts_with(PREFIX) && !self.known.contains(&name) {
                self.warnings
                    .push(format!("{name} is not a setting of this worker and has no effect: check its spelling"));
            }
        }
    }
}

/// One line per setting: name, value, origin.
pub(super) fn describe(shown: &[Shown]) -> String {
    let width = shown.iter().map(|line| line.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Shown { name, value, origin } in shown {
        let _ = writeln!(text, "{name:width$} = {value} ({origin})");
    }
    text
}

pub(super) fn show_duration(value: &Duration) -> String {
    humantime::format_duration(*value).to_string()
}

/// Text from outside on one line.
pub(super) fn printable(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect();
    if text.chars().count() > LONGEST {
        line.push('…');
    }
    line
}
