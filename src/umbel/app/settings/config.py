"""How a table of settings is filled: layers, the first read, and access by attribute and key."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Unpack

from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.settings.keywords import GivenSettings
    from umbel.app.settings.sources import Item

COMMAND_LINE, ENVIRONMENT, CODE, CONFIG, ADDED, COMPAT = range(6)
"""Layers, the strongest first: `app.conf` and arguments of the app outweigh its module."""
ORIGINS: Final = (
    "command line", "environment", "code", "configuration", "add_defaults", "compat",
)  # fmt: skip

_lock = threading.RLock()


class Note(NamedTuple):
    """A line about a setting that was accepted and does nothing."""

    urgent: bool
    """Whether work may be waiting for it: it comes later."""
    text: str


class Option(NamedTuple):
    """What `find_option` has found (Celery's triple)."""

    namespace: str
    key: str
    default: Any


class Follows:
    """The default of a setting that has the value of another one (`Celery`'s `conf.first`)."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def __get__(self, conf: Configuration | None, _: type) -> Any:
        return None if conf is None else getattr(conf, self.setting)


class Configuration:
    """A table of settings that knows where each value comes from.

    Attributes and keys are the same: `conf.task_time_limit`, `conf["task_time_limit"]`, and the
    names of Celery 3 read and set them too. Nothing is read before the first question; what is
    set before that is kept. The order: command line, environment, code, configuration, defaults.
    """

    _fields: dict[str, str]
    """Names and annotations of the settings that have an effect."""

    def __init__(self) -> None:
        keep = object.__setattr__
        keep(self, "_layers", tuple({} for _ in ORIGINS))
        keep(self, "_source", None)
        keep(self, "_added", [])
        keep(self, "_notes", [])
        keep(self, "_reading", False)
        keep(self, "_after_read", None)
        for name, default in self._mutable_defaults():
            keep(self, name, copy(default))

    if TYPE_CHECKING:
        _layers: tuple[dict[str, Item], ...]
        _source: tuple[Any, str | None, bool] | None
        _added: list[Mapping[str, Any] | Callable[[], Mapping[str, Any]]]
        _notes: list[str]
        _reading: bool
        _after_read: Callable[[], None] | None

    @classmethod
    def _mutable_defaults(cls) -> Iterator[tuple[str, Any]]:
        for name in cls._fields:
            default = getattr(cls, name)
            if isinstance(default, (dict, list)):
                yield name, default

    # ------------------------------------------------------------------ being filled

    def _unread(self) -> None:
        """Look at the sources again at the next question."""

    def _is_read(self) -> bool:
        return True

    def _settle_in(self) -> None:
        """Become settings that were read."""

    def tell_when_read(self, function: Callable[[], None]) -> None:
        """Call `function` each time that the sources have been read."""
        object.__setattr__(self, "_after_read", function)

    def read(self) -> None:
        """Read the sources now, unless they have been; `ImproperlyConfigured` if they are wrong."""
        if self._is_read():
            return
        with _lock:
            if self._reading or self._is_read():
                return
            object.__setattr__(self, "_reading", True)
            try:
                self._read_sources()
            finally:
                object.__setattr__(self, "_reading", False)
            self._settle_in()
        if self._after_read is not None:
            self._after_read()

    @property
    def has_source(self) -> bool:
        """Whether the code names a configuration (`config_source`, `config_from_object`)."""
        return self._source is not None

    def _read_sources(self) -> None:
        from umbel.app.settings import sources

        notes: list[str] = []
        problems: list[str] = []
        found: list[tuple[int, Mapping[str, Item]]] = []
        variables, more = sources.read_environment(self._fields)
        notes += more
        found.append((ENVIRONMENT, variables))
        configured = self._read_configuration()
        if configured is not None:
            found.append((CONFIG, configured.items))
            notes += configured.notes
            problems += configured.problems
        for values in reversed(self._added):
            given = values() if callable(values) else values
            extra = sources.read_object(given, None, self._fields)
            found.append((ADDED, extra.items))
            notes += extra.notes
            problems += extra.problems
        for layer in {layer for layer, _ in found}:
            self._clear(layer)
        errors = []
        for layer, items in found:
            for name, (value, origin) in items.items():
                try:
                    if layer == ENVIRONMENT:
                        value = self._kinds().parse(name, value)  # noqa: PLW2901
                    self._give(layer, name, value, origin)
                except ImproperlyConfigured as error:
                    errors.append(str(error))
        if self._lenient():
            notes += [f"{problem} It is passed over, as Celery does" for problem in problems]
            problems = []
        if errors or problems:
            raise ImproperlyConfigured("\n".join(errors + problems))
        self._apply_compat()
        object.__setattr__(self, "_notes", notes)

    def _read_configuration(self) -> Any:
        from umbel.app.settings import sources

        if self._source is not None:
            source, namespace, silent = self._source
        else:
            import os

            names = [os.environ[v] for v in sources.CONFIG_VARIABLES if os.environ.get(v)]
            if not names:
                return None
            source, namespace, silent = names[0], None, False
        if isinstance(source, str):
            name = source
            source = sources.import_source(name, silent=silent)
            if source is None:
                return None
        return sources.read_object(source, namespace, self._fields)

    def _clear(self, layer: int) -> None:
        names = list(self._layers[layer])
        self._layers[layer].clear()
        for name in names:
            self._settle(name)

    def _give(self, layer: int, name: str, value: Any, origin: str) -> None:
        """Put a checked value of a known name into a layer."""
        from umbel.app.settings.sources import Item

        if name in self._fields:
            value = self._kinds().check(name, value, origin)
        else:
            self._check_known(name, value, origin)
        self._layers[layer][name] = Item(value, origin)
        self._settle(name)
        if name == "compat":
            self._apply_compat()

    def _check_known(self, name: str, value: Any, origin: str) -> None:
        from umbel.app.settings.names import KNOWN

        known = KNOWN.get(name)
        if known is None or known.kind != "refused":
            return
        if value is None or value == known.default or (value is False and not known.default):
            return
        raise ImproperlyConfigured(f"The setting {name} ({origin}) is refused: {known.reason}.")

    def _settle(self, name: str) -> None:
        """Make the strongest layer's value the one in force."""
        for layer in self._layers:
            item = layer.get(name)
            if item is not None:
                object.__setattr__(self, name, item.value)
                return
        self.__dict__.pop(name, None)

    def _apply_compat(self) -> None:
        from umbel.app.settings.compat import DIFFERENCES
        from umbel.app.settings.sources import Item

        self._clear(COMPAT)
        if self.__dict__.get("compat") == "celery":
            for difference in DIFFERENCES:
                if difference.setting in self._fields:
                    item = Item(difference.celery, "compat='celery'")
                    self._layers[COMPAT][difference.setting] = item
                    self._settle(difference.setting)

    def _lenient(self) -> bool:
        """Whether unknown settings are passed over with a warning."""
        import os

        return self.__dict__.get("compat") == "celery" or os.environ.get("UMBEL_COMPAT") == "celery"

    def _kinds(self) -> Any:
        from umbel.app.settings.values import Kinds

        return Kinds(self._fields)

    def _resolve(self, name: str) -> str | None:
        if name in self._fields:
            return name
        from umbel.app.settings import spelling

        return spelling.resolve(name, self._fields)

    # ------------------------------------------------------------------ sources

    def use(self, source: Any, *, namespace: str | None = None, silent: bool = False) -> None:
        """Take the configuration from an object, or from what a dotted path names."""
        object.__setattr__(self, "_source", (source, namespace, silent))
        self._clear(CONFIG)
        self._unread()

    def add_defaults(self, values: Mapping[str, Any] | Callable[[], Mapping[str, Any]]) -> None:
        """Defaults under everything else; a callable is called at the first read."""
        self._added.append(values)
        self._unread()

    def override(self, values: Mapping[str, Any], origin: str) -> None:
        """What a command line says: it outweighs everything. Text is read by the setting's type."""
        for name, value in values.items():
            meant = self._demand(name, origin)
            if isinstance(value, str):
                value = self._kinds().parse(meant, value)  # noqa: PLW2901
            self._give(COMMAND_LINE, meant, value, origin)

    def update(
        self, values: Mapping[str, Any] | None = None, /, **more: Unpack[GivenSettings]
    ) -> None:
        """Set settings by name; `ImproperlyConfigured` for one that does not exist."""
        for name, value in {**(values or {}), **more}.items():
            self._assign(name, value)

    def setdefault(self, name: str, value: Any) -> Any:
        """The setting's value; set it first if nobody has given one."""
        self.read()
        meant = self._resolve(name) or name
        if not any(meant in layer for layer in self._layers):
            self._assign(name, value)
        return self[name]

    def _assign(self, name: str, value: Any) -> None:
        meant = self._resolve(name)
        if meant is None and not self._keeps_unknown(name, "app.conf"):
            from umbel.app.settings.sources import describe_unknown

            raise ImproperlyConfigured(describe_unknown(name, "app.conf", self._fields))
        origin = "app.conf" if meant in {None, name} else f"app.conf: {name}"
        self._give(CODE, meant or name, value, origin)

    def _demand(self, name: str, where: str) -> str:
        meant = self._resolve(name)
        if meant is None:
            from umbel.app.settings.sources import describe_unknown

            raise ImproperlyConfigured(describe_unknown(name, where, self._fields))
        return meant

    def _keeps_unknown(self, name: str, where: str) -> bool:
        from umbel.app.settings import spelling

        package = spelling.add_on_of(name)
        if package is not None:
            self._notes.append(f"{name} ({where}) has no effect: it is a setting of {package}")
            return True
        if not self._lenient():
            return False
        import warnings

        warnings.warn(f"There is no setting {name!r}; it is kept and not used.", stacklevel=4)
        return True

    if not TYPE_CHECKING:  # a type checker knows the names by itself

        def __setattr__(self, name: str, value: object) -> None:
            if name.startswith("__"):
                object.__setattr__(self, name, value)
            else:
                self._assign(name, value)

        def __getattr__(self, name: str) -> object:
            """Old names, and settings that have no effect."""
            if name.startswith("_"):
                raise AttributeError(name)
            self.read()
            found = self._find(name)
            if found is not _MISSING:
                return found
            from umbel.app.refusals import CONF
            from umbel.app.settings.sources import describe_unknown

            if name in CONF:
                raise AttributeError(f"app.conf has no {name!r}: {CONF[name]}.")
            raise AttributeError(describe_unknown(name, "app.conf", self._fields))

        def __delattr__(self, name: str) -> None:
            self.pop(name)

    # ------------------------------------------------------------------ answers

    def _find(self, name: str) -> Any:
        own = self.__dict__
        if name in own and not name.startswith("_"):
            return own[name]
        meant = self._resolve(name)
        if meant is None:
            return _MISSING
        if meant in self._fields:
            return getattr(self, meant)
        if meant not in own:
            from umbel.app.settings.names import KNOWN

            default = KNOWN[meant].default
            if isinstance(default, Mapping):
                own[meant] = dict(default)  # so that `conf.beat_schedule["x"] = …` is kept
            else:
                return default
        return own[meant]

    def __getitem__(self, name: str) -> Any:
        self.read()
        found = self._find(name)
        if found is _MISSING:
            raise KeyError(name)
        return found

    def __setitem__(self, name: str, value: Any) -> None:
        self._assign(name, value)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __contains__(self, name: object) -> bool:
        self.read()
        return isinstance(name, str) and self._find(name) is not _MISSING

    def __iter__(self) -> Iterator[str]:
        self.read()
        from umbel.app.settings.names import KNOWN

        own = (name for name in self.__dict__ if not name.startswith("_"))
        return iter(dict.fromkeys((*self._fields, *KNOWN, *own)))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def keys(self) -> list[str]:
        """All names, those without an effect too."""
        return list(self)

    def values(self) -> list[Any]:
        """All values."""
        return [self[name] for name in self]

    def items(self) -> list[tuple[str, Any]]:
        """All names with their values."""
        return [(name, self[name]) for name in self]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name; `default` for one that does not exist."""
        self.read()
        found = self._find(name)
        return default if found is _MISSING else found

    def pop(self, name: str, default: Any = None) -> Any:
        """Take back what code has set; the value that was in force."""
        value = self.get(name, default)
        self._layers[CODE].pop(self._resolve(name) or name, None)
        self._settle(self._resolve(name) or name)
        return value

    @property
    def changes(self) -> dict[str, Any]:
        """What code has set: arguments of the app, and `app.conf`."""
        return {name: item.value for name, item in self._layers[CODE].items()}

    def without_defaults(self) -> dict[str, Any]:
        """What anybody has set, as in force."""
        self.read()
        given = dict.fromkeys(name for layer in self._layers for name in layer)
        return {name: self[name] for name in given}

    def origins(self) -> dict[str, tuple[str, str]]:
        """Where each setting comes from that was given and is good, even if others are refused."""
        with contextlib.suppress(ImproperlyConfigured):
            self.read()
        return {
            name: (kind, item.origin)
            for layer, kind in reversed(list(zip(self._layers, ORIGINS, strict=True)))
            for name, item in layer.items()
        }

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """The settings that were given, or all; secrets are shown as `********`."""
        from umbel.app.settings.values import censor

        shown = dict(self.items()) if with_defaults else self.without_defaults()
        return {k: censor(k, v) for k, v in shown.items()} if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """`table` as text, one setting a line."""
        rows = self.table(with_defaults, censored)
        return "\n".join(f"{name}: {value!r}" for name, value in rows.items())

    def is_in_code(self, name: str) -> bool:
        """Whether the code or the configuration gives a setting, by its name of today."""
        layers = self._layers
        return name in layers[CODE] or name in layers[CONFIG] or name in layers[ADDED]

    def origin(self, name: str) -> tuple[str, str]:
        """Where the value in force comes from: the layer, and the exact place."""
        self.read()
        name = self._resolve(name) or name
        for layer, kind in zip(self._layers, ORIGINS, strict=True):
            if name in layer:
                return kind, layer[name].origin
        return "default", ""

    def notes(self) -> list[Note]:
        """One line for each setting that was given and has no effect, or none yet."""
        self.read()
        from umbel.app.settings.names import KNOWN

        lines = [Note(urgent=True, text=text) for text in self._notes]
        for name, known in KNOWN.items():
            if name in self._fields or name not in self.__dict__:
                continue
            value, (kind, place) = self.__dict__[name], self.origin(name)
            if kind == "default" and value == known.default:
                continue
            text = f"{name} ({place or 'app.conf'}) has no effect"
            if known.kind == "later":
                if value != known.default:
                    lines.append(Note(urgent=True, text=f"{text} yet: it {known.reason}"))
            else:
                lines.append(Note(urgent=False, text=f"{text}: {known.reason}"))
        return lines

    def log_notes(self) -> None:
        """Log `notes`: what waits for something to come as a warning, the rest as information."""
        import logging

        logger = logging.getLogger("umbel.settings")
        for note in self.notes():
            logger.log(logging.WARNING if note.urgent else logging.INFO, "%s", note.text)

    def find_option(self, name: str, namespace: str = "") -> Option:
        """The setting that a name means, with its default; `KeyError` if there is none."""
        meant = self._resolve(name) or self._resolve(f"{namespace.lower()}_{name}")
        if meant is None:
            raise KeyError(name)
        from umbel.app.settings.names import KNOWN

        default = getattr(type(self), meant) if meant in self._fields else KNOWN[meant].default
        return Option(meant.partition("_")[0], meant, default)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """The value of the setting that a name means."""
        return self[self.find_option(name, namespace).key]

    def get_by_parts(self, *parts: str) -> Any:
        """`get_by_parts("task", "always_eager")` is `task_always_eager`."""
        return self["_".join(part for part in parts if part)]

    def value_set_for(self, name: str) -> bool:
        """Whether anybody has set it."""
        return (self._resolve(name) or name) in self.without_defaults()


_MISSING: Final = object()
