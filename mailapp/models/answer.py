"""How often handlers answered people of late, so that machines do not go on and on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from django.db import connections, models
from django.utils import timezone

from mailapp.amounts import amount
from mailapp.conf import mail_settings
from mailapp.mime import visible

from .handler import Handler
from .insert import insert
from .reading import with_ids

#: How long an answer counts.
COUNTED = timedelta(days=1)

# The ORM takes six times as long to word it as a database to run it, for each batch of mail.
_COUNT = """\
SELECT handler_id, person, COUNT(CASE WHEN at > %s THEN 1 END), COUNT(*)
FROM mailapp_answer WHERE at > %s AND person IN ({ids}) GROUP BY handler_id, person
"""
_COLUMNS = ("handler_id", "person", "at")


class AnswerQuerySet(models.QuerySet["Answer"]):
    def note(self, answers: Mapping[int, tuple[int, str]]) -> dict[int, str]:
        """Count answers, each by a handler to a person; return why some are one too many, by key.

        Those do not count. It takes two statements, however many answers there are. What other
        workers are about to commit is not seen, and may go beyond the limit by as much.
        """
        if not (mail_settings().ANSWERS_AN_HOUR or mail_settings().ANSWERS_A_DAY):
            return {}
        counts, too_many = self._counts({person for _, person in answers.values()}), {}
        for key, pair in answers.items():
            count = counts.setdefault(pair, _Count(0, 0))
            if reason := count.problem():
                too_many[key] = reason
            else:
                count.add()
        self._insert([pair for key, pair in answers.items() if key not in too_many])
        return too_many

    def _counts(self, people: set[str]) -> dict[tuple[int, str], _Count]:
        connection, now = connections[self.db], timezone.now()
        an_hour_ago, long_ago = (
            connection.ops.adapt_datetimefield_value(now - age)
            for age in (timedelta(hours=1), COUNTED)
        )
        with connection.cursor() as cursor:
            cursor.execute(*with_ids(_COUNT, [an_hour_ago, long_ago], people))
            return {(handler, person): _Count(*counts) for handler, person, *counts in cursor}

    def _insert(self, pairs: list[tuple[int, str]]) -> None:
        if pairs:
            at = connections[self.db].ops.adapt_datetimefield_value(timezone.now())
            insert(Answer, _COLUMNS, self.db).rows([(*pair, at) for pair in pairs])


class _Count:
    """How many answers one person had from one handler."""

    def __init__(self, in_an_hour: int, in_a_day: int) -> None:
        self.in_an_hour = in_an_hour
        self.in_a_day = in_a_day

    def problem(self) -> str:
        """Say which limit another one would exceed, or ""."""
        for count, limit, time in (
            (self.in_an_hour, mail_settings().ANSWERS_AN_HOUR, "an hour"),
            (self.in_a_day, mail_settings().ANSWERS_A_DAY, "a day"),
        ):
            if limit and count >= limit:
                times = amount(count, "time")
                return f"Held: this handler has answered this person {times} within {time}"
        return ""

    def add(self) -> None:
        self.in_an_hour += 1
        self.in_a_day += 1


class Answer(models.Model):
    """One answer of a handler to a person, kept as long as it counts."""

    handler = models.ForeignKey(Handler, on_delete=models.CASCADE, db_index=False, related_name="+")
    person = models.CharField(max_length=320, help_text="The recipient, folded.")
    at = models.DateTimeField(default=timezone.now)

    objects = AnswerQuerySet.as_manager()

    class Meta:
        indexes = [models.Index(fields=["person", "at"], name="mailapp_answers")]

    def __str__(self) -> str:
        return f"{self.handler} to {visible(self.person)}"
