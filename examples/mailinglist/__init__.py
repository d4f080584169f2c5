"""Mailing lists that people join and leave by mail."""
