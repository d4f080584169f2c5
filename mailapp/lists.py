"""The mail of a list: its header fields, whom answers go to, and whose name an author bears."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from django.db import models

from mailapp import composing, mime, people
from mailapp.addresses import domain_of, split
from mailapp.conf import mail_settings
from mailapp.request import MailRequest


class ReplyTo(models.TextChoices):
    """Whom an answer to a post goes to."""

    AUTHOR = "author", "the author"
    LIST = "list", "the list"


class Authors(models.TextChoices):
    """Whose posts go out in the name of the list, since their domains' DMARC refuses others."""

    NOBODY = "nobody", "nobody's"
    PROTECTED = "protected", "those of authors in DMARC_DOMAINS"
    EVERYBODY = "everybody", "everybody's"


# What says of which list a mail is, and how to leave it: not for who posts to say (RFC 2369 2).
_OURS = (
    *("List-Id", "List-Post", "List-Help", "List-Subscribe", "List-Owner", "List-Archive"),
    *("List-Unsubscribe", "List-Unsubscribe-Post"),
)


_IN_ATOMS = "!#$%&'*+-/=?^_`{|}~"


@dataclass(frozen=True, kw_only=True)
class ListMail:
    """How the posts of one list go out. Addresses that a list does not have are empty."""

    address: str  #: where posts go
    title: str = ""
    help: str = ""
    subscribe: str = ""
    unsubscribe: str = ""
    owner: str = ""
    archive: str = ""  #: the URL of a page
    reply_to: str = ReplyTo.AUTHOR
    authors: str = Authors.NOBODY

    @property
    def list_id(self) -> str:
        """Its name among all lists, of atoms alone (RFC 2919 2)."""
        return f"<{quote(self.address.replace('@', '.'), safe=_IN_ATOMS)}>"

    def headers(self) -> list[tuple[str, str]]:
        """Return the fields of RFC 2369 and RFC 2919, and one that keeps machines quiet.

        The link to leave by is not among them: it is another one in each copy.
        """
        places = {
            "List-Post": self.address,
            "List-Help": self.help,
            "List-Subscribe": self.subscribe,
            "List-Unsubscribe": "" if self._has_links else self.unsubscribe,
            "List-Owner": self.owner,
        }
        return [
            ("List-Id", self.list_id),
            *((name, f"<{_mailto(address)}>") for name, address in places.items() if address),
            *([("List-Archive", f"<{self.archive}>")] if self.archive else []),
            ("Precedence", "list"),
        ]

    @property
    def _has_links(self) -> bool:
        return bool(mail_settings().UNSUBSCRIBE_URL)

    def distribute(self, post: MailRequest, to: Sequence[str]) -> None:
        """Send a post to these addresses, as one stored message, with VERP.

        The bytes stay as they came, below the fields of the list, unless they have such fields
        themselves, or answers are to go to the list, or the author is rewritten: then ours, with
        a Reply-To, or a From too, take the place of theirs. Each copy has a link to leave by, if
        there is a page for it.
        """
        fields, raw = self._written(post)
        post.forward(
            to,
            raw=raw,
            sign=self._rewrites(post),
            sender=self.address,
            verp=True,
            list_address=self.address if self._has_links else "",
            headers=[*self.headers(), *fields],
        )

    def _written(self, post: MailRequest) -> tuple[list[tuple[str, str]], bytes]:
        """The fields that tell author and answers, and the post without those they replace."""
        rewrite = self._rewrites(post)
        fields = [("From", self._author(post))] if rewrite else []
        authors = [composing.named("", author) for author in post.authors if author]
        if self.reply_to == ReplyTo.LIST:
            fields.append(("Reply-To", composing.named("", self.address)))
        elif rewrite and authors and not post.header("Reply-To"):
            fields.append(("Reply-To", ", ".join(authors)))
        return fields, composing.without_fields([*_OURS, *(name for name, _ in fields)], post.raw)

    def _rewrites(self, post: MailRequest) -> bool:
        if self.authors == Authors.PROTECTED:
            known = bool(post.authors) and all(map(domain_of, post.authors))
            return not known or any(map(_is_protected, post.authors))
        return self.authors == Authors.EVERYBODY

    def _author(self, post: MailRequest) -> str:
        boxes = people.mailboxes(mime.raw_header(post.parsed, "From"))
        who = next((name or split(address)[0] for name, address in boxes), "") or "Somebody"
        return composing.named(f"{who} via {self.title or self.address}", self.address)


def _mailto(address: str) -> str:
    """Write an address as a URL (RFC 6068 2)."""
    return f"mailto:{quote(address, safe='@+!$*,:')}"


def _is_protected(author: str) -> bool:
    domain = domain_of(author)
    return any(f".{domain}".endswith(f".{each}") for each in mail_settings().DMARC_DOMAINS)
