# Sourced by other scripts. Finds the programs of MariaDB, and installs them if it runs as root on Debian. The tests of
# `mortise import` start their own server; the package's service is not used.

PATH=$PATH:/usr/sbin
if ! command -v mariadbd >/dev/null; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "MariaDB is not installed. Install it, for example with: sudo apt-get install mariadb-server" >&2
        exit 1
    fi
    echo "MariaDB is not installed: installing the Debian package" >&2
    apt-get update -q >&2
    # The package starts a service unless a policy forbids it.
    policy=/usr/sbin/policy-rc.d
    created_policy=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        created_policy=$policy
    fi
    installed=0
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends mariadb-server >&2 || installed=$?
    [ -z "$created_policy" ] || rm -f "$created_policy"
    [ "$installed" = 0 ] || exit "$installed"
fi
