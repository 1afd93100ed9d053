# Sourced by the scripts that need tools from PyPI.

# Installs the requirements in the file $2 into the virtual environment $1. Creates it again when the file has changed.
python_tools() {
    if ! cmp -s "$2" "$1/requirements.txt"; then
        python3 -m venv --clear "$1"
        "$1/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
        cp "$2" "$1/requirements.txt"
    fi
}
