# Everything a person or a CI machine runs, by name. `make` alone lists it.
#
# Needs: cargo (rustup), g++, python3 with pip to download packages, and curl for the demo. Each target says what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The official Python package, which the conformance tests run against the endpoint and the worker.
python_client_version := 1.12.0
python_client := .venv/runpod/.installed-$(python_client_version)
# End-to-end tests mostly wait, so more of them than there are cores run at the same time.
test_threads := 8
# How long `make soak` makes the chaos test.
SOAK_SECONDS ?= 600
# What the demo starts.
demo_packages := --package runpod-endpoint --package runpod-worker --package text-embeddings

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: libtorch
libtorch: ## Install libtorch into .libtorch (once, about 550 MB to download)
	@docker/install-libtorch.sh

.PHONY: model
model: ## Install the example's model into .models (once, about 85 MB to download)
	@docker/install-model.sh

.PHONY: build
build: tools libtorch ## Build every program, for debugging: target/debug
	cargo build --workspace --locked

# Debug builds here too: libtorch does the work of a job, and the build is what a first run waits for.
.PHONY: demo
demo: tools curl libtorch model ## Run sample jobs through a local endpoint and a worker, print everything, stop
	cargo build --locked $(demo_packages)
	@examples/text-embeddings/demo.sh

.PHONY: dev
dev: tools curl libtorch model ## The same endpoint and worker, left running for you to try
	cargo build --locked $(demo_packages)
	@examples/text-embeddings/demo.sh --stay

# The programs are built before the tests, because the end-to-end tests start them.
.PHONY: test
test: tools libtorch model python-client lint ## Everything that CI runs: lint, all tests
	cargo build --workspace --locked
	RUST_TEST_THREADS=$(test_threads) cargo test --workspace --locked

.PHONY: image
image: ## Build the images of the worker and the example for CPUs; Docker, or root with buildah and debootstrap
	@docker/build.sh

.PHONY: image-test
image-test: image tools ## Run the example from its image against a local endpoint; needs root
	@tests/image/run.sh

.PHONY: soak
soak: tools libtorch python-client ## The chaos test for SOAK_SECONDS (600), and tests too long for `make test`
	CHAOS_SECONDS=$(SOAK_SECONDS) cargo test --locked --package end-to-end-tests --test end_to_end -- --nocapture --include-ignored chaos network::takes

.PHONY: lint
lint: tools libtorch ## Format, clippy, documentation; licences and sources if cargo-deny is installed
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- --deny warnings
	RUSTDOCFLAGS=--deny=warnings cargo doc --workspace --no-deps --locked
	@if ! cargo deny --version >/dev/null 2>&1; then \
		echo '*** NOT CHECKED: licences and sources. Install the check with: cargo install --locked cargo-deny ***'; \
	else cargo deny check bans licenses sources; fi

.PHONY: audit
audit: tools ## Known vulnerabilities in dependencies; needs cargo-deny and the network
	cargo deny check advisories

.PHONY: bench
bench: tools libtorch model ## Measure the example one text at a time against batches, and how soon a slot is free again
	cargo bench --locked --package text-embeddings --bench throughput
	cargo bench --locked --package runpod-worker --bench time_to_free

.PHONY: clean
clean: ## Remove what was built; libtorch, the model and the Python package stay
	cargo clean

.PHONY: python-client
python-client: $(python_client)

# Into a folder of its own: Debian's Python refuses packages beside its own, and virtual environments need one more package.
$(python_client):
	@python3 -m pip --version >/dev/null 2>&1 || { echo 'python3 with pip is needed: apt-get install -y python3-pip' >&2; exit 1; }
	rm -rf .venv/runpod
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .venv/runpod runpod==$(python_client_version)
	touch $@

.PHONY: tools
tools:
	@command -v cargo >/dev/null || { echo 'cargo is needed: install Rust with rustup, https://rustup.rs' >&2; exit 1; }
	@command -v c++ >/dev/null || { echo 'a C++ compiler is needed for the libtorch bindings: apt-get install -y g++' >&2; exit 1; }

.PHONY: curl
curl:
	@command -v curl >/dev/null || { echo 'curl is needed to show the worker'\''s health: apt-get install -y curl' >&2; exit 1; }
