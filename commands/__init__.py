"""The program `email-service COMMAND`. Each command is a module in this package."""

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

# `email_broker` is a separate program. All other modules here are commands.
NOT_COMMANDS = frozenset({"broker"})


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
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return self._invoke(ctx)
        except click.UsageError:  # it quotes only the command line
            raise
        except click.ClickException as error:  # it may quote a row, a message or AWS
            raise click.ClickException(printable(error.format_message())) from None

    def _invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ResourcesMissing as error:
            raise click.ClickException(str(error)) from None
        except BotoCoreError as error:
            raise click.ClickException(unreachable(get_settings(), error)) from None
        except ClientError as error:
            raise click.ClickException(f"AWS refused the request: {error}") from None
        except (StoreUnavailable, StoreRefused) as error:
            settings = get_settings()
            where = f"table {settings.table} at {settings.endpoint or settings.region}"
            raise click.ClickException(
                f"{error} ({where}). Does it exist? `email-service provision` creates it."
            ) from None


def say(text: str, *, err: bool = False) -> None:
    """Print a line that is harmless to a terminal, even if it quotes a row, a message or an answer from AWS."""
    click.echo(printable(text), err=err)


def say_json(value: object) -> None:
    """Print the value as JSON for programs. It is ASCII without control characters, so terminals may show it."""
    click.echo(json.dumps(value).replace("\x7f", "\\u007f"))


@click.command(cls=Commands)
@click.version_option(package_name="email-service")
def main() -> None:
    """Send email from Amazon SQS and DynamoDB.

    An email is a row in DynamoDB. It is sent when its id is put on the queue. All commands use the region, endpoint,
    queue and table that the EMAIL_ settings name (see .env.example). Without any, they use the local emulator.
    """
