"""A worker in the background: its pid file, and leaving the terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

from umbel.cli.errors import CANNOT_CREATE, FAILURE, Refusal


@contextlib.contextmanager
def pid_file(path: str) -> Iterator[None]:
    """Keep this process's id in a file while the block runs.

    A file of a process that has gone is replaced; one of a process that lives is a refusal.
    """
    with contextlib.suppress(FileNotFoundError):
        with open(path, encoding="ascii", errors="replace") as file:
            text = file.read().strip()
        pid = int(text) if text.isdigit() else 0
        if pid != os.getpid() and _lives(pid):
            raise Refusal(
                f"The pid file {path} names the process {pid}, which runs: is this worker running "
                "already? If not, remove the file.",
                CANNOT_CREATE,
            )
        os.unlink(path)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except OSError as error:
        message = f"The pid file {path} cannot be written: {error.strerror}."
        raise Refusal(message, CANNOT_CREATE) from error
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(f"{os.getpid()}\n")
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _lives(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def detach() -> Callable[[], None]:
    """Go on in the background; the process in the foreground waits and ends as told.

    The function that is returned lets go of the terminal: the foreground process then ends with
    0. If this process ends before that, the foreground process ends with 1.
    """
    told, tell = os.pipe()
    if os.fork():
        os.close(tell)
        _wait_in_foreground(told)
    os.setsid()
    if os.fork():  # no leader of a session: it can never get a terminal again
        os._exit(0)
    os.close(told)

    def let_go() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        os.close(nowhere)
        os.write(tell, b"\0")
        os.close(tell)

    return let_go


def _wait_in_foreground(told: int) -> NoReturn:
    code = FAILURE
    with contextlib.suppress(KeyboardInterrupt):
        code = 0 if os.read(told, 1) else FAILURE
    os._exit(code)
