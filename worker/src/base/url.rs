//! The platform's URL templates. Placeholders are replaced and parameters appended; the rest is sent as it is. The placeholders
//! are those of RunPod's own SDK and test harness: `$ID`, `$RUNPOD_POD_ID` and `$RUNPOD_GPU_TYPE_ID`.

use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use reqwest::Url;

use runpod_worker_core::JobId;

/// Characters that would end or change the part of the URL they are put into.
const IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'&')
    .add(b'/')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'}');

/// The same for names of the platform. `+` and `%` stay because the platform's GPU name may come form-encoded already.
const IN_NAME: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'&').add(b'<').add(b'>').add(b'?');

/// Characters that must be escaped in the value of a parameter.
const IN_VALUE: &AsciiSet = &IN_PATH.add(b'+').add(b',').add(b'=').add(b';').add(b'\'');

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// It is empty.
    #[error("is empty: set it to a URL, or unset it to run without a queue")]
    Empty,
    /// It is not a URL.
    #[error("is not a URL ({0}): write it like http://127.0.0.1:8000/v2/my-endpoint/job-take/$ID")]
    Invalid(String),
    /// Its scheme is neither http nor https.
    #[error("has the scheme `{0}`: use http or https")]
    Scheme(String),
}

/// A URL in which the placeholders of the worker are replaced; `$ID` may remain for the job id.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    text: String,
    /// The same with the worker's id left open.
    open: String,
}

impl UrlTemplate {
    /// Replaces the placeholders of the worker.
    ///
    /// # Errors
    /// When the result cannot be a URL of a queue.
    pub fn new(raw: &str, worker_id: &str, gpu_type: Option<&str>) -> Result<Self, UrlError> {
        let raw = raw.trim();
        if raw.is_empty() {
            return Err(UrlError::Empty);
        }
        let mut open = raw.to_owned();
        if let Some(gpu) = gpu_type {
            open = open.replace("$RUNPOD_GPU_TYPE_ID", &utf8_percent_encode(gpu, IN_NAME).to_string());
        }
        let text = close(&open, worker_id);
        let url = Url::parse(&text).map_err(|error| UrlError::Invalid(error.to_string()))?;
        match url.scheme() {
            "http" | "https" => Ok(Self { text, open }),
            other => Err(UrlError::Scheme(other.to_owned())),
        }
    }

    /// Whether requests to it are encrypted.
    pub fn is_https(&self) -> bool {
        Url::parse(&self.text).is_ok_and(|url| url.scheme() == "https")
    }

    /// The URL for the worker itself: `$ID` is the worker id.
    pub fn for_worker(&self, worker_id: &str) -> String {
        self.text.replace("$ID", &utf8_percent_encode(worker_id, IN_PATH).to_string())
    }

    /// The URL for one job: `$ID` is the job id.
    pub fn for_job(&self, job: &JobId) -> String {
        with_job(&self.text, job)
    }

    /// The URL for a job of another worker.
    pub fn for_job_of(&self, worker_id: &str, job: &JobId) -> String {
        with_job(&close(&self.open, worker_id), job)
    }

    /// The template of a sibling route, or `None` when the template does not name the route `from`.
    pub fn sibling(&self, from: &str, to: &str) -> Option<Self> {
        let (text, open) = (self.text.replace(from, to), self.open.replace(from, to));
        self.text.contains(from).then_some(Self { text, open })
    }
}

fn close(open: &str, worker_id: &str) -> String {
    open.replace("$RUNPOD_POD_ID", &utf8_percent_encode(worker_id, IN_PATH).to_string())
}

fn with_job(url: &str, job: &JobId) -> String {
    url.replace("$ID", &utf8_percent_encode(job.as_str(), IN_PATH).to_string())
}

/// Shows the URL without user info and query, which may hold secrets.
impl fmt::Display for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text.split(['?', '#']).next().unwrap_or_default();
        match text.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let host = authority.rsplit('@').next().unwrap_or_default();
                write!(f, "{scheme}://{host}{path}")
            }
            None => f.write_str(text),
        }
    }
}

impl fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UrlTemplate({self})")
    }
}

/// Appends one parameter. RunPod's SDK always writes `&`; a template without a query string gets the correct `?`.
pub fn append(url: &mut String, name: &str, value: &str) {
    url.push(if url.contains('?') { '&' } else { '?' });
    url.push_str(name);
    url.push('=');
    url.extend(utf8_percent_encode(value, IN_VALUE));
}

