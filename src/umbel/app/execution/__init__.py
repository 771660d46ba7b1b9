"""What happens to one delivery of a task, whichever the pool; and a call in this process."""
