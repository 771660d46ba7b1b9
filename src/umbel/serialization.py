"""Serializers and JSON types of your own (`kombu.serialization`, `kombu.utils.json`).

Producers and workers both have to register them: do it in the module that makes the app.
"""

from __future__ import annotations

from umbel.message.content import register, unregister
from umbel.message.serializer import register_type

__all__ = ["register", "register_type", "unregister"]
