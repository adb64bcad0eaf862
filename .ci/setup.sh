#!/bin/sh
# Set up what a target of the Makefile needs: system packages, the virtual environment, Python packages.
#
#     sh .ci/setup.sh demo|test|test-long|check|bench|dist
#
# Says nothing, and asks neither apt nor pip, when all is there.
# In the environment, all optional:
#     VENV                where the virtual environment is (.venv)
#     PYTHON              the Python that makes it (the first one found from 3.10 on)
#     SYSTEM_PACKAGES=no  never touch the machine's packages; what is missing is missing
#
# The machine gets, through apt-get: libfuse 2 and libfuse 3 (one binding each), fusermount3 (mounting as a user;
# it serves libfuse 2 too), the tools that the tests run. Never the package `fuse`: it removes `fuse3`.
# Python packages are installed again when setup.cfg or pyproject.toml changed, or the checkout was moved.
set -eu
cd "$(dirname "$0")/.."

# What the tests and benchmarks run, as command:package; either of the two being there is enough.
TEST_TOOLS="rsync:rsync getfattr:attr"
BENCH_TOOLS="curl:curl"
LONG_TOOLS="icoFoam:openfoam openfoam-examples:openfoam-examples"

target=$1
system=${SYSTEM_PACKAGES:-yes}
case $target in
demo) extra=demo fuse=yes tools='' ;;
test) extra=test fuse=yes tools=$TEST_TOOLS ;;
test-long) extra=test fuse=yes tools="$TEST_TOOLS $LONG_TOOLS" ;;
check) extra=dev fuse=no tools='' ;;
bench) extra=bench fuse=yes tools=$BENCH_TOOLS ;;
dist) extra='' fuse=no tools='' ;;
*) echo "usage: sh .ci/setup.sh demo|test|test-long|check|bench|dist" >&2 && exit 2 ;;
esac
# fusermount3 and ldconfig may be missing from a user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin
VENV=${VENV:-.venv}
root=$(pwd)
inside=$VENV/.rescalefs # our notes in the virtual environment, one file each

say() { echo "rescalefs: $*" >&2; }
fail() { say "$*" && exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }
note() { cat "$inside/$1" 2>/dev/null || true; }

# --- Python -------------------------------------------------------------------------------------------------

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

find_python() {
    for name in python3 python3.13 python3.12 python3.11 python3.10; do
        if has "$name" && is_new_enough "$name"; then echo "$name" && return; fi
    done
}

# Our own environment, made for this checkout and able to run: then no Python needs to be looked for.
venv_is_good() {
    [ "$(note checkout)" = "$root" ] && is_new_enough "$VENV/bin/python" || return 1
    [ -z "${PYTHON:-}" ] || [ "$(note python)" = "$(identity "$PYTHON")" ]
}
identity() { "$1" -c 'import sys; print(sys.base_prefix, *sys.version_info[:3])' 2>/dev/null || true; }

if venv_is_good; then
    make_venv=no python=$VENV/bin/python
else
    make_venv=yes python=${PYTHON:-$(find_python)}
    [ -n "$python" ] || fail "Python 3.10 or later is needed; install python3, or say where it is: make $target PYTHON=/path/to/python3"
    has "$python" || fail "there is no program '$python'; PYTHON must name a Python, 3.10 or later"
    is_new_enough "$python" || fail "$python is $("$python" -V 2>&1), 3.10 or later is needed; name a newer one with PYTHON="
fi

digest=$(cat setup.cfg pyproject.toml | cksum)
packages_are_current() { [ $make_venv = no ] && [ "$(note "extra-$extra")" = "$digest" ]; }

# --- System packages ----------------------------------------------------------------------------------------

# The first package of these names that apt knows, else the last name (apt finds most old names by "Provides").
package() {
    for name; do
        if LC_ALL=C apt-cache policy "$name" 2>/dev/null | grep -q 'Candidate: [^(]'; then break; fi
    done
    echo "$name"
}

# The loader's own answer, as ctypes gives it to both bindings; two words of 0 or 1.
libraries() { "$python" -c 'from ctypes.util import find_library as f; print(*(int(bool(f(n))) for n in ("fuse", "fuse3")))'; }

