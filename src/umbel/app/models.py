"""Tasks whose arguments and return values are Pydantic models: `@app.task(pydantic=True)`.

The models travel as plain values. Before the function runs, each argument whose parameter is
annotated with a model (or with `Model | None`) becomes one; a model that is returned and is of
the annotated class becomes a plain value again, which is the task's result.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from umbel.app.task import Task, make_task, stack_level
from umbel.exceptions import ImproperlyConfigured, UmbelWarning

if TYPE_CHECKING:
    from pydantic import BaseModel

    from umbel.app.app import App
    from umbel.result import AsyncResult

R = TypeVar("R")
Args = tuple[Any, ...] | list[Any]


class Models:
    """The models in one task's signature, and what they become.

    `strict`, `context`: as for `BaseModel.model_validate`; the context has `celery_app` and
    `celery_task_name` besides. `dump`: keywords of `BaseModel.model_dump`, `mode="json"` if they
    say nothing else. `ImproperlyConfigured` where Pydantic is not installed.
    """

    def __init__(
        self,
        app: App,
        function: Callable[..., Any],
        name: str,
        *,
        bind: bool,
        strict: bool,
        context: Mapping[str, Any] | None,
        dump: Mapping[str, Any] | None,
    ) -> None:
        try:
            from pydantic import BaseModel
        except ImportError as error:
            raise ImproperlyConfigured(
                f'{name}: pydantic=True needs a library: pip install "umbel[pydantic]"'
            ) from error
        self._base: type[BaseModel] = BaseModel
        self._function = function
        self._name = name
        self._bound = bind
        self._strict = strict
        self._context = {**(context or {}), "celery_app": app, "celery_task_name": name}
        self._dump: dict[str, Any] = {"mode": "json", **(dump or {})}

    # --------------------------------------------------------------------- in the worker

    def wrap(self) -> Callable[..., Any]:
        """The function, with models in the place of plain arguments and the other way round."""
        function = self._function
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def run(*args: Any, **kwargs: Any) -> Any:
                call = self._validate(args, kwargs)
                return self._plain_result(await function(*call.args, **call.kwargs))

        else:

            @functools.wraps(function)
            def run(*args: Any, **kwargs: Any) -> Any:
                call = self._validate(args, kwargs)
                return self._plain_result(function(*call.args, **call.kwargs))

        return run

    def _validate(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        call = self._signature.bind(*args, **kwargs)
        given = call.arguments
        for name in self._of_parameters.keys() & given.keys():
            kind = self._signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                given[name] = tuple([self._model(name, value) for value in given[name]])
            elif kind is inspect.Parameter.VAR_KEYWORD:
                given[name] = {key: self._model(name, value) for key, value in given[name].items()}
            else:
                given[name] = self._model(name, given[name])
        return call

    def _model(self, parameter: str, value: Any) -> Any:
        model, optional = self._of_parameters[parameter]
        if value is None and optional:
            return None
        return model.model_validate(value, strict=self._strict, context=self._context)

    def _plain_result(self, value: Any) -> Any:
        expected = self._returned
        if expected is not None and isinstance(value, self._base) and isinstance(value, expected):
            return value.model_dump(**self._dump)
        return value

    # ---------------------------------------------------------------------- in the sender

    def plain_args(self, args: Any) -> Any:
        """Positional arguments as they are sent."""
        if not isinstance(args, (tuple, list)) or not self._has_models(args):
            return args
        names: list[str | None] = [*self._positional[: len(args)]]
        names += [self._rest_of_args] * (len(args) - len(names))
        return [self._plain(name, value) for name, value in zip(names, args, strict=True)]

    def plain_kwargs(self, kwargs: Any) -> Any:
        """Keyword arguments as they are sent."""
        if not isinstance(kwargs, dict) or not self._has_models(kwargs.values()):
            return kwargs
        return {
            name: self._plain(name if name in self._keywords else self._rest_of_kwargs, value)
            for name, value in kwargs.items()
        }

    def _has_models(self, values: Iterable[Any]) -> bool:
        return any(isinstance(value, self._base) for value in values)

    def _plain(self, parameter: str | None, value: Any) -> Any:
        """A model's plain value, if the worker makes an equal model of it.

        Any other is left to the serializer, which tells what it cannot write.
        """
        if parameter not in self._of_parameters or not isinstance(value, self._base):
            return value
        if hasattr(type(value), "__json__"):  # it says itself how it is sent
            return value
        try:
            plain = value.model_dump(**self._dump)
            same = self._model(parameter, plain) == value
        except Exception:  # noqa: BLE001  (validators may work in a worker only)
            return value
        return plain if same else value

    # --------------------------------------------------------------------- its signature

    @cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._function)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        """The annotations, evaluated at the first call: by then all names are there."""
        function = self._function
        try:
            return typing.get_type_hints(function)
        except Exception:  # noqa: BLE001  (an annotation may hold any expression)
            hints: dict[str, Any] = {}
        unknown = []
        for name, annotation in inspect.get_annotations(function).items():
            alone = types.SimpleNamespace(__annotations__={name: annotation})
            try:
                hints |= typing.get_type_hints(alone, getattr(function, "__globals__", None))
            except Exception:  # noqa: BLE001
                unknown.append(f"{name}: {annotation}")
        warnings.warn(
            UmbelWarning(
                f"{self._name}: these annotations name what is not there at run time, so they "
                f"count as no models: {', '.join(unknown)}."
            ),
            stacklevel=stack_level(),
        )
        return hints

    @cached_property
    def _of_parameters(self) -> dict[str, tuple[type[BaseModel], bool]]:
        """The models by parameter, and whether None may stand for one."""
        found = {}
        for name in self._signature.parameters:
            annotation, optional = _without_none(self._hints.get(name))
            if isinstance(annotation, type) and issubclass(annotation, self._base):
                found[name] = annotation, optional
        return found

    @cached_property
    def _returned(self) -> type | None:
        annotation, _ = _without_none(self._hints.get("return"))
        return annotation if isinstance(annotation, type) else None

    def _of_kind(self, *kinds: Any) -> list[str]:
        """The parameters of a call, but for the task itself."""
        parameters = list(self._signature.parameters.values())[self._bound :]
        return [parameter.name for parameter in parameters if parameter.kind in kinds]

    @cached_property
    def _positional(self) -> list[str]:
        kinds = inspect.Parameter
        return self._of_kind(kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)

    @cached_property
    def _keywords(self) -> list[str]:
        kinds = inspect.Parameter
        return self._of_kind(kinds.KEYWORD_ONLY, kinds.POSITIONAL_OR_KEYWORD)

    @cached_property
    def _rest_of_args(self) -> str | None:
        return next(iter(self._of_kind(inspect.Parameter.VAR_POSITIONAL)), None)

    @cached_property
    def _rest_of_kwargs(self) -> str | None:
        return next(iter(self._of_kind(inspect.Parameter.VAR_KEYWORD)), None)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """`X` and True for `X | None`; the annotation itself and False for any other."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        members = [one for one in typing.get_args(annotation) if one is not types.NoneType]
        if len(members) == 1:
            return members[0], True
    return annotation, False


