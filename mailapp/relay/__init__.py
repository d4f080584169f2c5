"""The relay: works the queue `outgoing`, and is the only SMTP client.

`work` talks to the database, `senders` to the smart host, and neither to the other's side, so
that no transaction of ours ever waits for the network.
"""

from .work import run

__all__ = ["run"]
