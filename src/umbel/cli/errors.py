"""What a command says when it cannot do what it was asked, and with which exit code."""

from __future__ import annotations

import click

from umbel.cli.output import print_json

FAILURE = 1
USAGE = 64
"""The command line, or the app that it names, is wrong (EX_USAGE)."""
UNAVAILABLE = 69
"""The store cannot be reached or used, or no worker is alive (EX_UNAVAILABLE)."""
INTERRUPTED = 130
"""Ctrl-C, as a shell has it: 128 and the signal's number."""
CANNOT_CREATE = 73
"""The store, a log file or a worker of that name cannot be made (EX_CANTCREAT)."""


class Refusal(Exception):  # noqa: N818
    """A message for people that ends the command with an exit code."""

    def __init__(
        self, message: str, code: int = FAILURE, *, traceback: str = "", id: str | None = None
    ) -> None:
        super().__init__(message)
        self.id = id
        """The task that it is about, for --json."""
        self.code = code
        self.traceback = traceback
        """The user's own error, shown before the message."""


def print_error(error: Exception, *, as_json: bool) -> int:
    """Show an error as far as people can do something about it; its exit code.

    Raises it again if it is a defect of ours.
    """
    code = exit_code(error)
    if code is None:
        raise error
    message = error.format_message() if isinstance(error, click.ClickException) else str(error)
    traceback = error.traceback if isinstance(error, Refusal) else ""
    if as_json:
        cause = error.__cause__ if isinstance(error, Refusal) else error
        kind = "Error" if cause is None else type(cause).__name__
        record = {"type": kind, "message": message, "exit_code": code}
        if traceback:
            record["traceback"] = traceback
        if isinstance(error, Refusal) and error.id is not None:
            record["id"] = error.id
        print_json({"error": record})
    elif isinstance(error, click.ClickException):
        error.show()
    else:
        click.echo(f"{traceback}Error: {message}", err=True)
    return code


def exit_code(error: Exception) -> int | None:
    """The exit code of an error; None if it is none that was foreseen."""
    from umbel.exceptions import ImproperlyConfigured, OperationalError, UmbelError

    if isinstance(error, Refusal):
        return error.code
    if isinstance(error, click.UsageError):
        return USAGE
    if isinstance(error, OperationalError):
        return UNAVAILABLE
    if isinstance(error, ImproperlyConfigured):
        return CANNOT_CREATE
    if isinstance(error, (click.ClickException, UmbelError)):
        return FAILURE
    return None
