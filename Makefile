# make demo   set up, build, and run the whole chain on a real model (no GPU needed)
# make test   set up, build, and run every test
# PRESET=cpu|cpu-asan|cuda picks the build (default: cuda where nvcc 13.0 or newer is found, else cpu).
SHELL := /bin/bash
NVCC_RELEASE := $(shell nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9]*\)\..*/\1/p')
PRESET ?= $(if $(filter 13 14 15 16,$(NVCC_RELEASE)),cuda,cpu)
BUILD := build/$(PRESET)
JOBS ?= $(shell nproc)
SOURCES = $(shell git ls-files 'src/*.h' 'src/*.cpp' 'src/*.cu' 'src/*.cuh' 'tests/*.h' 'tests/*.cpp' 'tests/*.cu' 'lab/*.cu')

.PHONY: demo test build setup model format lint install clean

demo: build model
	tools/demo.sh $(BUILD)/bin

test: build model
	ctest --preset $(PRESET) -j $(JOBS)

build: setup
	cmake --preset $(PRESET) --log-level=NOTICE
	cmake --build --preset $(PRESET) -j $(JOBS)

setup:
	@tools/setup.sh

model: build
	@tools/fetch_model.sh $(BUILD)/bin

format:
	clang-format -i $(SOURCES)

lint: build
	tools/lint.sh $(BUILD)

install: build
	cmake --install $(BUILD) --prefix $(or $(PREFIX),/usr/local)

clean:
	rm -rf build
