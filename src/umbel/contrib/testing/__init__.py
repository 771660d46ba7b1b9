"""Celery's helpers for tests: an app in memory and a worker in a thread (`celery.contrib.testing`).

New tests are quicker and see more with the fixture `umbel` (`umbel.testing.Harness`).
"""
