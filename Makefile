# Comity: build, test, run. `make help` lists the targets; CONTRIBUTING.md explains them.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

MODULE   := github.com/comity-mesh/comity
PROGRAMS := global-cp zone-cp ingress sidecar comity
TOOLBIN  := $(CURDIR)/.cache/tools/bin
CONSOLE  := $(shell git ls-files --cached --others --exclude-standard -- console ':!console/*.go' ':!console/dist')
PROTOS   := $(sort $(shell git ls-files --cached --others --exclude-standard -- "*.proto"))

# What the build calls itself: the nearest tag, else "dev" and the commit.
VERSION ?= $(shell git describe --tags --dirty 2>/dev/null || echo dev)
COMMIT  ?= $(shell git rev-parse --short HEAD 2>/dev/null)
LDFLAGS := -X $(MODULE)/internal/version.Version=$(VERSION) -X $(MODULE)/internal/version.Commit=$(COMMIT)

# Builds name their version with LDFLAGS, so Go need not ask Git for its own (which fails in a clone of another user).
export GOFLAGS += -buildvcs=false

# Tests start real Envoys and control planes: packages run two at a time so that each has a core. Some build the
# programs that they run, which Go's cache of test results does not see: hence -count=1.
TEST_FLAGS    ?= -count=1
TEST_PARALLEL ?= 2
TEST_TIMEOUT  ?= 15m
PACKAGES      ?= ./...

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##: run

.PHONY: demo
demo: build tools ## Run three zones with real Envoys on loopback (ARGS="--check" runs the story unattended; PG=1 with Postgres)
	bin/comity demo $(if $(PG),--postgres) $(ARGS)

##: build

.PHONY: build
build: go-version console ## Build the programs into bin/
	@mkdir -p bin
	go build -ldflags '$(LDFLAGS)' -o bin/ $(foreach p,$(PROGRAMS),$(if $(wildcard $(p)/*.go),./$(p))) $(if $(wildcard deploy/demo/shop/*.go),./deploy/demo/shop)
	@echo "build: $$(ls -p bin | grep -v / | tr '\n' ' ')in bin/, version $(VERSION)"

.PHONY: console
console: console/dist/index.html ## Build the web console that the programs embed (needs Node 20; without it they say so)

console/dist/index.html: $(CONSOLE)
	@tools/console build

.PHONY: pictures
pictures: build tools ## Take the picture of docs/console.md again, from the demo
	@tools/console browser
	@tools/console pictures

.PHONY: generate
generate: $(TOOLBIN)/protogen ## Generate code from the .proto files
	$(TOOLBIN)/protogen -root . -plugins $(TOOLBIN) $(PROTOS)

##: check

.PHONY: test
test: tools ## Check everything that .ci/run checks: vet, build, all tests with real Envoys and a real browser
	@tools/console browser
	go vet ./...
	@$(MAKE) build
	go test -p $(TEST_PARALLEL) -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(PACKAGES)

.PHONY: e2e
e2e: tools ## The tests with whole programs, those on networks of their own included (root)
	COMITY_E2E_NETWORK=require go test -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) -v ./test/e2e

.PHONY: lint
lint: $(TOOLBIN)/golangci-lint ## Run the linters (.golangci.yml)
	$(TOOLBIN)/golangci-lint run $(PACKAGES)
	bash -n tools/install tools/console .ci/run

.PHONY: fmt
fmt: $(TOOLBIN)/golangci-lint ## Format the code, imports of ours last
	$(TOOLBIN)/golangci-lint fmt

.PHONY: verify
verify: go-version ## Fail if generated code, go.mod or formatting is not current
	go mod tidy -diff
	go -C tools mod tidy -diff
	@unformatted=$$(git ls-files -z '*.go' | xargs -0 gofmt -l); \
	  [ -z "$$unformatted" ] || { printf 'not gofmt-ed:\n%s\n' "$$unformatted" >&2; exit 1; }
	@before=$$(git status --porcelain; git diff); $(MAKE) generate; after=$$(git status --porcelain; git diff); \
	  [ "$$before" = "$$after" ] || { echo 'verify: `make generate` changed files: commit them with the .proto files' >&2; git status --short >&2; exit 1; }
	@echo 'verify: current'

.PHONY: fuzz
fuzz: go-version ## Fuzz every target for FUZZTIME (20s) each
	@tools/fuzz "$${FUZZTIME:-20s}"

.PHONY: soak
soak: tools ## Random schedules of writes and kills on both stores, SOAK times (20) as many as make test runs
	COMITY_SOAK=$${SOAK:-20} go test -count=1 -timeout 6h -v -run TestSchedules ./store/sqlitestore ./store/pgstore | grep -v "^=== \|PASS: TestSchedules/"

.PHONY: bench
bench: build tools ## Measure; prints the conditions beside the figures (docs/performance.md)
	@tools/bench $(ARGS)

##: tools

.PHONY: tools
tools: go-version ## Download the pinned tools into .cache/tools (tools/versions.env)
	@tools/install

.PHONY: clean
clean: ## Remove what the build made (.cache stays; remove it by hand)
	rm -rf bin .demo

# Not for people: checks that the Go on this machine is new enough, with words of our own.
.PHONY: go-version
go-version:
	@tools/go-version

# The Go tools are their own module, so that their requirements never reach the product's go.mod.
$(TOOLBIN)/protogen: tools/go.mod tools/go.sum $(wildcard tools/protogen/*.go) | go-version
	@mkdir -p $(TOOLBIN)
	go -C tools build -o $(TOOLBIN)/ ./protogen google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	@touch $@

$(TOOLBIN)/golangci-lint: tools/go.mod tools/go.sum | go-version
	@mkdir -p $(TOOLBIN)
	@echo 'lint: building golangci-lint (some minutes, once)'
	go -C tools build -o $(TOOLBIN)/ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@
