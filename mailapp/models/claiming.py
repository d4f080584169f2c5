"""What is written when deliveries are claimed and settled, in SQL.

The ORM takes longer to word these statements than a database to run them, for each batch; and on
SQLite nobody else writes meanwhile.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from .reading import moment, with_ids

_ANY_DUE = """\
SELECT 1 FROM mailapp_delivery
WHERE queue_id = %s AND due_at <= %s ORDER BY due_at, id LIMIT 1
"""
_NEXT_DUE = """\
SELECT due_at FROM mailapp_delivery
WHERE queue_id = %s AND due_at > %s ORDER BY due_at, id LIMIT 1
"""
# The status, too, or SQLite without statistics would read all that a queue ever held.
_ANY_ORPHAN = """\
SELECT 1 FROM mailapp_delivery
WHERE status = 'claimed' AND claim IS NOT NULL AND (
    claimed_by_id IS NULL OR claimed_by_id = %s OR claimed_by_id IN (
        SELECT id FROM mailapp_process WHERE stopped_at IS NOT NULL OR heartbeat_at < %s
    )
) LIMIT 1
"""
_PAUSED = "SELECT paused FROM mailapp_queue WHERE name = %s"
_DUE = """\
SELECT id, attempts > attempts_before FROM mailapp_delivery
WHERE queue_id = %s AND due_at <= %s AND (person = '' OR person NOT IN (
    SELECT person FROM mailapp_delivery
    WHERE queue_id = %s AND status = 'claimed' AND claim IS NOT NULL
))
ORDER BY due_at, id LIMIT %s
"""
_LOST_LAST = """\
SELECT attempt.delivery_id FROM mailapp_attempt AS attempt
JOIN mailapp_delivery AS delivery ON delivery.id = attempt.delivery_id
WHERE attempt.delivery_id IN ({ids}) AND attempt.outcome = 'lost'
    AND attempt.number = delivery.attempts
"""
_CLAIM = """\
UPDATE mailapp_delivery
SET status = 'claimed', due_at = NULL, attempts = attempts + 1,
    claim = %s, claimed_by_id = %s, claimed_at = %s
WHERE id IN ({ids}) AND due_at IS NOT NULL
RETURNING id
"""
_CLAIMS = "SELECT id, claim FROM mailapp_delivery WHERE id IN ({ids}) ORDER BY id"
# Each has a reply of its own, and a statement for each would take longer than the rest.
_SETTLE = """\
UPDATE mailapp_delivery
SET status = %s, due_at = %s, handler_id = COALESCE(%s, handler_id),
    queue_id = CASE WHEN %s = 'held' THEN 'undeliverable' ELSE queue_id END,
    held_from_id = CASE WHEN %s = 'held' THEN queue_id ELSE held_from_id END,
    claim = NULL, claimed_by_id = NULL, claimed_at = NULL,
    reply = (
        SELECT attempt.reply FROM mailapp_attempt AS attempt
        WHERE attempt.delivery_id = mailapp_delivery.id
        AND attempt.number = mailapp_delivery.attempts
    )
WHERE id IN ({ids})
"""


class Due(NamedTuple):
    """A delivery whose time has come."""

    id: int
    tried: bool  #: in this series of tries


class Ending(NamedTuple):
    """What deliveries that ended alike become."""

    status: str
    due_at: datetime | None
    handler: int | None  #: None: as it was


class Claims:
    """Runs the statements on one database; transactions are the caller's."""

    def __init__(self, using: str) -> None:
        self._connection: BaseDatabaseWrapper = connections[using]

    def any_due(self, queue: str, now: datetime) -> bool:
        """Say whether anything is due. In order, so that it reads the index and nothing else."""
        return bool(self._rows(_ANY_DUE, [queue, self._stamp(now)]))

    def next_due(self, queue: str, since: datetime) -> datetime | None:
        """When the next delivery comes due that was not due at `since`; None if none will."""
        rows = self._rows(_NEXT_DUE, [queue, self._stamp(since)])
        return moment(rows[0][0], self._connection) if rows else None

    def any_orphan(self, idle: int | None, oldest_heartbeat: datetime) -> bool:
        """Say whether anything is claimed by the process `idle`, or by one that is not alive."""
        return bool(self._rows(_ANY_ORPHAN, [idle, self._stamp(oldest_heartbeat)]))

    def lock_queue(self, queue: str) -> bool:
        """Let nobody else claim of a queue until the transaction ends; say whether it is open."""
        can_lock = self._connection.features.has_select_for_no_key_update
        [[paused]] = self._rows(_PAUSED + (" FOR NO KEY UPDATE" if can_lock else ""), [queue])
        return not paused

    def due(self, queue: str, now: datetime, limit: int) -> list[Due]:
        """What is due, in order of arrival, without people whose mail is in hand."""
        rows = self._rows(_DUE, [queue, self._stamp(now), queue, limit])
        return [Due(id, bool(tried)) for id, tried in rows]

    def innocent(self, due: Sequence[Due]) -> Sequence[Due]:
        """What comes before the first whose last try ended with its process, or that one alone."""
        again = [each.id for each in due if each.tried]
        if not again:
            return due
        suspects = {id for (id,) in self._rows(_LOST_LAST, [], again)}
        before = next((at for at, each in enumerate(due) if each.id in suspects), len(due))
        return due[: max(before, 1)]

    def claim(self, ids: Sequence[int], token: uuid.UUID, process: int, now: datetime) -> list[int]:
        """Claim deliveries for a process, and count the attempt; return those that still waited.

        An operator may have taken others out of the work since they were read.
        """
        values = [self._token(token), process, self._stamp(now)]
        taken = {id for (id,) in self._rows(_CLAIM, values, ids)}
        return [id for id in ids if id in taken]

    def lock(self, claims: Mapping[int, uuid.UUID | None]) -> int:
        """Keep claims as they are until the transaction ends; say how many are no longer so."""
        can_lock = self._connection.features.has_select_for_no_key_update
        statement = _CLAIMS + (" FOR NO KEY UPDATE" if can_lock else "")
        found = self._rows(statement, [], list(claims))
        ours = {(id, claim and self._token(claim)) for id, claim in claims.items()}
        return len(ours.difference(found))

    def settle(self, ids: Sequence[int], ending: Ending) -> None:
        """Write how deliveries ended whose attempts are written already."""
        due_at = self._stamp(ending.due_at) if ending.due_at else None
        status = str(ending.status)
        self._execute(_SETTLE, [status, due_at, ending.handler, status, status], ids)

    def _rows(self, statement: str, values: list[Any], ids: Sequence[int] = ()) -> list[Any]:
        with self._connection.cursor() as cursor:
            cursor.execute(*with_ids(statement, values, ids))
            return cursor.fetchall()

    def _execute(self, statement: str, values: list[Any], ids: Sequence[int]) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(*with_ids(statement, values, ids))

    def _stamp(self, moment: datetime) -> Any:
        return self._connection.ops.adapt_datetimefield_value(moment)

    def _token(self, token: uuid.UUID) -> uuid.UUID | str:
        return token if self._connection.features.has_native_uuid_field else token.hex
