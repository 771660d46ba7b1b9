"""Secret arguments: `@app.task(secret=("password",))`.

They travel to the worker as any other argument. Where arguments are shown they are `********`: in
`argsrepr` and `kwargsrepr`, so in logs and monitors, and in dead letters, for which the message
lists them in a header of its own. An error of the task that quotes one is changed before it is
logged or stored.
"""

from __future__ import annotations

import contextlib
import inspect
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from umbel.exceptions import ImproperlyConfigured, RemoteError, TaskPredicate
from umbel.message.task import HIDDEN, Hidden

if TYPE_CHECKING:
    from umbel.app.task import Task

MIN_LENGTH: Final = 4
"""Characters from which a secret is looked for in errors; shorter ones stand in any text."""


def secret_places(task: Task[..., Any], count: int) -> list[str | int]:
    """The names and positions of a task's secret arguments, in a call with `count` positional ones.

    `ImproperlyConfigured` for a name, given for this very task, that is no parameter of it.
    """
    names = task.secret
    if isinstance(names, str):
        raise ImproperlyConfigured(f"{task.name}: secret is a tuple of names: ({names!r},)")
    parameters = list(inspect.signature(task.run).parameters.values())
    known = {parameter.name for parameter in parameters}
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for name in names:
        if name not in known and not open_ended and "secret" in vars(type(task)):
            raise ImproperlyConfigured(
                f"{task.name}: secret names {name!r}, and the function has no such parameter; it "
                f"has: {', '.join(known) or 'none'}."
            )
    places: list[str | int] = list(names)
    for position, parameter in enumerate(parameters):
        if parameter.name in names and parameter.kind is parameter.VAR_POSITIONAL:
            places += range(position, count)
        elif parameter.name in names:
            places.append(position)
    return places


def redact_values(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments as they may be stored, with text in the place of the secret ones."""
    places = secret_places(task, len(args))
    return (
        [HIDDEN if position in places else value for position, value in enumerate(args)],
        {name: HIDDEN if name in places else value for name, value in kwargs.items()},
    )


def conceal(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], error: BaseException
) -> BaseException:
    """The error of a run, without the secrets of its arguments.

    It is the same object, with other `args`, and so are those that it was caused by; unless its
    text has a secret from elsewhere: then another error, of the same name, stands for it.
    """
    words = list(_words(task, args, kwargs))
    if not words:
        return error
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        _clean(one, words)
    if isinstance(error, TaskPredicate):  # what it asks for must not be lost
        for name, value in list(vars(error).items()):
            if isinstance(value, str):
                setattr(error, name, _strike(value, words))
        return error
    if any(word in text for text in _texts(error) for word in words):
        kind = type(type(error).__name__, (RemoteError,), {"__module__": type(error).__module__})
        # Not chained: what it was caused by may be what tells the secret.
        made: BaseException = kind(_strike(str(error), words))
        return made.with_traceback(error.__traceback__)
    return error


def shown_value(
    task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], value: object
) -> object:
    """A return value as it may be logged."""
    text = repr(value)
    struck = _strike(text, list(_words(task, args, kwargs)))
    return value if struck == text else Hidden(struck)


def _words(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[str]:
    """The texts to strike out, longest first."""
    places = secret_places(task, len(args))
    values = [value for position, value in enumerate(args) if position in places]
    values += [value for name, value in kwargs.items() if name in places]
    words: set[str] = set()
    for value in _leaves(values):
        with contextlib.suppress(Exception):  # of a class of the user's own
            text = str(value)
            if isinstance(value, bytes):
                text = value.decode("utf-8", "backslashreplace")
            words |= {text, repr(text)[1:-1], repr(value)}
    return iter(sorted((word for word in words if len(word) >= MIN_LENGTH), key=len, reverse=True))


def _leaves(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _leaves(item)
    elif value is not None and not isinstance(value, bool):
        yield value


def _clean(error: BaseException, words: list[str]) -> None:
    cleaned: list[object] = []
    for value in error.args:
        text = value if isinstance(value, str) else repr(value)
        struck = _strike(text, words)
        cleaned.append(value if struck == text else struck)
    with contextlib.suppress(Exception):  # a class may make it a property
        error.args = tuple(cleaned)
    if getattr(error, "__notes__", None):
        error.__notes__ = [_strike(str(note), words) for note in error.__notes__]


def _texts(error: BaseException) -> Iterator[str]:
    """What is printed of an error, of its members and of those behind it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            waiting += [one.__cause__, one.__context__]
            if isinstance(one, BaseExceptionGroup):
                waiting += one.exceptions
            for form in (str, repr, _print):
                try:
                    yield form(one)
                except Exception:  # noqa: BLE001, S112  (the user's own; it prints nothing)
                    continue


def _print(error: BaseException) -> str:
    """The end of its traceback, which shows more than its text: of a SyntaxError the line."""
    return "".join(traceback.format_exception_only(error))


def _strike(text: str, words: list[str]) -> str:
    for word in words:
        text = text.replace(word, HIDDEN)
    return text
