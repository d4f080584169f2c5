"""Takes mail in over SMTP. It answers 250 when the mail is stored, never before."""

from .server import run

__all__ = ["run"]
