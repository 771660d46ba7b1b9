"""What goes with the package for those who use other things beside it (`celery.contrib`)."""
