//! The scripts of the repository.

use std::process::Command;

/// Runs a shell script in the repository with these variables; returns its output.
fn run(script: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new("sh");
    command.args(["-euc", script]).current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("CARGO_TARGET_DIR");
    let output = command.envs(variables.iter().copied()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn target_directory_is_that_of_cargo() {
    const SCRIPT: &str = ". scripts/cargo.sh; target_directory";
    for variable in ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR"] {
        assert_eq!(run(SCRIPT, &[(variable, "/tmp/other target")]), "/tmp/other target\n");
    }
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
