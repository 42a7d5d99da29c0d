# Every command that people and CI run. `make help` lists them.
# A target whose tool is missing says how to get it and fails; none passes silently.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

CARGO ?= cargo
ARGS ?=
# Kills in `make crash`, seconds of each target in `make fuzz`, seconds of faults in `make chaos`.
ROUNDS ?= 50
SECONDS_EACH ?= 60
SECONDS ?= 240
# Worlds of `make sim` and the first seed; the seed of `make sim-replay` and of `make chaos`.
RUNS ?= 200
FROM ?= 1
SEED ?=
# A copy of the Eclipse paho interoperability suite for `make interop`.
SUITE ?=

need = command -v $(1) >/dev/null || { echo "$(1) is missing; get it with: $(2)" >&2; exit 1; }

.PHONY: help
help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  %-14s %s\n", $$1, $$2 }'

.PHONY: run
run: ## Builds in release mode and starts a node (ARGS="--data DIR --set key=value")
	$(CARGO) build --release --locked --bin hongqiao
	exec target/release/hongqiao serve $(ARGS)

.PHONY: cluster
cluster: ## Builds and starts three nodes on this machine (config/cluster), data in ./data; Ctrl-C stops them
	$(CARGO) build --release --locked --bin hongqiao
	exec config/cluster/run target/release/hongqiao

.PHONY: build
build: ## Builds the release binary, target/release/hongqiao
	$(CARGO) build --release --locked --bin hongqiao

.PHONY: upgrade-binary
upgrade-binary: ## Builds target/upgrade/hongqiao, which speaks one protocol version more, for the upgrade test
	$(CARGO) build --locked --features bumped-protocol --bin hongqiao
	mkdir -p target/upgrade
	cp target/debug/hongqiao target/upgrade/hongqiao
	$(CARGO) build --locked --bin hongqiao

.PHONY: tools
tools: ## Installs what the tests need: brokers and clients from Debian, PyPI and npm
	tests/install

.PHONY: test
test: tools upgrade-binary ## Installs what tests need and runs them all, doc tests too
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace --locked --lib --bins --examples; \
	else \
		$(CARGO) test --workspace --locked --lib --bins --examples; \
	fi
	RUST_TEST_THREADS=8 $(CARGO) test --workspace --locked --test '*'
	$(CARGO) test --workspace --locked --doc
	$(MAKE) sim

.PHONY: sim
sim: ## Simulates RUNS clusters with faults, each from its seed (FROM=1), and those that once failed
	HONGQIAO_SIM_RUNS=$(RUNS) HONGQIAO_SIM_FROM=$(FROM) $(CARGO) sim --locked -- sim::
	HONGQIAO_SIM_RUNS=$(RUNS) HONGQIAO_SIM_FROM=$(FROM) $(CARGO) sim-sessions --locked -- shard::sim::

.PHONY: sim-replay
sim-replay: ## Shows all that happens in the simulated cluster of SEED
	@test -n "$(SEED)" || { echo "set SEED to the number that a failure names" >&2; exit 1; }
	HONGQIAO_SIM_SEED=$(SEED) $(CARGO) sim --locked -- --ignored --nocapture world_shown

.PHONY: sim-replay-sessions
sim-replay-sessions: ## The same for the simulated sessions of SEED, with every command that was applied
	@test -n "$(SEED)" || { echo "set SEED to the number that a failure names" >&2; exit 1; }
	HONGQIAO_SIM_SEED=$(SEED) $(CARGO) sim-sessions --locked -- --ignored --nocapture sessions_shown

.PHONY: verify
verify: ## The gate, same as CI: format, lints, docs, tests; changes nothing
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) sim-clippy --locked -- -D warnings
	$(CARGO) sim-sessions-clippy --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --document-private-items
	$(MAKE) test

.PHONY: fix
fix: ## The writing twin of verify: formats and applies lints
	$(CARGO) clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	$(CARGO) fmt --all

.PHONY: doc
doc: ## Builds the documentation of the code, target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked --document-private-items

.PHONY: crash
crash: ## Kills a loaded node at random ROUNDS times and checks that nothing acknowledged is lost
	$(CARGO) build --release --locked --bin hongqiao
	HONGQIAO_CRASH_ROUNDS=$(ROUNDS) $(CARGO) test --release --locked --test main -- --nocapture crash

.PHONY: chaos
chaos: ## Three nodes in namespaces of their own under load and all faults for SECONDS (SEED=…); needs root
	@$(call need,ip,apt-get install iproute2)
	@$(call need,curl,apt-get install curl)
	@ip netns add hq-try 2>/dev/null && ip netns del hq-try || { \
		echo "network namespaces and small disks are made by root alone; run: sudo -E make chaos" >&2; exit 1; }
	$(CARGO) build --release --locked --bin hongqiao
	HONGQIAO_CHAOS_WHOLE=1 HONGQIAO_CHAOS_SECONDS=$(SECONDS) CHAOS_SEED=$(SEED) \
		$(CARGO) test --release --locked --test main -- --nocapture chaos_on_three_hosts

.PHONY: fuzz
fuzz: ## Fuzzes each decoder for SECONDS_EACH seconds
	tests/fuzz/run $(SECONDS_EACH)

.PHONY: bench
bench: ## Runs the benches that print a ratio (ARGS=NAME for one)
	$(CARGO) bench --workspace --locked $(ARGS)

.PHONY: bench-peers
bench-peers: ## Runs the same load against mosquitto, nats-server, rumqttd and Hongqiao
	benches/peers/run $(ARGS)

.PHONY: bench-cluster
bench-cluster: ## Runs the same load against three nodes of Hongqiao, nats-server and RabbitMQ
	benches/peers/cluster $(ARGS)

.PHONY: bench-scaling
bench-scaling: ## What more nodes, rooms and subscriptions cost; writes docs/scaling.md and its plot
	$(CARGO) build --release --locked --bin hongqiao
	benches/scaling $(ARGS)

.PHONY: bench-million
bench-million: ## One million connection actors over an in-memory transport
	$(CARGO) bench --locked --bench million $(ARGS)

.PHONY: deny
deny: ## Checks licences, sources and duplicates of dependencies
	@$(call need,cargo-deny,cargo install --locked cargo-deny)
	$(CARGO) deny --all-features check bans licenses sources
	@$(CARGO) deny --all-features check advisories || { \
		echo "the advisories were not checked or one applies; see above" >&2; exit 1; }

.PHONY: ws-conformance
ws-conformance: ## Runs all Autobahn cases but compression against examples/ws_echo.rs
	tests/clients/ws/run.sh

.PHONY: interop
interop: ## Runs the Eclipse paho interoperability suite (SUITE=DIR, a copy you bring)
	@test -n "$(SUITE)" || { echo "set SUITE=DIR to a copy of the Eclipse paho.mqtt.testing repository" >&2; exit 1; }
	@test -f "$(SUITE)/interoperability/client_test5.py" || { echo "$(SUITE) holds no interoperability/client_test5.py" >&2; exit 1; }
	$(CARGO) build --release --locked --bin hongqiao
	tests/interop "$(SUITE)"
