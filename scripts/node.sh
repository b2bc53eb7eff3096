#!/bin/sh
# Says what is missing when there is no Node.js that the tests and checks work with.
set -eu

oldest=20
major=$(node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0)
if [ "$major" -lt "$oldest" ] || ! command -v npm >/dev/null 2>&1; then
    echo "Tests and checks need Node.js $oldest or newer with npm; node is: $(node -v 2>&1 || true)" >&2
    echo "The server does not: make run needs only Python." >&2
    exit 1
fi