class ModelTask(Task[..., Any]):
    """What sending means for a task with models: they are sent as plain values."""

    models: Models

    def _plain(self, args: Any, kwargs: Any, options: Mapping[str, Any]) -> tuple[Any, Any]:
        if self._keeps_objects(options):
            return args, kwargs
        return self.models.plain_args(args), self.models.plain_kwargs(kwargs)

    def _keeps_objects(self, options: Mapping[str, Any]) -> bool:
        """Whether the serializer writes models as they are."""
        return (options.get("serializer") or self.serializer) == "pickle"

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult[Any]:
        """`Task.apply_async`."""
        return super().apply_async(*self._plain(args, kwargs, options), **options)

    async def aapply_async(
        self, args: Any = None, kwargs: Any = None, **options: Any
    ) -> AsyncResult[Any]:
        """`Task.aapply_async`."""
        return await super().aapply_async(*self._plain(args, kwargs, options), **options)

    def _plain_items(self, items: Iterable[Args], options: Mapping[str, Any]) -> Iterable[Args]:
        if self._keeps_objects(options):
            return items
        return map(self.models.plain_args, items)

    def apply_many(
        self, items: Iterable[Args], kwargs: Any = None, **options: Any
    ) -> list[AsyncResult[Any]]:
        """`Task.apply_many`."""
        _, kwargs = self._plain((), kwargs, options)
        return super().apply_many(self._plain_items(items, options), kwargs, **options)

    async def aapply_many(
        self, items: Iterable[Args], kwargs: Any = None, **options: Any
    ) -> list[AsyncResult[Any]]:
        """`Task.aapply_many`."""
        _, kwargs = self._plain((), kwargs, options)
        return await super().aapply_many(self._plain_items(items, options), kwargs, **options)

    def retry(self, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        """`Task.retry`."""
        return super().retry(*self._plain(args, kwargs, options), *more, **options)


def make_model_task(
    app: App,
    function: Callable[..., Any],
    name: str,
    base: type[Task[..., Any]],
    options: Mapping[str, Any],
    *,
    bind: bool,
    strict: bool,
    context: Mapping[str, Any] | None,
    dump: Mapping[str, Any] | None,
) -> Task[..., Any]:
    """The task of a function with models, as `make_task` makes others."""
    models = Models(app, function, name, bind=bind, strict=strict, context=context, dump=dump)
    return make_task(
        app, function, name, base, {**options, "models": models}, bind=bind, run=models.wrap(),
        mixins=(ModelTask,),
    )  # fmt: skip
