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
# Where "make install" puts things; DESTDIR is set in front, for packages.
PREFIX ?= /usr/local
BINDIR = $(PREFIX)/bin
UNITDIR = $(PREFIX)/lib/systemd/system
DEMO = build/vcn-demo

.PHONY: help deps build install demo demo-stop demo-purge test test-unit test-rooted lab lab-guest build/vcn-lab bench lint clean

help: ## print the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

deps: ## install what is missing (Debian packages, Go)
	@deploy/install-deps

build: deps ## build vcnd, vcnctl, vcn-init and the demo into build/
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o build/ ./daemon/vcnd ./cli/vcnctl
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -buildid=" -o build/vcn-init ./rolls/vcninit
	CGO_ENABLED=0 $(GO) build -trimpath -o $(DEMO) ./test/demo

install: ## install vcnd, vcnctl, vcn-init and the units (DESTDIR, PREFIX=/usr/local)
	@if [ ! -x build/vcnd ] || [ ! -x build/vcnctl ] || [ ! -x build/vcn-init ]; then $(MAKE) build; fi
	install -d "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(UNITDIR)"
	install -m 755 build/vcnd build/vcnctl build/vcn-init "$(DESTDIR)$(BINDIR)/"
	@for u in vcnd.service vcnd-target.service; do \
		echo "$(DESTDIR)$(UNITDIR)/$$u"; \
		sed 's|^ExecStart=[^ ]*/vcnd|ExecStart=$(BINDIR)/vcnd|' "deploy/$$u" >"$(DESTDIR)$(UNITDIR)/$$u" && chmod 644 "$(DESTDIR)$(UNITDIR)/$$u" || exit 1; \
	done
	@if [ -z "$(DESTDIR)" ] && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi

demo: build ## three hosts, one reserved cluster, one job; leaves it running
	@$(DEMO) up

# A demo that runs needs its program to be ended, also after "make clean".
DEMO_IS_THERE = [ -e .demo/run ] || ls /run/netns/vcndemo-* >/dev/null 2>&1
DEMO_BUILD = if [ ! -x $(DEMO) ]; then mkdir -p build && CGO_ENABLED=0 $(GO) build -trimpath -o $(DEMO) ./test/demo; fi

demo-stop: ## end the demo; leaves nothing but its cache in .demo
	@if $(DEMO_IS_THERE); then $(DEMO_BUILD) && $(DEMO) down; else echo "no demo is running"; fi

demo-purge: ## end the demo and remove its cache too
	@if $(DEMO_IS_THERE); then $(DEMO_BUILD) && $(DEMO) purge; else rm -rf .demo; fi

test: lint test-unit test-rooted lab lab-guest ## everything that CI runs

lint: deps ## formatting, vet and staticcheck
	@set -o pipefail; bad=$$(git ls-files -z '*.go' | xargs -0 -r "$$($(GO) env GOROOT)/bin/gofmt" -l) || exit 1; test -z "$$bad" || { echo "not gofmt-ed: $$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags=rooted,hashicorpmetrics ./...
	$(GO) vet -tags=lab,hashicorpmetrics ./hostops/... ./test/lab/...
	$(GO) vet -tags=labguest,hashicorpmetrics ./test/labguest
	GOFLAGS=-buildvcs=false $(GO) run $(STATICCHECK) -tags hashicorpmetrics,rooted ./...
	GOFLAGS=-buildvcs=false $(GO) run $(STATICCHECK) -tags hashicorpmetrics,lab ./hostops/... ./test/lab/...

test-unit: deps ## tests that need no root
	$(GO) test -race -timeout 10m ./...

test-rooted: build ## tests with real links, guests and disks; as root
	$(GO) test -race -tags=rooted,hashicorpmetrics -p 1 -count=1 -timeout 60m $(ROOTED_PKGS)

# Go knows better than make what is out of date.
build/vcn-lab: deps
	@mkdir -p build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o build/vcn-labd ./test/lab/labd
	CGO_ENABLED=0 $(GO) build -trimpath -o build/vcn-lab ./test/lab/vcnlab

lab: build build/vcn-lab ## tests on a kernel with 802.1Q, LVM, LIO, in QEMU; as root
	@test/lab/run

lab-guest: build build/vcn-lab ## a reserved cluster on two such hosts, installed as by an operator; as root
	CGO_ENABLED=0 $(GO) test -tags=labguest,hashicorpmetrics -count=1 -timeout 40m -v ./test/labguest

bench: build ## speed and memory, each beside a peer or the physical limit
	$(GO) test -run '^$$' -bench . -benchmem -timeout 30m ./cluster/... ./fsm/... ./placement/... ./daemon/...
	$(GO) test -tags=rooted,hashicorpmetrics -p 1 -run '^$$' -bench . -benchmem -timeout 60m ./hostops/... ./test/bench

clean: ## remove what was built
	rm -rf build

.PHONY: update
update: deps ## write anew what is generated: docs/cli.md, docs/openapi.json, golden files
	$(GO) test -count=1 ./cli ./daemon/httpapi ./fsm ./rolls ./hostops/libvirt -update
