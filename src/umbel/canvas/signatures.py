"""A signature: the call of a task as data, to be sent, stored, linked and composed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from umbel import _state
from umbel.canvas.stamps import merge, put
from umbel.exceptions import ImproperlyConfigured
from umbel.message.ids import new_id

if TYPE_CHECKING:
    from umbel.app import App, Task
    from umbel.app.sending.options import SendOptions
    from umbel.canvas.visitor import StampingVisitor
    from umbel.canvas.workflows import chain, group
    from umbel.result import AsyncResult

R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
T = TypeVar("T", bound="Signature[Any]")
LASTING: Final = frozenset({"group_id", "stamped_headers"})
"""Options that those of a later call do not replace."""

ABSENT: Final = {
    "AsyncResult": "freeze() gives the result of a signature, app.AsyncResult(id) one by its id",
    "election": "workers hold no elections",
}
"""Names of Celery's signatures that are not there, and what takes their place."""


class Item:
    """An attribute that is an item of the signature, or of its options (`options.task_id`)."""

    def __init__(self, path: str, doc: str) -> None:
        self._where, _, self._key = path.rpartition(".")
        self.__doc__ = doc

    def _holder(self, signature: dict[str, Any]) -> dict[str, Any]:
        return signature[self._where] if self._where else signature

    def __get__(self, signature: dict[str, Any] | None, owner: type) -> Any:
        if signature is None:
            return self
        holder = self._holder(signature)
        return holder.get(self._key) if self._where else holder[self._key]

    def __set__(self, signature: dict[str, Any], value: Any) -> None:
        self._holder(signature)[self._key] = value


