#!/bin/bash
# Called by `make setup`: system packages, .venv, the pinned Python packages, and last of all the file $1, which says that .venv is complete.
set -euo pipefail
complete=$1
python=${PYTHON:-python3.11}

# One at a time: killing make leaves this script running. Every child holds the lock too.
exec 9<"$0"
flock -n 9 || { echo "another set-up is at work here: waiting for it"; flock 9; }
newer=1
for file in requirements.txt requirements-dev.txt pyproject.toml "$0"; do [ "$complete" -nt "$file" ] || newer=; done
[ $newer ] && exit

fail() { echo "error: $*" >&2; exit 1; }

# --- Python
if ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    fail "$python is not a working Python 3.11: install it (Debian 12: apt-get install python3.11 python3.11-venv) or name one: make setup PYTHON=/path/to/python3.11"
fi

# --- system packages. Looked for by what they bring: names differ between releases, and other systems have the same things under other names.
libraries=$(PATH=$PATH:/sbin:/usr/sbin ldconfig -p)
library() { [[ $libraries == *"$1"* ]]; }
missing=()
command -v Xvfb >/dev/null || missing+=(xvfb)
command -v xauth >/dev/null || missing+=(xauth)                              # xvfb-run
command -v Xtigervnc >/dev/null || missing+=(tigervnc-standalone-server)     # windows to be looked at from elsewhere, and the tests
{ command -v tigervncpasswd || command -v vncpasswd; } >/dev/null || missing+=(tigervnc-tools)    # their passwords
library libEGL.so.1 || missing+=(libegl1)
library libEGL_mesa.so.0 || missing+=(libegl-mesa0)
library libGL.so.1 || missing+=(libgl1)
library libGLX_mesa.so.0 || missing+=(libglx-mesa0 libgl1-mesa-dri)
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3.11-venv)

install() { # as root, or by sudo where it asks for nothing or somebody is there to answer
    local as=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || return 1
        as=(sudo)
        [ -t 0 ] || sudo -n true 2>/dev/null || return 1
    fi
    local get=("${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    command -v apt-get >/dev/null || return 1
    "${get[@]}" install -y --no-install-recommends "$@" >/dev/null 2>&1 && return   # the package lists that are here may do
    "${get[@]}" update || true                                                      # an unreachable third-party list is not our concern
    "${get[@]}" install -y --no-install-recommends "$@" >/dev/null
}

# --- `make test` calls this once more for a browser, which nothing else needs. Where there is none, the tests of the teacher's page are skipped.
if [ "${2:-}" = browser ]; then
    if ! { command -v chromium && command -v chromedriver; } >/dev/null; then
        echo "installing the system packages chromium chromium-driver"
        install chromium chromium-driver || echo "warning: could not install these system packages: the tests that need a browser will be skipped" >&2
    fi
    touch "$complete"
    exit
fi

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing the system packages ${missing[*]}"
    if ! install "${missing[@]}"; then
        echo "warning: could not install these system packages: as root, run  apt-get install ${missing[*]}" >&2
        case " ${missing[*]} " in *" python3.11-venv "*) fail "without python3.11-venv $python cannot make .venv" ;; esac
        echo "warning: continuing: the five stages do without them, windows (--render) and their tests do not" >&2
    fi
fi

# --- .venv. Without $complete it is the torso of an interrupted set-up, and is made anew.
if [ ! -e "$complete" ]; then
    echo "making .venv"
    rm -rf .venv
    "$python" -m venv .venv
fi
rm -f "$complete"
quiet=(-qq)
[ -t 1 ] && quiet=() # somebody is watching: show how far a download of gigabytes is
pip() { .venv/bin/python -m pip --disable-pip-version-check "${quiet[@]}" "$@"; }
torch=$(grep '^torch==' requirements.txt)
echo "installing $torch"
pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
echo "installing requirements.txt and requirements-dev.txt"
pip install -r requirements.txt -r requirements-dev.txt
touch "$complete"
echo "set-up complete"
