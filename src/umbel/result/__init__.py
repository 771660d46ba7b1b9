"""What became of tasks: `AsyncResult` of one, `ResultSet` of many (`celery.result`)."""

from __future__ import annotations

from umbel.result.eager import EagerResult
from umbel.result.group import GroupResult
from umbel.result.joining import allow_join_result, assert_will_not_block, denied_join_result
from umbel.result.many import ResultSet
from umbel.result.single import AsyncResult, ResultBase, result_from_tuple

__all__ = [
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
]
