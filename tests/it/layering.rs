//! Rules about the source tree that the compiler doesn't check: module dependencies, file sizes, parameters of SQL
//! statements, and a test and a document page for each operation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mortise::operations::OPERATIONS;

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// Each operation has tests, at least one of them of an error, and a page in the documents.
#[test]
fn every_operation_has_tests_and_a_page() {
    let (main, compatibility, readme) =
        (read("tests/it/operations/mod.rs"), read("docs/compatibility.md"), read("README.md"));
    for operation in OPERATIONS {
        let name = operation.name;
        assert!(main.contains(&format!("mod {name};")), "{name} has no tests");
        assert!(read(&format!("tests/it/operations/{name}.rs")).contains("_error("), "{name} has no test of a refusal");
        let page = compatibility.split("\n## ").find(|page| page.starts_with(&format!("{name}\n")));
        let page = page.unwrap_or_else(|| panic!("{name} has no page in docs/compatibility.md"));
        for alias in operation.aliases {
            assert!(page.contains(&format!("`{alias}`")), "{alias} isn't mentioned in the page of {name}");
        }
        assert!(readme.contains(&format!("`{name}`")), "the README doesn't mention {name}");
    }
}

/// Modules depend on each other in one direction: the graph of their `use` paths has no cycle.
#[test]
fn modules_depend_in_one_direction() {
    let graph = dependencies();
    assert!(graph.len() > 80, "{graph:?}");
    let reachable: BTreeMap<&str, BTreeSet<&str>> =
        graph.keys().map(|module| (module.as_str(), reachable(&graph, module))).collect();
    let in_cycle: Vec<&str> =
        graph.keys().map(String::as_str).filter(|module| reachable[module].contains(module)).collect();
    assert!(in_cycle.is_empty(), "modules in an import cycle: {in_cycle:?}");
}

/// The layers from the bottom to the top, as in docs/architecture.md. A module belongs to the layer with the longest
/// matching prefix.
const LAYERS: [(&str, &[&str]); 6] = [
    (
        "basics",
        &[
            "config",
            "dialect",
            "error",
            "http::client_addr",
            "http::document",
            "http::params",
            "http::path",
            "input",
            "money",
            "number",
            "pin",
            "spool",
            "telemetry",
            "xml",
        ],
    ),
    (
        "services",
        &[
            "accounts",
            "audit",
            "auth",
            "db",
            "jobs::stock_vacuum",
            "locks",
            "mail",
            "managed_postgres",
            "mor_import",
            "operations::spec",
            "server::limits",
            "store",
        ],
    ),
    ("request core", &["auth::admission", "http::context", "idempotency", "sales", "state"]),
    ("operations", &["back_office", "operations"]),
    ("HTTP", &["console", "http"]),
    ("program", &["cli", "jobs", "server"]),
];

/// Every module belongs to a layer, and uses no module of a higher layer.
#[test]
fn modules_use_no_higher_layer() {
    let layer = |module: &str| {
        let matching = LAYERS.iter().enumerate().flat_map(|(layer, (_, prefixes))| {
            let is_prefix = |prefix: &&&str| module == **prefix || module.starts_with(&format!("{prefix}::"));
            prefixes.iter().filter(is_prefix).map(move |prefix| (prefix.len(), layer))
        });
        matching.max().unwrap_or_else(|| panic!("{module} has no layer")).1
    };
    let graph = dependencies();
    for (module, uses) in &graph {
        for used in uses {
            let (own, other) = (layer(module), layer(used));
            assert!(own >= other, "{module} ({}) uses {used} ({})", LAYERS[own].0, LAYERS[other].0);
        }
    }
}

/// Every file below `src` is declared as a module by its parent. A file that isn't declared isn't compiled.
#[test]
fn every_source_file_is_declared() {
    for (module, file) in modules() {
        let (parent, name) = module.rsplit_once("::").unwrap_or(("", &module));
        let parent = match parent {
            "" => PathBuf::from("src/lib.rs"),
            parent => modules()[parent].clone(),
        };
        let declared = std::fs::read_to_string(root().join(&parent)).unwrap();
        assert!(
            declared.contains(&format!("mod {name};")),
            "{} isn't declared in {}",
            file.display(),
            parent.display()
        );
    }
}

/// A source file has at most 400 lines, and `src` has at most 12 files directly in it.
#[test]
fn source_files_are_small() {
    for file in modules().values() {
        let lines = std::fs::read_to_string(root().join(file)).unwrap().lines().count();
        assert!(lines <= 400, "{} has {lines} lines", file.display());
    }
    let in_root =
        std::fs::read_dir(root().join("src")).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file());
    assert!(in_root.count() <= 12, "more than 12 files directly in src");
}

