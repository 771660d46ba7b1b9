"""Importing the modules that define an app's tasks."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from umbel.exceptions import ImproperlyConfigured

if TYPE_CHECKING:
    from umbel.app.app import App


class Search(NamedTuple):
    """One call of `App.autodiscover_tasks`."""

    packages: Iterable[str] | Callable[[], Iterable[str]] | None
    related_name: str | None


def import_task_modules(app: App, searches: list[Search]) -> list[ModuleType]:
    """Import what `autodiscover_tasks`, `imports` and `include` name, in this order.

    Each module's own errors pass through, as those of any import.
    """
    from umbel import signals

    modules = [module for search in searches for module in discover(search)]
    signals.import_modules.send(sender=app)
    for setting in ("imports", "include"):
        names = getattr(app.conf, setting)
        if isinstance(names, str):
            raise ImproperlyConfigured(
                f"{setting} must be a list of module names; got the text {names!r}. "
                f"Write {setting} = [{names!r}]."
            )
        modules += [importlib.import_module(name) for name in names]
    return modules


def discover(search: Search) -> list[ModuleType]:
    """Import `package.related_name` of each package that has one."""
    packages = search.packages() if callable(search.packages) else search.packages
    if isinstance(packages, str):
        raise TypeError(f"autodiscover_tasks takes a list of packages; write [{packages!r}].")
    if packages is None:
        packages = django_apps()
    found = [_related(package, search.related_name) for package in packages]
    return [module for module in found if module is not None]


def _related(package: str, related_name: str | None) -> ModuleType | None:
    module = importlib.import_module(package)
    if not related_name:
        return module
    name = f"{package}.{related_name}"
    if name not in sys.modules and (not hasattr(module, "__path__") or find_spec(name) is None):
        return None
    return importlib.import_module(name)


def django_apps() -> list[str]:
    """The packages of Django's installed apps; none where no Django project is named."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        return []
    import django
    from django.apps import apps

    if not apps.ready:
        django.setup()
    return [config.name for config in apps.get_app_configs()]
