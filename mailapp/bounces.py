"""Read what a delivery status notification says (RFC 3464). Pure: no database, no network."""

from __future__ import annotations

import email.message
import quopri
import re
from collections.abc import Iterator
from dataclasses import dataclass

from mailapp import addresses, charsets, mime, people
from mailapp.errors import BadAddress

_STATUS_TYPES = {"message/delivery-status", "message/global-delivery-status"}
_RETURNED_TYPES = {
    "message/rfc822",
    "message/global",
    "text/rfc822-headers",
    "message/global-headers",
}
_GOOD_NEWS = {"delivered", "relayed", "expanded"}
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_REPLY = re.compile(r"[45]\d\d[ -]")
_REPLY_STATUS = re.compile(r"([45])\d\d[ -](?:\1(\.\d{1,3}\.\d{1,3})\b)?")
_TYPED = re.compile(r"([\w.-]+)\s*;\s*(.*)")
_XTEXT = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")


#: There is no such mailbox or domain, or it takes no mail any more (RFC 3463, RFC 7505).
_HARD = {"5.1.1", "5.1.2", "5.1.6", "5.1.10", "5.2.1"}
#: What is said of the sender, the mail system, the protocol, the content or a policy.
_NOT_OF_THE_ADDRESS = ("5.1.7", "5.1.8", "5.3.", "5.5.", "5.6.", "5.7.")


def enhanced_status(reply: str) -> str:
    """Return the enhanced status of a reply (RFC 3463), `5.0.0` or `4.0.0` where it has none.

    >>> enhanced_status("550 5.1.1 User unknown"), enhanced_status("554 No")
    ('5.1.1', '5.0.0')
    """
    found = _REPLY_STATUS.match(reply)
    kind = found[1] if found else "4" if reply.startswith("4") else "5"
    return kind + ((found and found[2]) or ".0.0")


def is_hard(reply: str) -> bool:
    """Say whether no mail to this address will ever be delivered."""
    return enhanced_status(reply) in _HARD