class Signature(dict[str, Any], Generic[R_co]):
    """The call of one task as data (`celery.Signature`): `add.s(2, 3)`.

    A dict of JSON's types as long as its arguments are: `task` (a name), `args`, `kwargs`,
    `options` (those of `apply_async`), `subtask_type` and `immutable`. What is called with a
    signature puts its own arguments before those that are there, unless it is immutable.
    """

    TYPES: ClassVar[dict[str, type[Signature[Any]]]] = {}
    """The class of each `subtask_type`."""
    task: str = cast("str", Item("task", "The task's name."))
    args: tuple[Any, ...] = cast("tuple[Any, ...]", Item("args", "Positional arguments."))
    kwargs: dict[str, Any] = cast("dict[str, Any]", Item("kwargs", "Keyword arguments."))
    options: dict[str, Any] = cast("dict[str, Any]", Item("options", "Those of `apply_async`."))
    subtask_type: str | None = cast("None", Item("subtask_type", "None: a plain task."))
    immutable: bool = cast("bool", Item("immutable", "It takes no further arguments."))
    id: str | None = cast("None", Item("options.task_id", "The task's id, once there is one."))
    parent_id: str | None = cast("None", Item("options.parent_id", "Who sends it."))
    root_id: str | None = cast("None", Item("options.root_id", "Where the workflow began."))

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[T]], type[T]]:
        """A class decorator: signatures with this `subtask_type` are of that class."""

        def register(kind: type[T]) -> type[T]:
            cls.TYPES[name or kind.__name__] = kind
            return kind

        return register

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: App | None = None) -> Signature[Any]:
        """The signature that a dict describes, as it comes out of JSON."""
        kind = cls.TYPES.get(d.get("subtask_type") or "")
        if kind is not None and kind is not cls:
            return kind.from_dict(d, app=app)
        return Signature(d, app=app)

    def __init__(
        self,
        task: str | Task[..., Any] | Mapping[str, Any] | None = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Task[..., Any] | None = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: App | None = None,
        **ex: Any,
    ) -> None:
        self._app = app
        self._type = type
        if isinstance(task, Mapping):
            left_out: dict[str, Any] = {
                "task": None, "args": (), "kwargs": {}, "options": {}, "subtask_type": None,
                "immutable": False,
            }  # fmt: skip
            super().__init__(left_out | dict(task))
            return
        if task is not None and not isinstance(task, str):
            self._type, self._app = task, app or task.app
            task = task.name
        super().__init__(
            task=task,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **ex},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # ---------------------------------------------------------------------------- what it is

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            why = f": {ABSENT[name]}" if name in ABSENT else ""
            raise AttributeError(f"A signature has no attribute {name!r}{why}", name=name, obj=self)

    @property
    def name(self) -> str:
        """The task's name, as a task itself has it."""
        return self.task

    @property
    def app(self) -> App:
        """The app of its task; else the current one."""
        return self._app or current_app()

    @property
    def type(self) -> Task[..., Any]:
        """Its task; `NotRegistered` if the app knows none of that name."""
        return self._type or self.app.lookup(self.task)

    def __repr__(self) -> str:
        return self.reprcall()

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as it would be written, with these arguments before its own."""
        merged = {**self.kwargs, **kwargs}
        shown = [repr(value) for value in (*args, *self.args)]
        shown += [f"{name}={value!r}" for name, value in merged.items()]
        return f"{self.task}({', '.join(shown)})"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature[R_co]:
        return self.clone()

    # --------------------------------------------------------------------------------- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in this process."""
        args, kwargs, _ = self.merge(args, kwargs)
        return self.type(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """Send it, with these arguments before its own."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R_co]:
        """Send it, with these arguments before its own and these options over its own.

        Of a chain and a chord the result is that of the last step; the steps before are its
        `parent`, and so on. Raises as `Task.apply_async`.
        """
        result: AsyncResult[R_co] = self.app.send_workflow(self, args, kwargs, options)
        return result

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """`delay` for coroutines: the event loop goes on while it is stored."""
        return await self.aapply_async(args, kwargs)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R_co]:
        """`apply_async` for coroutines."""
        result: AsyncResult[R_co] = await self.app.asend_workflow(self, args, kwargs, options)
        return result

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        **options: Unpack[SendOptions],
    ) -> AsyncResult[R_co]:
        """Run it, with all that follows from it, in this process and at once.

        `throw`: raise the first error of a task (default: `task_eager_propagates`).
        """
        result: AsyncResult[R_co] = self.app.apply_workflow(self, args, kwargs, options, throw)
        return result

    def __invert__(self) -> R_co:
        return self.apply_async().get()

    # ------------------------------------------------------------------------------- changing

    def merge(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Its arguments and options with those of a call: arguments come first, options win."""
        lasting = LASTING | set(self.options.get("stamped_headers") or ())
        merged = {
            **self.options,
            **{
                key: value
                for key, value in (options or {}).items()
                if key not in lasting or key not in self.options
            },
        }
        if self.immutable:
            return tuple(self.args), self.kwargs, merged
        return (*(args or ()), *self.args), {**self.kwargs, **(kwargs or {})}, merged

    def clone(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """A copy, with such arguments and options. Arguments themselves are not copied."""
        args, kwargs, options = self.merge(args, kwargs, options)
        copied = {**self, "args": args, "kwargs": dict(kwargs), "options": copy_options(options)}
        made = Signature.from_dict(copied, app=self._app)
        made._type = self._type  # noqa: SLF001
        return cast("Self", made)

    partial = clone

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy with other arguments or options in the place of its own; None keeps them."""
        made = self.clone()
        if args is not None:
            made.args = tuple(args)
        if kwargs is not None:
            made.kwargs = dict(kwargs)
        if options is not None:
            made.options = dict(options)
        return made

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options of `apply_async`; returns the signature."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Whether it keeps its arguments as they are, whatever it is called with."""
        self.immutable = immutable

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Mapping[str, Any] | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R_co]:
        """Fix the ids of all its tasks; the result that it will have. It is not sent."""
        options = self.options
        id = options.setdefault("task_id", _id or new_id())
        given = {
            "root_id": root_id,
            "parent_id": parent_id,
            "chord": chord,
            "group_index": group_index,
        }
        options.update({key: value for key, value in given.items() if value is not None})
        if group_id is not None:
            options.setdefault("group_id", group_id)
        result: AsyncResult[R_co] = self.app.AsyncResult(id)
        return result

    _freeze = freeze

    # ------------------------------------------------------------------------------- what follows

    def append_to_list_option(self, key: str, value: S) -> S:
        """Add to an option that is a list, unless it is in there; returns the value."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add one or several to an option that is a list."""
        self._list_option(key).extend(listed(value))

    def _list_option(self, key: str) -> list[Any]:
        items = self.options[key] = listed(self.options.get(key))
        return items

    def link(self, callback: T) -> T:
        """Call another signature with the result once this one has returned; returns the other."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: T) -> T:
        """Call another one if this one fails; returns the other.

        One whose task takes one argument, or is not known here, gets the failed task's id. Any
        other gets its request, the exception and the traceback as text.
        """
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Signature[Any]) -> Self:
        """`link_error`, and returns this signature."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Signature[Any]]:
        """This signature, those that are linked to it, those linked to them, and so on."""
        found: list[Signature[Any]] = [self]
        for link in listed(self.options.get("link")):
            found += cast("Signature[Any]", maybe_signature(link, app=self._app)).flatten_links()
        return found

    @overload  # type: ignore[override]  # dict's would merge them
    def __or__(self, other: chain[S], /) -> chain[S]: ...
    @overload
    def __or__(self, other: group[S], /) -> chain[list[S]]: ...
    @overload
    def __or__(self, other: Signature[S], /) -> chain[S]: ...

    def __or__(self, other: Any) -> Any:
        if not isinstance(other, Signature):
            return NotImplemented
        return self.TYPES["chain"].compose(self, other)  # type: ignore[attr-defined]

    if TYPE_CHECKING:

        def __ror__(self, other: Signature[Any], /) -> chain[R_co]:  # type: ignore[override,misc]
            """Checkers look here first where the right side's class is below the left side's."""
            ...

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # dict's would update it
        return self | other

    # --------------------------------------------------------------------------------- stamps

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Stamp it and all that it consists of: headers that stay with each task's message.

        Those of the visitor win over `headers`; with `append_stamps` all of them are kept.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        stamps: Mapping[str, Any] = headers
        if visitor is not None:
            stamps = merge(stamps, visitor.on_signature(self, **stamps), append=append_stamps)
        put(self.options, stamps, append=append_stamps)
        return self

    def stamp_links(
        self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp only what is linked to it."""
        for option in ("link", "link_error"):
            if option not in self.options:
                continue
            links = [maybe_signature(link, app=self._app) for link in listed(self.options[option])]
            self.options[option] = links
            for link in links:
                stamps: Mapping[str, Any] = {}
                if visitor is not None:
                    hook = visitor.on_callback if option == "link" else visitor.on_errback
                    stamps = hook(link, **headers)
                link.stamp(visitor, append_stamps, **merge(headers, stamps, append=append_stamps))


def current_app() -> App:
    """The app that is meant where none is named."""
    if _state.find_app is None:
        raise ImproperlyConfigured(
            "A signature needs its app, and this process has made none: import the module that "
            "makes it, or write signature(…, app=app)."
        )
    app: App = _state.find_app("A signature")
    return app


def listed(value: Any) -> list[Any]:
    """One or several signatures, or None, as a list of its own."""
    if value is None:
        return []
    return [value] if isinstance(value, Mapping) else list(value)


def copy_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options whose linked signatures are copies too."""
    return {
        key: deepcopy(value) if isinstance(value, (dict, list)) else value
        for key, value in options.items()
    }


def signature(
    varies: str | Task[..., Any] | Mapping[str, Any],
    args: Iterable[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    app: App | None = None,
    **more: Any,
) -> Signature[Any]:
    """A signature of a task, a name or a dict; of a signature, a copy (`celery.signature`)."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=app)
    return Signature(varies, args, kwargs, options, app=app, **more)


subtask = signature


@overload
def maybe_signature(d: None, app: App | None = None, clone: bool = False) -> None: ...
@overload
def maybe_signature(
    d: Mapping[str, Any], app: App | None = None, clone: bool = False
) -> Signature[Any]: ...


def maybe_signature(
    d: Mapping[str, Any] | None, app: App | None = None, clone: bool = False
) -> Signature[Any] | None:
    """A dict as a signature; what is one already, or None, as it is. `clone`: a copy of it."""
    if d is None:
        return None
    if isinstance(d, Signature):
        found = d.clone() if clone else d
    else:
        found = Signature.from_dict(d, app=app)
    if app is not None:
        found._app = app  # noqa: SLF001
    return found


maybe_subtask = maybe_signature
