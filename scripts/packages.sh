#!/bin/sh
# Installs Debian packages, or says exactly what to do where it cannot.
#
#   scripts/packages.sh PACKAGE...
#
# It installs only as root and with apt-get; nobody is asked for a password.
set -eu

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Missing: $*. These are the Debian names; install them with this system's package manager." >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "Missing: $*. Install with: sudo apt-get install $*" >&2
    exit 1
fi

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing Debian packages: $*"
for attempt in 1 2 3; do
    if apt-get update >"$log" 2>&1 &&
        apt-get install --yes --no-install-recommends "$@" >>"$log" 2>&1; then
        exit 0
    fi
    echo "apt-get failed (attempt $attempt of 3)" >&2
done
tail -n 20 "$log" >&2
exit 1
