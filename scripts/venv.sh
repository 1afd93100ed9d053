# Sourced by the scripts that need tools from PyPI: a directory for them, made anew when what they require has changed.

# $1: the directory, $2: the file of requirements.
python_tools() {
    if ! cmp -s "$2" "$1/requirements.txt"; then
        python3 -m venv --clear "$1"
        "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
        cp "$2" "$1/requirements.txt"
    fi
}
