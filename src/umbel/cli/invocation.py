"""What a command line asks for: which app, which store, which way to answer."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from umbel.cli.errors import FAILURE, INTERRUPTED, UNAVAILABLE, USAGE, Refusal

if TYPE_CHECKING:
    from umbel.app import App
    from umbel.app.loading import AppNotFound, Survey
    from umbel.engines.state import Engine, WorkerRecord


@dataclass
class Invocation:
    """One command line and its common options."""

    words: tuple[str, ...]
    """The whole line, without the program's name."""
    started: float
    """When the command began (monotonic)."""
    app_name: str | None = None
    broker: str | None = None
    workdir: str | None = None
    """Where to go; None once there."""
    as_json: bool = False
    quiet: bool = False
    no_color: bool = False
    config: str | None = None
    result_backend: str | None = None
    notes: list[str] = field(default_factory=list)
    """What was accepted and has no effect, for people who watch a worker start."""
    home: str = field(default_factory=os.getcwd)
    """The working directory at first."""

    @property
    def color(self) -> bool | None:
        """False if there are to be no colours; None leaves it to the terminal."""
        return False if self.no_color else None

    def enter(self) -> None:
        """Go to the working directory and name the broker.

        Both are inherited, so a worker does this before it starts its first process.
        """
        if self.workdir is not None:
            os.chdir(self.workdir)
            self.workdir = None
        for name, value in (
            ("UMBEL_BROKER_URL", self.broker),
            ("UMBEL_RESULT_BACKEND", self.result_backend),
            ("UMBEL_CONFIG_MODULE", self.config),
        ):
            if value is not None:
                os.environ[name] = value

    def run_again(self) -> NoReturn:
        """Become a new process that runs the same line."""
        os.chdir(self.home)
        words = [word for word in self.words if word not in {"-D", "--detach"}]
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, "-m", "umbel", *words])  # noqa: S606

    def load_app(self) -> tuple[App, str]:
        """Find the app, and its exact place; its store is not opened."""
        self.enter()
        return self._find()

    def load(
        self, include: Sequence[str] = (), settings: Mapping[str, str] | None = None
    ) -> Target:
        """Find the app, do what the line says of it, and open its store."""
        self.enter()
        app, name = self._find()
        problem = _override(app, settings)
        if problem:
            raise Refusal(problem, USAGE)
        engine = _open(app)
        self.import_modules(app, name, include)
        return Target(app, name, engine, self._naming(self.app_name))

    def import_modules(self, app: App, name: str, include: Sequence[str] = ()) -> None:
        """Import the modules with an app's tasks."""
        from umbel.app.loading import import_modules

        try:
            with contextlib.redirect_stdout(sys.stderr if self.as_json else sys.stdout):
                import_modules(app, include)
        except (Exception, SystemExit) as error:
            message = f"A module with tasks of {name} could not be imported; its error is above."
            raise _refusal(error, message) from error

    def load_store(self) -> Target:
        """As `load`; but with -b, no app is needed to look into the store."""
        self.enter()
        if self.broker is None or self.app_name is not None:
            return self.load()
        from umbel.app.loading import configured_app, survey

        if configured_app(Path.cwd()) or len(survey(Path.cwd()).apps) == 1:
            return self.load()
        from umbel.app import App

        app = App(broker=self.broker, backend="broker")
        return Target(app, "", _open(app), self._naming("MODULE:APP"))

    def _naming(self, app: str | None) -> tuple[str, ...]:
        """The words of the line that name app and store; a password is not repeated."""
        from umbel.engines.urls import mask

        options = {
            "--workdir": os.getcwd() if os.getcwd() != self.home else None,
            "-A": app,
            "-b": self.broker and mask(self.broker),
        }
        return tuple(word for name, value in options.items() if value for word in (name, value))

    def _find(self) -> tuple[App, str]:
        from umbel.app.loading import DEFAULT_APP, AppNotFound, find_app, survey

        folder = os.getcwd()
        if sys.path[0] != folder:
            sys.path.insert(0, folder)
        name = self.app_name or self._choose()
        try:
            # What a module prints when it is imported is no part of our answer.
            with contextlib.redirect_stdout(sys.stderr if self.as_json else sys.stdout):
                app, place = find_app(name)
        except AppNotFound as error:
            raise Refusal(self._explain_absence(error, survey(Path.cwd())), USAGE) from error
        except (Exception, SystemExit) as error:
            message = f"The app {name} could not be imported; the error is its own, above."
            raise _refusal(error, message) from error
        app.set_current()
        if self.config is not None and app.conf.has_source and place != DEFAULT_APP:
            raise Refusal(
                f"--config {self.config} would have no effect: the app {place} names its own "
                "configuration (config_source, config_from_object). Leave the option out.",
                USAGE,
            )
        self._read_settings(app, place)
        return app, place

    def _read_settings(self, app: App, name: str) -> None:
        """Import the module of the settings; what is wrong with them is told when one is needed."""
        from umbel.exceptions import ImproperlyConfigured

        try:
            with (
                contextlib.redirect_stdout(sys.stderr if self.as_json else sys.stdout),
                contextlib.suppress(ImproperlyConfigured),
            ):
                app.conf.read()
        except (Exception, SystemExit) as error:
            message = f"The configuration of {name} could not be read; its error is above."
            raise _refusal(error, message) from error

    def _choose(self) -> str:
        """The app's name where the line has none.

        As `[tool.umbel] app` of the nearest pyproject.toml says; else the only one in the folder;
        else an app made of the configuration that `--config` names, or of `celeryconfig`.
        """
        from umbel.app.loading import DEFAULT_APP, configured_app, has_configuration, survey

        folder = Path.cwd()
        configured = configured_app(folder)
        if configured is not None:
            name, root = configured
            if str(root) not in sys.path:
                sys.path.insert(1, str(root))
            return name
        found = survey(folder)
        if len(found.apps) == 1:
            return found.apps[0].name
        if has_configuration(folder):
            return DEFAULT_APP
        raise Refusal(self._explain_choice(found), USAGE)

    def _explain_choice(self, found: Survey) -> str:
        """Why there is no only app, and the line to type."""
        if found.apps:
            width = max(len(app.name) for app in found.apps)
            lines = [
                f"  {self._line_with(app.name)}{' ' * (width - len(app.name))}"
                f"   # {app.path.relative_to(found.folder)}, line {app.line}"
                for app in found.apps
            ]
            count = len(found.apps)
            return "\n".join([f"There are {count} apps in {found.folder}. Name one:", *lines])
        lines = [f"No app was named, and there is none in {found.folder}."]
        names = [str(path.relative_to(found.folder)) for path in found.files]
        shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        lines.append(
            f"Looked for `= App(` and `= Celery(` of umbel in: {shown or 'no Python file'}"
        )
        for path, line, wrong in found.broken:
            lines.append(f"{path.relative_to(found.folder)}, line {line}: {wrong}")
        for app in found.foreign:
            place = f"{app.path.relative_to(found.folder)} (line {app.line})"
            lines.append(f"{place} makes an app of celery: import it from umbel instead")
        lines.append(f"If it is elsewhere, name it: {self._line_with('MODULE:APP')}")
        lines.append("If there is only a configuration, name that: --config MODULE")
        return "\n".join(lines)

    def _explain_absence(self, error: AppNotFound, found: Survey) -> str:
        lines = [str(error)]
        if found.apps and "-A" not in lines[0]:
            lines.append("Apps in this folder:")
            lines += [f"  {self._line_with(app.name)}" for app in found.apps]
        return "\n".join(lines)

    def _line_with(self, app: str) -> str:
        """This command line with -A in the place where it always works."""
        import shlex

        words = list(self.words)
        for i in reversed(range(len(words))):
            if words[i] in {"-A", "--app"}:
                del words[i : i + 2]
            elif words[i].startswith(("-A", "--app=")):
                del words[i]
        return shlex.join(["umbel", "-A", app, *words])


