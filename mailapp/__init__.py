"""A mail framework on Django: routes, handlers, templates and a finite state machine."""

__version__ = "0.1.0"
