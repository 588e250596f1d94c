# make demo   finetune a small ViT on half of its tokens, on all, and with random-LTD, side by side
# make test   all tests
# make lint   formatting and clippy
# make doc    the library's documentation
# make ci     continuous integration's first job on Linux (.ci/window and .ci/web are others)

CARGO ?= cargo

# Mesa's device selection complains, at every start, on a machine without a login session.
export XDG_RUNTIME_DIR ?= /tmp

.PHONY: demo test lint doc ci driver

demo: driver
	$(CARGO) run --release --example vit_finetune -- --compare none,random-ltd

test: driver
	$(CARGO) test --release

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --release --all-targets -- -D warnings

doc: export RUSTDOCFLAGS = -D warnings
doc:
	$(CARGO) doc --release --no-deps --lib --all-features

ci:
	.ci/run

# Linux machines may lack a Vulkan driver; macOS and Windows bring Metal and DX12.
driver:
ifneq ($(OS),Windows_NT)
	@.ci/vulkan-driver
endif
