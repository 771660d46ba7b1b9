"""The pool `eventlet`. Importing this module patches the process: only a child may do it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from greenlet import greenlet

from umbel import signals
from umbel.app import Task
from umbel.pools.greenlets import Greenlets
from umbel.pools.slots import Bench, Slot

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it is retiring, the worker has said
    import eventlet
    from eventlet import hubs

eventlet.monkey_patch()


class Eventlet(Greenlets):
    """Slots that are greenlets of eventlet."""

    library = "eventlet"

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self._ending = False

    def run(self) -> None:
        """Run the slots' greenlets, and say so to who listens."""
        signals.eventlet_pool_started.send(self)
        super().run()
        signals.eventlet_pool_postshutdown.send(self)

    def note_end(self) -> None:
        """Tell that the pool ends, once."""
        if not self._ending:
            self._ending = True
            signals.eventlet_pool_preshutdown.send(self)

    def _call(
        self, slot: Slot, number: int, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any]
    ) -> Any:
        if signals.eventlet_pool_apply.receivers:
            signals.eventlet_pool_apply.send(self, target=task, args=args, kwargs=kwargs)
        return super()._call(slot, number, task, args, kwargs)

    def spawn(self, function: Callable[..., None], *args: Any) -> greenlet:
        """Run a function in a greenlet of its own."""
        thread: greenlet = eventlet.spawn(function, *args)
        return thread

    def join(self, greenlets: list[greenlet]) -> None:
        """Wait for the end of greenlets."""
        for thread in greenlets:
            eventlet.greenthread.GreenThread.wait(thread)

    def pause(self) -> None:
        """Let the other greenlets run that can."""
        eventlet.sleep(0)

    def park(self) -> None:
        """Let the others run until this greenlet is switched to."""
        hubs.get_hub().switch()

    def soon(self, function: Callable[..., None], *args: Any) -> None:
        """Have eventlet's hub make a call."""
        hubs.get_hub().schedule_call_global(0, function, *args)

    def wait_readable(self, descriptor: int) -> None:
        """Wait until a descriptor can be read."""
        hubs.trampoline(descriptor, read=True)

    def abandon(self) -> None:
        """Give the forked process a hub of its own, in which nothing waits."""
        hubs.use_hub()
