"""Signatures made of signatures: chain, group and chord, and how `|` composes them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from umbel.canvas.signatures import Item, Signature, listed, maybe_signature
from umbel.canvas.stamps import merge
from umbel.exceptions import CPendingDeprecationWarning
from umbel.message.ids import new_id

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.app.sending.options import SendOptions
    from umbel.canvas.visitor import StampingVisitor
    from umbel.result import AsyncResult, GroupResult
    from umbel.result.single import ResultBase

R = TypeVar("R")
S = TypeVar("S")
Many = Iterable[Mapping[str, Any]]
Header = Many | Mapping[str, Any]
"""A group, signatures, or one signature."""


@Signature.register_type("chain")
class chain(Signature[R]):  # noqa: N801  (Celery's name)
    """Tasks one after the other, each with the result of the one before (`celery.chain`).

    `chain(a, b, c)`, `chain([a, b, c])` and `a | b | c` are the same. A group in it becomes a
    chord with the step that follows.
    """

    tasks: list[Any] = cast("list[Any]", Item("kwargs.tasks", "Its steps."))

    if TYPE_CHECKING:

        @overload
        def __init__(self, *tasks: Many, **options: Any) -> None: ...
        @overload
        def __init__(self: chain[S], task: Signature[S], /, **options: Any) -> None: ...
        @overload
        def __init__(
            self: chain[S], a: Signature[Any], b: Signature[S], /, **options: Any
        ) -> None: ...
        @overload
        def __init__(
            self: chain[S], a: Signature[Any], b: Signature[Any], c: Signature[S], /, **options: Any
        ) -> None: ...
        @overload
        def __init__(self, *tasks: Signature[Any], **options: Any) -> None: ...
        def __init__(self: Any, *tasks: Any, **options: Any) -> None: ...  # type: ignore[misc]

    else:

        def __new__(cls, *tasks: Any, **options: Any) -> Any:
            """Compose the steps as `|` does; a chain with options takes them as they are."""
            made = dict.__new__(cls)
            if options or not tasks or (len(tasks) == 1 and isinstance(tasks[0], Mapping)):
                return made
            steps = list(tasks[0] if len(tasks) == 1 else tasks)
            composed = compose_all(steps)
            if type(composed) is chain and cls is not chain:
                cls.__init__(made, composed.tasks, _composed=True)
                return made
            return composed

        def __init__(self, *tasks: Any, _composed: bool = False, **options: Any) -> None:
            if dict.__len__(self):
                return  # composed by __new__
            one = len(tasks) == 1 and not isinstance(tasks[0], Mapping)
            super().__init__(
                "celery.chain",
                (),
                {"tasks": list(tasks[0] if one else tasks)},
                subtask_type="chain",
                **options,
            )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> chain[Any]:
        """The chain that a dict describes."""
        tasks = [_member(task, app) for task in d["kwargs"]["tasks"]]
        made = cls.of(tasks, app, d["options"])
        made.args, made.immutable = tuple(d.get("args") or ()), bool(d.get("immutable"))
        return made

    @classmethod
    def of(
        cls,
        tasks: Sequence[Signature[Any]],
        app: App | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> chain[Any]:
        """A chain of just these steps, without composing them."""
        made: chain[Any] = dict.__new__(cls)
        Signature.__init__(
            made, "celery.chain", (), {"tasks": list(tasks)}, options, None, "chain", app=app
        )
        return made

    @classmethod
    def compose(cls, left: Signature[Any], right: Signature[Any]) -> Signature[Any]:
        """`left | right`."""
        return compose(left, right)

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Send it."""
        return self.apply_async(args, kwargs)

    @property
    def app(self) -> App:
        """The app of its first task; else the current one."""
        return _app_of(self, self.tasks)

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> chain[R]:
        """A copy, down to its steps."""
        made = super().clone(args, kwargs, **options)
        made.kwargs["tasks"] = [_copy(task, self._app) for task in self.tasks]
        return made

    def unchain_tasks(self) -> list[Signature[Any]]:
        """Copies of its steps, with what is linked to the chain linked to them."""
        tasks = [_copy(task, self._app) for task in self.tasks]
        for callback in listed(self.options.get("link")) if tasks else ():
            tasks[-1].link(callback)
        for errback in listed(self.options.get("link_error")):
            for task in tasks:
                task.link_error(errback)
        return tasks

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp all of its tasks."""
        stamps: Mapping[str, Any] = headers
        if visitor is not None:
            start = visitor.on_chain_start(self, **stamps)
            stamps = merge(stamps, start, append=append_stamps)
        self.stamp_links(visitor, append_stamps, **stamps)
        self.tasks[:] = [_member(task, self._app) for task in self.tasks]
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **stamps)
        if visitor is not None:
            visitor.on_chain_end(self, **stamps)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R]:
        """Fix the ids of all its tasks; the last one's result. It is not sent."""
        steps = [_unrolled(_member(task, self._app)) for task in self.tasks]
        self.tasks[:] = steps
        active = [step for step in steps if not is_empty(step)] or steps[-1:]
        last: Any = None
        later: Any = None
        for step in reversed(active):
            if later is None:
                result = last = step.freeze(
                    _id or self.options.get("task_id"), group_id, chord, root_id, parent_id,
                    group_index,
                )  # fmt: skip
                self.options["task_id"] = result.id
            else:
                result = step.freeze(root_id=root_id)
                later.parent = result
            later = first_of(result)
        if last is None:
            raise ValueError("An empty chain has no result.")
        return cast("AsyncResult[R]", last)

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}: empty>"
        return " | ".join(repr(task) for task in self.tasks)


