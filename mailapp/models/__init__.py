"""The tables: they are the queue, the state store and the history."""

from mailapp.routing import INCOMING

from .answer import Answer
from .conversation import Conversation, Transition
from .delivery import Attempt, Delivery, DeliveryQuerySet
from .duty import Duty
from .handler import Handler
from .imported import Imported
from .message import Message, NewMail, RawMessage
from .outcome import FINAL, OPERATOR_MAY, UNENDED, Outcome, Status, Taken
from .place import Place
from .process import Process
from .queue import OUTGOING, UNDELIVERABLE, Queue
from .suppression import Suppression
from .timer import Timer
from .unheard import Unheard

__all__ = [
    "FINAL",
    "INCOMING",
    "OPERATOR_MAY",
    "OUTGOING",
    "UNDELIVERABLE",
    "UNENDED",
    "Answer",
    "Attempt",
    "Conversation",
    "Delivery",
    "DeliveryQuerySet",
    "Duty",
    "Handler",
    "Imported",
    "Message",
    "NewMail",
    "Outcome",
    "Place",
    "Process",
    "Queue",
    "RawMessage",
    "Status",
    "Suppression",
    "Taken",
    "Timer",
    "Transition",
    "Unheard",
]
