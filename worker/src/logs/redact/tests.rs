use super::*;

#[test]
fn every_occurrence_is_masked_and_so_is_a_secret_around_another() {
    add("rp-inner");
    add("rp-inner-and-outer\n");
    add("");
    add("abc");
    assert_eq!(clean("a rp-inner b rp-inner-and-outer c rp-inner"), "a *** b *** c ***");
    assert_eq!(clean("abc stays"), "abc stays");
}

#[test]
fn other_spellings_of_a_secret_are_masked_too() {
    add("pass/word \"1\"+");
    add("-----BEGIN-----\nfirst-line-of-key\nsecond-line-of-key\n");
    assert_eq!(clean(r#"{"p": "pass/word \"1\"+"}"#), r#"{"p": "***"}"#);
    assert_eq!(clean(r#"{\"p\": \"pass/word \\\"1\\\"+\"}"#), r#"{\"p\": \"***\"}"#);
    assert_eq!(clean("u?p=pass%2Fword%20%221%22%2B&q"), "u?p=***&q");
    assert_eq!(clean("x second-line-of-key y"), "x *** y");
}

#[test]
fn a_secret_that_is_cut_off_is_masked() {
    add("cut-off-secret-value");
    assert_eq!(clean("it is cut-off-secr… (9 bytes more)"), "it is ***… (9 bytes more)");
    assert_eq!(clean("a … b cut-off-secret … c cut-off-secret-value…"), "a … b ***… c ***…");
    assert_eq!(clean("it is cut… cut-off-secr"), "it is cut… cut-off-secr");
}

#[test]
fn variables_are_chosen_by_their_names() {
    let variables = [("MODEL_TOKEN", "tok-of-a-variable"), ("MODEL_PATH", "/models/of-a-variable")];
    add_variables(variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(clean("tok-of-a-variable /models/of-a-variable"), "*** /models/of-a-variable");
}

#[test]
fn json_stays_json() {
    add("secret-in-json");
    let payload =
        Bytes::from_static(br#"{"kind":"oom","message":"a secret-in-json","list":[{"n":1,"s":"secret-in-json"}]}"#);
    let cleaned: Value = serde_json::from_slice(&clean_json(&payload)).unwrap();
    assert_eq!(cleaned, serde_json::json!({"kind": "oom", "message": "a ***", "list": [{"n": 1, "s": "***"}]}));
    assert_eq!(clean_json(&Bytes::from_static(b"no json")), "no json");
}