def is_about_address(reply: str) -> bool:
    """Say whether a mail failed for good since the address is what it is, as far as is told."""
    status = enhanced_status(reply)
    return status.startswith("5") and not status.startswith(_NOT_OF_THE_ADDRESS)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of one recipient."""

    recipient: str  #: as the mail was first addressed, where the report says so
    temporary: bool  #: the mail is late and still being tried
    status: str  #: enhanced status code (RFC 3463), such as 5.1.1
    diagnostic: str  #: what the other server said, on one line

    @property
    def reply(self) -> str:
        """What the delivery's row is to say: the other server's own reply, where it is quoted."""
        if _REPLY.match(self.diagnostic):
            return self.diagnostic
        return f"{self.status[0]}50 {self.status} {self.diagnostic or 'Reported by a bounce'}"


@dataclass(frozen=True, kw_only=True)
class Bounce:
    """A mail that tells of others that were not delivered, or not yet."""

    reports: tuple[Report, ...]  #: at least one
    message_id: str  #: of the mail that bounced, with its angle brackets; "" when it is not told

    @property
    def recipients(self) -> list[str]:
        return [report.recipient for report in self.reports]

    @property
    def temporary(self) -> bool:
        """True when every recipient of the report is still being tried."""
        return all(report.temporary for report in self.reports)


def read(mail: bytes | email.message.Message) -> Bounce | None:
    """Return what a report says of failed or late mail; None when it is no such report.

    Never raises. A report of success is no bounce.
    """
    message = mime.parse(mail) if isinstance(mail, bytes) else mail
    parts = list(_parts(message))
    blocks = (block for part in parts for block in _blocks(part))
    reports = {report.recipient: report for block in blocks if (report := _report(block))}
    if not reports:
        return None
    return Bounce(reports=tuple(reports.values()), message_id=_message_id(parts))


def says_delivered(message: email.message.Message) -> bool:
    """Say whether a report has good news of a recipient, as senders may ask for (RFC 3461)."""
    blocks = (block for part in _parts(message) for block in _blocks(part))
    return any(_action(block) in _GOOD_NEWS for block in blocks)


def _parts(message: email.message.Message) -> Iterator[email.message.Message]:
    """Yield the leaves; a mail within it is opened only where the outer one says it is a report.

    Some gateways wrap a report as they forward it. A person's forwarded bounce is none.
    """
    wrapped = "delivery-status" in mime.header(message, "Content-Type").lower()
    waiting = [message]
    while waiting:
        part = waiting.pop()
        kind = part.get_content_type()
        inner = mime.parts_of(part)
        if inner and (kind.startswith("multipart/") or (wrapped and _wraps_a_report(part))):
            waiting += reversed(inner)
        else:
            yield part


def _wraps_a_report(part: email.message.Message) -> bool:
    return part.get_content_type() == "message/rfc822" and mime.is_report(mime.parts_of(part)[0])


def _blocks(part: email.message.Message) -> Iterator[email.message.Message]:
    """Yield the groups of fields of a status part."""
    kind = part.get_content_type()
    if kind not in _STATUS_TYPES:
        return
    if content := _encoded(part):
        yield from map(mime.parse, re.split(rb"\n(?:\r?\n)++", content))
        return
    for block in mime.parts_of(part):
        yield block
        if kind == "message/global-delivery-status":  # the standard library splits only the other
            yield from map(mime.parse, re.split(rb"\n\r?\n", mime.content(block)))


def _encoded(part: email.message.Message) -> bytes:
    """Return what a part holds that is encoded, which the standard library parsed as it was.

    Not all of these types may be encoded, but they are (RFC 6533 sections 4 to 6).
    """
    encoding = mime.header(part, "Content-Transfer-Encoding").lower()
    content = mime.content(part) if part.is_multipart() else b""
    if encoding.startswith("base64"):
        return charsets.from_base64(content)
    if encoding.startswith("quoted-printable"):  # a line that goes on looked like the end of a head
        return quopri.decodestring(content.replace(b"=\n\n", b"=\n"))
    return b""


def _report(block: email.message.Message) -> Report | None:
    recipient = _address(mime.header(block, "Original-Recipient")) or _address(
        mime.header(block, "Final-Recipient")
    )
    action = _action(block)
    told = mime.header(block, "Status")
    if not recipient or action in _GOOD_NEWS or (not action and not told.startswith(("4", "5"))):
        return None
    temporary = action == "delayed" or (not action and told.startswith("4"))
    status = _ENHANCED.match(told)
    return Report(
        recipient=recipient,
        temporary=temporary,
        status=status[0] if status else "4.0.0" if temporary else "5.0.0",
        diagnostic=_typed(mime.header(block, "Diagnostic-Code"))[1][:500],
    )


def _action(block: email.message.Message) -> str:
    action = mime.header(block, "Action").lower()
    return re.split(r"[^a-z-]", action, maxsplit=1)[0]


def _address(field: str) -> str:
    """Return the address of `rfc822; you@example.com`; "" for one of another kind of mail.

    Some write a name, a comment or a dot beside it.
    """
    kind, address = _typed(field)
    if kind == "utf-8":  # RFC 6533 section 3
        address = _XTEXT.sub(_character, address)
    try:
        address = people.mailbox(address)[1] or address.strip("<>")
        address, _ = addresses.take_path(f"<{address}>")
    except BadAddress:
        return ""
    return address if "@" in address else ""


def _typed(field: str) -> tuple[str, str]:
    """Part `smtp; 550 Unknown` into its type and its value; some leave the type out."""
    typed = _TYPED.fullmatch(field)
    return (typed[1].lower(), typed[2]) if typed else ("", field)


def _character(found: re.Match[str]) -> str:
    number = int(found[1], 16)
    return chr(number) if number <= 0x10FFFF else found[0]


def _message_id(parts: list[email.message.Message]) -> str:
    for part in parts:
        if part.get_content_type() in _RETURNED_TYPES:
            inner, encoded = mime.parts_of(part), _encoded(part)
            returned = (
                inner[0] if inner and not encoded else mime.parse(encoded or mime.content(part))
            )
            if found := mime.header(returned, "Message-ID"):
                return next(iter(mime.message_ids(found)), found)
    return ""
