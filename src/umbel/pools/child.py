"""A child process: sets itself up, imports the app, and runs its slots until it is told to end."""

from __future__ import annotations

import faulthandler
import gc
import io
import logging
import os
import signal
import socket
import sys
import traceback
from types import FrameType
from typing import Final, NoReturn

from umbel import signals
from umbel.app.execution.pipeline import Pipeline
from umbel.app.loading import import_modules, load_app
from umbel.app.log import set_up_logging
from umbel.engines.run_file import SlotTable
from umbel.pools.kinds import load_pool
from umbel.pools.link import READY, ChildEnd, Setup
from umbel.pools.slots import Bench, Pool, Slot

ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP)
IMPORT_FAILED: Final = 70
"""Exit code of a child whose app could not be imported (EX_SOFTWARE of sysexits.h)."""


def main(seat: int, run_file: int, descriptors: list[int], terminal: int | None) -> NoReturn:
    """Run as the child of a seat. Descriptors: stream, tokens, file for stacks.

    With a terminal it reads from that, and stays in the foreground with the whole worker.
    """
    code = 1
    try:
        stream, tokens, stacks = descriptors
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        if terminal is None:
            os.setpgid(0, 0)
        else:
            os.dup2(terminal, 0)
            os.close(terminal)
        set_up_signals(stacks)
        table = SlotTable(run_file)
        os.register_at_fork(after_in_child=lambda: let_go(table, run_file))
        link = ChildEnd(socket.socket(fileno=stream), socket.socket(fileno=tokens))
        setup = link.read_setup()
        sys.path[:] = setup.path
        pool_class = load_pool(setup.pool)  # one of greenlets patches what the app is to import
        pipeline = prepare(setup, seat, prints=terminal is not None)
        slots = [Slot(table.words, setup.first + index) for index in range(setup.slots)]
        bench = Bench(link, slots, pipeline, os.getpid(), stacks)
        pool = pool_class(bench)
        listen(bench, pool, stacks)
        link.send(READY)
        pool.run()
        pool.close()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001  (nothing may unwind into the fork server)
        traceback.print_exc()
    finally:
        leave(code)


def prepare(setup: Setup, seat: int, *, prints: bool) -> Pipeline:
    """Import the app; what its deliveries go through. `prints`: as it is, not into the log."""
    try:
        app = load_app(setup.app)
        app.set_current()
        app.conf.override(setup.settings, "command line")
        import_modules(app, setup.include)
        app.finalize()
        pipeline = Pipeline(app, setup.node, report_memory=setup.report_memory)
    except Exception:  # noqa: BLE001  (the user's own import error, shown as it is)
        traceback.print_exc()
        sys.exit(IMPORT_FAILED)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)  # what a task prints shows when it prints it
    set_up_logging(app.conf, setup.log, seat, redirects=not prints)
    signals.worker_process_init.send(setup.node)
    gc.unfreeze()
    return pipeline


def let_go(table: SlotTable, run_file: int) -> None:
    """In a process that a task has forked: it may outlive the worker and must not hold its lock."""
    table.close()
    os.close(run_file)


def leave(code: int) -> NoReturn:
    """End as a Python program does, without unwinding into the fork server's frames."""
    try:
        signals.worker_process_shutdown.send(None, pid=os.getpid(), exitcode=code)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        logging.shutdown()
    except BaseException:  # noqa: BLE001, S110  (a closed stream is no reason to stay)
        pass
    os._exit(code)


def set_up_signals(stacks: int) -> None:
    """Put the signals as a task expects them."""
    for number in ENDINGS:
        # A service manager's SIGTERM reaches the whole worker, and the supervisor alone decides
        # what follows. A handler, because an ignored signal would stay ignored in programs.
        signal.signal(number, _end_on_request)
    os.register_at_fork(
        before=_hold_signals, after_in_parent=_release_signals, after_in_child=_default_signals
    )
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # The last stack of a crash goes to the file for stacks.
    faulthandler.enable(file=stacks, all_threads=True)


def listen(bench: Bench, pool: Pool, stacks: int) -> None:
    """Answer the signals of the limits, and those that end a task on request."""
    _slots.extend(bench.slots)
    signal.signal(signal.SIGUSR1, lambda _, frame: bench.on_soft_limit(pool, frame))
    signal.signal(signal.SIGUSR2, lambda _, __: bench.tell_stacks(pool))
    # Answered in C even while an extension holds the GIL: the last words at a hard limit.
    faulthandler.register(signal.SIGUSR2, file=stacks, all_threads=True, chain=True)


_slots: list[Slot] = []
"""This process's own."""


def _end_on_request(number: int, _: FrameType | None) -> None:
    """Die of a signal, if it is meant for what runs here."""
    if any(slot.ended_on_request() for slot in _slots):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


_masks: list[set[signal.Signals | int]] = []


def _hold_signals() -> None:
    # Python forgets in a forked process what arrived before its handlers could run, so a process
    # that is terminated as soon as it is there would stay: the signals wait for the end of fork().
    _masks.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, ENDINGS)))


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.pop())


def _default_signals() -> None:
    """A process that a task has forked dies of a signal as any other does."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_DFL)
    _release_signals()
