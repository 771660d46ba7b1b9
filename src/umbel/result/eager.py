"""The result of a task that ran here, without a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from umbel import states
from umbel.exceptions import TaskRevokedError, UmbelError
from umbel.message.result import Meta
from umbel.result.single import AsyncResult
from umbel.result.stored import current_app

if TYPE_CHECKING:
    from umbel.app import App

R = TypeVar("R")


class EagerResult(AsyncResult[R]):
    """The result of a task that has already run here (`celery.result.EagerResult`)."""

    eager = True

    def __init__(
        self,
        id: str,
        ret_value: R | BaseException | None,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
        *,
        app: App | None = None,
    ) -> None:
        self.id = id
        self._app = app
        self.ignored = False
        self._stored = None
        self._meta_here = Meta(id, state, ret_value, traceback, name=name)

    @property
    def app(self) -> App:  # type: ignore[override]  # nobody sets it
        """The app that ran the task; the current one if that is not known."""
        return self._app or current_app()

    def __reduce__(self) -> tuple[Any, ...]:
        meta = self._meta_here
        return type(self), (self.id, meta.result, meta.status, meta.traceback, meta.name)

    def __copy__(self) -> EagerResult[R]:
        kind, arguments = self.__reduce__()
        return cast("EagerResult[R]", kind(*arguments, app=self._app))

    def _ended(self) -> bool:
        return True

    def _meta(self) -> Meta:
        return self._meta_here

    def _last_state(self) -> str:
        return self._meta_here.status

    def _look(self) -> None:
        """Nothing is stored anywhere."""

    def exists(self) -> bool:
        """Whether anything is known of the task: it is."""
        return True

    @property
    def result(self) -> R | Exception | None:
        """The return value, or the exception."""
        return cast("R | Exception | None", self._meta_here.result)

    @property
    def supports_native_join(self) -> bool:
        """False: there is no store to wait on."""
        return False

    def _value(self, *, propagate: bool) -> R | Exception:
        value = self._meta_here.result
        if propagate and self._meta_here.status in states.PROPAGATE_STATES:
            raise value if isinstance(value, BaseException) else UmbelError(str(value))
        return cast("R | Exception", value)

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise the task's error if it has failed; else its value."""
        value = self._value(propagate=propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Do nothing: nothing is stored."""

    def revoke(self, *_: object, **__: object) -> bool:
        """Turn it into a revoked one, which has no value any more; False: it had ended."""
        error = TaskRevokedError("revoked")
        self._meta_here = Meta(self.id, states.REVOKED, error, name=self._meta_here.name)
        return False
