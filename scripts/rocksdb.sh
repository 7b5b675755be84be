#!/bin/sh
# Compiles RocksDB, once for all builds, profiles and checkouts. Cargo would take four times as long: its headers are most of what
# there is to compile, and are read anew for each of its 340 files. Here many files are compiled as one (RocksDB's own tests do so
# with all of them). What it makes stays in the cache directory of the user, and .cargo/config.toml tells cargo of it. Quick and
# silent when it is there. Does nothing where it does not know the flags: cargo compiles RocksDB by itself then.
set -eu

# The flags of librocksdb-sys (its build.rs), with the optimisation of RocksDB's own releases.
FLAGS='-O2 -fPIC -ffunction-sections -fdata-sections -std=c++20 -include cstdint -w
-DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
-DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT
-DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT
-I. -Irocksdb -Irocksdb/include'
# Files that are compiled as one: fewer of them take less time and more memory.
PARTS=12
# Memory for each compiler that runs, in KiB.
COMPILER_MEMORY=2000000
# Minutes that all parts take one after another.
MINUTES=7

say() { printf '%s\n' "$*" >&2; }

case $(uname -s)-$(uname -m) in
Linux-x86_64 | Linux-aarch64) ;;
*) exit 0 ;;
esac
# Whoever has a RocksDB of their own keeps it.
[ -z "${ROCKSDB_LIB_DIR:-}${ROCKSDB_COMPILE:-}" ] || exit 0

top=$(cd "$(dirname "$0")/.." && pwd)
settings=$top/.cargo/config.toml
if [ -e "$settings" ] && ! grep -q 'Made by scripts/rocksdb.sh' "$settings"; then
    say "$settings is not by scripts/rocksdb.sh: cargo compiles RocksDB by itself."
    exit 0
fi

cargo=${CARGO:-cargo}
cxx=${CXX:-c++}
command -v "$cxx" >/dev/null 2>&1 || cxx=g++
version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/^version = "\(.*\)"$/\1/p;}' "$top/Cargo.lock")
by=$({ echo "$FLAGS" && "$cxx" --version && "$cxx" -dumpmachine; } | cksum | cut -d ' ' -f 1)
made=${XDG_CACHE_HOME:-$HOME/.cache}/bennu/rocksdb-$version-$by

tell_cargo() {
    mkdir -p "$top/.cargo"
    printf '%s\n' '# Made by scripts/rocksdb.sh. Without this file cargo compiles RocksDB by itself.' '[env]' \
        "ROCKSDB_LIB_DIR = \"$made\"" 'ROCKSDB_STATIC = "1"' >"$settings.$$"
    if cmp -s "$settings.$$" "$settings"; then rm "$settings.$$"; else mv "$settings.$$" "$settings"; fi
}

if [ -f "$made/librocksdb.a" ]; then
    touch "$made"
    tell_cargo
    exit 0
fi

cd "$top"
$cargo fetch --locked
sources=$($cargo metadata --locked --offline --format-version 1 | tr ',' '\n' |
    sed -n 's|.*"manifest_path":"\(.*/librocksdb-sys-[^/]*\)/Cargo.toml".*|\1|p' | head -1)
if [ ! -f "$sources/rocksdb_lib_sources.txt" ]; then
    say 'The sources of RocksDB are not where they were: cargo compiles it by itself.'
    exit 0
fi

mkdir -p "$(dirname "$made")"
work=$(mktemp -d "$made.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# One file after another goes to the next part, so that all of them take about as long.
part=0
while read -r file; do
    [ "$file" != util/build_version.cc ] || file=../build_version.cc
    part=$((part % PARTS + 1))
    printf '#include "%s"\n' "$file" >>"$work/part$part.cc"
done <"$sources/rocksdb_lib_sources.txt"

jobs=$(nproc 2>/dev/null || echo 2)
memory=$(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
[ "$jobs" -le $((memory / COMPILER_MEMORY)) ] || jobs=$((memory / COMPILER_MEMORY))
[ "$jobs" -ge 1 ] || jobs=1
[ "$jobs" -le "$PARTS" ] || jobs=$PARTS

# Should this compiler not take a part as one, its files are compiled one by one.
cat >"$work/compile" <<'COMPILE'
set -eu
cxx=$1 flags=$2 work=$3 parts=$4 part=$5
# No quotes around the flags: they are many.
if ! $cxx $flags -c "$work/part$part.cc" -o "$work/part$part.o" 2>"$work/part$part.errors"; then
    sed -n 's/^#include "\(.*\)"$/\1/p' "$work/part$part.cc" | while read -r file; do
        $cxx $flags -c "rocksdb/$file" -o "$work/part$part.$(printf %s "$file" | tr / _).o"
    done
fi
: >"$work/part$part.done"
printf 'RocksDB: %s of %s parts are compiled\n' "$(ls "$work" | grep -c '\.done$')" "$parts" >&2
COMPILE

minutes=$(((MINUTES + jobs - 1) / jobs))
say "RocksDB is compiled, once for all builds, which takes about $minutes minute(s)."
cd "$sources"
awk "BEGIN { for (part = 1; part <= $PARTS; part++) print part }" |
    xargs -P "$jobs" -I '{}' sh "$work/compile" "$cxx" "$(echo $FLAGS)" "$work" "$PARTS" '{}' || {
    say 'RocksDB could not be compiled.'
    exit 1
}
mkdir "$work/made"
${AR:-ar} crs "$work/made/librocksdb.a" "$work"/*.o
# Somebody else may have been first.
mv -T "$work/made" "$made" 2>/dev/null || [ -f "$made/librocksdb.a" ]
tell_cargo
# Those of earlier versions that no checkout has used for a while.
find "$(dirname "$made")" -maxdepth 1 -name 'rocksdb-*' -mtime +60 -exec rm -rf {} +
