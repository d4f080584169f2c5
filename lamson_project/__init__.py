"""A Django project that runs the mail framework."""
