# Everything a person or a CI machine runs, by name. `make` alone lists it.
#
# Needs: cargo (rustup), g++, python3 with pip to download packages, and curl for the demo. Each target says what is missing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The official Python package, which the conformance tests run against the endpoint and the worker: the newest release, and the
# pre-release of the next one.
python_client_version := 1.12.0
python_client := .venv/runpod/.installed-$(python_client_version)
python_client_2_version := 2.0.0rc2
python_client_2 := .venv/runpod-2/.installed-$(python_client_2_version)
# The official JavaScript SDK, a client of the endpoint in one more conformance test.
js_client_version := 1.1.2
js_client := .venv/js/.installed-$(js_client_version)
# The official OpenAI package, which asks the OpenAI routes in another one.
openai_client_version := 3.57.0
openai_client := .venv/openai/.installed-$(openai_client_version)
# The same for JavaScript: the newest release for the Node.js of Debian.
openai_js_client_version := 6.49.0
openai_js_client := .venv/openai-js/.installed-$(openai_js_client_version)
# The browser and schema tests take what is built already. Built alone, it would be built again with other features.
built_endpoint := RUNPOD_ENDPOINT_BIN=$(CURDIR)/target/debug/runpod-endpoint
# End-to-end tests mostly wait, so more of them than there are cores run at the same time.
test_threads := 8
# How long `make soak` makes the tests with random failures.
SOAK_SECONDS ?= 600
# The official worker with PyTorch, which `make bench` sets beside ours; the versions that made the golden vectors.
pytorch_packages := runpod==$(python_client_version) torch==2.11.0 sentence-transformers==6.2.0 transformers==5.23.0
pytorch_worker := .venv/pytorch/.installed-2.11.0
# What is published, dependencies first.
published := --package runpod-address-guard --package runpod-handler-protocol --package runpod-handler-sdk --package runpod-alerts --package runpod-log-line \
	--package runpod-http-server --package runpod-worker-core --package runpod-worker --package runpod-endpoint
# What the demo starts.
demo_packages := --package runpod-endpoint --package runpod-worker --package text-embeddings

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: libtorch
libtorch: ## Install libtorch into .libtorch (once, about 550 MB to download)
	@docker/install-libtorch.sh

.PHONY: model
model: ## Install the model of text-embeddings into .models (once, about 85 MB to download)
	@docker/install-model.sh

.PHONY: models
models: model ## Install the models of all examples (once, about 105 MB more)
	@docker/install-model.sh SmolLM2-135M-Instruct
	@docker/install-model.sh silero-vad

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

# The programs are built before the tests, because the end-to-end tests start them. With TEST_SKIPS=fail a test that cannot run
# here is a failure, unless it needs a GPU.
.PHONY: test
test: tools libtorch models python-client js-client openai-client openai-js-client test-packages lint ## Everything that CI runs: lint, all tests
	cargo build --workspace --locked
	TEST_SKIPS=fail RUST_TEST_THREADS=$(test_threads) cargo test --workspace --locked
	$(built_endpoint) tests/console/run.sh
	$(built_endpoint) tests/schemathesis/run.sh
	tests/manifests/run.sh

.PHONY: console
console: tools ## The endpoint's console in Debian's chromium
	tests/console/run.sh

.PHONY: schemathesis
schemathesis: tools ## Requests made from /openapi.json against a running endpoint
	tests/schemathesis/run.sh

.PHONY: image
image: ## Build all images without CUDA; Docker, or root with buildah and debootstrap
	@docker/build.sh

.PHONY: image-test
image-test: libtorch image tools ## Run endpoint, example and new handlers from their images; needs root
	@tests/image/run.sh

.PHONY: soak
soak: tools libtorch python-client test-packages soak-packages ## The random failures for SOAK_SECONDS (600) each, and tests too long for `make test`
	cargo test --locked --package end-to-end-tests --test conformance -- --ignored
	CHAOS_SECONDS=$(SOAK_SECONDS) SOAK_SECONDS=$(SOAK_SECONDS) cargo test --locked --package end-to-end-tests --test end_to_end -- \
		--nocapture --include-ignored chaos network::takes network::heartbeat scale_out::soak scale_out::patroni
	cargo test --locked --package end-to-end-tests --test monitoring -- --ignored

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
bench: tools libtorch models python-client pytorch-worker ## Measure the runtime beside a bare loop and the official worker, batching, async handlers, time to a free slot, durable results, what metrics and masking cost, what the endpoint can do
	cargo bench --locked --package text-embeddings --bench throughput
	cargo bench --locked --package text-embeddings --bench callers
	cargo bench --locked --package text-generation --bench throughput
	cargo bench --locked --package runpod-worker --bench time_to_free
	cargo bench --locked --package runpod-worker-core --bench events
	cargo build --release --locked --package runpod-worker --package runpod-endpoint --package puppet-handler --package echo --package text-embeddings
	cargo bench --locked --package end-to-end-tests --bench runtime
	cargo bench --locked --package end-to-end-tests --bench async_handler
	cargo bench --locked --package end-to-end-tests --bench embeddings
	@$(MAKE) --no-print-directory gpu-check
	cargo bench --locked --package runpod-worker --bench spool
	cargo bench --locked --package runpod-worker --bench metrics
	cargo bench --locked --package runpod-worker --bench redaction
	cargo bench --locked --package runpod-endpoint --bench endpoint -- throughput idle replicas
	@tests/install-packages.sh valgrind
	cargo bench --locked --package instructions

