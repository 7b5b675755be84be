#!/bin/sh
# Writes what a package has beside the program: manual pages, completions, and the licences of what is built in.
# Usage: accompany.sh PROGRAM DIRECTORY
set -eu

program=$1
directory=$2

rm -rf "$directory/manual" "$directory/completions"
mkdir -p "$directory/completions"
"$program" manual "$directory/manual"
# As Debian wants them; cargo-deb compresses only what is not in the target directory.
gzip -9n "$directory"/manual/*.1
"$program" completions bash >"$directory/completions/bennu.bash"
"$program" completions zsh >"$directory/completions/_bennu"
"$program" completions fish >"$directory/completions/bennu.fish"
"${CARGO:-cargo}" tree --edges normal,build --prefix none --format '{p}: {l}' |
    sed 's/ (\*)$//; s/ (proc-macro)//; s/ (\/.*):/:/' | sort -u >"$directory/licences.txt"
