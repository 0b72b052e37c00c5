use super::*;

#[derive(Debug, thiserror::Error)]
#[error("while embedding")]
struct Outer(#[source] std::num::ParseIntError);

fn outer() -> Result<(), HandlerError> {
    let error = "x".parse::<u32>().unwrap_err();
    Err(Outer(error))?
}

#[test]
fn the_question_mark_keeps_the_chain_of_causes() {
    let report = outer().unwrap_err().into_report(ErrorKind::InferenceError);
    assert_eq!(report.kind, ErrorKind::InferenceError);
    assert_eq!(report.message, "while embedding");
    assert_eq!(report.traceback, "caused by: invalid digit found in string\n");
}

#[test]
fn the_question_mark_converts_text_and_anyhow() {
    fn text() -> Result<(), HandlerError> {
        Err("no such voice")?
    }
    fn anyhow() -> Result<(), HandlerError> {
        Err(anyhow::anyhow!("CUDA out of memory. Tried to allocate 2.00 GiB").context("decoding"))?
    }
    assert_eq!(text().unwrap_err().to_string(), "no such voice");
    let report = anyhow().unwrap_err().into_report(ErrorKind::InferenceError);
    assert_eq!((report.message.as_str(), report.kind), ("decoding", ErrorKind::Oom), "the kind follows from a cause");
}

#[derive(Debug, thiserror::Error)]
#[error("there is no model called {0:?}")]
struct UnknownModel(&'static str);

impl ErrorClass for UnknownModel {
    fn kind(&self) -> ErrorKind {
        ErrorKind::ModelNotFound
    }
}

#[test]
fn an_error_type_can_define_its_kind() {
    let error = HandlerError::classified(UnknownModel("x"));
    assert_eq!((error.message(), error.kind()), ("there is no model called \"x\"", Some(ErrorKind::ModelNotFound)));
}

#[test]
fn an_explicit_kind_takes_precedence_over_the_text() {
    let error = HandlerError::validation("input.prompt: must not contain \"CUDA out of memory\"");
    assert_eq!(error.into_report(ErrorKind::InferenceError).kind, ErrorKind::Validation);
}

#[test]
fn a_very_long_message_is_cut() {
    let report = HandlerError::from("é".repeat(MAX_MESSAGE)).into_report(ErrorKind::Load);
    assert!(report.message.len() <= MAX_MESSAGE + 64, "{} bytes", report.message.len());
    assert!(report.message.starts_with('é'));
}
