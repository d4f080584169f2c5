"""Mail that was imported, so that to import it again adds nothing."""

from __future__ import annotations

from collections.abc import Iterable

from django.db import models

from .message import Message


class ImportedQuerySet(models.QuerySet["Imported"]):
    def remember(self, marks: Iterable[tuple[str, int]]) -> None:
        """Note messages by their marks. Raise IntegrityError if one of these is noted already."""
        rows = [Imported(mark=mark, message_id=message) for mark, message in marks]
        Imported.objects.using(self.db).bulk_create(rows)

    def known(self, marks: Iterable[str]) -> set[str]:
        """Return those of the marks that are noted."""
        return set(self.filter(mark__in=list(marks)).values_list("mark", flat=True))


class Imported(models.Model):
    """A message that `importmail` has stored. It is forgotten with the message."""

    mark = models.CharField(max_length=64, primary_key=True)
    message = models.ForeignKey(Message, on_delete=models.CASCADE, related_name="+")

    objects = ImportedQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "imported"

    def __str__(self) -> str:
        return self.mark
