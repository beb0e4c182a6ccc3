# What people do here. Each target does all the set-up it needs on Debian 12+ and Ubuntu 24.04+.
#
#   make demo    a Python program in a microVM of its own
#   make test    formatting, lints, and every test, those on real machines included
#   make bench   every figure beside its baseline, as a table and in target/bench.json
#   make soak    500 sandboxes and random kills, after which nothing may be left, and 300 kills of the daemon alone, after which nothing
#                may be lost (HEARTH_SOAK_SEED repeats one)
#   make fuzz    the fuzz targets, a minute each (needs cargo-fuzz)

CARGO ?= cargo
TEST_HOME := $(CURDIR)/target/home
RELEASE := target/release/hearth
# With its C library inside it runs on any distribution, and starts sooner. Only for a named target is the compiler's own work left as it is.
TARGET := x86_64-unknown-linux-gnu
BUILT := target/$(TARGET)/release
BUILD_RELEASE = RUSTFLAGS="-C target-feature=+crt-static" $(CARGO) build --release --locked --target $(TARGET)
FUZZ_SECONDS ?= 60

SOAK ?= 500
KILLS ?= 300

.PHONY: demo test lint test-image bench soak fuzz setup-demo setup-test

demo: setup-demo
	$(BUILD_RELEASE) --package hearth
	@install -D $(BUILT)/hearth $(RELEASE)
	$(RELEASE) image build --if-missing
	$(RELEASE) run -- python3 -c 'import platform; print("Hello from Linux", platform.release(), "in a microVM")'

test: setup-test lint test-image
	HEARTH_TEST_HOME=$(TEST_HOME) scripts/run-tests

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

# The default image, built by the very program that is tested, and what this host's first run finds out; kept from run to run.
test-image: setup-test
	$(CARGO) build --locked --package hearth
	HEARTH_HOME=$(TEST_HOME) target/debug/hearth image build --if-missing
	HEARTH_HOME=$(TEST_HOME) target/debug/hearth run --no-daemon -- true

bench: setup-demo
	$(BUILD_RELEASE) --package hearth --package xtask
	HEARTH_HOME=$(TEST_HOME) $(BUILT)/hearth image build --if-missing
	HEARTH_HOME=$(TEST_HOME) $(BUILT)/xtask bench $(BENCH)

soak: test-image
	HEARTH_TEST_HOME=$(TEST_HOME) HEARTH_SOAK=$(SOAK) \
		$(CARGO) test --locked --package hearth --test soak -- --nocapture
	HEARTH_TEST_HOME=$(TEST_HOME) HEARTH_KILLS=$(KILLS) \
		$(CARGO) test --locked --package hearth --test cli whenever_the_daemon_is_killed -- --nocapture

fuzz:
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

setup-demo:
	@scripts/setup --demo

setup-test:
	@scripts/setup --test
