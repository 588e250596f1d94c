//! The source by file: which files use which, and that there is no circle among them.
//!
//! A file uses another if a path in it, in `use` or elsewhere, leads to a name that the other has. A `mod.rs` that hands on a name
//! (`use child::Name`) stands not in between: whoever takes the name from it uses the child. Nor does it use the child itself, if
//! it hands the name on with `pub` and does not say it again. A `mod.rs` with something of its own is a file like any other: what
//! uses its children must not be used by them.

use std::collections::{BTreeMap, BTreeSet};

use crate::layers::{File, files, identifier, top_level};

/// Modules whose files use each other without a circle.
const WITHOUT_CIRCLES: &[&str] = &["ltd", "models", "nn", "ops"];

/// The path of a module that is a file: `ops::matmul` is src/ops/matmul/mod.rs.
type Module = Vec<String>;

/// A path from the crate's root, and the name that `use` gives to what it leads to.
type Named = (Vec<String>, String);

/// A line of code, or a `use` statement.
struct Piece {
    /// The module that it stands in, which may be one within the file.
    at: Module,
    kind: Kind,
    text: String,
}

#[derive(PartialEq)]
enum Kind {
    Code,
    /// For the file itself, or a module within it.
    Use,
    /// For others.
    PubUse,
}

/// What a file says of others.
struct Uses {
    /// Names that `use` brings in: others have them through this file.
    brought: BTreeMap<String, Vec<String>>,
    /// Paths to what it uses.
    paths: Vec<Vec<String>>,
}

fn module_of(file: &File) -> Module {
    let path = file.path.with_extension("");
    let parts = path.iter().map(|part| part.to_string_lossy().into_owned());
    parts.filter(|part| part != "mod").collect()
}

fn pieces(file: &File) -> Vec<Piece> {
    let module = module_of(file);
    let (mut at, mut pieces) = (module.clone(), Vec::new());
    let mut lines = file.code.iter();
    while let Some(line) = lines.next() {
        let declares = line.split(' ').any(|word| word == "mod");
        // rustfmt sees to it that a module within a file begins and ends at the first column.
        if declares && line.ends_with('{') && !line.starts_with(' ') {
            at.push("(within)".to_owned());
        } else if line == "}" {
            at.clone_from(&module);
        }
        let (before, tree) = line.split_once("use ").unwrap_or((line, ""));
        let kind = match before.trim() {
            _ if tree.is_empty() => Kind::Code,
            "" => Kind::Use,
            before if before.starts_with("pub") && !before.contains('{') => Kind::PubUse,
            _ => Kind::Code,
        };
        let mut text = if kind == Kind::Code { line.clone() } else { tree.to_owned() };
        while kind != Kind::Code && !text.contains(';') {
            text += lines.next().map_or(";", String::as_str);
        }
        // A child's declaration says nothing.
        if !(declares && line.ends_with(';')) {
            pieces.push(Piece { at: at.clone(), kind, text });
        }
    }
    pieces
}

/// The paths of a tree as in `use`, below `before`.
fn expand(before: &[String], text: &str) -> Vec<Named> {
    let text = text.trim_start();
    if let Some(list) = text.strip_prefix('{') {
        return top_level(list).iter().flat_map(|item| expand(before, item)).collect();
    }
    let first = if text.starts_with('*') { "*".to_owned() } else { identifier(text) };
    let rest = &text[first.len()..];
    let path = if first == "self" { before.to_vec() } else { [before, std::slice::from_ref(&first)].concat() };
    let inner = rest.strip_prefix("::").filter(|inner| !inner.starts_with('<'));
    match (inner, rest.trim_start().strip_prefix("as ")) {
        _ if first.is_empty() => Vec::new(),
        (Some(inner), _) => expand(&path, inner),
        (None, Some(name)) => vec![(path, identifier(name.trim_start()))],
        (None, None) => vec![(path.clone(), path.last().cloned().unwrap_or_default())],
    }
}

/// The paths in a piece that begin at the crate's root, at its module or above it, or with one of `children`.
fn paths(piece: &Piece, children: &BTreeSet<String>) -> Vec<Named> {
    let code = &piece.text;
    let mut found = Vec::new();
    for (end, _) in code.match_indices("::") {
        let start = code[..end].rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).map_or(0, |at| at + 1);
        let first = &code[start..end];
        // Only where a path begins, and not the bounds of a visibility.
        if first.contains("::") || code[..start].ends_with("(in ") {
            continue;
        }
        let mut base = if first == "crate" { Module::new() } else { piece.at.clone() };
        let mut rest = &code[start..];
        if ["crate", "self"].contains(&first) {
            rest = &code[end + 2..];
        } else if first != "super" && !children.contains(first) {
            continue;
        }
        while let Some(above) = rest.strip_prefix("super::") {
            base.pop();
            rest = above;
        }
        found.extend(expand(&base, rest));
    }
    found
}