# Set `needed` (without these the target cannot work) and `wanted` (with these it works better), as package names.
look() {
    needed='' wanted=''
    if [ $make_venv = yes ] && ! "$python" -c 'import ensurepip' >/dev/null 2>&1; then
        minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        needed="$needed $(package "python$minor-venv" python3-venv)"
    fi
    [ "$system" != no ] || return 0
    for tool in $tools; do
        has "${tool%%:*}" || dpkg -s "${tool#*:}" >/dev/null 2>&1 || needed="$needed ${tool#*:}"
    done
    [ "$fuse" = yes ] || return 0
    found=$(libraries)
    [ "${found% *}" = 1 ] || wanted="$wanted $(package libfuse2t64 libfuse2)"
    [ "${found#* }" = 1 ] || wanted="$wanted $(package libfuse3-4 libfuse3-3)"
    has fusermount3 || wanted="$wanted fuse3"
    case $target in
    test*) needed="$needed$wanted" wanted='' ;; # every test of a mount runs on both bindings
    *)
        case $found in *1*) has fusermount3 || has fusermount || [ "$(id -u)" = 0 ] ;; *) false ;; esac ||
            needed="$needed$wanted" wanted=''
        ;;
    esac
    # A competitor to measure; without it, its figures are missing.
    [ "$target" != bench ] || has httpdirfs || wanted="$wanted httpdirfs"
}

# Install packages; one that apt refuses does not keep the others away, and nothing is ever removed.
install() {
    run=''
    if [ "$(id -u)" != 0 ]; then
        has sudo || return 0
        run=sudo
        if [ -z "$needed" ]; then # no reason to ask for a password
            run="sudo -n"
            $run true 2>/dev/null || return 0
        fi
    fi
    say "installing with ${run:+$run }apt-get:$needed$wanted"
    apt_get() { $run env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" >/dev/null; }
    apt_get update || say "apt-get update failed, going on with the package lists that are there"
    look # newer lists may know other names
    # shellcheck disable=SC2086 # a list of names
    set -- $needed $wanted
    apt_get install -y --no-install-recommends --no-remove "$@" || for name; do
        apt_get install -y --no-install-recommends --no-remove "$name" || true
    done
    look
}

look
if [ -n "$needed" ] || { [ -n "$wanted" ] && ! packages_are_current; }; then
    if [ "$system" != no ] && has apt-get; then install; fi
    if [ -n "$needed" ]; then
        # Without a virtual environment nothing goes; without the rest, something may.
        case $needed in *venv*) hint='' ;; *) hint=" (or go without, as far as that goes: SYSTEM_PACKAGES=no)" ;; esac
        has apt-get || fail "missing, by the names of Debian's packages:$needed; install them with this system's package manager$hint"
        fail "packages are missing; an administrator must run: apt-get update && apt-get install$needed$hint"
    fi
    [ -z "$wanted" ] || say "not installed:$wanted; going on without"
fi

# --- The virtual environment and the Python packages ------------------------------------------------------------

if [ $make_venv = yes ]; then
    # One that we made for another Python or another place goes; a stranger's is only added to.
    [ ! -e "$inside/made" ] || rm -rf "$VENV"
    if [ ! -e "$VENV" ]; then
        mkdir -p "$inside"
        touch "$inside/made"
    elif [ ! -e "$VENV/pyvenv.cfg" ]; then
        fail "$VENV exists and is no virtual environment; name another place with VENV="
    fi
    say "making a virtual environment in $VENV with $python"
    "$python" -m venv "$VENV" || fail "$python cannot make a virtual environment, see above"
    mkdir -p "$inside"
    identity "$python" >"$inside/python"
    echo "$root" >"$inside/checkout"
fi
if [ -n "$extra" ] && [ "$(note "extra-$extra")" != "$digest" ]; then
    say "installing Python packages for 'make $target' in $VENV"
    # fusepy has only an old-style source package: the modern way to build it is the one that works everywhere.
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_USE_PEP517=1 \
        "$VENV/bin/python" -m pip install -q -e ".[$extra]" || fail "pip could not install the packages, see above"
    # An extra brings those that it contains.
    case $extra in dev) brought="dev test demo" ;; test | bench) brought="$extra demo" ;; *) brought=$extra ;; esac
    for name in $brought; do
        echo "$digest" >"$inside/extra-$name"
    done
fi
