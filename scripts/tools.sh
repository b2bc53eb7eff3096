#!/bin/sh
# Makes sure that programs the tests start are there: installs what is missing (packages.sh).
#
#   scripts/tools.sh TOOL...
#
# A TOOL is the name of its Debian package; any of its commands on the PATH will do.
set -eu

missing=
for tool in "$@"; do
    case $tool in
        chromium) commands="${CHROMIUM:-} chromium chromium-browser google-chrome" ;;
        postgresql) commands="/usr/lib/postgresql/*/bin/postgres postgres" ;;
        pgbouncer) commands="pgbouncer /usr/sbin/pgbouncer" ;;
        haproxy) commands="haproxy /usr/sbin/haproxy" ;;
        *) commands=$tool ;;
    esac
    found=
    for command in $commands; do
        if command -v "$command" >/dev/null 2>&1; then found=yes; fi
    done
    if [ -z "$found" ]; then missing="$missing $tool"; fi
done

if [ -n "$missing" ]; then
    # One word per package.
    # shellcheck disable=SC2086
    "$(dirname "$0")/packages.sh" $missing
fi
