#!/bin/sh
# Checks what the build needs: cargo, a C and C++ compiler, make, and libclang for RocksDB's bindings. On Debian and Ubuntu
# installs what is missing, if it may; elsewhere says what to install. Quick and silent when everything is there.
set -eu

MIN_RUST=1.95

say() { printf '%s\n' "$*" >&2; }

has() { command -v "$1" >/dev/null 2>&1; }

# Whether version $1 is at least $2 (major.minor).
at_least() {
    [ "${1%%.*}" -gt "${2%%.*}" ] && return 0
    [ "${1%%.*}" -eq "${2%%.*}" ] || return 1
    rest=${1#*.}
    [ "${rest%%.*}" -ge "${2#*.}" ]
}

check_rust() {
    if ! has cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        say "cargo is installed but not on the PATH. Run this, then make again:"
        say "    . \"${CARGO_HOME:-$HOME/.cargo}/env\""
        exit 1
    fi
    if ! has cargo; then
        say "Rust $MIN_RUST or newer is missing. Without root, install it from https://rustup.rs:"
        say "    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
        exit 1
    fi
    version=$(cargo --version | cut -d ' ' -f 2)
    if [ -z "$version" ]; then
        say "cargo is there, but does not run: see above."
        exit 1
    fi
    if ! at_least "$version" "$MIN_RUST"; then
        say "Rust $version is too old; Bennu needs $MIN_RUST or newer:"
        say "    rustup update stable"
        exit 1
    fi
}

has_cc() { has "${CC:-cc}" || has gcc || has clang; }

has_cxx() { has "${CXX:-c++}" || has g++ || has clang++; }

# Where the bindings generator looks, too.
has_libclang() {
    if [ -n "${LIBCLANG_PATH:-}" ]; then
        [ -f "$LIBCLANG_PATH" ] && return 0
        set -- "$LIBCLANG_PATH"
    else
        set -- /usr/lib /usr/lib64 /usr/local/lib /usr/local/lib64 /usr/lib/*-linux-* /usr/lib/llvm-*/lib \
            /usr/lib/llvm*/lib /usr/lib64/llvm*/lib /usr/local/llvm*/lib /opt/homebrew/opt/llvm/lib /usr/local/opt/llvm/lib \
            /Library/Developer/CommandLineTools/usr/lib \
            /Applications/Xcode.app/Contents/Developer/Toolchains/XcodeDefault.xctoolchain/usr/lib
        if has llvm-config; then
            set -- "$@" "$(llvm-config --libdir 2>/dev/null || true)"
        fi
    fi
    for directory in "$@"; do
        for library in "$directory"/libclang.so* "$directory"/libclang-*.so* "$directory"/libclang.dylib; do
            case $library in
            # Another library, for C++ programs, which is no substitute.
            */libclang-cpp*) ;;
            *) [ -e "$library" ] && return 0 ;;
            esac
        done
    done
    return 1
}

# The library without clang's own headers (stddef.h) is of no use; other compilers' headers will not do.
has_clang_headers() {
    [ "$(uname -s)" = Darwin ] && return 0
    [ -n "${LIBCLANG_PATH:-}${BINDGEN_EXTRA_CLANG_ARGS:-}" ] && return 0
    for header in /usr/lib*/llvm-*/lib*/clang/*/include/stddef.h /usr/lib*/llvm*/lib*/clang/*/include/stddef.h \
        /usr/lib*/clang/*/include/stddef.h /usr/local/lib*/clang/*/include/stddef.h \
        /usr/local/llvm*/lib/clang/*/include/stddef.h; do
        [ -e "$header" ] && return 0
    done
    return 1
}

missing() {
    what=
    has_cc || what="$what C-compiler"
    has_cxx || what="$what C++-compiler"
    has_libclang && has_clang_headers || what="$what libclang"
    printf '%s' "${what# }"
}

# Debian's names of what is missing.
packages() {
    list=
    case $1 in *compiler*) list=build-essential ;; esac
    case $1 in *libclang*) list="$list libclang-dev" ;; esac
    printf '%s' "${list# }"
}

install_debian() {
    root=
    if [ "$(id -u)" -ne 0 ]; then
        has sudo && sudo -n true 2>/dev/null || return 1
        root="sudo -n"
    fi
    say "Installing $1 (missing: $2)."
    # No quotes: a list of words.
    # shellcheck disable=SC2086
    $root env DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null >&2 &&
        $root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $1 </dev/null >&2
}

advise() {
    say "Missing: $1. RocksDB is built from source, which needs a C++ compiler and libclang. Install"
    say "    Debian, Ubuntu   sudo apt-get install build-essential libclang-dev"
    say "    Fedora           sudo dnf install gcc gcc-c++ make clang-devel"
    say "    Arch             sudo pacman -S --needed base-devel clang"
    say "    Alpine           apk add build-base linux-headers clang-dev   (and build with RUSTFLAGS=-Ctarget-feature=-crt-static)"
    say "    macOS            xcode-select --install"
    say "Without root: put a compiler on the PATH and libclang anywhere, for example with"
    say "    conda create -n bennu -c conda-forge cxx-compiler libclang clangdev && conda activate bennu"
    say "    export LIBCLANG_PATH=\"\$CONDA_PREFIX/lib\""
    say "and run make again."
}

check_rust
absent=$(missing)
[ -z "$absent" ] && exit 0

if has apt-get; then
    install_debian "$(packages "$absent")" "$absent" || true
    absent=$(missing)
    [ -z "$absent" ] && exit 0
fi
advise "$absent"
exit 1
