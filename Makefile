# Bennu: `make help` lists what there is. Two commands are enough: `make demo` and `make test`.

SHELL := /bin/sh
CARGO ?= cargo
# Where cargo puts what it builds. Demo, tests and lints share it, and RocksDB is compiled once for all (scripts/rocksdb.sh).
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Seconds for which `make fuzz` runs each target.
FUZZ_SECONDS ?= 60
FUZZ_TARGET := $(abspath $(TARGET))/fuzz
FUZZ_TARGETS := request response body frames credentials contents queues federation opening chain mls config store homeserver
# Tests that start servers share the machine with each other.
RUST_TEST_THREADS ?= $(shell n=$$(nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2); [ "$$n" -gt 4 ] && echo 4 || echo "$$n")
export RUST_TEST_THREADS

.DEFAULT_GOAL := help
.PHONY: help deps patience demo test test-otlp lint fmt clippy clippy-parts doc fuzz vectors interop interop-tools page browser release deb cargo-deb package-test system-test deny audit bench bench-quick bench-soak bench-micro bench-instructions valgrind

help: ## Lists the targets.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1~\2/p' $(MAKEFILE_LIST) | awk -F'~' '{ printf "%-25s %s\n", $$1, $$2 }'

deps: ## Checks what the build needs, and installs it on Debian and Ubuntu.
	@sh scripts/deps.sh

patience: deps
	@ls -d $(TARGET)/debug/build/librocksdb-sys-*/output >/dev/null 2>&1 || \
		echo "The first build takes about 10 minutes on two cores. Later ones take seconds." >&2
	@CARGO="$(CARGO)" sh scripts/rocksdb.sh

demo: patience ## Starts two homeservers and people on both, and shows them at work.
	@$(CARGO) build
	@$(CARGO) run --quiet -- demo

test: patience ## Runs all tests.
	$(CARGO) test

# What is off by default has tests of its own, without RocksDB.
test-otlp: deps ## Runs the tests of traces, which need the feature otlp.
	$(CARGO) test --no-default-features --features client,otlp --test otlp

lint: fmt clippy clippy-parts doc deny ## Formatting, clippy on every set of features, documentation, dependencies; warnings are errors.

fmt:
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml

clippy: patience
	$(CARGO) clippy --all-targets -- -D warnings

# What others build: the codec alone, the server over the in-memory engine, the client SDK; and traces with their test. None includes
# RocksDB.
clippy-parts: deps
	$(CARGO) clippy --no-default-features -- -D warnings
	$(CARGO) clippy --no-default-features --features server -- -D warnings
	$(CARGO) clippy --no-default-features --features client -- -D warnings
	$(CARGO) clippy --no-default-features --features client,otlp --lib --test otlp -- -D warnings

doc: patience
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

# A client in Python that reads wire-spec/ and shares no code with the crate, against a homeserver of this tree.
INTEROP := $(abspath $(TARGET))/interop
interop-tools:
	@python3 -m venv $(INTEROP)
	@$(INTEROP)/bin/pip install --quiet --disable-pip-version-check --requirement tests/interop/requirements.txt

interop: patience interop-tools ## Runs an independent client in Python against the homeserver (installs what it needs from PyPI).
	@# The program as the tests have it, so that nothing is compiled twice.
	@$(CARGO) test --quiet --no-run --test end_to_end
	@$(INTEROP)/bin/python tests/interop/run.py --bennu $(TARGET)/debug/bennu

browser:
	@sh scripts/browser.sh

page: patience browser ## Looks at the page with charts in Chromium; pictures go to tmp/page in the target directory.
	$(CARGO) test --test page -- --ignored

vectors: deps ## Makes the test vectors in wire-spec/vectors/ anew.
	BENNU_BLESS=1 $(CARGO) test --no-default-features --features server,client --lib vectors_

# What is measured.
load = $(CARGO) bench --quiet --bench load -- --json $(abspath $(TARGET))/bench.json

