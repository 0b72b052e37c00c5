use std::time::{Duration, Instant};

use super::*;

/// Levels of fragments, each of which spreads the next one twice.
fn doubling(levels: usize) -> String {
    let mut query = "{ ...f0 }".to_owned();
    for level in 0..levels {
        let next = level + 1;
        query.push_str(&format!(" fragment f{level} on Query {{ ...f{next} ...f{next} }}"));
    }
    query + &format!(" fragment f{levels} on Query {{ myself {{ pods {{ id }} }} }}")
}

/// What introspecting clients send.
const INTROSPECTION: &str = "query IntrospectionQuery { __schema { queryType { name } mutationType { name }
    subscriptionType { name } types { ...FullType } directives { name description locations args { ...InputValue } } } }
    fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name description
    args { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason } inputFields { ...InputValue }
    interfaces { ...TypeRef } enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason }
    possibleTypes { ...TypeRef } }
    fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue }
    fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name
    ofType { kind name ofType { kind name ofType { kind name } } } } } } } }";

#[test]
fn a_query_that_grows_exponentially_is_refused_in_linear_time() {
    let query = doubling(25);
    assert!(query.len() < 1500, "{}", query.len());
    let started = Instant::now();
    assert!(matches!(parse(&query), Err(QueryError::Work | QueryError::Nesting)));
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert!(parse(&doubling(3)).is_ok());
}

#[test]
fn growth_by_other_means_is_refused_as_well() {
    let tripled = doubling(12).replace("...f1 ...f1", "a: myself { pods { id } } ...f1 ...f1 ...f1");
    let unused = "{ myself { pods { id } } } ".to_owned() + &doubling(20).replace("{ ...f0 } ", "");
    let inline = doubling(20).replace("...f1 ...f1", "... on Query { ...f1 } ... { ...f1 }");
    let aliases: String = (0..500).map(|number| format!("a{number}: pod(input: {{podId: \"x\"}}) {{ id }} ")).collect();
    let directives = format!("{{ myself {{ pods {{ id {} }} }} }}", "@skip(if: false) ".repeat(300));
    let operations: String =
        (0..50).map(|number| format!("query q{number} {{ myself {{ pods {{ id }} }} }} ")).collect();
    let fragments: String =
        (0..50).map(|number| format!("fragment f{number} on Query {{ myself {{ pods {{ id }} }} }} ")).collect();
    let schema = "{ __type(name: \"__Type\") { fields { type { fields { type { fields { type { name } } } } } } } }";
    let chain: String =
        (0..30).map(|number| format!("fragment f{number} on Query {{ ...f{} }} ", number + 1)).collect();
    for (name, query) in [
        ("tripled", tripled),
        ("unused fragments", unused),
        ("inline fragments", inline),
        ("aliases", format!("{{ {aliases} }}")),
        ("directives", directives),
        ("operations", operations),
        ("fragments", format!("{{ ...f0 }} {fragments}")),
        ("schema lists", schema.to_owned()),
        ("nested values", format!("{{ pod(input: {}1{}) {{ id }} }}", "[".repeat(5000), "]".repeat(5000))),
        ("nested fields", format!("{}{}", "{ pod ".repeat(60), "}".repeat(60))),
        (
            "nested types",
            format!("query q($a: {}Int{}) {{ myself {{ pods {{ id }} }} }}", "[".repeat(5000), "]".repeat(5000)),
        ),
        ("brackets in a comment", format!("# {}\n{{ myself {{ pods {{ id }} }} }}", "{".repeat(300))),
    ] {
        let started = Instant::now();
        let outcome = parse(&query);
        assert!(outcome.is_err(), "{name}");
        assert!(started.elapsed() < Duration::from_secs(1), "{name}: {:?}", started.elapsed());
    }
    let cycle = parse(&format!("{{ ...f0 }} {chain} fragment f30 on Query {{ ...f0 }}")).unwrap_err();
    assert!(matches!(cycle, QueryError::Cycle(_)), "{cycle}");
}

#[test]
fn what_tools_send_is_accepted() {
    for query in [
        INTROSPECTION,
        "query myPods { myself { pods { id name runtime { ports { ip privatePort } gpus { id gpuUtilPercent } } } } }",
        "query pod($input: PodFilter!) { pod(input: $input) { ...P } } fragment P on Pod { id machine { gpuDisplayName } }",
    ] {
        if let Err(error) = parse(query) {
            panic!("{error}: {query}");
        }
    }
}

#[test]
fn the_deepest_permitted_nesting_does_not_overflow_the_stack() {
    let nested = MAX_BRACKETS - 4;
    let query = format!("{{ pod(input: {}1{}) {{ id }} }}", "[".repeat(nested), "]".repeat(nested));
    // A thread of the size that tokio gives to blocking work.
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(move || parse(&query).is_ok()).unwrap();
    thread.join().unwrap();
}
