//! The chart of the README: what each measured thing costs in the worker and in the official one, as a multiple of the bare loop, on a
//! logarithmic axis. An SVG with colours for light and dark pages.

use std::fmt::Write as _;

use serde_json::Value;

/// Rows of the benchmark in the chart, by name, and what they are called there.
const ROWS: [(&str, &str); 10] = [
    ("no-op, 1 slot", "no-op jobs, one at a time"),
    ("no-op, 50 slots", "no-op jobs, 50 at a time"),
    ("1 MB in and out, 50 slots", "1 MB in and out, 50 at a time"),
    ("idle worker, enqueued → done: median", "an idle worker gets a job"),
    ("idle worker, enqueued → done: p99", "the same, 99th percentile"),
    ("1 MB in and out, one at a time", "1 MB in and out"),
    ("20 MB in and out, one at a time", "20 MB in and out"),
    ("a job that streams 100 items", "a job that streams 100 items"),
    ("start → first job-take", "start to the first request for a job"),
    ("idle worker without its handler: PSS", "memory of an idle worker"),
];

const WIDTH: f64 = 760.0;
const HEAD: f64 = 62.0;
const STEP: f64 = 30.0;
const FOOT: f64 = 44.0;
/// Where the bare loop stands, and the end of the axis.
const ONE: f64 = 290.0;
const END: f64 = 690.0;
const DECADES: f64 = 4.0;
/// Marks that are closer than this have their labels on different sides.
const LABEL: f64 = 76.0;

const STYLE: &str = "\
text{font:12px system-ui,-apple-system,'Segoe UI',sans-serif;fill:#1f2328}\
.small{font-size:11px;fill:#59636e}.grid{stroke:#d1d9e0}.one{stroke:#59636e;stroke-width:1.5}\
.ours{fill:#0969da}.theirs{fill:#bc4c00}.value{font-size:11px}\
@media(prefers-color-scheme:dark){text{fill:#f0f6fc}.small{fill:#9198a1}.grid{stroke:#3d444d}.one{stroke:#9198a1}\
.ours{fill:#4493f8}.theirs{fill:#f0883e}}";

/// The chart of a file that the benchmark has written.
pub(crate) fn chart(figures: &Value) -> String {
    let rows: Vec<Row> = ROWS.iter().map(|(name, label)| Row::read(figures, name, label)).collect();
    let bottom = HEAD + STEP * rows.len() as f64;
    let height = bottom + FOOT;
    let mut svg = String::new();
    let mut put = |text: String| {
        svg.push_str(&text);
        svg.push('\n');
    };
    put(format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" aria-label="{}">"#,
        escaped(&description(&rows))
    ));
    put(format!("<style>{STYLE}</style>"));
    put(format!(
        r#"<circle class="ours" cx="{ONE}" cy="14" r="5"/><text x="{}" y="18">runpod-worker</text>"#,
        ONE + 11.0
    ));
    put(format!(
        r#"<rect class="theirs" x="{}" y="9" width="10" height="10"/><text x="{}" y="18">RunPod's Python worker {}</text>"#,
        ONE + 125.0,
        ONE + 141.0,
        escaped(figures["versions"]["official"].as_str().unwrap_or_default())
    ));
    for decade in 0..=4 {
        let x = at(10_f64.powi(decade));
        let class = if decade == 0 { "one" } else { "grid" };
        put(format!(r#"<line class="{class}" x1="{x:.1}" y1="{}" x2="{x:.1}" y2="{bottom:.1}"/>"#, HEAD - 8.0));
        let name = if decade == 0 { "bare loop".to_owned() } else { format!("{} ×", grouped(10_f64.powi(decade))) };
        put(format!(r#"<text class="small" x="{x:.1}" y="{}" text-anchor="middle">{name}</text>"#, HEAD - 16.0));
    }
    for (number, row) in rows.iter().enumerate() {
        put(row.draw(HEAD + STEP * (number as f64 + 0.5)));
    }
    put(format!(
        r#"<text class="small" x="0" y="{:.1}">Further right is slower, or larger. Median of one run, all three programs on the same queue: {}.</text>"#,
        bottom + 24.0,
        escaped(&origin(figures))
    ));
    put("</svg>".to_owned());
    svg
}

struct Row {
    label: String,
    unit: String,
    bare: f64,
    worker: f64,
    official: Option<f64>,
}

impl Row {
    fn read(figures: &Value, name: &str, label: &str) -> Self {
        let rows = figures["rows"].as_array().unwrap();
        let row =
            rows.iter().find(|row| row["what"] == name).unwrap_or_else(|| panic!("the figures have no row {name}"));
        let median = |program: &str| row[program]["median"].as_f64();
        Self {
            label: label.to_owned(),
            unit: row["unit"].as_str().unwrap().to_owned(),
            bare: median("bare_loop").unwrap(),
            worker: median("worker").unwrap(),
            official: median("official"),
        }
    }

    /// How many times as much as in the bare loop a value costs.
    fn cost(&self, value: f64) -> f64 {
        if self.unit.ends_with("/s") { self.bare / value } else { value / self.bare }
    }

    fn named(&self, value: f64) -> String {
        format!("{} {}", number(value), self.unit)
    }

    fn draw(&self, y: f64) -> String {
        // Above the line, so that nothing crosses the value.
        let text = y - 4.0;
        let ours = at(self.cost(self.worker));
        let theirs = self.official.map(|value| at(self.cost(value)));
        let mut svg = format!(r#"<text x="0" y="{:.1}">{}</text>"#, y + 4.0, escaped(&self.label));
        let _ = write!(svg, r#"<line class="grid" x1="{ONE}" y1="{y:.1}" x2="{END}" y2="{y:.1}"/>"#);
        let _ = write!(svg, r#"<circle class="ours" cx="{ours:.1}" cy="{y:.1}" r="5"/>"#);
        svg += &label(
            ours,
            text,
            theirs.is_some_and(|other| ours <= other && other - ours < LABEL),
            &self.named(self.worker),
        );
        if let (Some(value), Some(x)) = (self.official, theirs) {
            let _ =
                write!(svg, r#"<rect class="theirs" x="{:.1}" y="{:.1}" width="10" height="10"/>"#, x - 5.0, y - 5.0);
            svg += &label(x, text, ours > x && ours - x < LABEL, &self.named(value));
        }
        svg
    }
}

/// The value beside a mark, on its left if there is no room on its right.
fn label(x: f64, y: f64, on_the_left: bool, value: &str) -> String {
    let (x, anchor) = if on_the_left { (x - 9.0, "end") } else { (x + 9.0, "start") };
    format!(r#"<text class="value" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}</text>"#, escaped(value))
}

/// The place of a cost on the axis.
fn at(cost: f64) -> f64 {
    ONE + cost.log10().clamp(-0.5, DECADES) / DECADES * (END - ONE)
}

/// What the chart shows, for those who do not see it.
fn description(rows: &[Row]) -> String {
    let each = rows.iter().map(|row| {
        let official = row.official.map_or_else(String::new, |value| format!(", official worker {}", row.named(value)));
        format!("{}: bare loop {}, runpod-worker {}{official}", row.label, row.named(row.bare), row.named(row.worker))
    });
    each.collect::<Vec<_>>().join("; ")
}

fn origin(figures: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    format!("{} cores of {}, {}", figures["machine"]["cores"], text(&figures["machine"]["cpu"]), text(&figures["date"]))
}

/// Three digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

/// `1,234`.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
