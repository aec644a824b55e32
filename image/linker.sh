#!/bin/sh
# The linker that cargo uses here: the system's C compiler, installed first where it is missing, so
# that a machine with nothing but rustup and git can build `image` (which installs everything else).
set -eu
if ! command -v cc > /dev/null 2>&1; then
    # Several linkers may start at once; one installs, the others wait for it.
    lock="${TMPDIR:-/tmp}/aios-linker-$(id -u).lock"
    exec 9> "$lock"
    flock 9
    if ! command -v cc > /dev/null 2>&1; then
        { echo "Installing a C compiler (gcc, libc6-dev) …" > /dev/tty; } 2> /dev/null || true
        as_root=""
        [ "$(id -u)" -eq 0 ] || as_root="sudo"
        $as_root apt-get update -qq >&2
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends gcc libc6-dev >&2
    fi
    exec 9>&-
fi
exec cc "$@"
