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
apt() { apt-get --option Acquire::Retries=3 --option DPkg::Lock::Timeout=120 "$@" >>"$log" 2>&1; }
if ! { apt update && apt install --yes --no-install-recommends "$@"; }; then
    tail -n 20 "$log" >&2
    exit 1
fi
