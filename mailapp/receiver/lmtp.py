"""LMTP (RFC 2033): SMTP with a greeting of its own and a reply for each recipient."""

from __future__ import annotations

from . import replies
from .protocol import Dialogue
from .transaction import Transaction


class LmtpDialogue(Dialogue):
    """One LMTP session. Each RCPT that was accepted gets its own reply to the content."""

    COMMANDS = Dialogue.COMMANDS.replace("EHLO HELO", "LHLO")
    GREETING = "LMTP"
    ENDLESS_CONTENT = replies.ENDLESS_CONTENT_OF_LMTP

    async def smtp_LHLO(self, argument: str) -> None:
        """Greet as EHLO does."""
        await self.smtp_EHLO(argument)

    def _say_of_content(self, transaction: Transaction, reply: bytes) -> None:
        self.wire.say(*[reply] * transaction.accepted)

    def _protocol(self, transaction: Transaction) -> str:
        word = "UTF8LMTP" if transaction.utf8 else "LMTP"
        return f"{word}S" if self.tls else word