@dataclass(frozen=True)
class Target:
    """An app and its open store."""

    app: App
    name: str
    """`module:attribute`; empty where a store was named without an app."""
    store: Engine
    typed: tuple[str, ...]
    """The words that named app and store on the command line, for lines to type."""

    @property
    def file(self) -> str | None:
        """The file of the app's module."""
        module = sys.modules.get(self.name.partition(":")[0])
        return getattr(module, "__file__", None)

    @property
    def exists(self) -> bool:
        """Whether there is a store yet; opening one that is a file would make it."""
        if urlsplit(self.app.broker_url).scheme != "sqlite":
            return True
        try:
            os.stat(self.store.name)
        except (FileNotFoundError, NotADirectoryError):
            return False
        except PermissionError as error:
            raise Refusal(_explain_denial(self.store.name), UNAVAILABLE) from error
        return True

    def line(self, *words: str) -> str:
        """What to type for another command on this app."""
        import shlex

        return shlex.join(["umbel", *self.typed, *words])


def _explain_denial(store: str) -> str:
    folder = os.path.dirname(store)
    owner = "another user"
    with contextlib.suppress(OSError, KeyError):  # a user without a name
        owner = f"the user {Path(folder).owner()}"
    return (
        f"The store {store} belongs to {owner}, and nobody else may open it. Run this as that "
        "user: all processes that share a store have to be of one."
    )


