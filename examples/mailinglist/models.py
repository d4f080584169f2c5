"""Lists and who is on them."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import models
from django.utils import timezone

from mailapp.addresses import fold, split
from mailapp.conf import mail_settings
from mailapp.lists import Authors, ListMail, ReplyTo

#: A name has no hyphen, which parts it from what is wanted of the list, and leaves room for
#: that within the 64 octets of a local part. Two names are no list's, by RFC 2142.
NAME = r"(?!(?:abuse|postmaster)\b)(?=[a-z0-9._]{1,31}(?![a-z0-9._]))[a-z0-9]+(?:[._][a-z0-9]+)*"


def list_address(address: str) -> str:
    """Return the address of the list that an address would belong to.

    >>> list_address("News-Subscribe@example.com")
    'news@example.com'
    """
    local, host = split(fold(address))
    return f"{local.partition('-')[0]}@{host}"


class MailingListQuerySet(models.QuerySet["MailingList"]):
    def at(self, address: str) -> MailingList | None:
        """The list that has this address, or an address made of it such as LIST-help@HOST."""
        name, host = split(list_address(address))
        return self.filter(name=name, host=host).first()


class MailingList(models.Model):
    """People who get each other's mail by writing to one address."""

    class Strangers(models.TextChoices):
        ANSWER = "answer", "are told once how to subscribe"
        REFUSE = "refuse", "are refused"

    name = models.CharField(
        max_length=31,
        validators=[
            RegexValidator(rf"\A{NAME}\Z", "Letters, digits, single dots and underscores.")
        ],
        help_text="What stands before the @ of its address.",
    )
    host = models.CharField(max_length=253, help_text="What stands behind it.")
    title = models.CharField(max_length=200, blank=True)
    is_open = models.BooleanField(
        "open", default=True, help_text="Anybody may subscribe by mail; else operators alone."
    )
    strangers = models.CharField(
        max_length=10,
        choices=Strangers,
        default=Strangers.ANSWER,
        help_text="What happens to posts of people who have not subscribed.",
    )
    reply_to = models.CharField(
        "answers go to", max_length=10, choices=ReplyTo, default=ReplyTo.AUTHOR
    )
    authors = models.CharField(
        "posts in the name of the list",
        max_length=10,
        choices=Authors,
        default=Authors.NOBODY,
        help_text="Needed where DMARC has what a list passes on refused.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    objects = MailingListQuerySet.as_manager()

    class Meta:
        ordering = ["name", "host"]
        constraints = [
            models.UniqueConstraint(fields=["name", "host"], name="mailinglist_one_per_address")
        ]

    def __str__(self) -> str:
        return self.title or self.name

    def clean(self) -> None:
        self.host = fold(self.host)
        if self.host not in mail_settings().HOSTS:
            raise ValidationError({"host": "Mail for this host does not come here."})

    @property
    def address(self) -> str:
        """Where posts go."""
        return f"{self.name}@{self.host}"

    def address_to(self, wish: str) -> str:
        """The address for a wish, such as `subscribe`."""
        return f"{self.name}-{wish}@{self.host}"

    def has(self, address: str) -> bool:
        """Say whether this person is on the list."""
        return self.pk is not None and self.subscriptions.filter(address=fold(address)).exists()

    def subscribe(self, address: str) -> None:
        """Put a person on the list, which is made if it is new; safe to repeat."""
        known, _ = MailingList.objects.get_or_create(name=self.name, host=self.host)
        known.subscriptions.get_or_create(address=fold(address))

    def unsubscribe(self, address: str) -> None:
        """Take a person off the list; safe to repeat."""
        self.subscriptions.filter(address=fold(address)).delete()

    @property
    def mail(self) -> ListMail:
        """How its posts go out."""
        return ListMail(
            address=self.address,
            title=self.title,
            help=self.address_to("help"),
            subscribe=self.address_to("subscribe"),
            unsubscribe=self.address_to("unsubscribe"),
            reply_to=self.reply_to,
            authors=self.authors,
        )

    def readers(self) -> list[str]:
        """Whom a post goes to: each subscriber who is not a list, since that would send it on."""
        lists = {each.address for each in MailingList.objects.all()}
        addresses = self.subscriptions.order_by("id").values_list("address", flat=True)
        return [address for address in addresses if list_address(address) not in lists]


class Subscription(models.Model):
    """A person on a list."""

    mailing_list = models.ForeignKey(
        MailingList, on_delete=models.CASCADE, related_name="subscriptions"
    )
    address = models.EmailField(max_length=254, help_text="Kept in lower case.")
    joined_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["mailing_list", "address"]
        constraints = [
            models.UniqueConstraint(
                fields=["mailing_list", "address"], name="mailinglist_subscribed_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.address} on {self.mailing_list}"

    def clean(self) -> None:
        self.address = fold(self.address)
        if MailingList.objects.at(self.address):
            raise ValidationError({"address": "This is the address of a list."})
