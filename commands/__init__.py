"""The program `email-service COMMAND`. Each command is a module in this package."""

from __future__ import annotations

INTERRUPTED = 130  # what a shell reports for a program that SIGINT ended: 128 + 2

try:
    import json
    import pkgutil
    import sys
    from contextlib import contextmanager
    from importlib import import_module
    from typing import TYPE_CHECKING

    import click
    from botocore.exceptions import BotoCoreError, ClientError

    from emails.printable import printable
    from emails.providers import unknown_variables
    from emails.resources import ResourcesMissing, why_unusable
    from emails.store import StoreRefused, StoreUnavailable
    from settings import get_settings
except KeyboardInterrupt:  # most of a short command's time goes into these imports
    raise SystemExit(INTERRUPTED) from None

if TYPE_CHECKING:
    from collections.abc import Iterator

# `email_broker` is a separate program, and the double is a part of the demo. All other modules here are commands.
NOT_COMMANDS = frozenset({"broker", "postmark_double"})
CONTEXT = {"help_option_names": ["-h", "--help"]}  # commands inherit it from their group


class Commands(click.Group):
    """Makes every module in this folder a command, for example `dead_letters.py` the command `dead-letters`.

    A module is imported only when its command is used or listed, because the image does not contain all of them.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = (module.name for module in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in names if name not in NOT_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        command = getattr(import_module(f"commands.{name}"), name)
        assert isinstance(command, click.Command)  # noqa: S101 (for the type checker)
        if not any(parameter.name == "version" for parameter in command.params):
            with_version(command)
        return command

    def invoke(self, ctx: click.Context) -> object:
        warn_of_unknown_variables()
        with explained_errors():
            return super().invoke(ctx)


def warn_of_unknown_variables() -> None:
    for sentence in unknown_variables():
        say(f"Warning: {sentence}", err=True)


@contextmanager
def explained_errors() -> Iterator[None]:
    """Turn an error of AWS or of the store into a sentence that says what to do, and Ctrl-C into the exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        say("Interrupted.", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except click.UsageError:  # it quotes only the command line
        raise
    except click.ClickException as error:  # it may quote a row, a message or AWS
        raise click.ClickException(printable(error.format_message())) from None
    except (ResourcesMissing, BotoCoreError, ClientError, StoreUnavailable, StoreRefused) as error:
        raise click.ClickException(printable(_explanation(error))) from None


def _explanation(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, StoreUnavailable) else error
    if isinstance(cause, BotoCoreError | ClientError):
        return why_unusable(get_settings(), cause)
    return str(error)


def say(text: str, *, err: bool = False) -> None:
    """Print a line that is harmless to a terminal, even if it quotes a row, a message or an answer from AWS."""
    click.echo(printable(text), err=err)


def say_id(email_id: str) -> None:
    """Print a valid id for another command exactly as it is, unless a person sees it."""
    click.echo(printable(email_id) if is_terminal() else email_id)


def say_json(value: object) -> None:
    """Print the value as JSON for programs. It is ASCII without control characters, so terminals may show it."""
    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


def is_terminal() -> bool:
    """Whether a person sees what is written to standard output."""
    return sys.stdout.isatty()


def say_message(content: bytes) -> None:
    """Write the bytes of a message to standard output, or show its lines if that is a terminal."""
    if not is_terminal():
        click.echo(content, nl=False)
        return
    for line in content.decode(errors="replace").splitlines():
        say(line)


read_units_option = click.option(
    "--read-units",
    type=click.FloatRange(min=0, min_open=True),
    default=100.0,
    show_default=True,
    help="How many DynamoDB read units a scan of the table may use per second.",
)
with_version = click.version_option(package_name="email-service")


@with_version
@click.command(cls=Commands, context_settings=CONTEXT)
def main() -> None:
    """Send email from Amazon SQS and DynamoDB.

    An email is a row in DynamoDB. It is sent when its id is put on the queue. All commands use the region, endpoint,
    queue and table that the EMAIL_ settings name (see .env.example). Without any, they use the local emulator.
    """
