"""The relay: works the queue `outgoing`, the only way out for what is stored.

`work` talks to the database, `senders` to the smart host, and neither to the other's side, so
that no transaction of ours ever waits for the network.
"""

from .work import run

__all__ = ["run"]
