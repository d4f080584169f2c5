"""The client's side of one SMTP or LMTP session, shown as it crosses the wire.

`plan` is what is to be said, `commands` says it in order, `wire` carries it, `transcript` shows it.
"""

from .commands import Session
from .errors import DialogueFailed, Exit, Refused, UnsafeCommand
from .holding import hold, session
from .plan import Letter, Login, Plan, Protocol, Stage, Tls
from .transcript import Transcript, printable
from .wire import Wire, on_the_wire

__all__ = [
    "DialogueFailed",
    "Exit",
    "Letter",
    "Login",
    "Plan",
    "Protocol",
    "Refused",
    "Session",
    "Stage",
    "Tls",
    "Transcript",
    "UnsafeCommand",
    "Wire",
    "hold",
    "on_the_wire",
    "printable",
    "session",
]
