# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# What is ours: a demo's output may lie beside it.
HOUSE := privacy client server simulations tests docs .ci README.md

.PHONY: demo test check types fast test-long test-flower lock proto docs clean

demo: .venv
	rm -rf cloister-demo
	$(BIN)/cloister demo --out cloister-demo

# Tests are compiled once, for all processes that run them.
export PYTHONDONTWRITEBYTECODE =

# The fast tests sync thousands of small files: in memory, where there is room, that takes no time.
IN_MEMORY = scratch=$$(mktemp -d -p /dev/shm cloister-XXXXXX 2>/dev/null || mktemp -d); trap 'rm -rf "$$scratch"' EXIT

test: check
	$(IN_MEMORY); HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "job and not slow and not long" --basetemp=$$scratch/tests
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "slow and not long" --ignore=tests/end_to_end
	HF_HUB_OFFLINE=1 $(BIN)/pytest -n 2 --dist loadfile -m "slow and not long" tests/end_to_end
	$(MAKE) test-flower

check: .venv
	$(BIN)/ruff check $(HOUSE)
	$(BIN)/ruff format --check $(HOUSE)
	$(MAKE) -j2 types fast

types: .venv
	$(BIN)/mypy .links/cloister

fast: .venv
	$(IN_MEMORY); HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile -m "not job and not slow and not long" --basetemp=$$scratch/tests

test-long: .venv
	HF_HUB_OFFLINE=1 $(BIN)/pytest -m long
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto -m "not slow and not long" --hypothesis-profile=explore

# Every supported Flower version passes the tests that start the real server.
test-flower: .compat/flwr-1.41.0
	HF_HUB_OFFLINE=1 PYTHONPATH=$(CURDIR)/.compat/flwr-1.41.0 $(BIN)/pytest -m flower

.venv: requirements.lock requirements-cpu.lock requirements-cuda.lock
	.ci/venv $(PYTHON)

.compat/flwr-%: requirements-flower.lock | .venv
	$(BIN)/pip install --quiet --no-deps --require-hashes --target $@ -r requirements-flower.lock

lock: .venv
	.ci/lock

proto: .venv
	$(BIN)/python -m grpc_tools.protoc -I privacy/wire --python_out=privacy/wire --pyi_out=privacy/wire --grpc_python_out=privacy/wire privacy/wire/consortium.proto
	sed -i 's/^import consortium_pb2/from cloister.privacy.wire import consortium_pb2/' privacy/wire/consortium_pb2_grpc.py

docs: .venv
	$(BIN)/python .ci/errors.py

clean:
	rm -rf .venv .compat build dist *.egg-info
