"""Command lines for a person to type next. Each works where the program that prints it was started."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from urllib.parse import urlsplit

from settings.model import LOCALSTACK_ENDPOINT

PROGRAM = "email-service"
DEFAULT_PORT = urlsplit(LOCALSTACK_ENDPOINT).port
# The Makefile sets this variable to how a person called make, for example `make PORT=5000`.
HINTS_FOR = "HINTS_FOR"
# The targets of the Makefile, each with the variable that takes its argument.
TARGETS = {"emulator": "", "enqueue": "EMAIL_ID", "provision": "", "put": "ROW", "send": "ROW", "status": "EMAIL_ID"}


def hint(command: str, argument: str = "", *options: str) -> str:
    """Return the command line of `email-service COMMAND [ARGUMENT] [OPTION...]`, or of the target that runs it."""
    make, *overrides = os.environ.get(HINTS_FOR, "").split() or [""]
    # make would split the argument at a space, and expand a $.
    if make and command in TARGETS and not options and re.fullmatch(r"[\w.@:+/-]*", argument, re.ASCII):
        return " ".join([make, command, *overrides, *([f"{TARGETS[command]}={argument}"] if argument else [])])
    words = [*command.split(), argument, *options]
    return " ".join([*map(_as_setting, overrides), _program(make), *(shlex.quote(word) for word in words if word)])


def emulator_hint(endpoint: str) -> str:
    """Return the command line that runs the emulator at this endpoint."""
    port = urlsplit(endpoint).port or DEFAULT_PORT
    if port == DEFAULT_PORT:
        return hint("emulator")
    return f"make emulator PORT={port}" if os.environ.get(HINTS_FOR) else hint("emulator", "", "--port", str(port))


def _as_setting(override: str) -> str:
    """Return a variable of make's as the setting that it stands for."""
    name, _, value = override.partition("=")
    return f"EMAIL_ENDPOINT_URL=http://127.0.0.1:{value}" if name == "PORT" else override


def _program(make: str) -> str:
    """Return the program's name if the shell finds it, or its path. A shell that called make may not find it."""
    if not make and shutil.which(PROGRAM):
        return PROGRAM
    path = Path(sys.executable).with_name(PROGRAM)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
