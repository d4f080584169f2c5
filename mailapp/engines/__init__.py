"""Who calls `worker.drain`: the workers of an engine, which is told when mail is due.

`waker` tells it, `turn` is what its task then does, and `sweeper` finds what was lost on the way.
Each engine is a module with the function `send`, which asks it for one task.
"""

from .waker import ring

__all__ = ["ring"]
