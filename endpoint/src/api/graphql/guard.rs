//! Bounds the work of a query before it is validated or executed.
//!
//! The GraphQL library follows every fragment spread when it validates a query, so that a few fragments that spread each other twice
//! take exponential time. Everything in here is linear in the size of the query: each fragment is looked at once.

use std::collections::HashMap;

use async_graphql::parser::parse_query;
use async_graphql::parser::types::{ExecutableDocument, Selection, SelectionSet};

/// Opening brackets in a query: the parser recurses at each. The usual introspection query has about 60.
const MAX_BRACKETS: usize = 256;
/// Operations in one request; only one is executed.
const MAX_OPERATIONS: usize = 8;
/// Fragments in one request.
const MAX_FRAGMENTS: usize = 32;
/// Levels of fields, fragments followed.
const MAX_DEPTH: u64 = 24;
/// Fields, spreads and directives, fragments followed, each counted as often as the lists around it are assumed to be long.
const MAX_WORK: u64 = 250_000;
/// Length that is assumed of a list.
const LIST: u64 = 16;
/// Work of a field that measures local workers.
const MEASUREMENT: u64 = 1000;
/// Nested introspection lists that are allowed: each multiplies the answer.
const MAX_SCHEMA_LISTS: u64 = 2;

/// Why a query is not executed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueryError {
    #[error("the query nests too much: use at most {MAX_BRACKETS} brackets and {MAX_DEPTH} levels of fields")]
    Nesting,
    #[error("the query has too many operations or fragments: send at most {MAX_OPERATIONS} and {MAX_FRAGMENTS}")]
    Definitions,
    #[error("the query asks for too much: use fewer fields, aliases and fragments")]
    Work,
    #[error("fragment {0:?} contains itself")]
    Cycle(String),
    #[error("{0}")]
    Syntax(String),
}

/// Parses a query and checks that its execution is bounded.
pub(super) fn parse(query: &str) -> Result<ExecutableDocument, QueryError> {
    // Strings and comments count too: what the parser takes for a bracket is then never more than what is counted.
    if query.bytes().filter(|byte| b"{[(".contains(byte)).count() > MAX_BRACKETS {
        return Err(QueryError::Nesting);
    }
    let document = parse_query(query).map_err(|error| QueryError::Syntax(error.to_string()))?;
    if document.operations.iter().count() > MAX_OPERATIONS || document.fragments.len() > MAX_FRAGMENTS {
        return Err(QueryError::Definitions);
    }
    let mut costs = Costs { document: &document, known: HashMap::new() };
    // Fragments that no operation uses are validated too.
    for name in document.fragments.keys() {
        costs.fragment(name)?.check()?;
    }
    for (_, operation) in document.operations.iter() {
        let operation = &operation.node;
        let own = operation.directives.len() + operation.variable_definitions.len();
        costs.selections(&operation.selection_set.node)?.and_work(count(own)).check()?;
    }
    Ok(document)
}

/// The cost of a part of the query.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    work: u64,
    depth: u64,
    schema_lists: u64,
}

impl Cost {
    fn and_work(self, work: u64) -> Self {
        Self { work: self.work.saturating_add(work), ..self }
    }

    /// The cost of both parts, side by side.
    fn beside(self, other: Self) -> Self {
        Self {
            work: self.work.saturating_add(other.work),
            depth: self.depth.max(other.depth),
            schema_lists: self.schema_lists.max(other.schema_lists),
        }
    }

    /// The cost of a field with these children.
    fn of_field(name: &str, children: Self) -> Self {
        let is_schema_list = matches!(name, "fields" | "interfaces" | "possibleTypes" | "inputFields");
        let is_list = is_schema_list
            || matches!(name, "types" | "args" | "enumValues" | "directives" | "pods" | "gpus" | "ports");
        let own = if matches!(name, "pod" | "myself") { MEASUREMENT } else { 1 };
        let work = if is_list { children.work.saturating_mul(LIST) } else { children.work };
        Self {
            work: work.saturating_add(own),
            depth: children.depth + 1,
            schema_lists: children.schema_lists + u64::from(is_schema_list),
        }
    }

    fn check(self) -> Result<(), QueryError> {
        if self.depth > MAX_DEPTH {
            return Err(QueryError::Nesting);
        }
        let is_bounded = self.work <= MAX_WORK && self.schema_lists <= MAX_SCHEMA_LISTS;
        if is_bounded { Ok(()) } else { Err(QueryError::Work) }
    }
}

/// Costs, each fragment's computed once.
struct Costs<'a> {
    document: &'a ExecutableDocument,
    /// `None` while a fragment is being computed.
    known: HashMap<&'a str, Option<Cost>>,
}

impl<'a> Costs<'a> {
    fn selections(&mut self, set: &'a SelectionSet) -> Result<Cost, QueryError> {
        let mut sum = Cost::default();
        for selection in &set.items {
            let cost = match &selection.node {
                Selection::Field(field) => {
                    let field = &field.node;
                    let children = self.selections(&field.selection_set.node)?;
                    Cost::of_field(&field.name.node, children)
                        .and_work(count(field.directives.len() + field.arguments.len()))
                }
                Selection::InlineFragment(inline) => {
                    let inner = self.selections(&inline.node.selection_set.node)?;
                    inner.and_work(1 + count(inline.node.directives.len()))
                }
                Selection::FragmentSpread(spread) => {
                    let inner = self.fragment(&spread.node.fragment_name.node)?;
                    inner.and_work(1 + count(spread.node.directives.len()))
                }
            };
            sum = sum.beside(cost);
        }
        Ok(sum)
    }

    /// The cost of a fragment. One that does not exist costs nothing: the validation names it.
    fn fragment(&mut self, name: &str) -> Result<Cost, QueryError> {
        let document = self.document;
        let Some((name, fragment)) = document.fragments.get_key_value(name) else { return Ok(Cost::default()) };
        match self.known.get(name.as_str()) {
            Some(Some(cost)) => return Ok(*cost),
            Some(None) => return Err(QueryError::Cycle(name.to_string())),
            None => {}
        }
        self.known.insert(name, None);
        let fragment = &fragment.node;
        let cost = self.selections(&fragment.selection_set.node)?.and_work(count(fragment.directives.len()));
        self.known.insert(name, Some(cost));
        Ok(cost)
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
