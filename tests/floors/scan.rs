//! The content of one source file: the modules it declares, the names it defines, the names it imports and the paths it uses.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, File, Item, ItemMod, ItemUse, Macro, Meta, Path, UseTree, Visibility};

/// A path as it is written, such as `["crate", "queue", "Template"]`.
pub(crate) type Written = Vec<String>;

/// One module, before its paths are resolved.
#[derive(Debug, Default)]
pub(crate) struct Scanned {
    /// Modules that lie in files of their own.
    pub(crate) children: Vec<String>,
    /// Modules that are written out inside this one.
    pub(crate) inline: BTreeMap<String, Self>,
    /// Names of the items that it defines.
    pub(crate) defined: BTreeSet<String>,
    /// Names that a `use` brings into scope, re-exports included, and what they stand for.
    pub(crate) imported: BTreeMap<String, Written>,
    /// Modules whose names are all in scope.
    pub(crate) globs: Vec<Written>,
    /// Every path that it uses, and every import that is not a re-export.
    pub(crate) used: BTreeSet<Written>,
}

/// Scans the items of a file or of an inline module.
pub(crate) fn scan(items: &[Item]) -> Scanned {
    let mut scanner = Scanner::default();
    for item in items {
        scanner.visit_item(item);
    }
    scanner.0
}

/// Scans the text of a file.
pub(crate) fn scan_text(name: &str, text: &str) -> Scanned {
    let file: File = syn::parse_file(text).unwrap_or_else(|error| panic!("{name}: {error}"));
    scan(&file.items)
}

#[derive(Default)]
struct Scanner(Scanned);

impl Scanner {
    fn define(&mut self, name: &syn::Ident) {
        self.0.defined.insert(name.to_string());
    }

    fn import(&mut self, written: &mut Written, tree: &UseTree, is_public: bool) {
        match tree {
            UseTree::Path(path) => {
                written.push(path.ident.to_string());
                self.import(written, &path.tree, is_public);
                written.pop();
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(written, tree, is_public)),
            UseTree::Glob(_) => self.0.globs.push(written.clone()),
            UseTree::Name(name) => self.import_leaf(written, &name.ident, &name.ident, is_public),
            UseTree::Rename(rename) => self.import_leaf(written, &rename.ident, &rename.rename, is_public),
        }
    }

    fn import_leaf(&mut self, prefix: &[String], name: &syn::Ident, alias: &syn::Ident, is_public: bool) {
        let mut target = prefix.to_vec();
        let mut alias = alias.to_string();
        if name == "self" {
            alias = if alias == "self" { prefix.last().cloned().unwrap_or_default() } else { alias };
        } else {
            target.push(name.to_string());
        }
        if !is_public {
            self.0.used.insert(target.clone());
        }
        self.0.imported.insert(alias, target);
    }

    /// Paths in the arguments of a macro, which are tokens to the parser.
    fn scan_tokens(&mut self, tokens: TokenStream) {
        let mut path: Written = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.use_path(&mut path);
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() => colons += 1,
                other => {
                    self.use_path(&mut path);
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.scan_tokens(group.stream());
                    }
                }
            }
        }
        self.use_path(&mut path);
    }

    fn use_path(&mut self, path: &mut Written) {
        if !path.is_empty() {
            self.0.used.insert(std::mem::take(path));
        }
    }
}

impl<'ast> Visit<'ast> for Scanner {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = match item {
            Item::Const(item) => (&item.attrs, Some(&item.ident)),
            Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
            Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
            Item::Static(item) => (&item.attrs, Some(&item.ident)),
            Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            Item::Type(item) => (&item.attrs, Some(&item.ident)),
            Item::Union(item) => (&item.attrs, Some(&item.ident)),
            Item::Impl(item) => (&item.attrs, None),
            Item::Mod(item) => (&item.attrs, None),
            Item::Use(item) => (&item.attrs, None),
            _ => return visit::visit_item(self, item),
        };
        if attributes.iter().any(is_test_only) {
            return;
        }
        if let Some(name) = name {
            self.define(name);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let name = module.ident.to_string();
        match &module.content {
            Some((_, items)) => {
                self.0.inline.insert(name, scan(items));
            }
            None => self.0.children.push(name),
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let is_public = !matches!(item.vis, Visibility::Inherited);
        // `use ::name` is another crate.
        if item.leading_colon.is_none() {
            self.import(&mut Vec::new(), &item.tree, is_public);
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        if path.leading_colon.is_none() {
            self.0.used.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        visit::visit_macro(self, invocation);
        self.scan_tokens(invocation.tokens.clone());
    }

    /// Derive helpers name functions in strings: `#[serde(with = "crate::time")]`.
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let Meta::List(list) = &attribute.meta else { return };
        for token in list.tokens.clone() {
            let TokenTree::Literal(literal) = token else { continue };
            if let Ok(path) = syn::parse_str::<syn::LitStr>(&literal.to_string()).and_then(|text| text.parse::<Path>())
            {
                self.visit_path(&path);
            }
        }
    }
}

/// `#[test]`, or a `#[cfg(…)]` that asks for `test`.
fn is_test_only(attribute: &Attribute) -> bool {
    match &attribute.meta {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("cfg") => {
            let condition = list.tokens.to_string();
            condition == "test" || (condition.starts_with("all") && condition.contains("test"))
        }
        _ => false,
    }
}
