"""What goes with the package for those who use other things beside it (`celery.contrib`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from umbel.app.refusals import refuse_names  # pytest loads us to find its fixtures

        return refuse_names(__name__)(name)
