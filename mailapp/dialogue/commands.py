"""The commands of a session, and of each transaction in it, in order."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Callable, Iterator, Mapping

from mailapp.endpoints import Endpoint

from .errors import DialogueFailed, Exit, Refused
from .plan import Letter, Login, Plan, Protocol, Stage, Tls
from .wire import Reply, Wire, on_the_wire


class Session:
    """The commands of one session, in order."""

    def __init__(self, plan: Plan, wire: Wire) -> None:
        self.plan = plan
        self.wire = wire
        self.offers: dict[str, list[str]] = {}

    def open(self) -> None:
        """Go on until letters can be sent; raise DialogueFailed if that cannot be."""
        for step in self.first_steps().values():
            step()

    def first_steps(self) -> dict[Stage, Callable[[], None]]:
        return {
            Stage.CONNECT: self.connect,
            Stage.HELO: self.greet,
            Stage.STARTTLS: self.starttls,
            Stage.AUTH: self.authenticate,
        }

    def send(self, letter: Letter, *, to_all: bool = False) -> Mapping[str, str]:
        """Send a letter; return the recipients that were refused, each with its reply.

        Raise Refused if nobody gets it, or with `to_all`, if somebody would not; more letters
        may follow. Raise DialogueFailed if it is not known who gets it.
        """
        transaction = _Transaction(self, letter, to_all=to_all)
        try:
            for step in transaction.steps().values():
                step()
        except Refused:
            with contextlib.suppress(DialogueFailed):  # the next letter will tell
                self.ask("RSET", "250", Exit.MAIL)
            raise
        return transaction.refused

    def part(self) -> None:
        """Say QUIT, whatever the server says to that."""
        with contextlib.suppress(DialogueFailed):
            self.quit()

    def quit(self) -> None:
        self.ask("QUIT", "221", Exit.QUIT)

    def hold(self, letter: Letter) -> None:
        """Go as far as the plan says, with one letter."""
        try:
            for stage, step in {**self.first_steps(), **_Transaction(self, letter).steps()}.items():
                step()
                if stage is self.plan.quit_after:
                    break
        except Refused:
            self.part()
            raise
        if self.plan.quit_after is Stage.DATA:  # nothing but the message may follow a 354
            self.wire.transcript.note("Dropping the connection")
        else:
            self.quit()

    def ask(self, command: str, wanted: str, exit: Exit, *, shown: str | None = None) -> Reply:
        self.wire.say(command.encode(), shown=None if shown is None else shown.encode())
        return self.wire.hear(wanted, exit)

    @property
    def host(self) -> str:
        server = self.plan.server
        return server.host if isinstance(server, Endpoint) else "localhost"

    def connect(self) -> None:
        if self.plan.tls is Tls.IMPLICIT:
            self.wire.start_tls(self.plan.verify, self.host)
        self.wire.hear("220", Exit.BANNER)

    def greet(self, exit: Exit = Exit.HELO) -> None:
        protocol = self.plan.protocol
        try:
            reply = self.ask(f"{protocol.greeting} {self.plan.helo}", "250", exit)
        except Refused as refused:
            if protocol is not Protocol.ESMTP or not refused.reason.startswith("5"):
                raise
            reply = self.ask(f"HELO {self.plan.helo}", "250", exit)  # RFC 5321 3.2
        self.offers = reply.keywords

    def starttls(self) -> None:
        if self.plan.tls is not Tls.STARTTLS:
            return
        if "STARTTLS" not in self.offers:
            raise Refused(Exit.TLS, "The server does not offer STARTTLS")
        self.ask("STARTTLS", "220", Exit.TLS)
        self.wire.start_tls(self.plan.verify, self.host)
        self.greet(Exit.HELO_AFTER_TLS)

    def authenticate(self) -> None:
        login = self.plan.login
        if login is None:
            return
        mechanism = self.mechanism(login)
        if mechanism == "PLAIN":
            secret = _base64(f"\0{login.user}\0{login.password}")  # RFC 4616
            self.ask(f"AUTH PLAIN {secret}", "235", Exit.AUTH, shown="AUTH PLAIN (hidden)")
        else:
            self.ask("AUTH LOGIN", "334", Exit.AUTH)
            self.ask(_base64(login.user), "334", Exit.AUTH)
            self.ask(_base64(login.password), "235", Exit.AUTH, shown="(hidden)")

    def mechanism(self, login: Login) -> str:
        wanted = [login.mechanism] if login.mechanism else ["PLAIN", "LOGIN"]
        for mechanism in wanted:
            if mechanism in self.offers.get("AUTH", []):
                return mechanism
        raise Refused(Exit.AUTH, f"The server does not offer AUTH {' or '.join(wanted)}")


class _Transaction:
    """One letter in a session, from MAIL to the dot (RFC 5321 3.3)."""

    def __init__(self, session: Session, letter: Letter, *, to_all: bool = False) -> None:
        self.session = session
        self.ask = session.ask
        self.letter = letter
        self.to_all = to_all
        self.accepted: list[str] = []
        self.refused: dict[str, str] = {}

    def steps(self) -> dict[Stage, Callable[[], None]]:
        return {
            Stage.MAIL: self.mail,
            Stage.RCPT: self.rcpt,
            Stage.DATA: self.data,
            Stage.DOT: self.dot,
        }

    def mail(self) -> None:
        parameters = "".join(f" {parameter}" for parameter in self.mail_parameters())
        self.ask(f"MAIL FROM:<{self.letter.sender}>{parameters}", "250", Exit.MAIL)

    def mail_parameters(self) -> Iterator[str]:
        letter, offers = self.letter, self.session.offers
        if "SIZE" in offers:
            yield f"SIZE={len(letter.content)}"
        if "8BITMIME" in offers and not letter.content.isascii():
            yield "BODY=8BITMIME"
        if "SMTPUTF8" in offers and not "".join([letter.sender, *letter.recipients]).isascii():
            yield "SMTPUTF8"
        if "DSN" in offers and letter.ret:
            yield f"RET={letter.ret}"

    def rcpt(self) -> None:
        wants_notices = "DSN" in self.session.offers and self.letter.notify
        parameter = f" NOTIFY={self.letter.notify}" if wants_notices else ""
        refusal = None
        for recipient in self.letter.recipients:
            try:
                self.ask(f"RCPT TO:<{recipient}>{parameter}", "25", Exit.RCPT)
            except Refused as refused:
                refusal = refused
                self.refused[recipient] = refused.reason
            else:
                self.accepted.append(recipient)
        if refusal and (self.to_all or not self.accepted):
            refusal.recipients = self.refused
            raise refusal

    def data(self) -> None:
        self.ask("DATA", "354", Exit.DATA)

    def dot(self) -> None:
        self.session.wire.say_message(on_the_wire(self.letter.content))
        if self.session.plan.protocol is not Protocol.LMTP:
            self.session.wire.hear("250", Exit.DOT)
            return
        refusals = []
        for recipient in self.accepted:  # RFC 2033 4.2
            try:
                self.session.wire.hear("250", Exit.DOT)
            except Refused as refused:
                self.refused[recipient] = refused.reason
                refusals.append(refused)
        if len(refusals) == len(self.accepted):
            raise refusals[-1]


def _base64(text: str) -> str:
    octets = text.encode("utf-8", "surrogateescape")  # as the environment or a file gave them
    return base64.b64encode(octets).decode("ascii")
