# docker build .                     builds the image of the worker and all commands (the last stage)
# docker build --target emulator .   builds the image of SQS and DynamoDB on one machine, for docker-compose.yml

# The tag names the Debian release, so that a rebuild brings fixes but not another Debian.
#
# A tag may later point to another image, but a digest never does. To pin the image, or to update a pinned one, put what
# this command prints after the tag, as in `3.13-slim-trixie@sha256:…`:
#   docker buildx imagetools inspect python:3.13-slim-trixie --format '{{.Manifest.Digest}}'
FROM python:3.13-slim-trixie AS python


FROM python AS uv
# uv comes from PyPI, like everything else here, so that no other image is needed. The minor version is that of uv_build
# in pyproject.toml.
RUN pip install --no-cache-dir uv==0.13.9
# The final stages have the same interpreter as this one, but would not have one that uv downloads. Modules are compiled
# now, because the user who runs them may not write .pyc files, so every start would compile them again.
ENV UV_PYTHON_DOWNLOADS=never \
    UV_COMPILE_BYTECODE=1
WORKDIR /app
# Only these two files, so that a change in the code does not install the dependencies again.
COPY pyproject.toml uv.lock ./


FROM uv AS build-emulator
# Only ministack: it shares the lock file with the service, but no code.
RUN uv sync --locked --only-group emulator


FROM uv AS build
RUN uv sync --locked --no-dev --extra anymail --no-install-project
# .dockerignore decides what is copied. The project is installed in editable mode, as on a developer's machine, because
# celeryconfig.py is a single module, and uv_build puts only packages into a wheel.
COPY . .
RUN uv sync --locked --no-dev --extra anymail


FROM python AS runtime
# The user is a number, because Kubernetes' runAsNonRoot does not accept a name. It has an entry in /etc/passwd, because
# Python looks it up there. Root owns all of /app, so that a process that is taken over cannot change its own code.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin email
USER 10001
WORKDIR /app
# Output is not buffered, so that the last lines before a crash are in the log.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1
# This is Docker's default, but important: on SIGTERM Celery finishes what is running, and on SIGQUIT it does not.
STOPSIGNAL SIGTERM


FROM runtime AS emulator
COPY --from=build-emulator /app/.venv /app/.venv
# It listens on all interfaces of the container; how its port is published decides who can reach it. Without
# MINISTACK_HOST, queue URLs name the host that the caller used, so they work both in other containers and outside. The
# MQTT listener (IoT) is not needed.
ENV BIND_HOST=0.0.0.0 \
    GATEWAY_PORT=4566 \
    IOT_MTLS_ENABLED=0 \
    LOG_LEVEL=WARNING
CMD ["ministack"]


FROM runtime AS production
# Programs that collect container logs expect each line to be an event, and look for its fields. The threads share two of
# malloc's arenas (mallopt(3)). By default there may be eight for each core, and large emails make each of them grow: with
# bodies of 100 KB, a worker needs a fifth more memory.
ENV EMAIL_LOG_FORMAT=json \
    MALLOC_ARENA_MAX=2
# There are two layers, so that after a change in the code the dependencies are not pushed and pulled again.
COPY --from=build /app/.venv /app/.venv
COPY . .
# There is no ENTRYPOINT, so `docker run IMAGE` runs a worker, and `docker run IMAGE email-service status ID` runs a
# command. CMD is a list, so that Celery is process 1 and gets the SIGTERM. If it were a string, a shell would get the
# signal and not pass it on.
CMD ["celery", "-A", "tasks", "worker", "--loglevel", "INFO"]
