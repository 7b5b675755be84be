"""Starts a homeserver and talks to it as an independent client: `run.py --bennu PATH`. Exit code 1 if anything is not as
wire-spec/ says."""

import argparse
import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import accounts
import checks
import key_packages
import malformed
import vectors
from client import GRAMMAR

DOMAIN = "a.test"


def configure(bennu, directory, prices):
    """A homeserver whose queues take fresh randomness often."""
    command = [bennu, "init", "--domain", DOMAIN, "--dir", directory, "--listen", "127.0.0.1:0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    path = Path(directory) / "bennu.toml"
    text = path.read_text()
    for setting, value in (("required", str(prices).lower()), ("queue_key_update_entries", "4")):
        text, changed = re.subn(rf"^# {setting} = \S+", f"{setting} = {value}", text, flags=re.MULTILINE)
        assert changed == 1, f"bennu.toml has no {setting}"
    path.write_text(text)
    return path


def start(bennu, config, log):
    """The process, and where it listens, once it is ready."""
    process = subprocess.Popen([bennu, "serve", "--config", config], stdout=subprocess.PIPE, stderr=log, text=True)
    line = process.stdout.readline()
    found = re.search(r"ready on (\S+):(\d+)$", line)
    assert found, f"the homeserver is not ready: {line}"
    return process, (found[1], int(found[2]))


FREE = checks.ALL + key_packages.ALL + accounts.ALL + malformed.ALL


async def run(home, those):
    failed = []
    for check in those:
        try:
            await asyncio.wait_for(check(home), 60)
            print(f"ok      {check.__name__}", flush=True)
        except Exception:
            failed.append(check.__name__)
            print(f"FAILED  {check.__name__}: {check.__doc__}\n{traceback.format_exc()}", flush=True)
    return failed


def hold(bennu, prices, those):
    """Starts a homeserver, with prices or without, and holds it against these checks: which failed."""
    print(f"a homeserver {'with' if prices else 'without'} prices", flush=True)
    with tempfile.TemporaryDirectory() as directory, open(Path(directory) / "log", "w+") as log:
        config = configure(bennu, str(Path(directory) / "home"), prices)
        process, place = start(bennu, config, log)
        try:
            home = checks.Home(place, DOMAIN, str(config.parent / "certs/ca.pem"))
            failed = asyncio.run(run(home, those))
            alive = process.poll() is None
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(30)
        log.seek(0)
        panics = [line for line in log if "panicked" in line]
    if not alive or code != 0 or panics:
        failed.append("the homeserver")
        print(f"FAILED  the homeserver: exit code {code}\n{''.join(panics)}")
    return failed


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--bennu", required=True, help="the program")
    bennu = arguments.parse_args().bennu
    print(f"ok      vectors: {vectors.messages(GRAMMAR)} messages, {vectors.cryptography(GRAMMAR)} constructions")
    failed = hold(bennu, False, FREE) + hold(bennu, True, accounts.PRICED)
    print("all as the specification says" if not failed else f"failed: {', '.join(failed)}")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
