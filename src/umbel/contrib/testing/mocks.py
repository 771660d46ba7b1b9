"""What takes the place of Celery's fakes of messages (`celery.contrib.testing.mocks`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from umbel.app.refusals import refuse_names

if not TYPE_CHECKING:
    __getattr__ = refuse_names(__name__)
