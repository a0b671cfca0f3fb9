"""The images and the compose file, as far as they can be checked without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from pydantic import HttpUrl

from emails.providers.smtp_settings import SmtpSettings
from settings import Settings
from settings.aws import client
from tests.conftest import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
COMPOSE_FILE = ROOT / "docker-compose.yml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILT = {name: service["build"]["target"] for name, service in SERVICES.items() if "build" in service}


def stages() -> dict[str, list[tuple[str, str]]]:
    """Each stage's instructions, those of the stage that it is built on first."""
    found: dict[str, list[tuple[str, str]]] = {}
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, text.splitlines()):
        instruction, _, arguments = line.partition(" ")
        if instruction == "FROM":
            base, name = arguments.split(" AS ")
            current = found[name] = list(found.get(base, []))
        else:
            current.append((instruction, arguments))
    return found


STAGES = stages()


def arguments_of(stage: str, instruction: str) -> list[str]:
    return [arguments for name, arguments in STAGES[stage] if name == instruction]


def environment_of(stage: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for arguments in arguments_of(stage, "ENV") for pair in shlex.split(arguments))


def command_of(stage: str) -> list[str]:
    command: list[str] = json.loads(arguments_of(stage, "CMD")[-1])  # the list form is JSON
    return command


def is_ignored(path: str) -> bool:
    """What .dockerignore says: the last pattern that matches the path, or a folder above it, decides.

    Of Docker's syntax only what ours uses. https://docs.docker.com/build/concepts/context/#syntax
    """
    ignored = False
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        glob = re.escape(pattern.removeprefix("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if any(re.fullmatch(glob, str(part)) for part in (PurePosixPath(path), *PurePosixPath(path).parents)):
            ignored = not pattern.startswith("!")
    return ignored


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Docker would be given, and so what stands in the production image's /app beside the venv."""

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if is_ignored(str((Path(folder) / name).relative_to(ROOT)))]

    return Path(shutil.copytree(ROOT, tmp_path_factory.mktemp("context") / "app", ignore=ignored))


def in_image(context: Path, command: list[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Popen's arguments for a command that finds its modules in the context, and not in this checkout."""
    program, *arguments = command
    launch = (
        "import pathlib, runpy, sys; "
        f"sys.path[:] = [folder for folder in sys.path if pathlib.Path(folder) != pathlib.Path({str(ROOT)!r})]; "
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return {
        "args": [sys.executable, "-c", launch, str(PROGRAMS / program), *arguments],
        "cwd": context,
        "env": {**os.environ, "PYTHONPATH": str(context), **(environment or {})},
    }


def run(options: Mapping[str, Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**options, capture_output=True, text=True, timeout=30, check=False)


# The context


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "Makefile",
        "bench/figures.py",
        "commands/demo.py",
        "commands/emulator.py",
        "docs/operations.md",
        "emails/__pycache__/model.cpython-313.pyc",
        "private.pem",
        "stubs/kombu/__init__.pyi",
        "tests/conftest.py",
    ],
)
def test_what_production_does_not_need_stays_out(path: str) -> None:
    assert is_ignored(path)


def test_every_command_that_needs_no_dev_group_is_in_the_image(context: Path) -> None:
    result = run(in_image(context, ["email-service", "--help"]))
    assert result.returncode == 0, result.stderr
    listed = re.findall(r"^  (\S+)", result.stdout.partition("Commands:\n")[2], flags=re.MULTILINE)
    modules = {module.stem for module in (ROOT / "commands").glob("*.py")} - {
        "__init__",
        "broker",
        "demo",
        "emulator",
        "postmark_double",
    }
    assert set(listed) == {module.replace("_", "-") for module in modules}


def test_the_image_has_all_that_its_app_and_its_commands_import(context: Path, tmp_path: Path) -> None:
    script = tmp_path / "import_all.py"
    script.write_text(
        "import sys, click, commands, commands.broker\n"
        "from tasks import app\n"
        "app.loader.import_default_modules()\n"
        "app.conf.broker_url  # reads celeryconfig\n"
        "for name in commands.main.list_commands(click.Context(commands.main)):\n"
        "    commands.main.get_command(click.Context(commands.main), name)\n"
        "print(*(module.__file__ for module in sys.modules.values() if getattr(module, '__file__', None)), sep='\\n')\n"
    )
    result = run(in_image(context, [str(script)]))
    assert result.returncode == 0, result.stderr
    files = [Path(line) for line in result.stdout.splitlines()]
    assert context / "tasks" / "pipeline.py" in files
    assert context / "celeryconfig.py" in files
    assert not [file for file in files if ROOT in file.parents and Path(sys.prefix) not in file.parents]


# The Dockerfile


@pytest.mark.parametrize("stage", BUILT.values(), ids=BUILT)
def test_an_image_runs_as_a_numbered_user_that_is_not_root(stage: str) -> None:
    assert int(arguments_of(stage, "USER")[-1]) > 0


def test_a_container_s_log_is_for_who_gathers_it() -> None:
    assert environment_of("production")["EMAIL_LOG_FORMAT"] == "json"


def test_a_container_s_threads_share_heaps() -> None:
    assert environment_of("production")["MALLOC_ARENA_MAX"] == "2"


def test_whatever_is_copied_is_there(context: Path) -> None:
    copies = [shlex.split(copy) for stage in STAGES for copy in arguments_of(stage, "COPY")]
    assert copies
    for *sources, _ in copies:
        if sources[0].startswith("--from="):
            assert sources[0].removeprefix("--from=") in STAGES
        else:
            assert [source for source in sources if not (context / source).exists()] == []


def test_each_image_installs_from_the_lock_what_it_needs() -> None:
    def installs(stage: str) -> list[str]:
        return [command for command in arguments_of(stage, "RUN") if command.startswith("uv sync")]

    assert installs("build") == [
        "uv sync --locked --no-dev --extra anymail --no-install-project",
        "uv sync --locked --no-dev --extra anymail",
    ]
    assert installs("build-emulator") == ["uv sync --locked --only-group emulator"]
    assert arguments_of("production", "COPY")[0] == "--from=build /app/.venv /app/.venv"
    assert arguments_of("emulator", "COPY") == ["--from=build-emulator /app/.venv /app/.venv"]


def test_what_the_project_is_built_from_is_in_the_context(context: Path) -> None:
    project = PYPROJECT["project"]
    modules = PYPROJECT["tool"]["uv"]["build-backend"]["module-name"]
    named = [project["readme"], *project["license-files"], *modules]
    assert [name for name in named if not (context / name).exists()] == []


def test_uv_builds_the_project_itself() -> None:
    """Where uv_build's versions take in uv's own, uv needs no other uv_build from PyPI."""
    (uv,) = [Requirement(command.split()[-1]) for command in arguments_of("uv", "RUN")]
    (pin,) = uv.specifier
    assert (uv.name, pin.operator) == ("uv", "==")
    (build,) = PYPROJECT["build-system"]["requires"]
    assert pin.version in Requirement(build).specifier


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command_of("production"), id="worker"),
        pytest.param(command_of("emulator"), id="emulator"),
        *(pytest.param(service["command"], id=name) for name, service in SERVICES.items() if "command" in service),
        pytest.param(["email_broker"], id="email_broker"),
    ],
)
def test_every_command_is_there(context: Path, command: list[str]) -> None:
    result = run(in_image(context, [*command, "--help"]))
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


