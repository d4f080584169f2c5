"""Lines of mail that is worked in order: one waits for its retry, the others behind it."""

from __future__ import annotations

from collections.abc import Collection

from django.db import models

from .conversation import Conversation
from .delivery import Delivery
from .outcome import UNENDED

_LOOK_AGAIN = 600.0  # seconds; only to be safe, since whoever leaves a line tells the others


class PlaceQuerySet(models.QuerySet["Place"]):
    def begin(self, delivery: Delivery, conversation: Conversation) -> None:
        """Have later mail of the conversation wait for this one, whose try failed."""
        stored, _ = Conversation.objects.get_or_create(
            handler_id=conversation.handler_id, person=conversation.person, key=conversation.key
        )
        self.update_or_create(delivery=delivery, defaults={"conversation": stored})

    def wait(self, delivery: Delivery, conversation: Conversation) -> bool:
        """Defer a claimed delivery if earlier mail of its conversation waits; say whether.

        Raise ClaimLost.
        """
        earlier = self.filter(delivery__lt=delivery.pk, delivery__status__in=UNENDED)
        if conversation.pk is None or not earlier.filter(conversation=conversation).exists():
            return False
        self.update_or_create(delivery=delivery, defaults={"conversation": conversation})
        delivery.defer_untried(_LOOK_AGAIN, "Waits for an earlier mail of its conversation")
        return True

    def ahead_of(self, delivery: Delivery) -> Delivery | None:
        """Return the delivery that all of this one's line wait for; None if it waits for none."""
        line = self.filter(conversation__line=delivery.pk, delivery__lt=delivery.pk)
        waiting = line.filter(delivery__status__in=UNENDED).select_related("delivery__message")
        head = waiting.order_by("delivery").first()
        return head.delivery if head else None

    def leave(self, deliveries: Collection[int]) -> None:
        """Let those go on who wait in the lines of these deliveries.

        They keep their places until it is their turn, lest a mail that has just come in passes.
        """
        left = self.filter(delivery__in=deliveries)
        ahead = self.filter(
            conversation=models.OuterRef("conversation"),
            delivery__lt=models.OuterRef("delivery"),
            delivery__status__in=UNENDED,
        ).exclude(delivery__in=deliveries)
        waits = list(left.values_list("conversation", models.Exists(ahead)))
        if waits:
            left.delete()
        # One who leaves from behind lets nobody go on: the first one waits for its retry.
        if lines := [line for line, behind in waits if not behind]:
            Delivery.objects.filter(place__conversation__in=lines).try_now()


class Place(models.Model):
    """The place of a delivery in the line of a conversation, in order of arrival.

    The first one waits for its retry, those behind it for their turn. It is gone with the end
    of the delivery, when all those behind are due.
    """

    delivery = models.OneToOneField(
        Delivery, on_delete=models.CASCADE, primary_key=True, related_name="place"
    )
    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="line")

    objects = PlaceQuerySet.as_manager()

    def __str__(self) -> str:
        return f"delivery {self.delivery_id} in the line of conversation {self.conversation_id}"
