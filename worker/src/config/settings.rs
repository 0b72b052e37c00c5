//! Looks each setting up in flag, environment and default, and remembers where it was found.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::description::{Description, Line};
use super::environment::Environment;
use super::parse;
use crate::base::excerpt;

/// The prefix of the variables of this program.
pub(super) const PREFIX: &str = "RUNPOD_WORKER_";

/// Origin of a value that is neither in a flag nor in a variable.
const DEFAULT: &str = "default";

/// Reads settings and collects what is wrong with them.
pub(super) struct Settings<'a, E> {
    pub(super) env: &'a E,
    pub(super) problems: Vec<String>,
    pub(super) warnings: Vec<String>,
    pub(super) description: Description,
    known: Vec<String>,
}

impl<'a, E: Environment> Settings<'a, E> {
    pub(super) fn new(env: &'a E) -> Self {
        Self { env, problems: Vec::new(), warnings: Vec::new(), description: Description::default(), known: Vec::new() }
    }

    /// The setting `--name`: its flag, else `RUNPOD_WORKER_NAME`, else one of the platform's variables, else the default.
    /// A value that cannot be used is recorded as a problem, and the default is returned.
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
        let default_text = show(&default);
        let (value, origin) = match given {
            None => (default, DEFAULT.to_owned()),
            Some((text, origin)) => match parse(&text) {
                Ok(value) => (value, origin),
                Err(fix) => {
                    self.problems.push(format!("{origin}: `{}` cannot be used: {fix}", excerpt(&text)));
                    return default;
                }
            },
        };
        let text = show(&value);
        let changed = text != default_text;
        self.describe(name, &text, &origin, changed);
        value
    }

    /// As [`Settings::read`], for a whole number.
    pub(super) fn number<T>(&mut self, name: &str, flag: Option<&str>, default: T, range: RangeInclusive<T>) -> T
    where
        T: FromStr + PartialOrd + Display,
    {
        self.read(name, flag, &[], default, |text| parse::number(text, &range), T::to_string)
    }

    /// As [`Settings::read`], for a setting whose default is `none`.
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

    /// Adds a value that has no default to the description.
    pub(super) fn show(&mut self, name: &str, value: &str, origin: &str) {
        self.describe(name, value, origin, true);
    }

    fn describe(&mut self, name: &str, value: &str, origin: &str, changed: bool) {
        let (name, value, origin) = (name.to_owned(), excerpt(value), origin.to_owned());
        self.description.push(Line { name, value, origin, changed });
    }

    /// Whether the setting was given by a flag or variable, even with the value of its default.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.description.origin(name).is_some_and(|origin| origin != DEFAULT)
    }

    /// Marks a variable as one of this program's.
    pub(super) fn know(&mut self, name: &str) {
        self.known.push(name.to_owned());
    }

    /// Warns of variables with the prefix that are not settings. They are not errors, because the platform may set some.
    pub(super) fn warn_of_unknown(&mut self) {
        for name in self.env.names() {
            if name.starts_with(PREFIX) && !self.known.contains(&name) {
                self.warnings
                    .push(format!("{name} is not a setting of this worker and has no effect: check its spelling"));
            }
        }
    }
}

pub(super) fn show_duration(value: &Duration) -> String {
    humantime::format_duration(*value).to_string()
}

/// A size with the largest unit that divides it.
pub(super) fn show_size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.iter().find(|(_, size)| bytes > 0 && bytes.is_multiple_of(*size));
    unit.map_or_else(|| format!("{bytes} bytes"), |(name, size)| format!("{} {name}", bytes / size))
}