@Signature.register_type("group")
class group(Signature[list[R]]):  # noqa: N801  (Celery's name)
    """Tasks side by side: `group(a, b)`, `group(add.s(n, n) for n in range(10))`.

    Sending it gives a `GroupResult`, whose `get()` is the list of the results in order. Options
    hold for each of its tasks. A task after it makes it a chord; `on_error="collect"` then lets
    that task run whatever has failed.
    """

    tasks: list[Any] = cast("list[Any]", Item("kwargs.tasks", "Its tasks."))

    if TYPE_CHECKING:

        @overload
        def __init__(self, *tasks: Signature[R], **options: Any) -> None: ...
        @overload
        def __init__(self, tasks: Iterable[Signature[R]], /, **options: Any) -> None: ...
        @overload
        def __init__(self, *tasks: Mapping[str, Any], **options: Any) -> None: ...
        def __init__(self: Any, *tasks: Any, **options: Any) -> None: ...  # type: ignore[misc]

    else:

        def __init__(self, *tasks: Any, app: App | None = None, **options: Any) -> None:
            if len(tasks) == 1:
                (tasks,) = tasks
                if isinstance(tasks, group):
                    tasks = tasks.tasks
                elif isinstance(tasks, Mapping):
                    tasks = [_copy(tasks, app)]
            super().__init__(
                "celery.group", (), {"tasks": list(tasks)}, options, None, "group", app=app
            )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> group[Any]:
        """The group that a dict describes."""
        tasks = [_member(task, app) for task in d["kwargs"]["tasks"]]
        made: group[Any] = cls(tasks, app=app, **d["options"])
        made.args, made.immutable = tuple(d.get("args") or ()), bool(d.get("immutable"))
        return made

    def __call__(self, *args: Any, **options: Any) -> GroupResult[R]:
        """Send it."""
        return self.apply_async(args, **options)

    if TYPE_CHECKING:

        def delay(self, *args: Any, **kwargs: Any) -> GroupResult[R]:  # type: ignore[override]
            """Send it, with these arguments before those of each task."""
            ...

        async def adelay(  # type: ignore[override]
            self, *args: Any, **kwargs: Any
        ) -> GroupResult[R]:
            """`delay` for coroutines."""
            ...

        def apply_async(  # type: ignore[override]
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            **options: Unpack[SendOptions],
        ) -> GroupResult[R]:
            """Send it: all of its tasks or none. Links belong to its tasks: `TypeError`."""
            ...

        async def aapply_async(  # type: ignore[override]
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            **options: Unpack[SendOptions],
        ) -> GroupResult[R]:
            """`apply_async` for coroutines."""
            ...

        def apply(  # type: ignore[override]
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            *,
            throw: bool | None = None,
            **options: Unpack[SendOptions],
        ) -> GroupResult[R]:
            """Run its tasks in this process, one after the other."""
            ...

        @overload  # type: ignore[override]
        def __or__(self, other: chain[S], /) -> chord[S]: ...
        @overload
        def __or__(self, other: group[S], /) -> chord[list[S]]: ...
        @overload
        def __or__(self, other: Signature[S], /) -> chord[S]: ...
        def __or__(self, other: Any) -> Any: ...

    if TYPE_CHECKING:

        def __ror__(  # type: ignore[override]
            self, other: Signature[Any], /
        ) -> chain[list[R]]: ...

    @property
    def app(self) -> App:
        """The app of its first task; else the current one."""
        return _app_of(self, self.tasks)

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True  # it is a signature, with or without tasks

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> group[R]:
        """Let its tasks start one after the other: at `start` seconds, `step` later, and so on.

        With `stop` it is the longest delay.
        """
        delay = start
        for task in self.tasks:
            task.set(countdown=delay)
            delay = delay + step if stop is None else min(delay + step, stop)
        return self

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> group[R]:
        """A copy, down to its tasks."""
        made = super().clone(args, kwargs, **options)
        made.kwargs["tasks"] = [_copy(task, self._app) for task in self.tasks]
        return made

    def set_immutable(self, immutable: bool) -> None:
        """The same for each of its tasks."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, callback: Any) -> Any:
        """Call another signature once the *first* task has returned, without its result.

        What is to run after all of them follows as a step: `group | task`.
        """
        return self.tasks[0].link(callback.clone().set(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Call another signature for each task that fails."""
        found = maybe_signature(errback)
        return tuple(task.link_error(found.clone()) for task in self.tasks)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp all of its tasks."""
        stamps: Mapping[str, Any] = headers
        if visitor is not None:
            start = visitor.on_group_start(self, **stamps)
            stamps = merge(stamps, start, append=append_stamps)
        self.stamp_links(visitor, append_stamps, **stamps)
        self.tasks[:] = [_member(task, self._app) for task in self.tasks]
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **stamps)
        if visitor is not None:
            visitor.on_group_end(self, **stamps)

    def members(self) -> Iterator[Signature[Any]]:
        """Its tasks, with those of groups in it in the place of these."""
        for task in self.tasks:
            member = _member(task, self._app)
            if isinstance(member, group):
                yield from member.members()
            elif not is_empty(member):
                yield member

    def freeze(  # type: ignore[override]
        self,
        _id: str | None = None,
        group_id: str | None = None,  # noqa: ARG002  (its tasks are in this group)
        chord: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,  # noqa: ARG002
    ) -> GroupResult[R]:
        """Fix the ids of all its tasks and its own; the result that it will have."""
        id = self.options.setdefault("task_id", _id or new_id())
        self.tasks[:] = list(self.members())
        results = [
            task.freeze(None, id, chord, root_id, parent_id, index)
            for index, task in enumerate(self.tasks)
        ]
        return self.app.GroupResult(id, results)

    _freeze = freeze  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"group({self.tasks!r})" if self.tasks else "group(<empty>)"


@Signature.register_type("chord")
class chord(Signature[R]):  # noqa: N801  (Celery's name)
    """A group and a task that gets the list of its results: `chord(header)(body)`.

    The result is the body's; its `parent` is that of the header. When a task of the header has
    failed, the body fails with `ChordError`, without being run; with `on_error="collect"` it runs
    and finds the exception in the place of the result.
    """

    tasks: list[Any] = cast("list[Any]", Item("kwargs.header", "The header's tasks."))
    body: Any = Item("kwargs.body", "What gets the results.")

    if TYPE_CHECKING:

        @overload
        def __init__(self, header: Header, body: Signature[R], **options: Any) -> None: ...
        @overload
        def __init__(
            self, header: Header, body: Mapping[str, Any] | None = None, **options: Any
        ) -> None: ...
        def __init__(self: Any, header: Any, body: Any = None, **options: Any) -> None: ...

    else:

        def __init__(
            self,
            header: Any,
            body: Any = None,
            task: str = "celery.chord",
            args: Sequence[Any] = (),
            kwargs: Mapping[str, Any] | None = None,
            app: App | None = None,
            **options: Any,
        ) -> None:
            if isinstance(header, group) and "on_error" in header.options:
                options.setdefault("on_error", header.options["on_error"])
            super().__init__(
                task,
                args,
                {
                    "kwargs": dict(kwargs or {}),
                    "header": _header(header, app),
                    "body": maybe_signature(body, app=app),
                },
                options,
                None,
                "chord",
                app=app,
            )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> chord[Any]:
        """The chord that a dict describes."""
        inside = d["kwargs"]
        made: chord[Any] = cls(
            inside["header"], inside.get("body"), kwargs=inside.get("kwargs"), app=app,
            **d["options"],
        )  # fmt: skip
        made.args, made.immutable = tuple(d.get("args") or ()), bool(d.get("immutable"))
        return made

    def __call__(self, body: Signature[S] | None = None, **options: Any) -> AsyncResult[S]:
        """Send it, with this body if one is given."""
        return self.apply_async((), {"body": body} if body is not None else {}, **options)  # type: ignore[return-value]

    if TYPE_CHECKING:

        @overload  # type: ignore[override]
        def __or__(self, other: chain[S], /) -> chain[S]: ...
        @overload
        def __or__(self, other: group[S], /) -> chain[list[S]]: ...
        @overload
        def __or__(self, other: Signature[S], /) -> Signature[S]: ...
        def __or__(self, other: Any) -> Any: ...

    @property
    def app(self) -> App:
        """The app of the header's first task, or of the body; else the current one."""
        return _app_of(self, [*self.tasks[:1], *listed(self.body)])

    def __length_hint__(self) -> int:
        return size_of(self.tasks)

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> chord[R]:
        """A copy, down to its tasks."""
        made = super().clone(args, kwargs, **options)
        made.kwargs["header"] = [_copy(task, self._app) for task in self.tasks]
        made.kwargs["body"] = None if self.body is None else _copy(self.body, self._app)
        return made

    def set_immutable(self, immutable: bool) -> None:
        """The same for each task of the header."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, callback: Any) -> Any:
        """Call another signature with the body's result."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call another signature if the body fails, which it does when the header has failed.

        With the setting `task_allow_error_cb_on_chord_header`, for each failing task of the header
        too.
        """
        found: Any = maybe_signature(errback)
        on_header = self.app.conf.task_allow_error_cb_on_chord_header
        if not on_header:
            warnings.warn(
                CPendingDeprecationWarning(
                    "task_allow_error_cb_on_chord_header is off: the errback is called once, for "
                    "the chord's body. Set it to have the header's tasks call it as well."
                ),
                stacklevel=2,
            )
        for task in self.tasks:
            if on_header:
                task.link_error(found.clone())
            elif isinstance(task, chord):
                task.link_error(found)
        self.body.link_error(found)
        return errback

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp all of its tasks and its body."""
        stamps: Mapping[str, Any] = headers
        if visitor is not None:
            start = visitor.on_chord_header_start(self, **stamps)
            stamps = merge(stamps, start, append=append_stamps)
        self.stamp_links(visitor, append_stamps, **stamps)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **stamps)
        if visitor is not None:
            visitor.on_chord_header_end(self, **stamps)
        if self.body is not None:
            if visitor is not None:
                own = visitor.on_chord_body(self, **stamps)
                stamps = merge(stamps, own, append=append_stamps)
            self.body.stamp(visitor, append_stamps, **stamps)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R]:
        """Fix the ids of all its tasks; the body's result. It is not sent."""
        id = self.options.setdefault("task_id", new_id())
        header = group(self.tasks, app=self._app, task_id=id)
        parent = header.freeze(None, None, None, root_id, parent_id)
        self.kwargs["header"] = header.tasks
        result = self.body.freeze(_id, group_id, chord, root_id, None, group_index)
        first_of(result).parent = parent
        return cast("AsyncResult[R]", result)

    def __repr__(self) -> str:
        if self.body is None:
            return f"<chord without body: {self.tasks!r}>"
        if isinstance(self.body, chain) and self.body.tasks:
            first, *rest = self.body.tasks
            return f"%({' | '.join([first.reprcall(self.tasks), *map(repr, rest)])})"
        return f"%{self.body.reprcall(self.tasks)}"