.PHONY: bench-instructions
bench-instructions: tools ## The instructions of the hot paths; fails when one takes over 5 % more than the committed baseline
	@tests/install-packages.sh valgrind
	cargo bench --locked --package instructions

.PHONY: accept-instructions
accept-instructions: tools ## Count them, and make the figures the new baseline
	@tests/install-packages.sh valgrind
	cargo bench --locked --package instructions -- --accept

.PHONY: figures
figures: tools ## Take the figures of the last `make bench` over into the documents, and draw the chart of the README
	install -D --mode=644 target/bench/runtime.json docs/figures/runtime.json
	FIGURES=write cargo test --locked --package end-to-end-tests --test figures

.PHONY: gpu-pack
gpu-pack: tools libtorch model ## Pack the benchmark for a machine with a GPU and no network: target/gpu-bench.tar.xz
	tests/gpu/pack.sh

.PHONY: gpu-check
gpu-check: tools libtorch model pytorch-worker ## The same benchmark without a GPU, short: everything but the launch of kernels on one
	cargo build --release --locked --package runpod-worker --package runpod-endpoint --package text-embeddings
	PYTHONPATH=.venv/pytorch python3 tests/gpu/bench.py --device cpu --precision f32 --quick --bin target/release \
		--model .models/all-MiniLM-L6-v2 --out target/bench/gpu-check.json

.PHONY: bench-depth
bench-depth: tools ## The endpoint with up to a million queued jobs: memory for each, time to take the next
	cargo bench --locked --package runpod-endpoint --bench endpoint -- depth

.PHONY: manifests
manifests: ## Validate what is deployed from docker/: Kubernetes, KEDA, Compose, systemd
	@tests/manifests/run.sh

.PHONY: package
package: tools libtorch ## Pack the crates as they would be published, and build each from its package alone
	cargo package --locked $(published)

.PHONY: release
release: tools ## Release binaries, stripped, built twice from two folders that must agree to the byte: target/dist
	@docker/release.sh

.PHONY: sbom
sbom: tools ## A bill of materials of each published program and crate (CycloneDX): target/sbom
	@cargo cyclonedx --version >/dev/null 2>&1 || cargo install --locked cargo-cyclonedx
	cargo cyclonedx --format json --spec-version 1.5 --override-filename bom
	@mkdir -p target/sbom
	@for folder in address-guard alerts log-line http-server worker worker/core endpoint handler-sdk handler-sdk/protocol; do \
		mv "$$folder/bom.json" "target/sbom/$$(basename "$$folder").cdx.json"; done
	@find examples tests -name bom.json -not -path '*/node_modules/*' -delete
	@ls -l target/sbom

.PHONY: clean
clean: ## Remove what was built; libtorch, the model and the Python package stay
	cargo clean

.PHONY: python-client
python-client: $(python_client) $(python_client_2)

.PHONY: openai-client
openai-client: $(openai_client)

.PHONY: pytorch-worker
pytorch-worker: $(pytorch_worker) ## Install the official worker with PyTorch for `make bench` (once, about 3 GB to download)

$(pytorch_worker):
	@python3 -m pip --version >/dev/null 2>&1 || { echo 'python3 with pip is needed: apt-get install -y python3-pip' >&2; exit 1; }
	rm -rf $(@D)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target $(@D) $(pytorch_packages)
	touch $@

$(python_client) $(python_client_2): package := runpod
$(openai_client): package := openai

# Into folders of their own: Debian's Python refuses packages beside its own, and virtual environments need one more package.
$(python_client) $(python_client_2) $(openai_client): .venv/%:
	@python3 -m pip --version >/dev/null 2>&1 || { echo 'python3 with pip is needed: apt-get install -y python3-pip' >&2; exit 1; }
	rm -rf $(@D)
	python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target $(@D) \
		$(package)==$(patsubst .installed-%,%,$(@F))
	touch $@

.PHONY: js-client
js-client: $(js_client)

.PHONY: openai-js-client
openai-js-client: $(openai_js_client)

$(js_client): npm_package := runpod-sdk
$(openai_js_client): npm_package := openai

$(js_client) $(openai_js_client): .venv/%:
	@command -v node >/dev/null && command -v npm >/dev/null || tests/install-packages.sh nodejs npm
	rm -rf $(@D)
	npm install --silent --no-audit --no-fund --prefix $(@D) $(npm_package)@$(patsubst .installed-%,%,$(@F))
	touch $@

# What tests start besides our own programs: a real Prometheus and Alertmanager for the shipped rules, `readelf` for what a program
# links, a server with a self-signed certificate, a tracer in Python, a terminal, a database and a pooler, hosts in network namespaces,
# a wrong clock.
.PHONY: test-packages
test-packages:
	@tests/install-packages.sh prometheus prometheus-alertmanager binutils openssl python3 tmux postgresql-15 pgbouncer iproute2 libfaketime

# A database that fails over by itself.
.PHONY: soak-packages
soak-packages:
	@tests/install-packages.sh patroni etcd-server

.PHONY: tools
tools:
	@command -v cargo >/dev/null || { echo 'cargo is needed: install Rust with rustup, https://rustup.rs' >&2; exit 1; }
	@command -v c++ >/dev/null || { echo 'a C++ compiler is needed for the libtorch bindings: apt-get install -y g++' >&2; exit 1; }

.PHONY: curl
curl:
	@command -v curl >/dev/null || { echo 'curl is needed to show the worker'\''s health: apt-get install -y curl' >&2; exit 1; }