bench: patience ## Measures what the homeserver costs, each figure beside its floor (benches/README.md).
	@$(load)

bench-quick: patience ## The same in two minutes, with less of everything.
	@$(load) --quick

bench-soak: patience ## Ten minutes at half of what the homeserver can carry: does it grow?
	@$(load) --soak

DIST := $(abspath $(TARGET))/dist

release: patience ## Builds the program for others, with manual pages, completions and the list of licences (dist in the target directory).
	$(CARGO) build --profile dist
	@CARGO="$(CARGO)" sh scripts/accompany.sh $(DIST)/bennu $(DIST)
	@ls -l $(DIST)/bennu

# Tools that are built once, of a certain version.
TOOLS := $(abspath $(TARGET))/tools
CARGO_DEB := $(TOOLS)/cargo-deb-3/bin/cargo-deb
CARGO_DENY := $(TOOLS)/cargo-deny-0.20/bin/cargo-deny

$(CARGO_DEB):
	$(CARGO) install --quiet --locked cargo-deb@^3 --root $(TOOLS)/cargo-deb-3

$(CARGO_DENY):
	$(CARGO) install --quiet --locked cargo-deny@^0.20 --root $(TOOLS)/cargo-deny-0.20

deb: release $(CARGO_DEB) ## Makes a Debian package of it (dist in the target directory).
	@$(CARGO_DEB) --no-build --no-strip --profile dist --output $(DIST)/

cargo-deb: $(CARGO_DEB)
	@echo $(CARGO_DEB)

# With PACKAGE_TEST=--if-possible it is no failure where there is no Debian, no root, or a Bennu that is used.
package-test: ## Packages the program of the tests, installs it, runs it, and takes it away again (as root on Debian; PROGRAM names another).
	@CARGO="$(CARGO)" packaging/test $(PACKAGE_TEST) $(PROGRAM)

# The same where systemd runs, in a container: nothing of this system changes.
system-test: ## Boots a Debian in a container, and installs, starts, watches, upgrades and purges the package there (as root on Debian).
	@CARGO="$(CARGO)" packaging/system-test $(PACKAGE_TEST) $(PROGRAM)

deny: $(CARGO_DENY) ## Holds the dependencies against what they may be (deny.toml).
	$(CARGO_DENY) --all-features check bans licenses sources

audit: $(CARGO_DENY) ## Looks for advisories about the dependencies, which needs the network.
	$(CARGO_DENY) --all-features check advisories

hot := $(CARGO) bench --quiet --no-default-features --features server,client --bench

bench-micro: deps ## Measures how long the hot paths take, without a disk and a network (benches/README.md).
	@$(hot) hot

# What starts valgrind has to be of the same version as the library.
GUNGRAUN := $(shell sed -n '/^name = "gungraun"$$/{n;s/^version = "\(.*\)"$$/\1/p;}' Cargo.lock)
RUNNER := $(abspath $(TARGET))/tools/gungraun-$(GUNGRAUN)/bin/gungraun-runner

$(RUNNER):
	$(CARGO) install --quiet --locked gungraun-runner --version $(GUNGRAUN) --root $(abspath $(TARGET))/tools/gungraun-$(GUNGRAUN)

valgrind:
	@command -v valgrind >/dev/null || { \
		echo "valgrind is missing, which counts the instructions. Install your system's package of that name, then make again." >&2; \
		exit 1; \
	}

bench-instructions: valgrind deps $(RUNNER) ## Counts the instructions of the hot paths (needs valgrind).
	@GUNGRAUN_RUNNER=$(RUNNER) $(hot) instructions

# The fuzz crate has a target directory of its own, because its flags are its own.
fuzz: patience ## Fuzzes each target for FUZZ_SECONDS (60), and prints executions, coverage and findings.
	@CARGO="$(CARGO)" FUZZ_SECONDS=$(FUZZ_SECONDS) sh scripts/fuzz.sh $(FUZZ_TARGET) $(FUZZ_TARGETS)
