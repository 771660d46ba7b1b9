"""Bytes to values and back, without I/O: task messages, results, the JSON dialect."""
