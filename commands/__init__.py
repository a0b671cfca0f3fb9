"""What a person types: `email-service COMMAND`, one command a file."""

from __future__ import annotations

import json
import pkgutil
from importlib import import_module

import click
from botocore.exceptions import BotoCoreError, ClientError

from emails.printable import printable
from emails.resources import ResourcesMissing, unreachable
from emails.store import StoreRefused, StoreUnavailable
from settings import get_settings

# A program of its own; the rest of the modules here are commands.
NOT_COMMANDS = frozenset({"broker"})


class Commands(click.Group):
    """Every module in this folder is a command, imported when it is asked for: some stay out of the image.

    `dead_letters.py` is the command `dead-letters`, as click names it.
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
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return self._invoke(ctx)
        except click.UsageError:  # it quotes the command line
            raise
        except click.ClickException as error:  # it may quote a row, a message, or what AWS answered
            raise click.ClickException(printable(error.format_message())) from None

    def _invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ResourcesMissing as error:
            raise click.ClickException(str(error)) from None
        except BotoCoreError as error:
            raise click.ClickException(unreachable(get_settings(), error)) from None
        except ClientError as error:
            raise click.ClickException(f"AWS refuses: {error}") from None
        except (StoreUnavailable, StoreRefused) as error:
            settings = get_settings()
            where = f"table {settings.table} at {settings.endpoint or settings.region}"
            raise click.ClickException(f"{error} ({where}). Is it there? `email-service provision` makes it.") from None


def say(text: str, *, err: bool = False) -> None:
    """Print a line: what every command prints, rows, messages and answers included, is harmless to a terminal."""
    click.echo(printable(text), err=err)


def say_json(value: object) -> None:
    """Print a JSON document, in ASCII without control characters: programs read it, but a terminal may show it."""
    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


@click.command(cls=Commands)
@click.version_option(package_name="email-service")
def main() -> None:
    """Send email from Amazon SQS and DynamoDB.

    A row in DynamoDB is an email; its id on the queue sends it. Every command works on the region, endpoint, queue and
    table that the EMAIL_ settings name (see .env.example), which is the local emulator where they name none.
    """