/// What a file says of others; `children` are the modules below it that are files.
fn uses(file: &File, children: &BTreeSet<String>) -> Uses {
    let (module, none) = (module_of(file), BTreeSet::new());
    let (mut uses, mut handed_on) = (Uses { brought: BTreeMap::new(), paths: Vec::new() }, Vec::new());
    let mut words = BTreeSet::new();
    for piece in pieces(file) {
        let is_own = piece.at == module;
        let named = paths(&piece, if is_own { children } else { &none });
        if is_own && piece.kind != Kind::Code {
            uses.brought.extend(named.iter().map(|(path, name)| (name.clone(), path.clone())));
        }
        match piece.kind {
            Kind::PubUse => handed_on.extend(named),
            Kind::Use => uses.paths.extend(named.into_iter().map(|(path, _)| path)),
            Kind::Code => {
                uses.paths.extend(named.into_iter().map(|(path, _)| path));
                words.extend(piece.text.split(|c: char| !(c.is_alphanumeric() || c == '_')).map(str::to_owned));
            }
        }
    }
    uses.paths.extend(handed_on.into_iter().filter(|(_, name)| words.contains(name)).map(|(path, _)| path));
    uses
}

/// The file that a path from the crate's root leads to: the one that has the name, not those that hand it on.
fn file_of(path: &[String], files: &BTreeMap<Module, Uses>) -> Module {
    let mut at = Module::new();
    for (i, part) in path.iter().enumerate() {
        let inner = [&at[..], std::slice::from_ref(part)].concat();
        if files.contains_key(&inner) {
            at = inner;
        } else if let Some(target) = files.get(&at).and_then(|uses| uses.brought.get(part)) {
            return file_of(&[target, &path[i + 1..]].concat(), files);
        } else {
            break;
        }
    }
    at
}

/// Which files use which others.
fn graph(files: &[File]) -> BTreeMap<Module, BTreeSet<Module>> {
    let modules: Vec<Module> = files.iter().map(module_of).collect();
    let children = |of: &Module| -> BTreeSet<String> {
        let inside = modules.iter().filter(|module| module.len() == of.len() + 1 && module.starts_with(of));
        inside.filter_map(|module| module.last().cloned()).collect()
    };
    let all: BTreeMap<Module, Uses> =
        files.iter().zip(&modules).map(|(file, module)| (module.clone(), uses(file, &children(module)))).collect();
    let used = |module: &Module, uses: &Uses| {
        uses.paths.iter().map(|path| file_of(path, &all)).filter(|used| used != module).collect()
    };
    all.iter().map(|(module, uses)| (module.clone(), used(module, uses))).collect()
}

/// A circle of files that use one another, if there is one.
fn circle(mut graph: BTreeMap<Module, BTreeSet<Module>>) -> Option<Vec<String>> {
    loop {
        let left: BTreeSet<Module> = graph.keys().cloned().collect();
        graph.retain(|_, used| !used.is_disjoint(&left));
        if graph.len() == left.len() {
            break;
        }
    }
    // Each that is left uses another that is left, and following them leads around.
    let mut way = vec![graph.keys().next()?];
    loop {
        let next = graph[way[way.len() - 1]].iter().find(|used| graph.contains_key(*used))?;
        let seen = way.iter().position(|module| *module == next);
        way.push(next);
        if let Some(seen) = seen {
            return Some(way[seen..].iter().map(|module| module.join("::")).collect());
        }
    }
}

#[test]
fn files_of_a_module_use_each_other_without_a_circle() {
    let graph = graph(&files());
    for top in WITHOUT_CIRCLES {
        let mut inside = graph.clone();
        inside.retain(|module, _| module[0] == *top);
        let found = circle(inside);
        let way = found.as_deref().unwrap_or_default().join(" -> ");
        assert!(found.is_none(), "files use each other in a circle (what they share goes into one of its own): {way}");
    }
}

#[test]
fn circles_are_found_through_names_that_are_handed_on() {
    let file = |path: &str, code: &str| {
        let code = code.lines().map(str::to_owned).collect();
        File { path: path.into(), module: "a".to_owned(), code }
    };
    let of = |files: &[File]| circle(graph(files)).map(|circle| circle.join(" "));
    let b = || file("a/b.rs", "use super::{\n    g,\n};\npub fn f() { g() }");
    // A mod.rs that only hands on.
    let (hands_on, c) = (file("a/mod.rs", "mod b;\nmod c;\npub use b::f;\nuse c::g;"), file("a/c.rs", "pub fn g() {}"));
    assert_eq!(of(&[hands_on, b(), c]), None);
    // One that has what its child uses.
    let has = file("a/mod.rs", "mod b;\npub use b::f;\nfn g() { f() }");
    assert_eq!(of(&[has, b()]).as_deref(), Some("a a::b a"));
    // Two children.
    let (hands_on, c) =
        (file("a/mod.rs", "mod b;\nmod c;\npub use b::f;\nuse c::g;"), file("a/c.rs", "fn g() { crate::a::f(); }"));
    assert_eq!(of(&[hands_on, b(), c]).as_deref(), Some("a::c a::b a::c"));
    // What a module within a file has above it is the file.
    let within = file("a/mod.rs", "mod b;\nfn g() { b::f() }\nmod tests {\n    use super::g;\n}");
    assert_eq!(of(&[within, file("a/b.rs", "mod tests {\n    use super::f;\n}")]), None);
}