# ------------------------------------------------------------------------------------ composing


def compose_all(steps: Iterable[Any]) -> Signature[Any]:
    """The workflow of these steps one after the other, as `|` composes them."""
    composed: Signature[Any] = chain.of([])
    for step in steps:
        composed = compose(composed, _member(step, None))
    return composed


def compose(left: Signature[Any], right: Signature[Any]) -> Signature[Any]:
    """`left | right`: each result is the next step's first argument.

    A group followed by anything becomes a chord with that as its body; what follows a chord is
    chained to its body.
    """
    if is_empty_group(right):
        return left
    right = _unrolled(right)
    if isinstance(left, group):
        return chord(left, right, app=left._app)  # noqa: SLF001
    if isinstance(left, chord):
        if isinstance(right, (chain, group)):
            return chain.of([left, *_steps(right)], left._app)  # noqa: SLF001
        return _extend_body(left, right)
    if not isinstance(left, chain):
        return chain.of([left, *_steps(right)], left._app)  # noqa: SLF001
    if isinstance(right, chain):
        for step in right.unchain_tasks():
            left = compose(left, step)
        return left
    return _append(left, right)


def _append(left: chain[Any], right: Signature[Any]) -> Signature[Any]:
    """A chain and one more step that is no chain."""
    tasks: list[Any] = left.unchain_tasks()
    if not tasks:
        return right if isinstance(right, group) else chain.of([right], left._app)  # noqa: SLF001
    last = tasks[-1]
    if isinstance(last, group) and not isinstance(right, group):
        tasks[-1] = chord(last, right, app=left._app)  # noqa: SLF001
        if len(tasks) > 1 and isinstance(tasks[-2], chord):
            # Two chords in a row: the second begins in the body of the first.
            after = tasks.pop()
            tasks[-1] = _extend_body(tasks[-1], after)
    elif isinstance(last, chord) and not isinstance(right, chord):
        tasks[-1] = _extend_body(last, right)
    else:
        tasks.append(right)
    return chain.of(tasks, left._app)  # noqa: SLF001


