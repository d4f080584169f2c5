"""The loop of the relay: claim, hand to the senders, settle what became of it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic

from django.db import DatabaseError, connection
from django.utils import timezone

from mailapp import dsn, mime, turns, way
from mailapp.addresses import fold
from mailapp.amounts import amount
from mailapp.conf import MailSettings, mail_settings
from mailapp.endpoints import Backend, Upstream
from mailapp.errors import ClaimLost, MailError
from mailapp.lifecycle import Life, keep_what_is_loaded, living, release_dead, stay_on_one_core
from mailapp.models import (
    OUTGOING,
    Delivery,
    Message,
    Outcome,
    Process,
    RawMessage,
    Status,
    Suppression,
    Taken,
)
from mailapp.wakeup import Listener, listen

from . import wire
from .backend import BackendConnection
from .connection import Connection
from .journal import Journal, hand_over
from .mailing import Mailing, Sent
from .schedule import gives_up_at, is_expired, is_late
from .senders import Senders
from .session import Session
from .upstreams import Upstreams

logger = logging.getLogger(__name__)

IN_HAND = 200  # deliveries, which a power cut may repeat; half is sent while half is settled
_GATHER = 0.03  # seconds: what is sent meanwhile is settled in one commit
_MOST_OCTETS = 16 * 1024 * 1024  # of mail in memory, though a single one may be larger


def run(on_ready: Callable[[str], None] = lambda queue: None) -> None:
    """Send what is due in `outgoing` until SIGTERM or SIGINT; then finish the mail in hand."""
    stay_on_one_core()
    keep_what_is_loaded()
    with living(Process.Kind.RELAY, OUTGOING) as life, listen(OUTGOING) as bell:
        life.on_stop(bell.wake)
        on_ready(OUTGOING)
        Relay(life, bell).work()


def _upstreams() -> Upstreams:
    conf = mail_settings()
    doors = {each: partial(_open, each, conf) for each in conf.upstreams}
    return Upstreams(doors, conf.RELAY_REST_SECONDS)


def _open(upstream: Upstream, conf: MailSettings) -> Connection | BackendConnection:
    if isinstance(upstream, Backend):
        return BackendConnection.open(upstream)
    return Connection.open(
        upstream, hostname=conf.hostname, timeout=conf.RELAY_TIMEOUT, ca_file=conf.RELAY_CA_FILE
    )


class Relay:
    """Moves deliveries between the queue and the senders; the only one that sees the database."""

    def __init__(self, life: Life, bell: Listener) -> None:
        conf = mail_settings()
        self._life = life
        self._bell = bell
        self._upstreams = _upstreams()
        self._claimed: list[Mailing] = []  # not given to the senders yet
        self._unsettled: list[Sent] = []
        self._journal = Journal()
        self._senders = Senders(
            conf.RELAY_CONNECTIONS,
            lambda: Session(self._upstreams, recipients=conf.RELAY_RECIPIENTS),
            self._journal,
            enough=IN_HAND // 2,
            idle=conf.RELAY_IDLE_SECONDS,
            wake=bell.wake,
        )

    def work(self) -> None:
        """Work until the life is to stop; leave nothing claimed and nothing sent unsettled."""
        try:
            while not self._life.stopping.is_set():
                self._turn()
        finally:
            self._wind_up()

    def _turn(self) -> None:
        poll = mail_settings().POLL_SECONDS
        try:
            self._settle()
            if not self._upstreams.remaining:
                self._claim()
                self._fail_suppressed()
                self._load()
        except DatabaseError:
            logger.exception("The database does not answer; trying again")
            connection.close()
            self._bell.wait(poll)
        else:
            self._bell.wait(self._upstreams.remaining or poll)
            self._senders.wait_for_more(_GATHER)

    def _claim(self) -> None:
        """Claim before the senders run out of work."""
        in_hand = self._in_hand()
        if in_hand <= IN_HAND // 2:
            if not self._journal.is_alone():
                hand_over(_settle_left)
            room = IN_HAND - in_hand
            self._claimed += _mailings(Delivery.objects.claim(OUTGOING, self._life.process, room))
        in_hand = self._in_hand()
        said = f"{amount(in_hand, 'delivery', 'deliveries')} in hand"
        self._life.activity = said if in_hand else ""
        if not in_hand and release_dead(idle=self._life):
            self._bell.wake()

    def _fail_suppressed(self) -> None:
        """End, without a try, what goes to addresses that nothing is sent to."""
        held_back = [each for each in self._claimed if not each.message.even_suppressed]
        if not held_back:
            return
        recipients = {row.recipient for each in held_back for row in each.deliveries}
        people = Suppression.objects.among(recipients)
        if not people:
            return
        suppressed = {recipient for recipient in recipients if fold(recipient) in people}
        parts = {each: each.split(suppressed) for each in held_back}
        _settle(
            [
                Sent(
                    failed,
                    head=mime.head(failed.message.raw),
                    replies=dict.fromkeys(suppressed, wire.SUPPRESSED),
                )
                for failed, _ in parts.values()
                if failed.deliveries
            ]
        )
        left = [parts[each][1] if each in parts else each for each in self._claimed]
        self._claimed = [each for each in left if each.deliveries]

    def _in_hand(self) -> int:
        return sum(len(each.deliveries) for each in [*self._claimed, *self._senders.in_hand])

    def _load(self) -> None:
        """Fetch the bytes of as much as memory is meant for, and give it to the senders."""
        room = _MOST_OCTETS - sum(each.message.size for each in self._senders.in_hand)
        loading: list[Mailing] = []
        while room > 0 and len(loading) < len(self._claimed):
            loading.append(self._claimed[len(loading)])
            room -= loading[-1].message.size
        stored = RawMessage.objects.read({each.message.pk for each in loading})
        for mailing in loading:
            mailing.stored = stored.get(mailing.message.pk)
        del self._claimed[: len(loading)]
        self._senders.give(each for each in loading if each.stored)  # others were deleted

    def _settle(self) -> None:
        self._unsettled += self._senders.collect()
        if not self._unsettled:
            return
        _settle(self._unsettled)
        self._journal.strike()
        troubles = [sent.trouble for sent in self._unsettled if sent.trouble]
        self._unsettled = []
        if troubles:
            self._leave_alone(troubles[-1])

    def _leave_alone(self, trouble: MailError) -> None:
        """Take back what was not tried: there is no try for each delivery."""
        self._life.activity = str(trouble)
        self._claimed += self._senders.take_back()
        self._fail_expired(trouble)
        self._tell_of_delay(trouble)
        self._give_back()

    def _fail_expired(self, trouble: MailError) -> None:
        """End what is too old to wait for the smart host any longer."""
        now = timezone.now()
        old = [
            Mailing(mailing.message, [each for each in mailing.deliveries if is_expired(each, now)])
            for mailing in self._claimed
        ]
        _settle(
            [
                Sent(mailing, head=mime.head(mailing.message.raw), trouble=trouble)
                for mailing in old
                if mailing.deliveries
            ]
        )
        for mailing in self._claimed:
            mailing.deliveries = [each for each in mailing.deliveries if not is_expired(each, now)]

    def _tell_of_delay(self, trouble: MailError) -> None:
        """Tell the senders of what waits for the smart host, and has not been tried."""
        waiting = [each for mailing in self._claimed for each in mailing.deliveries]
        _tell_of_delay(dict.fromkeys(waiting, trouble.reply), heads={})

    def _give_back(self) -> None:
        """Queue again what nobody has tried."""
        self._claimed += self._senders.take_back()
        Delivery.objects.give_back([row for each in self._claimed for row in each.deliveries])
        self._claimed = []

    def _wind_up(self) -> None:
        end = monotonic() + mail_settings().DRAIN_SECONDS
        self._senders.stop()
        while monotonic() < end:
            try:
                self._give_back()
                self._settle()
                finished = not self._senders.in_hand
            except DatabaseError:
                logger.exception("The database does not answer; trying again")
                connection.close()
                finished = False
            if finished:
                break
            self._bell.wait(min(1, end - monotonic()))
        self._senders.join(end - monotonic())


def _mailings(claimed: Sequence[Delivery]) -> list[Mailing]:
    """Put together what may go in one transaction: one message, under one return path."""
    mailings: dict[tuple[int, int | None], Mailing] = {}
    for delivery in claimed:
        together = (delivery.message_id, delivery.pk if delivery.message.verp else None)
        mailing = mailings.setdefault(together, Mailing(delivery.message, []))
        mailing.deliveries.append(delivery)
    return list(mailings.values())


def _settle_left(taken: Sequence[Taken]) -> None:
    """Note what killed relays of this machine had sent, and only then free what they had not."""
    with turns.atomic():
        settled = Delivery.objects.settle_taken(taken)
        for process in Process.objects.killed_here(Process.Kind.RELAY):
            process.mark_stopped()
    if settled:
        logger.warning(
            "Noted %s that a relay had sent before it was killed",
            amount(settled, "delivery", "deliveries"),
        )


def _settle(results: Sequence[Sent]) -> None:
    """Write what became of mailings, and tell the senders of those that failed."""
    heads = {sent.mailing.message.pk: sent.head for sent in results}
    outcomes = dict(pair for sent in results for pair in sent.outcomes())
    try:
        _commit(outcomes, heads)
    except ClaimLost:
        for delivery, outcome in outcomes.items():
            _commit_alone(delivery, outcome, heads)


def _commit(outcomes: Mapping[Delivery, Outcome], heads: Mapping[int, bytes]) -> None:
    failed = _of_status(outcomes, Status.FAILED)
    with turns.atomic():
        Delivery.objects.settle(_tell_senders(outcomes, heads))
        Suppression.objects.note_failures({each: outcomes[each].reply for each in failed})
    for delivery, outcome in outcomes.items():
        way.sent(delivery, outcome)


def _of_status(outcomes: Mapping[Delivery, Outcome], status: Status) -> list[Delivery]:
    return [delivery for delivery, outcome in outcomes.items() if outcome.status == status]


def _tell_senders(
    outcomes: Mapping[Delivery, Outcome], heads: Mapping[int, bytes]
) -> dict[Delivery, Outcome]:
    """Post reports of what failed, and of what is late; note where a sender is not told."""
    noted = dict(outcomes)
    for message, deliveries in _by_message(_of_status(outcomes, Status.FAILED)):
        replies = [(each.recipient, outcomes[each].reply) for each in deliveries]
        untold = dsn.post_failure(message, replies, head=heads[message.pk])
        for each in deliveries:
            noted[each] = replace(outcomes[each], reply=dsn.noted(outcomes[each].reply, untold))
    deferred = _of_status(outcomes, Status.DEFERRED)
    _tell_of_delay({each: outcomes[each].reply for each in deferred}, heads)
    return noted


def _tell_of_delay(replies: Mapping[Delivery, str], heads: Mapping[int, bytes]) -> None:
    now = timezone.now()
    for message, late in _by_message(each for each in replies if is_late(each, now)):
        delays = [(each.recipient, replies[each]) for each in late]
        dsn.post_delay(message, delays, gives_up_at(late[0]), head=heads.get(message.pk))


def _by_message(deliveries: Iterable[Delivery]) -> list[tuple[Message, list[Delivery]]]:
    """Group deliveries, in the order in which every relay tells senders, who are locked by it."""
    groups: dict[Message, list[Delivery]] = defaultdict(list)
    for delivery in deliveries:
        groups[delivery.message].append(delivery)
    return sorted(groups.items(), key=lambda group: (fold(group[0].sender), group[0].pk))


def _commit_alone(delivery: Delivery, outcome: Outcome, heads: Mapping[int, bytes]) -> None:
    try:
        _commit({delivery: outcome}, heads)
    except ClaimLost as lost:
        logger.warning("Delivery %d, %s, is not noted. %s", delivery.pk, outcome.status, lost)
