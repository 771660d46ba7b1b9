"""The command line: one file for each command, imported when it is asked for."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

import click

from umbel.cli.errors import FAILURE, print_error
from umbel.cli.invocation import Invocation
from umbel.cli.options import global_options, read_variables

STARTED = time.monotonic()
"""When the command began, but for the interpreter's own start (monotonic)."""

COMMANDS = {
    "worker": "Run tasks until told to stop.",
    "beat": "Send periodic tasks when they are due.",
    "schedule": "List, add, edit, pause, run and remove periodic tasks.",
    "call": "Send a task and print its id.",
    "result": "Show what became of a task, or where it is.",
    "status": "Show the workers, where the store is, and what waits in it.",
    "queues": "Show the queues, and who serves them; pause and resume them.",
    "dead": "List, show, replay and drop dead letters; recover what dead Celery workers held.",
    "purge": "Drop the messages that wait in queues.",
    "report": "Show versions, the store, and where each setting comes from; check them.",
    "shell": "Start Python with the app, and its tasks by their names.",
    "completion": "Print what makes a shell complete commands, options and names.",
}
"""What there is, with its first line of help: `umbel --help` imports none of them."""


class Commands(click.Group):
    """The group `umbel`."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's)
        """The names, in the order in which they are met."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"umbel.cli.{cmd_name}"), cmd_name)
        read_variables(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse a line; `NoSuchOption` says where an option of a command has to stand."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = next((word for word in words if word in COMMANDS), None)
            command = name and self.get_command(ctx, name)
            if command and any(error.option_name in option.opts for option in command.params):
                message = f"{error.option_name} is an option of {name}: it goes after that word."
                raise click.UsageError(message, ctx) from None
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of the first word; `UsageError` names the nearest one."""
        if args[0] not in COMMANDS and not ctx.resilient_parsing:
            from umbel.cli.absent import explain

            raise click.UsageError(explain(args[0], COMMANDS), ctx)
        return super().resolve_command(ctx, args)


def print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Answer --version."""
    if value and not ctx.resilient_parsing:
        from umbel import __version__

        click.echo(f"umbel {__version__}")
        ctx.exit()


@click.command(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=print_version,
    help="Show the version and exit.",
)  # fmt: skip
@global_options
@click.pass_context
def commands(ctx: click.Context) -> None:
    """Umbel, a task queue.

    Without -A, the app is the only one in the working directory.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(args: Sequence[str]) -> int:
    """Run one command line; its exit code, as in `umbel.cli.errors`."""
    own = args[: args.index("--")] if "--" in args else args
    color = False if os.environ.get("NO_COLOR") else None
    asked = Invocation(words=tuple(args), started=STARTED)
    try:
        code = commands.main(
            list(args), prog_name="umbel", standalone_mode=False, color=color, obj=asked
        )
    except click.Abort:
        return FAILURE
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return print_error(error, as_json="--json" in own)
        # Stores tell of a full disk in words of their own.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (what is left in it cannot be written)
        click.echo(f"Error: the answer could not be written: {error.strerror}.", err=True)
        return FAILURE
    except Exception as error:  # noqa: BLE001  (told to people, or raised again)
        return print_error(error, as_json="--json" in own)
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """The command `umbel`."""
    sys.exit(run(sys.argv[1:]))
