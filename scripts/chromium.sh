# Sourced by other scripts. Finds Chromium and its driver, and installs them if it runs as root on Debian. The tests of
# the console start them.

if ! command -v chromium >/dev/null || ! command -v chromedriver >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "Chromium is not installed. Install it, for example with: sudo apt-get install chromium chromium-driver" >&2
        exit 1
    fi
    echo "Chromium is not installed: installing the Debian packages" >&2
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium chromium-driver >&2
fi
