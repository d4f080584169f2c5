"""The tables: they are the queue, the state store and the history."""

from mailapp.routing import INCOMING

from .answer import Answer
from .conversation import Conversation, Transition
from .delivery import Attempt, Delivery
from .duty import Duty
from .handler import Handler
from .imported import Imported
from .message import Message, NewMail, RawMessage
from .place import Place
from .process import Process
from .queue import OUTGOING, UNDELIVERABLE, Queue
from .suppression import Suppression
from .timer import Timer
from .unheard import Unheard

__all__ = [
    "INCOMING",
    "OUTGOING",
    "UNDELIVERABLE",
    "Answer",
    "Attempt",
    "Conversation",
    "Delivery",
    "Duty",
    "Handler",
    "Imported",
    "Message",
    "NewMail",
    "Place",
    "Process",
    "Queue",
    "RawMessage",
    "Suppression",
    "Timer",
    "Transition",
    "Unheard",
]