@pytest.fixture
def emulator_of_the_image(context: Path, tmp_path: Path, wait_until: Callable[..., None]) -> Iterator[int]:
    """The port of an emulator with the image's environment, but for that port and for who can reach it."""
    port = free_port()
    environment = environment_of("emulator") | {"GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1"}
    environment |= noting_writes(context, tmp_path, tmp_path / "written")
    program, *arguments = command_of("emulator")
    process = subprocess.Popen([PROGRAMS / program, *arguments], env=environment)
    try:
        wait_until(lambda: run(health_check(port)).returncode == 0, what="the emulator is healthy")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def test_a_queues_url_names_the_host_that_was_asked(emulator_of_the_image: int) -> None:
    for host in ("emulator:4566", "localhost:4566"):  # another container, and a program on the host
        request = urllib.request.Request(
            f"http://127.0.0.1:{emulator_of_the_image}/",
            data=b'{"QueueName": "emails_local"}',
            headers={
                "Host": host,
                "Content-Type": "application/x-amz-json-1.0",
                "X-Amz-Target": "AmazonSQS.CreateQueue",
            },
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            assert urlsplit(json.load(answer)["QueueUrl"]).netloc == host


def test_the_emulator_writes_below_its_tmpfs_alone(emulator_of_the_image: int, context: Path, tmp_path: Path) -> None:
    s3 = client("s3", Settings(endpoint_url=HttpUrl(f"http://127.0.0.1:{emulator_of_the_image}")))
    s3.create_bucket(Bucket="files")
    s3.put_object(Bucket="files", Key="a", Body=b"a")
    assert_writes_below_tmpfs(tmp_path / "written", SERVICES["emulator"], context)


# The compose file


def test_the_compose_file_follows_the_compose_specification() -> None:
    program = str(PROGRAMS / "check-jsonschema")
    result = run({"args": [program, "--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)]})
    assert result.returncode == 0, result.stdout


def test_every_built_target_is_a_stage_and_every_pulled_image_has_its_version() -> None:
    assert set(BUILT.values()) <= set(STAGES)
    pulled = {name: service["image"] for name, service in SERVICES.items() if name not in BUILT}
    assert {name for name, image in pulled.items() if not re.search(r":v?\d", image)} == set()


BASES = set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)) - set(STAGES)
PULLED = {service["image"] for service in SERVICES.values() if "image" in service}


@pytest.mark.parametrize("image", sorted(BASES | PULLED))
def test_the_command_that_pins_an_image_or_renews_its_digest_stands_beside_it(image: str) -> None:
    tag, at, digest = image.partition("@")
    assert not at or re.fullmatch("sha256:[0-9a-f]{64}", digest)
    file = ROOT / "Dockerfile" if image in BASES else COMPOSE_FILE
    assert f"docker buildx imagetools inspect {tag} --format '{{{{.Manifest.Digest}}}}'" in file.read_text()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_service_has_no_right_that_it_does_not_need(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert not {"cap_add", "privileged", "user", "pid", "ipc", "network_mode", "devices"} & set(service)


def test_what_is_published_is_published_on_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_no_service_is_given_a_path_of_this_machine(service: dict[str, Any]) -> None:
    assert not {"volumes", "configs", "secrets", "extends"} & set(service)
    assert service.get("env_file", "${SETTINGS_FILE:-/dev/null}") == "${SETTINGS_FILE:-/dev/null}"
    assert service.get("build", {}).get("context", ".") == "."


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_stays_is_started_again(name: str) -> None:
    assert SERVICES[name].get("restart") == (None if name == "provision" else "unless-stopped")


def test_nothing_needs_more_than_docker_24() -> None:
    """Docker 25 added start_interval, and Compose 2.24 the long form of env_file."""
    for service in SERVICES.values():
        assert "start_interval" not in service.get("healthcheck", {})
        assert isinstance(service.get("env_file", ""), str)


def test_flower_has_a_default_password_and_is_published_on_this_machine_alone() -> None:
    flower = SERVICES["flower"]
    assert flower["environment"]["FLOWER_BASIC_AUTH"] == "${FLOWER_BASIC_AUTH:-local:local}"
    assert flower["ports"] == ["127.0.0.1:5555:5555"]


def test_worker_and_flower_start_when_the_queues_are_made() -> None:
    assert SERVICES["provision"]["depends_on"] == {"emulator": {"condition": "service_healthy"}}
    for name in ("worker", "flower"):
        assert SERVICES[name]["depends_on"] == {"provision": {"condition": "service_completed_successfully"}}


def test_the_services_ask_the_emulator_where_it_listens() -> None:
    port = environment_of("emulator")["GATEWAY_PORT"]
    for name in ("provision", "worker", "flower"):
        assert SERVICES[name]["environment"]["EMAIL_ENDPOINT_URL"] == f"http://emulator:{port}"
    assert SERVICES["emulator"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert environment_of("emulator")["BIND_HOST"] == "0.0.0.0"


def test_the_worker_sends_to_the_inbox(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["worker"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    server = SmtpSettings()
    assert (Settings().provider, server.smtp_security) == (("smtp",), "none")
    assert f"127.0.0.1:{server.smtp_port}:{server.smtp_port}" in SERVICES[server.smtp_host]["ports"]


def test_the_worker_is_given_longer_to_stop_than_one_send_may_take() -> None:
    seconds = int(SERVICES["worker"]["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings.model_fields["provider_timeout"].default


def health_check(port: int, service: str = "emulator") -> dict[str, Any]:
    kind, python, *arguments = SERVICES[service]["healthcheck"]["test"]
    assert (kind, python) == ("CMD", "python")
    listening = SERVICES[service]["ports"][0].rpartition(":")[0]
    assert listening in arguments[-1]
    return {"args": [sys.executable, *(argument.replace(listening, f"127.0.0.1:{port}") for argument in arguments)]}


def test_a_ready_emulator_is_healthy(emulator: str) -> None:
    port = urlsplit(emulator).port
    assert port
    result = run(health_check(port))
    assert result.returncode == 0, result.stderr


def test_an_emulator_that_does_not_answer_is_not_healthy() -> None:
    with socket.socket() as bound:  # and not listening: nobody else listens there either
        bound.bind(("127.0.0.1", 0))
        result = run(health_check(bound.getsockname()[1]))
    assert result.returncode == 1
    assert "Connection refused" in result.stderr


@pytest.mark.slow
def test_the_services_provision_work_and_stop(
    context: Path, emulator: str, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    stage = {"EMAIL_ENDPOINT_URL": emulator, "EMAIL_STAGE": f"t{uuid.uuid4().hex[:10]}"}
    written = tmp_path / "written"
    watched = noting_writes(context, tmp_path, written)
    environment = {name: str(value) for name, value in SERVICES["worker"]["environment"].items()} | stage | watched
    provisioned = run(in_image(context, SERVICES["provision"]["command"], environment))
    assert provisioned.returncode == 0, provisioned.stderr
    log = tmp_path / "worker.log"
    with log.open("w") as output:
        options = in_image(context, command_of(BUILT["worker"]), environment)
        worker = subprocess.Popen(**options, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(lambda: "ready." in log.read_text() or worker.poll() is not None, what="the worker is ready")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(20) == 0, log.read_text()
    finally:
        worker.kill()
        worker.wait()
    assert SERVICES["worker"]["environment"]["EMAIL_LIVENESS_FILE"] in written.read_text().splitlines()
    assert_writes_below_tmpfs(written, SERVICES["worker"], context)


# Python calls it before it opens a file, makes a folder, or removes or renames one (Python docs, "Audit events table").
NOTE_WRITES = """
import os, sys
written = os.open({written!r}, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def note(event, arguments):
    writes = event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink")
    if event == "open" and isinstance(arguments[2], int):
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and isinstance(arguments[0], (str, os.PathLike)):
        os.write(written, (os.path.abspath(arguments[0]) + "\\n").encode())
sys.addaudithook(note)
"""


def noting_writes(context: Path, folder: Path, written: Path) -> dict[str, str]:
    """The environment in which a Python program notes the paths that it writes to."""
    (folder / "sitecustomize.py").write_text(NOTE_WRITES.format(written=str(written)))
    return {"PYTHONPATH": f"{folder}:{context}", "PYTHONDONTWRITEBYTECODE": "1"}


def assert_writes_below_tmpfs(written: Path, service: dict[str, Any], context: Path) -> None:
    """In a container whose root is read-only there is nothing else to write to."""
    (tmpfs,) = service["tmpfs"]
    paths = {Path(path) for path in written.read_text().splitlines()}
    # The tests' own folders lie below /tmp too, and the context among them.
    allowed = {
        path for path in paths if {Path(tmpfs), Path("/dev")} & set(path.parents) and context not in path.parents
    }
    assert paths - allowed == set()


def flower(context: Path, **environment: str) -> dict[str, Any]:
    """Popen's arguments for the flower service."""
    return in_image(context, SERVICES["flower"]["command"], SERVICES["flower"]["environment"] | environment)


@pytest.mark.slow
def test_flower_without_a_password_stops_and_says_what_to_set(context: Path) -> None:
    result = run(flower(context, FLOWER_BASIC_AUTH="", FLOWER_PORT=str(free_port())))
    assert result.returncode == 1
    assert "would listen on 0.0.0.0" in result.stderr
    assert "set FLOWER_BASIC_AUTH=user:password" in result.stderr


@pytest.mark.slow
def test_flower_is_healthy_and_asks_for_the_password(
    context: Path, tmp_path: Path, wait_until: Callable[..., None]
) -> None:
    port = free_port()
    options = flower(
        context,
        **noting_writes(context, tmp_path, tmp_path / "written"),
        FLOWER_ADDRESS="127.0.0.1",  # only this machine is to reach it
        FLOWER_BASIC_AUTH="ada:secret",
        FLOWER_PORT=str(port),
    )
    process = subprocess.Popen(**options, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: run(health_check(port, "flower")).returncode == 0, what="Flower is healthy")
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/broker", timeout=5)
    finally:
        process.terminate()
        process.wait(20)
    assert_writes_below_tmpfs(tmp_path / "written", SERVICES["flower"], context)
