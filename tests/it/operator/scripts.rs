//! The scripts of the repository.

use std::process::Command;

/// Runs a shell script in the repository; returns its output.
fn run(script: &str) -> String {
    let mut command = Command::new("sh");
    let output = command.args(["-euc", script]).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn program_is_where_cargo_has_built_it() {
    const SCRIPT: &str = r#". scripts/cargo.sh
        cargo() { echo '{"executable":null}'; echo '{"executable":"/tmp/other target/debug/mortise","fresh":true}'; }
        build_program build
        printf %s "$program""#;
    assert_eq!(run(SCRIPT), "/tmp/other target/debug/mortise");
}

/// A script that runs the program asks cargo for its path.
#[test]
fn scripts_name_no_program_below_target() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts")).unwrap() {
        let path = entry.unwrap().path();
        let script = std::fs::read_to_string(&path).unwrap();
        for line in script.lines().filter(|line| !line.starts_with('#')) {
            assert!(
                !line.contains("/release/mortise") && !line.contains("/debug/mortise"),
                "{}: {line}",
                path.display()
            );
        }
    }
}