def _extend_body(left: chord[Any], right: Signature[Any]) -> chord[Any]:
    made = left.clone()
    made.body = compose(made.body, right)
    return made


def _steps(right: Signature[Any]) -> list[Signature[Any]]:
    return right.unchain_tasks() if isinstance(right, chain) else [right]


def is_empty_group(step: Mapping[str, Any]) -> bool:
    """Whether it is a group without tasks, which is no step at all."""
    return step.get("subtask_type") == "group" and not step["kwargs"]["tasks"]


def is_empty(step: Mapping[str, Any]) -> bool:
    """Whether it is a group or a chain without tasks."""
    return step.get("subtask_type") in {"group", "chain"} and not step["kwargs"]["tasks"]


def _unrolled(step: Signature[Any]) -> Signature[Any]:
    """The task of a group that has but one; anything else as it is."""
    while isinstance(step, group) and len(step.tasks) == 1:
        step = _member(step.tasks[0], step._app)  # noqa: SLF001
    return step


def _header(header: Any, app: App | None) -> list[Signature[Any]]:
    """The tasks of a chord's header, which may be given in many ways."""
    if isinstance(header, Mapping):
        header = _member(header, app)
        return header.tasks if isinstance(header, (group, chain)) else [header]
    return [_copy(task, app) for task in header]


def _member(task: Mapping[str, Any], app: App | None) -> Signature[Any]:
    return task if isinstance(task, Signature) else Signature.from_dict(task, app=app)


def _copy(task: Mapping[str, Any], app: App | None) -> Signature[Any]:
    return task.clone() if isinstance(task, Signature) else Signature.from_dict(task, app=app)


def _app_of(whole: Signature[Any], tasks: Sequence[Any]) -> App:
    if whole._app is not None:  # noqa: SLF001
        return whole._app  # noqa: SLF001
    for task in tasks:
        if isinstance(task, Signature):
            return task.app
    return Signature.app.fget(whole)  # type: ignore[attr-defined,no-any-return]


def first_of(result: ResultBase) -> ResultBase:
    """The result with which those that lead to this one begin."""
    while result.parent is not None:
        result = result.parent
    return result


def size_of(tasks: Iterable[Any]) -> int:
    """How many tasks of a header end before the body runs."""
    size = 0
    for task in tasks:
        kind = task.get("subtask_type")
        if kind == "group":
            size += size_of(task["kwargs"]["tasks"])
        elif not is_empty(task):
            size += 1
    return size
