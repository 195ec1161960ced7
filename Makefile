# A fresh machine needs python3.11 with pip and venv, and make. DGEMMA_VENV names a virtual environment to use or share.
PYTHON3 ?= python3.11
VENV := $(or $(DGEMMA_VENV),.venv)
BIN := $(VENV)/bin
# What is installed, each on top of the one before: for running a bundle, for exporting one, for the tests.
RUNS := $(VENV)/.dgemma-onnx
EXPORTS := $(VENV)/.dgemma-export
STAMP := $(VENV)/.dgemma-dev
SHIPPED := src/dgemma/bundles/tiny.dgemma
BUNDLE := build/tiny.dgemma
RESULTS := benchmarks/results
CHECKPOINT := $(wildcard checkpoints/tiny/*)

.PHONY: help venv demo first-text tiny-bundle test test-python java-test java-bundles apk test-touched test-slow coverage docs format lint lint-ruff lint-mypy lint-imports links verify gate gate-moe bench bench-check arm64 clean
.DELETE_ON_ERROR:

# Without bytecode every command would compile the sources of torch again, for 10 s and more.
unexport PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo       generate a first text from the shipped bundle; then export tiny and run prompts on both engines"
	@echo "make first-text generate only the first text: installs a small environment without torch"
	@echo "make test       run the fast test suites, Python's and Java's (as .ci/run does)"
	@echo "make test-python, make java-test  run one of them; Java's needs openjdk-17-jdk-headless, maven, aapt, android-framework-res"
	@echo "make apk        build and check a signed debug APK; ONNXRUNTIME_AAR=FILE.aar adds native code"
	@echo "make test-touched  run the slow tests touched by the last commit, or since DGEMMA_CI_BASE, for at most 15 minutes"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make docs       build the site into build/site; dead links are errors"
	@echo "make format     format the Python code with ruff"
	@echo "make lint       run ruff and its format check, mypy and import-linter"
	@echo "make coverage   run the fast suite with line coverage of runtime, export and train"
	@echo "make verify     run the ladder on tiny: reference, torch, ONNX Runtime and ExecuTorch on the golden prompts"
	@echo "make gate       compare every recipe of tiny with the float model on many prompts; JSON goes to $(RESULTS)"
	@echo "make gate-moe   compare the recipes of tiny-moe, a trained mixture of experts, with its float model on both engines"
	@echo "make bench      measure quality, speed and sameness of the tiny bundles; writes $(RESULTS) and docs/results"
	@echo "make bench-check  compare ratios of the tiny bundles with the committed ones; exit status 1 if one got worse"
	@echo "make arm64      compare canvases on emulated ARM64 (fetches 150 MB, takes half an hour)"
	@echo "make venv       create only the virtual environment ($(VENV))"
	@echo "make tiny-bundle  export the shipped bundle again ($(SHIPPED))"

# An editable install belongs to one checkout: another one that shares the environment has to install itself.
ifneq ($(shell cat $(RUNS) 2>/dev/null),$(CURDIR))
.PHONY: $(RUNS)
endif

# On Linux x86-64, torch comes from PyPI with 2.7 GB of CUDA libraries. They cannot be left out: libtorch_cuda links them, and
# without them `import torch` fails. Nor does PyPI have a build of torch for the CPU alone.
$(EXPORTS): $(RUNS)
$(STAMP): $(EXPORTS)
$(RUNS) $(EXPORTS) $(STAMP): $(VENV)/.dgemma-%: pyproject.toml tools/install.py
	@$(PYTHON3) tools/install.py $(VENV) $*
	@printf '%s\n' "$(CURDIR)" > $@

venv: $(STAMP)

first-text: $(RUNS)
	$(BIN)/dgemma run tiny -p "Reverse the word table."

$(BUNDLE)/manifest.json: $(CHECKPOINT) | $(EXPORTS)
	rm -rf $(BUNDLE)
	mkdir -p $(dir $(BUNDLE))
	$(BIN)/dgemma export checkpoints/tiny --out $(BUNDLE) --engine all

# The first text comes before the packages that only exporting needs, whatever make's -j says.
demo: first-text
	@$(MAKE) --no-print-directory $(BUNDLE)/manifest.json
	$(BIN)/python -m dgemma.benchmarks.demo $(BUNDLE)

# Renamed into place, so that a failed export leaves the old one. Tests hold that this changes nothing but versions and
# last bits of trajectories until the checkpoint or the exporter changes.
tiny-bundle: $(EXPORTS)
	rm -rf build/shipped.dgemma
	mkdir -p build
	$(BIN)/dgemma export checkpoints/tiny --out build/shipped.dgemma --engine onnx --recipe w8
	rm -rf $(SHIPPED)
	mv build/shipped.dgemma $(SHIPPED)

test: PARTS := python java
test-python: PARTS := python
java-test: PARTS := java

# Parts of Java whose tools are missing are left out; with CI=true that is a failure.
test test-python java-test: $(STAMP)
	$(BIN)/python tests/run.py $(PARTS)

test-touched: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python tests/touched.py

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses=auto --dist=loadfile --no-loadscope-reorder --cov --cov-report=
	$(BIN)/python -m coverage report --include="*/runtime/*" --fail-under=90
	$(BIN)/python -m coverage report --include="*/export/*" --fail-under=90
	$(BIN)/python -m coverage report --include="*/train/*" --fail-under=90

# What walks src/ instead of importing from it. On Windows git writes links as text files unless it is told otherwise.
lint-mypy lint-imports docs: | links
links:
	@test -d src/dgemma/model || { echo "src/dgemma/model is a text file in place of a link; \
	give: git config core.symlinks true && git checkout src/dgemma" >&2; exit 2; }

# mkdocs-material's notice about other generators is no fault of this site. With --quiet, mkdocs counts no warning as an error.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: lint-ruff lint-mypy lint-imports

lint-ruff: $(STAMP)
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

format: $(STAMP)
	$(BIN)/python -m ruff format .

lint-mypy: $(STAMP)
	$(BIN)/python -m mypy
	MYPYPATH=src:android_demo:android_demo/apk $(BIN)/python -m mypy --strict --explicit-package-bases android_demo/apk/*.py android_demo/*.py

lint-imports: $(STAMP)
	$(BIN)/lint-imports --no-cache

RECIPES := w8 w4-mixed w4 w4-all
NPU_BUNDLES := $(patsubst %,build/tiny-npu-%.dgemma/manifest.json,fp32 w8a16)
QUANTIZED := $(RECIPES:%=build/tiny-%.dgemma/manifest.json)

build/tiny-%.dgemma/manifest.json: $(CHECKPOINT) | $(STAMP)
	rm -rf build/tiny-$*.dgemma
	mkdir -p build
	$(BIN)/dgemma export checkpoints/tiny --out build/tiny-$*.dgemma --engine all --recipe $*

# An NPU's graphs without contexts, which need Qualcomm's compiler, and what Python generates from them on the processor.
$(NPU_BUNDLES): build/tiny-npu-%.dgemma/manifest.json: $(BUNDLE)/manifest.json | $(STAMP)
	rm -rf build/tiny-npu-$*.dgemma
	$(BIN)/python tests/support/npu_bundle.py build/tiny-npu-$*.dgemma $*

# What Java's tests read besides the shipped bundle; tests/run.py asks for it where there is a JDK and Maven.
java-bundles: $(BUNDLE)/manifest.json $(NPU_BUNDLES)

apk: $(STAMP)
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

MOE := fp32 w8 w4-mixed w4

build/tiny-moe-%.dgemma/manifest.json: $(wildcard checkpoints/tiny-moe/*) | $(STAMP)
	rm -rf build/tiny-moe-$*.dgemma
	mkdir -p build
	$(BIN)/dgemma export checkpoints/tiny-moe --out build/tiny-moe-$*.dgemma --engine all --recipe $*

# A recipe that misses the gate is published too: exit status 1.
gate-moe: $(STAMP) $(MOE:%=build/tiny-moe-%.dgemma/manifest.json)
	mkdir -p $(RESULTS)
	for recipe in $(MOE); do for engine in onnx executorch; do \
		$(BIN)/dgemma verify build/tiny-moe-$$recipe.dgemma --engine $$engine --checkpoint checkpoints/tiny-moe --count 102 \
			--threads 1 --json > $(RESULTS)/tiny-moe-verify-$$recipe.json || [ $$? = 1 ] || exit 2; done; done
	$(BIN)/python -m dgemma.benchmarks.studies.sizes $(MOE:%=build/tiny-moe-%.dgemma) --out $(RESULTS)/tiny-moe-sizes.json

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
	$(BIN)/python -m dgemma.benchmarks.studies.position_forwards build/tiny-w8.dgemma --threads 1 --out $(RESULTS)/tiny-position-forwards.json
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
