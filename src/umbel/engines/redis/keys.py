"""The data model on Redis: every key, its type, who owns it and how long it lives.

`<q>` is a queue's name, `<w>` the number of a worker incarnation, `<id>` a task's id; before every
key stands `global_keyprefix` (none by default; results have one of their own). What Celery peers
share is theirs byte for byte; all else lies under `umbel:` and is ours alone.

Shared with Celery and Kombu:

    <q>                       list    ready envelopes of the lowest priority step, newest first
    <q> 06 16 <step>          list    those of the steps 3, 6, 9 (`priority_steps`, `sep`)
    _kombu.binding.<q>,
    _kombu.binding_permanent.<q>
                              set     that the queue exists; for good, as Kombu leaves it
    celery-task-meta-<id>     string  a result's meta; TTL; each SET is also a PUBLISH of this name

And of a chord, by the id of its header's group; all with the TTL of `.s`:

    celery-taskset-meta-<id>.s
                              string  its size; while it is there, members are counted
    celery-taskset-meta-<id>.t
                              string  by how many members it has grown
    celery-taskset-meta-<id>.j
                              zset    the parts so far, by their place (list: a Celery worker with
                                      `result_chord_ordered` off began it)
    celery-taskset-meta-<id>.d
                              set     what has been counted: <task id>:<place>, as Celery writes it,
                                      and <place>:<key>: for ours
    celery-taskset-meta-<id>  string  how a header of Celery's is nested, if it is; theirs
    celery-taskset-meta-<id>.c
                              string  who sends the body, then "done"; TTL

Ours, of a queue; nothing but what only Umbel's workers can run:

    umbel:own:<q>             list    as <q>, and so for the other steps; a step of these has 100
                                      added to it wherever it stands beside a message

Of a workflow; TTL, and gone with its end:

    umbel:chord:<id>          string  the message of a chord's body, msgpack; until it is complete
    umbel:parts:<id>          zset    what was `.j`, of a chord that is complete, for its body
    umbel:kept:<id>           list    steps of a large workflow
    umbel:sent:<token>        string  that a workflow was stored: for a lost answer; TTL 60 s

Of the whole store; they hold a bounded number of fields:

    umbel:format              string  version of this data model
    umbel:counter             hash    last numbers given: message, worker, dead, revocation;
                                      resent: written by a publish that had arrived, for replicas
    umbel:queues              zset    queue -> Unix time when one last said that it is in use;
                                      dropped a day later if it is empty
    umbel:joined              hash    id of a complete chord -> its body's message, msgpack, for as
                                      long as it takes to publish that; any worker does it
    umbel:promoter            string  an Umbel worker is there and makes ready what is due; TTL 30
    umbel:deaf                string  a worker is there that no tracking wakes: who publishes also
                                      tells the channel umbel:ready:<q>; TTL 180
    umbel:paused              set     queues nobody may claim from; until `resume`
    umbel:schedule            hash    name -> version NUL due NUL body of a periodic task
    umbel:schedule:due        zset    name -> due (Unix time), of those that are due again
    umbel:history             list    ended attempts, newest first, JSON; the last 10,000
    umbel:failed              list    those that did not succeed; the last 10,000

Of a worker incarnation; whoever declares it dead removes them once its claims are settled:

    umbel:worker              hash    w -> WorkerRecord as JSON
    umbel:lease               hash    w -> renewals, "dead <renewals>" once a judge has said so
    umbel:node                hash    node name -> w
    umbel:claims:<w>          hash    message number -> head + envelope: what w holds
    umbel:early:<w>           set     numbers of those acknowledged early
    umbel:claimed:<w>         string  token of its last claim, and the numbers: for a lost answer
    umbel:settled:<w>         string  token of the last settlement, and what it refused; TTL 60 s

Of a message that is not in a list; it goes where its message goes:

    umbel:due:<q>             zset    member -> due (Unix time); member = <tag> NUL <step>
    umbel:tags:<q>            zset    the same members at score 0: found by their task's id
    umbel:later:<q>           hash    member -> envelope
    umbel:dead                hash    number -> DeadLetter as JSON; until dropped or replayed
    umbel:dead:message        hash    number -> head + envelope
    umbel:notes               hash    SHA-1 of an envelope put back -> its notes; TTL 7 days

With an end of their own:

    umbel:revoked             zset    id -> the set's version when it was revoked; TTL
    umbel:revoked:until       zset    id -> Unix time of its end; TTL
    umbel:revoked:signal      hash    id -> signal by which it is to be ended where it runs; TTL
    umbel:status:<id>         string  status of a result whose meta is not JSON; the result's TTL

Notes are `<deliveries> NUL <suspect> NUL <unknown since>`, a head is `<step> NUL <notes> NUL
<queue> NUL`. A message is in exactly one place, and has a number only while it is claimed.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Final

FORMAT: Final = 1
"""The version of this data model."""
STEPS: Final = (0, 3, 6, 9)
"""Kombu's `priority_steps`."""
SEPARATOR: Final = "\x06\x16"
"""Kombu's `sep`: between queue and step, and between the parts of a binding."""
NOTES_TTL: Final = 7 * 86400
PROMOTER_TTL: Final = 30
DEAF_TTL: Final = 180
PRIVATE: Final = 100
"""What is added to the step of a list that no Celery worker looks into."""
HISTORY_ROWS: Final = 10_000


