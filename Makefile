# A fresh machine needs python3.11 with pip and venv, and make. DGEMMA_VENV names a virtual environment to use or share.
PYTHON3 ?= python3.11
VENV := $(or $(DGEMMA_VENV),.venv)
BIN := $(VENV)/bin
STAMP := $(VENV)/.dgemma-installed
BUNDLE := build/tiny.dgemma
RESULTS := benchmarks/results
CHECKPOINT := $(wildcard checkpoints/tiny/*)

.PHONY: help venv demo test test-python java-test apk test-slow coverage docs lint lint-ruff lint-mypy lint-imports verify gate bench bench-check arm64 clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       export the tiny checkpoint and run prompts on both engines"
	@echo "make test       the fast test suites, Python's and Java's (what .ci/run calls)"
	@echo "make test-python, make java-test  one of them; Java's needs JDK 17 and Maven, and the network the first time"
	@echo "make apk        a signed debug APK of the app and its checks; ONNXRUNTIME_AAR=FILE.aar gives it native code"
	@echo "make test-slow  the tests that take minutes"
	@echo "make docs       the site, strictly, into build/site"
	@echo "make lint       ruff, mypy, import-linter"
	@echo "make coverage   the fast suite with line coverage of runtime and export"
	@echo "make verify     the ladder on tiny: reference, torch, ONNX Runtime, ExecuTorch on the golden prompts"
	@echo "make gate       many prompts against the float model, every recipe of tiny, JSON into $(RESULTS)"
	@echo "make bench      quality, speed and sameness of the tiny bundles, JSON into $(RESULTS), pages into docs/results"
	@echo "make bench-check  ratios of the tiny bundles against the committed ones; exit status 1 if one got worse"
	@echo "make arm64      the same canvases on emulated ARM64 (fetches 150 MB; half an hour)"
	@echo "make venv       only the virtual environment ($(VENV))"

# An editable install belongs to one checkout: another one that shares the environment has to install itself.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@printf '%s\n' "$(CURDIR)" > $@

venv: $(STAMP)

$(BUNDLE)/manifest.json: $(CHECKPOINT) | $(STAMP)
	rm -rf $(BUNDLE)
	mkdir -p $(dir $(BUNDLE))
	$(BIN)/dgemma export checkpoints/tiny --out $(BUNDLE) --engine all

demo: $(STAMP) $(BUNDLE)/manifest.json
	$(BIN)/python -m dgemma.benchmarks.demo $(BUNDLE)

test: java-test test-python

test-python: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --durations=10 --numprocesses=auto --dist=loadfile

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses=auto --dist=loadfile --cov --cov-report=
	$(BIN)/python -m coverage report --include="*/runtime/*" --fail-under=90
	$(BIN)/python -m coverage report --include="*/export/*" --fail-under=90

# mkdocs-material's notice about other generators is no fault of this site.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

lint: lint-ruff lint-mypy lint-imports

lint-ruff: $(STAMP)
	$(BIN)/python -m ruff check .

lint-mypy: $(STAMP)
	$(BIN)/python -m mypy
	MYPYPATH=src:android_demo/apk $(BIN)/python -m mypy --strict --explicit-package-bases android_demo/apk/*.py android_demo/*.py

lint-imports: $(STAMP)
	$(BIN)/lint-imports --no-cache

RECIPES := w8 w4-mixed w4 w4-all
QUANTIZED := $(RECIPES:%=build/tiny-%.dgemma/manifest.json)

build/tiny-%.dgemma/manifest.json: $(CHECKPOINT) | $(STAMP)
	rm -rf build/tiny-$*.dgemma
	mkdir -p build
	$(BIN)/dgemma export checkpoints/tiny --out build/tiny-$*.dgemma --engine all --recipe $*

build/tiny-app.dgemma/manifest.json: $(CHECKPOINT) | $(STAMP)
	rm -rf build/tiny-app.dgemma
	mkdir -p build
	$(BIN)/dgemma export checkpoints/tiny --out build/tiny-app.dgemma --engine onnx --recipe w8

# `package`, for the command line's jar is what `benchmarks/studies/jvm.py` and `android_demo/same_tokens.py` run.
java-test: $(BUNDLE)/manifest.json build/tiny-w8.dgemma/manifest.json build/tiny-app.dgemma/manifest.json
	@command -v mvn > /dev/null || { echo "the Java tests need JDK 17 and Maven; install them, or run make test-python"; exit 1; }
	MAVEN_OPTS=-Xmx512m mvn -q -B -f android_demo/pom.xml package

apk: build/tiny-app.dgemma/manifest.json
	$(BIN)/python android_demo/apk/make_apk.py $(if $(ONNXRUNTIME_AAR),--aar $(ONNXRUNTIME_AAR))

verify: $(STAMP) $(BUNDLE)/manifest.json
	$(BIN)/dgemma verify $(BUNDLE) --checkpoint checkpoints/tiny --golden-only --threads 1

gate: $(STAMP) $(BUNDLE)/manifest.json $(QUANTIZED)
	mkdir -p $(RESULTS)
	for recipe in $(RECIPES); do \
		$(BIN)/dgemma verify build/tiny-$$recipe.dgemma --engine onnx --checkpoint checkpoints/tiny --threads 1 --json \
			> $(RESULTS)/tiny-verify-$$recipe.json || exit 1; done
	$(BIN)/dgemma verify $(BUNDLE) --engine onnx --checkpoint checkpoints/tiny --threads 1 --json > $(RESULTS)/tiny-verify-fp32.json
	$(BIN)/python -m dgemma.benchmarks.studies.sizes $(BUNDLE) $(RECIPES:%=build/tiny-%.dgemma) --out $(RESULTS)/tiny-sizes.json

bench: $(STAMP) $(BUNDLE)/manifest.json $(QUANTIZED)
	mkdir -p $(RESULTS)
	$(BIN)/python -m dgemma.benchmarks.studies.linear --out $(RESULTS)/linear.json
	for engine in onnx executorch; do \
		$(BIN)/dgemma bench $(BUNDLE) --engine $$engine --threads 2 --out $(RESULTS)/bench-tiny-fp32-$$engine.json && \
		$(BIN)/dgemma bench build/tiny-w8.dgemma --engine $$engine --threads 2 --out $(RESULTS)/bench-tiny-w8-$$engine.json || exit 1; done
	$(BIN)/python -m dgemma.benchmarks.studies.evaluate $(BUNDLE) --engine onnx --threads 1 --out $(RESULTS)/tiny-evaluate.json
	$(BIN)/python -m dgemma.benchmarks.studies.same_tokens $(BUNDLE) --checkpoint checkpoints/tiny --count 300 --threads 1 \
		--out $(RESULTS)/tiny-same-tokens.json
	for recipe in w8 w4-mixed; do $(BIN)/python -m dgemma.benchmarks.studies.same_tokens build/tiny-$$recipe.dgemma --threads 1 \
		--out $(RESULTS)/tiny-same-tokens-$$recipe.json || true; done
	$(BIN)/python -m dgemma.benchmarks.studies.passes build/tiny-w8.dgemma --threads 1 --out $(RESULTS)/tiny-passes.json
	$(BIN)/python -m dgemma.benchmarks.studies.pages

bench-check: $(STAMP) $(BUNDLE)/manifest.json build/tiny-w8.dgemma/manifest.json
	for engine in onnx executorch; do \
		$(BIN)/dgemma bench $(BUNDLE) --engine $$engine --threads 2 --compare $(RESULTS)/bench-tiny-fp32-$$engine.json && \
		$(BIN)/dgemma bench build/tiny-w8.dgemma --engine $$engine --threads 2 --compare $(RESULTS)/bench-tiny-w8-$$engine.json \
		|| exit 1; done

arm64: $(STAMP) $(BUNDLE)/manifest.json $(QUANTIZED)
	$(BIN)/python tests/arm64/run.py $(BUNDLE) build/tiny-w8.dgemma build/tiny-w4-mixed.dgemma --out $(RESULTS)/tiny-arm64.json

clean:
	rm -rf android_demo/*/target build dist *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .coverage