/// The highest number of a positional parameter in a statement. A statement with more values reads them by name: from a
/// `jsonb` parameter that is a serialized struct, or from arrays.
const POSITIONAL_PARAMETERS_MAX: u32 = 8;

/// A statement has few positional parameters. A parameter is a `$` before digits: the code has no
/// other text of this kind.
#[test]
fn statements_have_few_positional_parameters() {
    let mut statement_files = 0;
    for file in files_below_src(&["rs", "sql"]) {
        let text = std::fs::read_to_string(root().join(&file)).unwrap();
        let numbers = text.split('$').skip(1).filter_map(|rest| {
            let digits = rest.find(|char: char| !char.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
            digits.parse::<u32>().ok()
        });
        let Some(highest) = numbers.max() else { continue };
        statement_files += 1;
        assert!(highest <= POSITIONAL_PARAMETERS_MAX, "{} has the parameter ${highest}", file.display());
    }
    assert!(statement_files > 30, "{statement_files}");
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the modules of the library by path (`http::router`), with their files relative to the repository root.
fn modules() -> BTreeMap<String, PathBuf> {
    let mut modules = BTreeMap::new();
    for path in files_below_src(&["rs"]) {
        let module = path.with_extension("").strip_prefix("src").unwrap().to_str().unwrap().replace('/', "::");
        let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
        if !["lib", "main"].contains(&module.as_str()) {
            modules.insert(module, path);
        }
    }
    modules
}

/// Returns the files below `src` with one of the extensions, relative to the repository root.
fn files_below_src(extensions: &[&str]) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root().join(&folder)).unwrap().map(|entry| entry.unwrap()) {
            let path = folder.join(entry.file_name());
            if entry.path().is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extensions.iter().any(|known| extension == *known)) {
                files.push(path);
            }
        }
    }
    files
}

/// Returns the modules that each module uses. Uses of an own ancestor aren't counted: the parent declares the module,
/// and the modules in a folder share its items.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let modules = modules();
    let mut graph = BTreeMap::new();
    for (module, file) in &modules {
        let text = std::fs::read_to_string(root().join(file)).unwrap();
        let code: String = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
        let mut uses = BTreeSet::new();
        for path in paths(&code, module) {
            let named = (1..=path.len()).rev().map(|length| path[..length].join("::"));
            uses.extend(named.into_iter().find(|name| modules.contains_key(name)));
        }
        uses.retain(|other| other != module && !module.starts_with(&format!("{other}::")));
        graph.insert(module.clone(), uses);
    }
    graph
}

/// Returns the paths in the code of a module that start with `crate`, `self` or `super`, relative to the crate root.
fn paths(code: &str, module: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for start in ["crate::", "self::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|char| !char.is_alphanumeric() && char != '_' && char != ':') {
                let statement = code[at..].split(';').next().unwrap();
                expand(&[], statement, &mut paths);
            }
        }
    }
    let own: Vec<&str> = module.split("::").collect();
    for path in &mut paths {
        let mut base: Vec<String> = match path[0].as_str() {
            "crate" => Vec::new(),
            _ => own.iter().map(ToString::to_string).collect(),
        };
        let mut rest = path.as_slice();
        while let [first, others @ ..] = rest
            && ["crate", "self", "super"].contains(&first.as_str())
        {
            if first == "super" {
                base.pop();
            }
            rest = others;
        }
        base.extend_from_slice(rest);
        *path = base;
    }
    paths
}

/// Adds all paths of a `use` tree, or the single path at the start of other code.
fn expand(prefix: &[String], tree: &str, paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim_start();
    let mut path = prefix.to_vec();
    let mut rest = tree;
    loop {
        let name: String = rest.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
        rest = &rest[name.len()..];
        if !name.is_empty() {
            path.push(name);
        }
        match rest.strip_prefix("::") {
            Some(after) => rest = after,
            None => break,
        }
    }
    match rest.strip_prefix('{') {
        Some(inner) => branches(inner).into_iter().for_each(|branch| expand(&path, branch, paths)),
        None => paths.push(path),
    }
}

/// Returns the comma-separated parts of a `use` group, up to its closing brace.
fn branches(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, char) in text.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => {
                parts.push(&text[start..at]);
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}

fn reachable<'a>(graph: &'a BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = graph[from].iter().map(String::as_str).collect();
    while let Some(module) = next.pop() {
        if seen.insert(module) {
            next.extend(graph[module].iter().map(String::as_str));
        }
    }
    seen
}