/// The length of a value after the escaping of [`append`], in bytes.
pub fn escaped_len(value: &str) -> usize {
    utf8_percent_encode(value, IN_VALUE).map(str::len).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(raw: &str) -> UrlTemplate {
        UrlTemplate::new(raw, "w1", Some("NVIDIA GeForce RTX 4090")).unwrap()
    }

    #[test]
    fn placeholders_are_filled_in_every_template() {
        let take = template("http://h:1/v2/ep/job-take/$ID?gpu=$RUNPOD_GPU_TYPE_ID");
        assert_eq!(take.for_worker("w1"), "http://h:1/v2/ep/job-take/w1?gpu=NVIDIA%20GeForce%20RTX%204090");
        let take = template("http://h:1/v2/ep/job-take/$RUNPOD_POD_ID");
        assert_eq!(take.for_worker("w1"), "http://h:1/v2/ep/job-take/w1");
        let done = template("http://h:1/v2/ep/job-done/$RUNPOD_POD_ID/$ID?x=1");
        assert_eq!(done.for_job(&JobId::from("j-1")), "http://h:1/v2/ep/job-done/w1/j-1?x=1");
        assert_eq!(done.for_job_of("w2", &JobId::from("j-1")), "http://h:1/v2/ep/job-done/w2/j-1?x=1");
    }

    #[test]
    fn a_placeholder_without_a_value_is_left_alone() {
        let take = UrlTemplate::new("http://h/job-take/$ID?gpu=$RUNPOD_GPU_TYPE_ID", "w1", None).unwrap();
        assert_eq!(take.for_worker("w1"), "http://h/job-take/w1?gpu=$RUNPOD_GPU_TYPE_ID");
    }

    #[test]
    fn the_rest_of_a_template_is_sent_as_it_is() {
        let raw = "https://API.example:443/v2/Ep//job-done/$RUNPOD_POD_ID/$ID?gpu=A+B%20C&z=%2F&isX=1";
        let url = template(raw).for_job(&JobId::from("j1"));
        assert_eq!(url, "https://API.example:443/v2/Ep//job-done/w1/j1?gpu=A+B%20C&z=%2F&isX=1");
    }

    #[test]
    fn an_id_cannot_change_the_structure_of_the_url() {
        let done = template("http://h/job-done/w/$ID");
        assert_eq!(done.for_job(&JobId::from("a b?c#d&e%f")), "http://h/job-done/w/a%20b%3Fc%23d%26e%25f");
        assert_eq!(done.for_job(&JobId::from("ä")), "http://h/job-done/w/%C3%A4");
        for id in ["../../ping/w", "a/b", "a\\b", "/", "%2e%2e", "a\nb", "..%2f"] {
            let url = Url::parse(&done.for_job(&JobId::from(id))).unwrap();
            let segments: Vec<&str> = url.path_segments().unwrap().collect();
            assert_eq!((&segments[..2], segments.len()), (&["job-done", "w"][..], 3), "{id:?} leads to {url}");
        }
    }

    #[test]
    fn parameters_follow_a_question_mark_or_an_ampersand() {
        let mut url = "http://h/p".to_owned();
        append(&mut url, "a", "1");
        append(&mut url, "b", "x,y z&=");
        assert_eq!(url, "http://h/p?a=1&b=x%2Cy%20z%26%3D");
    }

    #[test]
    fn sibling_routes_keep_the_query() {
        let take = template("http://h/v2/ep/job-take/$ID?gpu=x");
        let stop = take.sibling("/job-take/", "/job-stop/").unwrap();
        assert_eq!(stop.for_worker("w1"), "http://h/v2/ep/job-stop/w1?gpu=x");
        assert_eq!(template("http://h/take").sibling("/job-take/", "/job-stop/"), None);
    }

    #[test]
    fn unusable_templates_are_refused_with_the_reason() {
        assert_eq!(UrlTemplate::new("  ", "w", None), Err(UrlError::Empty));
        assert!(matches!(UrlTemplate::new("job-take/$ID", "w", None), Err(UrlError::Invalid(_))));
        assert_eq!(UrlTemplate::new("ftp://h/p", "w", None), Err(UrlError::Scheme("ftp".into())));
    }

    #[test]
    fn what_is_shown_has_no_password_and_no_query() {
        let shown = format!("{:?}", template("http://user:hunter2@h:1/take/$ID?token=hunter2"));
        assert_eq!(shown, "UrlTemplate(http://h:1/take/$ID)");
    }
}
