"""Under which name a worker imports what this process runs as `__main__`."""

from __future__ import annotations

import os
import sys


def main_module() -> str | None:
    """The name of the program's main module for whoever imports it; None in an interpreter."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if spec is not None and spec.name != "__main__":  # python -m proj.tasks
        name: str = spec.name
        return name.removesuffix(".__main__") if name.endswith(".__main__") else name
    file = getattr(main, "__file__", None)
    return None if file is None else importable_name(file)


def importable_name(file: str) -> str | None:
    """The dotted name of a source file: as deep as folders with an `__init__.py` go."""
    folder, base = os.path.split(os.path.abspath(file))
    name = os.path.splitext(base)[0]
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        name = package if name == "__init__" else f"{package}.{name}"
        if not package:
            break
    return name
