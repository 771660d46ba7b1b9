"""Results in another store than the messages: two stores that act as one engine.

There is no step that both share. A result is stored before its message is settled, so a crash in
between runs the task again and loses nothing; a stale worker's result may replace one that is no
SUCCESS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec

from umbel.engines.broker import (
    Broker,
    HistoryEntry,
    Joiner,
    Message,
    Settlement,
    StoredResult,
    Workflow,
)
from umbel.engines.results import ResultStore
from umbel.engines.state import Engine, StateStore


class ApartEngine:
    """`umbel.engines.state.Engine`: messages and state in one store, results in another."""

    def __init__(self, messages: Engine, results: Engine) -> None:
        self._messages = messages
        self._results = results
        self.results: ResultStore = _Results(messages.results, results.results)
        self.broker: Broker = _Broker(messages.broker, self.results)
        self.state: StateStore = _State(messages.state, self.results)

    @property
    def name(self) -> str:
        """The name of the store that holds the messages."""
        return self._messages.name

    @property
    def messages(self) -> Engine:
        """The store that holds the messages."""
        return self._messages

    @property
    def run_dir(self) -> Path:
        """That store's."""
        return self._messages.run_dir

    def close(self) -> None:
        """Close both."""
        self._messages.close()
        self._results.close()


class _Broker:
    """A broker that stores results elsewhere."""

    def __init__(self, broker: Broker, results: ResultStore) -> None:
        self._settle = broker.settle
        self._results = results
        self.shared = broker.shared
        self._broker = broker
        self.browsable = broker.browsable
        self.unique_tags = broker.unique_tags
        self.levels = broker.levels
        self.publish = broker.publish
        self.claim = broker.claim
        self.accept = broker.accept
        self.listen = broker.listen
        self.promote = broker.promote
        self.counts = broker.counts
        self.browse = broker.browse
        self.purge = broker.purge

    def settle(self, settlements: Sequence[Settlement]) -> list[int]:
        """End claims with all that follows; see the contract, and above."""
        return self._settle(self._store(settlements))

    def _store(self, settlements: Sequence[Settlement]) -> Sequence[Settlement]:
        """Store the results of settlements; what else they are."""
        results = [s.result for s in settlements if s.result is not None]
        results += [result for s in settlements if s.workflow for result in s.workflow.results]
        if not results:
            return settlements
        self._results.put(results)
        return [
            msgspec.structs.replace(s, result=None, workflow=_without_results(s.workflow))
            for s in settlements
        ]

    @property
    def joiner(self) -> Joiner | None:
        """See the contract."""
        return self._broker.joiner

    @joiner.setter
    def joiner(self, joiner: Joiner | None) -> None:
        if joiner is None:
            self._broker.joiner = None
            return

        def join(body: Message, parts: Sequence[bytes], nesting: bytes | None) -> Settlement | None:
            made = joiner(body, parts, nesting)
            return None if made is None else self._store([made])[0]

        self._broker.joiner = join


def _without_results(workflow: Workflow | None) -> Workflow | None:
    return workflow and msgspec.structs.replace(workflow, results=())


class _Results:
    """Results of one store, and what the store of the messages knows of workflows."""

    def __init__(self, workflows: ResultStore, results: ResultStore) -> None:
        self.get = results.get
        self.put = results.put
        self.forget = results.forget
        self.listen = results.listen
        self.parts = workflows.parts
        self.progress = workflows.progress
        self.chords = workflows.chords
        self.kept = workflows.kept


class _State:
    """A state store whose broker stores results elsewhere."""

    def __init__(self, state: StateStore, results: ResultStore) -> None:
        self._state = state
        self._results = results
        self.register = state.register
        self.renew = state.renew
        self.workers = state.workers
        self.declare_dead = state.declare_dead
        self.claims = state.claims
        self.unregister = state.unregister
        self.revocations = state.revocations
        self.pause = state.pause
        self.schedules = state.schedules
        self.due_schedules = state.due_schedules
        self.change_schedules = state.change_schedules
        self.resume = state.resume
        self.dead_letters = state.dead_letters
        self.dead_letter = state.dead_letter
        self.drop = state.drop
        self.history = state.history
        self.keep_house = state.keep_house

    def revoke(
        self,
        results: Sequence[StoredResult],
        *,
        until: float,
        workflows: Mapping[str, Workflow] = MappingProxyType({}),
        signal: int = 0,
        history: Sequence[HistoryEntry] = (),
    ) -> list[str]:
        """Revoke task ids; see the contract."""
        bare = {id: msgspec.structs.replace(flow, results=()) for id, flow in workflows.items()}
        waiting = self._state.revoke(
            results, until=until, workflows=bare, signal=signal, history=history
        )
        gone = set(waiting)
        ended = [result for result in results if result.id in gone]
        ended += [one for id in waiting if id in workflows for one in workflows[id].results]
        self._results.put(ended)
        return waiting

    def replay(self, numbers: Sequence[int]) -> int:
        """Put dead letters back; see the contract."""
        letters = [self._state.dead_letter(str(number)) for number in numbers]
        self._results.forget([letter.id for letter in letters if letter is not None])
        return self._state.replay(numbers)