def interruption(target: Target, id: str) -> Refusal:
    """What Ctrl-C says to somebody who waits for a task."""
    again = target.line("result", id, "--wait")
    return Refusal(f"Interrupted. The task {id} stays as it is: {again}", INTERRUPTED, id=id)


def announce(target: Target) -> bool:
    """Say where the store is to people who watch; False, said to all, if there is none yet."""
    import click

    from umbel.cli.output import print_dim

    if target.exists:
        print_dim(f"store {target.store.name}")
        return True
    click.echo(f"no store yet at {target.store.name} (the first task that is sent makes it)")
    return False


def live_workers(store: Engine) -> list[WorkerRecord]:
    """The workers on record that are not known to be dead."""
    from umbel.engines.run_file import is_alive

    return [worker for worker in store.state.workers() if is_alive(worker, store.run_dir)]


def _open(app: App) -> Engine:
    from umbel.exceptions import ImproperlyConfigured

    try:
        if urlsplit(app.broker_url).scheme == "memory":
            raise ImproperlyConfigured(
                f"The store {app.broker_url} lives inside one process, so a command cannot reach "
                "it. Leave broker_url out to use the embedded store."
            )
        return app.engine
    except ImproperlyConfigured as error:
        raise Refusal(str(error), USAGE) from error


def _override(app: App, settings: Mapping[str, str] | None) -> str:
    """Give the app the line's settings; what is wrong with them."""
    from umbel.exceptions import ImproperlyConfigured

    if settings:
        try:
            app.conf.override(settings, "command line")
        except ImproperlyConfigured as error:
            return str(error)
    return ""


def _refusal(error: BaseException, message: str) -> Refusal:
    """A refusal because of an error in the user's code, shown from its first frame on."""
    import traceback

    from umbel.exceptions import ImproperlyConfigured

    ours = os.path.dirname(os.path.dirname(__file__)) + os.sep
    machinery = os.path.dirname(importlib.__file__) + os.sep
    frames = error.__traceback__
    while frames is not None:
        file = frames.tb_frame.f_code.co_filename
        if not file.startswith((ours, machinery, "<frozen importlib")):
            break
        frames = frames.tb_next
    if frames is None and isinstance(error, ImproperlyConfigured):
        return Refusal(str(error), USAGE)  # no line of theirs: it says itself what is wrong
    text = "".join(traceback.format_exception(type(error), error, frames))
    return Refusal(message, FAILURE, traceback=text)
