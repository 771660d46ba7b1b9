"""`umbel report`: what runs here, with which settings, and where they come from."""

from __future__ import annotations

import contextlib
import platform
import sys
from typing import TYPE_CHECKING, Any

import click

from umbel import __version__
from umbel.cli.errors import FAILURE
from umbel.cli.invocation import Invocation
from umbel.cli.options import common_options
from umbel.cli.output import print_json, print_pairs, print_table

if TYPE_CHECKING:
    from umbel.app import App

WIDEST = 60
"""Characters of a setting's value that are shown."""


@click.command()
@click.option(
    "--check",
    is_flag=True,
    help="Also name settings without an effect, and differences from Celery that are met.",
)
@common_options
@click.pass_context
def report(ctx: click.Context, check: bool) -> int:
    """Show versions, the store, and each setting that was given, with its origin.

    Secrets are masked. With --check the exit code is 1 if something is refused: a name that does
    not exist, a value that cannot be, a store that is not there.
    """
    asked = ctx.ensure_object(Invocation)
    app, name = asked.load_app()
    problems = find_problems(app)
    document = describe(app, name, problems)
    if check:
        document["differences"] = [] if problems else find_differences(app)
        document["notes"] = [] if problems else [note.text for note in app.conf.notes()]
    if asked.as_json:
        print_json(document)
    else:
        show(document)
    return FAILURE if problems else 0


def describe_results(app: App) -> str:
    """Where results are kept."""
    if not app.keeps_results:
        return "not kept"
    from umbel.app.backends import complete_backend, is_apart
    from umbel.engines.urls import mask

    backend = complete_backend(app.conf.result_backend, app.conf)
    apart = is_apart(backend, app.broker_url)
    return mask(str(backend)) if apart else "with the messages"


def find_problems(app: App) -> list[str]:
    """What keeps the app from working as it is configured."""
    from umbel.exceptions import ImproperlyConfigured

    try:
        app.conf.read()
    except ImproperlyConfigured as error:
        return str(error).splitlines()  # the rest rests on the settings
    problems = []
    try:
        _ = app.engine  # opened, which looks at the URLs and makes no file yet
    except ImproperlyConfigured as error:
        problems += str(error).splitlines()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what a module prints is no part of it
            app.import_default_modules()
    except ImproperlyConfigured as error:
        problems += str(error).splitlines()
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever a module raises)
        problems.append(f"A module with tasks could not be imported: {error!r}{_place(error)}")
    return problems


def _place(error: BaseException) -> str:
    """Where an import has failed: file and line of the error, or of what led to it."""
    import importlib
    import os
    import traceback

    if isinstance(error, SyntaxError):
        return ""  # it names them itself
    ours = os.path.dirname(os.path.dirname(__file__)) + os.sep
    machinery = ("<frozen importlib", os.path.dirname(importlib.__file__) + os.sep, ours)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(machinery)
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def describe(app: App, name: str, problems: list[str]) -> dict[str, Any]:
    """The report as a document."""
    from importlib.metadata import version

    from umbel.app.settings.values import censor

    document: dict[str, Any] = {
        "umbel": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "packages": {package: version(package) for package in ("click", "msgspec")},
        "app": name,
    }
    conf = app.conf
    settings = [
        {"name": name, "value": censor(name, vars(conf)[name]), "origin": origin, "place": place}
        for name, (origin, place) in sorted(conf.origins().items())
    ]
    if problems:
        return document | {"settings": settings, "problems": problems}
    return document | {
        "store": app.engine.name,
        "results": describe_results(app),
        "tasks": len(app.tasks.own()),
        "settings": settings,
        "problems": [],
    }


def find_differences(app: App) -> list[dict[str, Any]]:
    """The deliberate differences from Celery that this configuration meets."""
    from umbel.app.settings.compat import DIFFERENCES

    conf = app.conf
    return [
        {
            "setting": one.setting,
            "value": conf[one.setting],
            "celery": one.celery,
            "here": one.here,
            "there": one.there,
        }
        for one in DIFFERENCES
        if one.setting in conf and conf.origin(one.setting)[0] == "default"
    ]


def shorten(text: str) -> str:
    """A value that leaves room for its origin; --json has all of it."""
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def show(document: dict[str, Any]) -> None:
    """The report for people."""
    packages = ", ".join(f"{name} {number}" for name, number in document["packages"].items())
    plain = ("umbel", "python", "platform", "app", "store", "results", "tasks")
    pairs = [(key, document.get(key)) for key in plain]
    print_pairs([*pairs[:3], ("packages", packages), *pairs[3:]])
    if document.get("settings"):
        click.echo("\nSettings that were given:")
        print_table(
            ("name", "value", "origin"),
            [
                (s["name"], shorten(repr(s["value"])), f"{s['origin']}: {s['place']}")
                for s in document["settings"]
            ],
        )
    elif not document["problems"]:
        click.echo("\nNo settings were given: all have their defaults.")
    if document.get("differences"):
        click.echo("\nDifferences from Celery that this configuration meets:")
        for one in document["differences"]:
            click.echo(f"  {one['setting']} is {one['value']!r} (Celery: {one['celery']!r})")
            click.echo(f"    here   {one['here']}")
            click.echo(f"    Celery {one['there']}")
        click.echo("  compat='celery' restores all of them, setting one of them decides for it.")
    if document.get("notes"):
        click.echo("\nAccepted without an effect:")
        for note in document["notes"]:
            click.echo(f"  {note}")
    if document["problems"]:
        click.echo("\nRefused:")
        for problem in document["problems"]:
            click.echo(f"  {problem}")
