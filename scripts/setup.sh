#!/bin/sh
# Make .venv (and install the system packages that are missing) for one of two purposes:
#   setup.sh run   what the main job needs
#   setup.sh dev   what the tests and the linters need, too
# Does nothing when the environment is already there and its inputs have not changed.
set -eu

purpose=${1:-run}
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }

# -- system packages ---------------------------------------------------------------------------

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        return 1
    fi
}

packages=""
need() { # PROGRAM PACKAGE...
    program=$1
    shift
    command -v "$program" >/dev/null 2>&1 || packages="$packages $*"
}

python=""
for candidate in python3.11 python3.12 python3.13 python3; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
[ -n "$python" ] || packages="$packages python3"
if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    packages="$packages python3-venv"
fi
need cc gcc libc6-dev
need qemu-system-arm qemu-system-arm
if [ "$purpose" = dev ]; then
    need arm-none-eabi-gcc gcc-arm-none-eabi
    find /usr/lib/arm-none-eabi -name rdimon.specs 2>/dev/null | grep -q . ||
        packages="$packages libnewlib-arm-none-eabi"
    [ -e /usr/aarch64-linux-gnu/lib/libstdc++.so.6 ] ||
        packages="$packages libc6-arm64-cross libstdc++6-arm64-cross"
    need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    need cmake cmake
    [ -e /usr/include/android/nativehelper/jni.h ] || packages="$packages android-libnativehelper-dev"
    need g++ g++
    need qemu-aarch64 qemu-user # not qemu-user-static: only this one takes plug-ins
    need chromium chromium
    [ -x /usr/sbin/sshd ] || need sshd openssh-server # transports are tested against real ones
    need ssh openssh-client
    need adb adb
    ls /etc/OpenCL/vendors/*.icd >/dev/null 2>&1 ||
        packages="$packages pocl-opencl-icd ocl-icd-libopencl1"
fi
if [ -n "$packages" ]; then
    say "installing system packages:$packages"
    if command -v apt-get >/dev/null 2>&1; then
        # shellcheck disable=SC2086
        { as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
            as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -y -qq --no-install-recommends $packages; } >&2 ||
            say "could not install$packages; what needs them will say so"
    else
        say "no apt-get here; please install:$packages"
    fi
    [ -n "$python" ] || python=python3
fi

# -- the environment ---------------------------------------------------------------------------

stamp=.venv/.edgekit-$purpose
inputs=$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)
if [ -x .venv/bin/edgekit ] && [ "$(cat "$stamp" 2>/dev/null)" = "$inputs" ]; then
    exit 0
fi
[ -x .venv/bin/python ] || {
    say "creating .venv with $("$python" --version)"
    "$python" -m venv .venv
}
say "installing Python packages ($purpose); the first time takes a few minutes"
extras=oracle
[ "$purpose" = dev ] && extras=dev
.venv/bin/python -m pip install -q --disable-pip-version-check \
    -c constraints.txt -e ".[$extras]"
printf '%s\n' "$inputs" >"$stamp"
