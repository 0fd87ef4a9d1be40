#!/bin/sh
# Prepares a bare machine for `make`: prints the path of a uv to use on stdout, everything else on stderr.
# An existing uv is used; else one goes into .uv/, a virtual environment of this checkout.
set -eu
cd "$(dirname "$0")/.."

say() { echo "$*" >&2; }

as_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

apt_install() {
    say "Installing $* (apt-get)"
    { DEBIAN_FRONTEND=noninteractive apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >&2
}

find_python() {
    for candidate in python3.13 python3.12 python3.11 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "Error: Python 3.11, 3.12 or 3.13 is needed and none was found."
    say "  Install one (Debian 12: apt-get install python3 python3-venv), then run this again."
    exit 1
}

ensure_uv() {
    if command -v uv >/dev/null 2>&1; then
        command -v uv
        return
    fi
    if ! [ -x .uv/bin/uv ]; then
        python=$(find_python)
        if ! "$python" -c 'import ensurepip' 2>/dev/null; then
            if as_root; then
                apt_install python3-venv
            else
                say "Error: uv is not installed, and $python can't make a virtual environment for it (no ensurepip)."
                say "  Install one of the two: https://docs.astral.sh/uv, or as root: apt-get install python3-venv"
                exit 1
            fi
        fi
        say "Installing uv into .uv/ (a virtual environment of this checkout)"
        "$python" -m venv .uv
        .uv/bin/python -m pip install -q --disable-pip-version-check uv >&2
    fi
    echo "$PWD/.uv/bin/uv"
}

# Camera images on a machine without a GPU are drawn by OSMesa.
ensure_gl() {
    # Where Debian has it is not on an ordinary user's PATH.
    if PATH="$PATH:/sbin:/usr/sbin" ldconfig -p 2>/dev/null | grep -qE 'libOSMesa\.so|libEGL\.so'; then
        return
    fi
    if as_root; then
        apt_install libosmesa6 || say "Note: libosmesa6 could not be installed. Camera images will not be available."
    else
        say "Note: no software OpenGL library was found, so camera images are not available; everything else works."
        say "  To have them: sudo apt-get install libosmesa6"
    fi
}

uv=$(ensure_uv)
ensure_gl
echo "$uv"
