//! The house rules that a compiler can't see.

use std::path::Path;

use mortise::operations::OPERATIONS;

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// An operation comes with its tests, refusals among them, and its page in the documents.
#[test]
fn no_operation_stands_alone() {
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

/// A module uses those before it, never one behind it.
#[test]
fn modules_use_each_other_in_one_direction() {
    const ORDER: [&str; 33] = [
        "number",
        "money",
        "document",
        "dialect",
        "fault",
        "params",
        "signature",
        "config",
        "log",
        "figures",
        "trace",
        "directory",
        "passwords",
        "audit",
        "client",
        "guessing",
        "turns",
        "load",
        "mail",
        "store",
        "app",
        "page",
        "call",
        "caller",
        "api",
        "openapi",
        "reply",
        "watch",
        "routes",
        "line",
        "connections",
        "server",
        "admin",
    ];
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (place, module) in ORDER.iter().enumerate() {
        for file in files(&source, module) {
            let text = std::fs::read_to_string(&file).unwrap();
            for used in text
                .split("crate::")
                .skip(1)
                .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap())
            {
                if let Some(other) = ORDER.iter().position(|module| *module == used) {
                    assert!(other <= place, "{} uses {used}, which comes after it", file.display());
                }
            }
        }
    }
}

fn files(source: &Path, module: &str) -> Vec<std::path::PathBuf> {
    let mut files = vec![source.join(format!("{module}.rs"))];
    let mut folders = vec![source.join(module)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
        }
    }
    files.retain(|file| file.exists());
    assert!(!files.is_empty(), "there is no module {module}");
    files
}
