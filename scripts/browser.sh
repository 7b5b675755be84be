#!/bin/sh
# Whether there is a browser for `make page`; on Debian and Ubuntu installs Chromium, if it may.
set -eu

found() {
    [ -n "${BENNU_BROWSER:-}" ] && return 0
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null 2>&1 && return 0
    done
    return 1
}

found && exit 0
if command -v apt-get >/dev/null 2>&1; then
    root=
    [ "$(id -u)" -eq 0 ] || root="sudo -n"
    echo "Installing Chromium, in which the page with charts is looked at." >&2
    # No quotes: a list of words, or none.
    # shellcheck disable=SC2086
    { $root env DEBIAN_FRONTEND=noninteractive apt-get -qq update && $root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core; } </dev/null >&2 || true
fi
found && exit 0
echo "There is no Chromium on the PATH, and BENNU_BROWSER names none." >&2
exit 1
