# vcn. "make" alone prints the targets.
SHELL := /bin/bash
# raft, memberlist and raft-boltdb share one metrics library only with this tag.
GOFLAGS := -buildvcs=false -tags=hashicorpmetrics
export GOFLAGS
# Packages, base trees and images that tests share between runs.
export VCN_CACHE ?= $(CURDIR)/.cache
GO = $(shell deploy/go-path)
VERSION = $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS = -X vcn/daemon.Version=$(VERSION) -X vcn/cli.Version=$(VERSION)
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
ROOTED_PKGS = ./hostops/... ./test/...

.PHONY: help deps build demo demo-stop demo-purge test test-unit test-rooted bench lint clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

deps: ## install what is missing (Debian packages, Go)
	@deploy/install-deps

build: deps ## build vcnd, vcnctl, vcn-init and the demo into build/
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o build/ ./daemon/vcnd ./cli/vcnctl
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -buildid=" -o build/vcn-init ./rolls/vcninit
	CGO_ENABLED=0 $(GO) build -trimpath -o build/vcn-demo ./test/demo

demo: build ## three hosts, one reserved cluster, one job; leaves it running
	@build/vcn-demo up

demo-stop: ## end the demo; leaves nothing but its cache in .demo
	@if [ -x build/vcn-demo ]; then build/vcn-demo down; else echo "no demo was built here"; fi

demo-purge: ## end the demo and remove its cache too
	@if [ -x build/vcn-demo ]; then build/vcn-demo purge; else rm -rf .demo; fi

test: lint test-unit test-rooted ## everything that CI runs

lint: deps ## formatting, vet and staticcheck
	@bad=$$("$$($(GO) env GOROOT)/bin/gofmt" -l $$(git ls-files '*.go')) && test -z "$$bad" || { echo "not gofmt-ed: $$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags=rooted,hashicorpmetrics ./...
	GOFLAGS=-buildvcs=false $(GO) run $(STATICCHECK) -tags hashicorpmetrics,rooted ./...

test-unit: deps ## tests that need no root
	$(GO) test -race -timeout 10m ./...

test-rooted: build ## tests with real links, guests and disks; as root
	$(GO) test -race -tags=rooted,hashicorpmetrics -p 1 -count=1 -timeout 60m $(ROOTED_PKGS)

bench: build ## speed and memory, each beside a peer or the physical limit
	$(GO) test -run '^$$' -bench . -benchmem -timeout 30m ./cluster/... ./fsm/... ./placement/... ./daemon/...
	$(GO) test -tags=rooted,hashicorpmetrics -p 1 -run '^$$' -bench . -benchmem -timeout 60m ./hostops/... ./test/bench

clean: ## remove what was built
	rm -rf build
