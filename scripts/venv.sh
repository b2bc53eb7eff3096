#!/bin/sh
# Makes the virtual environment DIR, unless there is a working one already.
#
#   scripts/venv.sh DIR [PYTHON]
#
# PYTHON names the interpreter; without it the first of a list that is new enough is taken.
# A candidate is run, not only looked up: a version manager's shim may be there and not work.
set -eu

venv=$1
wanted=${2:-}
new_enough='import sys; sys.exit(sys.version_info < (3, 11))'

is_new_enough() { "$1" -c "$new_enough" >/dev/null 2>&1; }

if is_new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi

if [ -n "$wanted" ]; then
    is_new_enough "$wanted" || {
        echo "PYTHON=$wanted is not a working Python 3.11 or newer." >&2
        exit 1
    }
    python=$wanted
else
    python=
    for candidate in python3.13 python3.12 python3.11 python3 python; do
        if is_new_enough "$candidate"; then
            python=$candidate
            break
        fi
    done
    if [ -z "$python" ]; then
        echo "Roomful needs Python 3.11 or newer and found none. If one is installed elsewhere," >&2
        echo "name it: make PYTHON=/path/to/python3 ..." >&2
        exit 1
    fi
fi

# Debian splits ensurepip from the interpreter: its package has the version in its name.
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    "$(dirname "$0")/packages.sh" "python$version-venv"
fi

echo "creating $venv with $("$python" -V)"
rm -rf "$venv"
"$python" -m venv "$venv"
