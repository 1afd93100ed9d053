# Sourced by other scripts. Where cargo builds depends on its configuration: CARGO_TARGET_DIR, `build.target-dir`,
# `build.target`.

# Runs cargo with these arguments and sets `program` to the path of `mortise` that it has built.
build_program() {
    program=$(cargo "$@" --message-format=json-render-diagnostics |
        sed -n 's|.*"executable":"\([^"]*/mortise\)".*|\1|p' | tail -1)
    [ -n "$program" ] || exit 1
}
