"""What a child process is: the fork server that makes it, its link, its slots."""
