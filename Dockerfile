# docker build .                     the image of the worker and of every command (the last stage)
# docker build --target emulator .   SQS and DynamoDB on one machine, for docker-compose.yml

# The Debian release is named, so that a rebuild brings fixes but no other Debian.
#
# A tag may come to mean another image; a digest never does. To pin the image, or to renew it later for its fixes, put
# after the tag what this prints, as in `3.13-slim-trixie@sha256:…`:
#   docker buildx imagetools inspect python:3.13-slim-trixie --format '{{.Manifest.Digest}}'
FROM python:3.13-slim-trixie AS python


FROM python AS uv
# From PyPI, as everything else here, rather than from one more image. pyproject.toml's uv_build has the same minor.
RUN pip install --no-cache-dir uv==0.13.9
# The venvs run on the final stages' interpreter, which is this stage's; one that uv downloads would stay behind here.
# Compiled now: the user that runs them may not write beside the modules, and every start would compile them again.
ENV UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1
WORKDIR /app
# These two alone, so that a change of the code installs no dependency anew.
COPY pyproject.toml uv.lock ./


FROM uv AS build-emulator
# ministack and no more: it shares the lock with the service, but no code.
RUN uv sync --locked --only-group emulator


FROM uv AS build
RUN uv sync --locked --no-dev --no-install-project
# What .dockerignore lets in. The project is installed editable, as on a developer's machine: celeryconfig.py is a
# module beside the packages, and the wheels of uv_build have packages only.
COPY . .
RUN uv sync --locked --no-dev


FROM python AS runtime
# A number, since Kubernetes' runAsNonRoot cannot tell who a name is; with an entry in /etc/passwd, where Python looks
# up its user. All of /app stays root's: a process that is taken over cannot change its own code.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin email
USER 10001
WORKDIR /app
# Unbuffered, so that the last lines before a crash are in the log.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1
# Docker's default, said aloud: Celery finishes what runs on SIGTERM, and drops it on SIGQUIT.
STOPSIGNAL SIGTERM


FROM runtime AS emulator
COPY --from=build-emulator /app/.venv /app/.venv
# All interfaces of the container; whoever publishes the port says who reaches it. MINISTACK_HOST stays unset: queue
# URLs then name the host that the caller asked, and so work in other containers and outside. The MQTT listener (IoT)
# is of no use here.
ENV BIND_HOST=0.0.0.0 \
    GATEWAY_PORT=4566 \
    IOT_MTLS_ENABLED=0 \
    LOG_LEVEL=WARNING
CMD ["ministack"]


FROM runtime AS production
# Whoever gathers a container's log takes a line for an event, and looks for its fields.
ENV EMAIL_LOG_FORMAT=json
# Two layers, so that a change of the code neither pushes nor pulls the dependencies again.
COPY --from=build /app/.venv /app/.venv
COPY . .
# No ENTRYPOINT: `docker run IMAGE` is a worker, `docker run IMAGE email-service status ID` a command. As a list, Celery
# is process 1 and gets the SIGTERM; the shell of the other form would not pass it on.
CMD ["celery", "-A", "tasks", "worker", "--loglevel", "INFO"]
