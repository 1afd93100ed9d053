# Sourced by other scripts. Finds the programs of PostgreSQL, and installs them if it runs as root on Debian. The
# variable POSTGRES_BIN is the absolute path of another directory of programs; tests and servers use it too.
# Sets `bin`, the directory of the programs (postgres, initdb, pg_ctl), and `as`, a command prefix: root must run
# PostgreSQL as the user postgres.

newest_postgres() {
    for candidate in "$(dirname "$(readlink -f "$(command -v initdb)" 2>/dev/null)" 2>/dev/null)" \
        "$(pg_config --bindir 2>/dev/null)" \
        $(ls -d /usr/lib/postgresql/*/bin /opt/homebrew/opt/postgresql*/bin /usr/local/opt/postgresql*/bin 2>/dev/null | sort -rV); do
        if [ -x "$candidate/initdb" ] && [ -x "$candidate/postgres" ]; then
            echo "$candidate"
            return
        fi
    done
}

bin=${POSTGRES_BIN:-$(newest_postgres)}
if [ -z "$bin" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "PostgreSQL is not installed. Install it, for example with: sudo apt-get install postgresql" >&2
        exit 1
    fi
    echo "PostgreSQL is not installed: installing the Debian package" >&2
    # The scripts start their own clusters: the package must not create one.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql >&2
    bin=$(newest_postgres)
fi

as=
if [ "$(id -u)" = 0 ]; then
    as="setpriv --reuid=postgres --regid=postgres --clear-groups"
fi
for program in postgres initdb pg_ctl; do
    if ! (cd / && $as "$bin/$program" --version >/dev/null); then
        echo "$bin/$program cannot be run${as:+ by the user postgres}" >&2
        exit 1
    fi
done