class Keys:
    """The names of all keys of one store."""

    def __init__(
        self,
        prefix: str = "",
        steps: Sequence[int] = STEPS,
        separator: str = SEPARATOR,
        results: str = "",
    ) -> None:
        self.prefix = prefix
        self.steps: Final = tuple(sorted(steps))
        self.places: Final = (*self.steps, *(PRIVATE + step for step in self.steps))
        """The steps of all lists of a queue: of those shared with Celery, then of our own."""
        self.separator = separator
        own = f"{prefix}umbel:"
        self.own: Final = own
        self.format: Final = own + "format"
        self.counter: Final = own + "counter"
        self.queues: Final = own + "queues"
        self.worker: Final = own + "worker"
        self.lease: Final = own + "lease"
        self.node: Final = own + "node"
        self.notes: Final = own + "notes"
        self.promoter: Final = own + "promoter"
        self.deaf: Final = own + "deaf"
        self.paused: Final = own + "paused"
        self.revoked: Final = own + "revoked"
        self.revoked_until: Final = own + "revoked:until"
        self.revoked_signal: Final = own + "revoked:signal"
        self.schedule: Final = own + "schedule"
        self.schedule_due: Final = own + "schedule:due"
        self.dead: Final = own + "dead"
        self.dead_message: Final = own + "dead:message"
        self.history: Final = own + "history"
        self.failed: Final = own + "failed"
        self.joined: Final = own + "joined"
        if results and results[-1] not in ":_-.":  # as Celery does
            results += "_"
        self.meta: Final = f"{results}celery-task-meta-"
        self._group: Final = f"{results}celery-taskset-meta-"
        self._lists: dict[str, tuple[str, ...]] = {}

    def lists(self, queue: str) -> tuple[str, ...]:
        """The lists of a queue, in the order of `places`."""
        found = self._lists.get(queue)
        if found is None:
            if len(self._lists) > 10_000:  # queues named by the thousand
                self._lists.clear()
            found = self._lists[queue] = tuple(
                f"{name}{self.separator}{step}" if step else name
                for name in (f"{self.prefix}{queue}", f"{self.own}own:{queue}")
                for step in self.steps
            )
        return found

    def level(self, priority: int, *, private: bool = False) -> int:
        """Which of a queue's lists a priority goes to: its step, rounded down."""
        level = max(0, bisect_right(self.steps, priority) - 1)
        return level + len(self.steps) if private else level

    def list(self, queue: str, priority: int, *, private: bool = False) -> str:
        """The list that a message goes to."""
        return self.lists(queue)[self.level(priority, private=private)]

    def list_at(self, queue: str, step: int) -> str:
        """The list of one of `places`, as it stands beside a message; of the nearest there is."""
        return self.list(queue, step % PRIVATE, private=step >= PRIVATE)

    def chord(self, id: str) -> tuple[str, ...]:
        """What is known of a chord: .s .j .t .d .c, the body, the parts, those complete."""
        group = self._group + id
        shared = tuple(f"{group}.{letter}" for letter in "sjtdc")
        return (*shared, f"{self.own}chord:{id}", self.parts(id), self.joined)

    def nesting(self, id: str) -> str:
        """How a header of Celery's is nested."""
        return self._group + id

    def parts(self, id: str) -> str:
        """The parts of a complete chord."""
        return f"{self.own}parts:{id}"

    def kept(self, id: str) -> str:
        """Steps of a workflow."""
        return f"{self.own}kept:{id}"

    def sent(self, token: str) -> str:
        """That a workflow was stored."""
        return f"{self.own}sent:{token}"

    def delayed(self, queue: str) -> tuple[str, str, str]:
        """What holds a queue's delayed messages: due, tags, later."""
        own = self.own
        return f"{own}due:{queue}", f"{own}tags:{queue}", f"{own}later:{queue}"

    def ready(self, queue: str) -> str:
        """The channel that tells of what is published to a queue."""
        return f"{self.own}ready:{queue}"

    def claims(self, worker: int) -> str:
        """What an incarnation holds."""
        return f"{self.own}claims:{worker}"

    def early(self, worker: int) -> str:
        """What it has acknowledged early."""
        return f"{self.own}early:{worker}"

    def claimed(self, worker: int) -> str:
        """Its last claim."""
        return f"{self.own}claimed:{worker}"

    def settled(self, worker: int) -> str:
        """Its last settlement."""
        return f"{self.own}settled:{worker}"

    def result(self, id: str) -> str:
        """A task's result."""
        return self.meta + id

    def status(self, id: str) -> str:
        """The status of a result whose meta is not JSON."""
        return f"{self.own}status:{id}"

    def bindings(self, queue: str) -> tuple[str, str, str]:
        """The two binding sets of a queue, and its member in both."""
        member = f"{queue}{self.separator}{self.separator}{queue}"
        prefix = f"{self.prefix}_kombu.binding"
        return f"{prefix}.{queue}", f"{prefix}_permanent.{queue}", member
