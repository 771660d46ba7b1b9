"""Celery's public `utils`, as far as user code imports it: `umbel.utils.log`."""
