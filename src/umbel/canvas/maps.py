"""One task for many items in one message: map, starmap, and chunks of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from umbel.canvas.signatures import Signature, maybe_signature
from umbel.canvas.workflows import group

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.app.sending.options import SendOptions
    from umbel.result import GroupResult


class _Map(Signature[list[Any]]):
    """What xmap and xstarmap have in common."""

    task_name: ClassVar[str]

    def __init__(
        self, task: Mapping[str, Any], it: Iterable[Any], app: App | None = None, **options: Any
    ) -> None:
        one = maybe_signature(task, app=app)
        super().__init__(
            self.task_name, (), {"task": one, "it": list(it)}, options, immutable=True,
            app=app or one._app,  # noqa: SLF001
        )  # fmt: skip


class xmap(_Map):  # noqa: N801  (Celery's name)
    """`task.map(it)`: one message that calls the task for each item, one after the other."""

    task_name = "celery.map"

    def __repr__(self) -> str:
        return f"[{self.kwargs['task']['task']}(x) for x in {_cut(self.kwargs['it'])}]"


class xstarmap(_Map):  # noqa: N801  (Celery's name)
    """`task.starmap(it)`: the same, each item a list of arguments."""

    task_name = "celery.starmap"

    def __repr__(self) -> str:
        return f"[{self.kwargs['task']['task']}(*x) for x in {_cut(self.kwargs['it'])}]"


@Signature.register_type()
class chunks(Signature[list[list[Any]]]):  # noqa: N801  (Celery's name)
    """`task.chunks(it, n)`: a group of starmaps of `n` items each."""

    def __init__(
        self,
        task: Mapping[str, Any],
        it: Iterable[Any],
        n: int,
        app: App | None = None,
        **options: Any,
    ) -> None:
        one = maybe_signature(task, app=app)
        super().__init__(
            "celery.chunks", (), {"task": one, "it": list(it), "n": n}, options, immutable=True,
            app=app or one._app,  # noqa: SLF001
        )  # fmt: skip

    def group(self) -> group[list[Any]]:
        """The group that it is sent as."""
        task, it, n = (self.kwargs[name] for name in ("task", "it", "n"))
        parts = (it[start : start + n] for start in range(0, len(it), n))
        return group(
            [xstarmap(task, part, app=self._app) for part in parts], app=self._app, **self.options
        )

    def __call__(self, **options: Unpack[SendOptions]) -> GroupResult[list[Any]]:
        """Send it."""
        return self.apply_async(**options)

    def apply_async(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> GroupResult[list[Any]]:
        """Send its chunks."""
        return self.group().apply_async(args, kwargs, **options)

    def apply(  # type: ignore[override]
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Unpack[SendOptions],
    ) -> GroupResult[list[Any]]:
        """Run its chunks in this process."""
        return self.group().apply(args, kwargs, throw=throw, **options)

    @classmethod
    def apply_chunks(
        cls, task: Mapping[str, Any], it: Iterable[Any], n: int, app: App | None = None
    ) -> GroupResult[list[Any]]:
        """Send them at once."""
        return cls(task, it, n, app=app)()


def _cut(it: Sequence[Any]) -> str:
    text = repr(it)
    return text if len(text) <= 100 else f"{text[:97]}..."
