"""The errors that several modules share. The docstring is the message; a class knows its reply."""

from __future__ import annotations


class MailError(Exception):
    """Something went wrong with a mail."""

    reply = "451 4.3.0 Temporary failure, please try again"  #: RFC 5321 4.2, RFC 3463

    def __init__(self, detail: str = "", *, reply: str | None = None) -> None:
        """`detail` is for the operator's eyes; only `reply` may reach a client."""
        text = (self.__doc__ or type(self).__name__).strip().splitlines()[0]
        super().__init__(f"{text.rstrip('.')}: {detail}" if detail else text)
        if reply is not None:
            self.reply = reply

    @property
    def permanent(self) -> bool:
        """True when trying again cannot help (a 5xx reply)."""
        return self.reply.startswith("5")


class SMTPError(MailError):
    """A handler answered with an SMTP reply of its own.

    >>> str(SMTPError(550, "The list is closed"))
    '550 5.0.0 The list is closed'
    """

    def __init__(self, code: int, text: str, enhanced: str | None = None) -> None:
        """Raise ValueError unless `code` is 4xx or 5xx and the text is one printable line."""
        if not 400 <= code <= 599:
            raise ValueError(f"an SMTPError needs a 4xx or 5xx code, not {code}")
        if not text.isprintable():
            raise ValueError("the text of an SMTPError must be one printable line")
        reply = f"{code} {enhanced or f'{code // 100}.0.0'} {text}"
        Exception.__init__(self, reply)
        self.reply = reply


class BadAddress(MailError):
    """This is not an address by the grammar of RFC 5321 4.1.2."""

    reply = "553 5.1.3 Malformed address"


class NotHandled(MailError):
    """No enabled handler takes this recipient from this sender."""

    reply = "550 5.1.1 No such recipient here"


class BadRoute(MailError):
    """A route cannot be used as it is written."""


class KeyUnknown(MailError):
    """Only the mail itself says which conversation it belongs to."""


class NotAState(MailError):
    """A state function returned something that is not a registered state function."""


class TimerGone(MailError):
    """The handler module has no such timer any more; was its function or state renamed?"""


class NothingToAnswer(MailError):
    """No mail of this conversation is kept, so it takes an author to write to the person."""


class ConversationMoved(MailError):
    """Somebody else moved this conversation while the handler ran; the mail is tried again."""


class WorkLost(MailError):
    """The handler caught a database error, but not around a `transaction.atomic()` block.

    The database has dropped what the handler did before.
    """


class TransactionLeft(MailError):
    """The handler began a transaction and never ended it, so nothing that it did was kept."""


class LostTooOften(MailError):
    """Three processes died while they worked on this."""


class ClaimLost(MailError):
    """The claim was released and perhaps taken by another worker; nothing was changed."""


class DeliveryInHand(MailError):
    """A worker has this delivery in hand; what is said of it has to wait until it is settled."""


class NoSuchQueue(MailError):
    """There is no such queue, and no function is marked @from_queue with its name."""


class KeyUnusable(MailError):
    """A DKIM key cannot be used, and what it is to sign is not sent unsigned."""


class LinkForged(MailError):
    """Nobody of ours made this link."""


class NoUpstream(MailError):
    """The smart host does not answer, or does not let us in."""

    reply = "451 4.4.1 Relay not reachable"


class PortTaken(MailError):
    """Another program listens there, or we may not."""


class NotListening(MailError):
    """systemd has opened a socket where no setting of MAIL has us listen."""


class DidNotStart(MailError):
    """A part ended before it was ready."""


class RunsAlready(MailError):
    """It runs already."""


class PidFileUnusable(MailError):
    """Who runs here cannot be found out."""


class OfAnotherUser(MailError):
    """It runs as another user."""
