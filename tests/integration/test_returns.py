"""Mail that comes back: to return paths of ours, over real sockets, or about a mail of ours."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from django.db import transaction

from mailapp import bounces, dkim, dsn, outbox, returnpath, returns
from mailapp.errors import DeliveryInHand
from mailapp.handlers import bounce
from mailapp.models import OUTGOING, Delivery, Message, Outcome, Process, Status, Suppression
from mailapp.request import MailRequest
from mailapp.routing import route, stateless
from mailapp.testing.person import Person
from mailapp.testing.post import Refused
from mailapp.testing.smtp import OverSmtp
from tests.modules import make_module
from tests.signatures import verdicts

pytestmark = pytest.mark.django_db

RAW = b"From: news@localhost\r\nMessage-ID: <1@localhost>\r\nSubject: News\r\n\r\nHello\r\n"
UNKNOWN = "550 5.1.1 User unknown"
READERS = ["ann@client.test", "bob@client.test"]


@stateless
@route("desk@(host)")
def FORWARD(message: MailRequest, host: str) -> None:
    """Send all mail for the desk on, in the name of an address of ours."""
    message.forward("ann@client.test", srs=True)


@pytest.fixture
def desk(use_handlers: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    use_handlers(make_module(monkeypatch, "desk", FORWARD), bounce)


@pytest.fixture
def mail(desk: None, mail_over_smtp: OverSmtp) -> OverSmtp:
    return mail_over_smtp


@pytest.fixture
def post_office(person: Callable[[str], Person]) -> Person:
    """The mail system of the readers."""
    return person("postmaster@client.test")


@pytest.fixture
def news(mail: OverSmtp) -> dict[str, Delivery]:
    """A mail with VERP that was sent to both readers: its deliveries."""
    with transaction.atomic():
        outbox.post(RAW, sender="news@localhost", recipients=READERS, verp=True)
    mail.work()
    return {each.recipient: each for each in Delivery.objects.filter(queue=OUTGOING)}


def report(reply: str, *, recipient: str = "ann@client.test", late: bool = False) -> bytes:
    raw = dsn.compose(Message(pk=1, sender="news@localhost"), [(recipient, reply)], RAW)
    return raw.replace(b"Action: failed", b"Action: delayed") if late else raw


def came_back(delivery: Delivery) -> tuple[str, str]:
    delivery.refresh_from_db()
    return delivery.status, delivery.reply


def newest_note() -> str:
    return Delivery.objects.filter(queue="incoming").latest("id").reply


def test_each_delivery_of_one_message_goes_out_under_a_return_path_of_its_own(news, mail):
    assert Message.objects.count() == 1
    assert {sent.recipient: sent.sender for sent in mail.sent()} == {
        recipient: returnpath.of_delivery(delivery.pk, "localhost")
        for recipient, delivery in news.items()
    }


def test_bounce_is_noted_on_the_delivery_that_its_recipient_names(news, post_office):
    ann, bob = (news[reader] for reader in READERS)

    post_office.send(ann.return_path, report(UNKNOWN), sender="")

    assert came_back(ann) == (Status.FAILED, UNKNOWN)
    assert came_back(bob)[0] == Status.DONE
    assert [each.address for each in Suppression.objects.all()] == ["ann@client.test"]


def test_bounce_that_cannot_be_read_is_noted_too(news, post_office):
    ann = news["ann@client.test"]

    post_office.send(ann.return_path, b"Subject: failure notice\r\n\r\nSorry.\r\n", sender="")

    assert came_back(ann) == (Status.FAILED, "550 5.0.0 Bounced")
    assert not Suppression.objects.exists()


def test_bounce_about_whom_the_reader_forwards_to_is_the_readers(news, post_office):
    ann = news["ann@client.test"]

    post_office.send(ann.return_path, report(UNKNOWN, recipient="elsewhere@far.test"), sender="")

    assert came_back(ann) == (Status.FAILED, UNKNOWN)


def test_bounce_of_one_reader_says_nothing_of_another(news, post_office):
    ann, bob = (news[reader] for reader in READERS)

    post_office.send(ann.return_path, report(UNKNOWN, recipient=bob.recipient), sender="")

    assert came_back(bob)[0] == Status.DONE
    assert not Suppression.objects.is_suppressed(bob.recipient)


def test_delay_is_noted_and_leaves_the_delivery_done(news, post_office):
    ann = news["ann@client.test"]

    post_office.send(ann.return_path, report("451 4.4.1 Late", late=True), sender="")

    assert came_back(ann) == (Status.DONE, "451 4.4.1 Late")


def test_report_of_a_success_is_no_bounce(news, post_office):
    ann = news["ann@client.test"]
    good = report("250 2.1.5 Ok").replace(b"Action: failed", b"Action: delivered")

    post_office.send(ann.return_path, good, sender="")

    assert came_back(ann)[0] == Status.DONE
    assert newest_note() == f"Nothing new of delivery {ann.pk}"


def test_mail_of_a_person_to_a_return_path_changes_nothing(news, person):
    ann = news["ann@client.test"]

    person("ann@client.test").say(ann.return_path, "I am away")

    assert came_back(ann)[0] == Status.DONE
    assert newest_note() == "Dropped: it is no bounce"


def test_bounce_of_a_mail_that_is_kept_no_longer_changes_nothing(post_office):
    post_office.send(returnpath.of_delivery(4711, "localhost"), report(UNKNOWN), sender="")

    assert newest_note() == "Delivery 4711 is kept no longer"


def test_forged_return_path_is_refused(news, post_office):
    ann, bob = (news[reader] for reader in READERS)
    forged = ann.return_path.replace(f"+{ann.pk}-", f"+{bob.pk}-")

    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        post_office.send(forged, report(UNKNOWN), sender="")


def test_bounce_that_anybody_could_write_suppresses_nobody(news, post_office):
    ann = news["ann@client.test"]

    post_office.send("postmaster@localhost", report(UNKNOWN), sender="")

    assert came_back(ann) == (Status.FAILED, UNKNOWN)
    assert not Suppression.objects.exists()


# What we forward


LETTER = b"From: writer@client.test\r\nSubject: Letter\r\n\r\nTwo  blanks. \r\n.dot\r\n"


@pytest.fixture
def writer(person: Callable[[str], Person]) -> Person:
    """Somebody outside, whose mail we forward to Ann."""
    return person("Writer@client.test")


@pytest.fixture
def forwarded_from(writer: Person, mail: OverSmtp) -> str:
    """The return path of a letter that we have forwarded."""
    writer.send("desk@localhost", LETTER)
    return mail.sent()[-1].sender


def test_mail_is_forwarded_unchanged_under_a_sender_of_ours(forwarded_from, mail):
    assert forwarded_from.startswith("SRS0=")
    assert forwarded_from.endswith("=client.test=Writer@localhost")
    assert mail.sent()[-1].raw.endswith(LETTER)


def test_signature_of_a_forwarded_mail_still_verifies(writer, mail):
    key = dkim.read_key(dkim.new_key(ed25519=True))
    signer = dkim.Signer("client.test", "new", key)
    signed = dkim.signatures(LETTER, [signer], int(time.time())) + LETTER

    writer.send("desk@localhost", signed)

    dns = {"new._domainkey.client.test": dkim.record(key)}
    assert verdicts(mail.sent()[-1].raw, dns) == [True]


def test_bounce_of_a_forwarded_mail_goes_on_to_its_sender(
    forwarded_from, post_office, writer, mail
):
    bounce_of_ann = report(UNKNOWN)

    post_office.send(forwarded_from, bounce_of_ann, sender="")

    letter = writer.expect("Undelivered mail")
    assert letter.sender == ""
    assert letter.raw.endswith(bounce_of_ann)
    writer.expect_nothing()
    assert newest_note() == "Sent on to Writer@client.test"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda address: address.replace("Writer", "victim"),
        lambda address: returnpath.of_sender("writer@client.test", "localhost", days_ago=30),
    ],
    ids=["forged", "old"],
)
def test_bounce_to_an_srs_address_that_is_not_good_is_refused(forwarded_from, post_office, spoil):
    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        post_office.send(spoil(forwarded_from), report(UNKNOWN), sender="")


def test_mail_of_a_person_to_an_srs_address_goes_nowhere(forwarded_from, person, writer):
    person("stranger@client.test").say(forwarded_from, "Buy!")

    writer.expect_nothing()
    assert newest_note() == "Dropped: it is no bounce"


def test_report_in_the_name_of_a_person_goes_nowhere(forwarded_from, post_office, writer):
    post_office.send(forwarded_from, report(UNKNOWN))

    writer.expect_nothing()
    assert newest_note() == "Dropped: it is no bounce of a mail that we forwarded of late"


@pytest.mark.parametrize("sender", ["", "insider@localhost", "w" * 60 + "@client.test"])
def test_sender_that_needs_no_rewriting_or_has_no_room_for_it_stays(writer, mail, sender):
    writer.send("desk@localhost", LETTER, sender=sender)

    assert mail.sent()[-1].sender == sender


# What came back to another address, and names the mail by its Message-ID


OUR_ID = "<news@example.com>"
OURS = f"From: you@example.com\r\nMessage-ID: {OUR_ID}\r\n\r\nNews\r\n".encode()


@pytest.fixture
def sent(delivery: Callable[..., Delivery]) -> Delivery:
    """A delivery of ours that the relay has sent."""
    made = delivery("Reader@client.test", raw=OURS, queue=OUTGOING, protocol="")
    Delivery.objects.filter(pk=made.pk).update(status=Status.DONE, due_at=None)
    return made


def bounce_of(recipient: str = "reader@client.test", *, temporary: bool = False) -> bounces.Bounce:
    said = bounces.Report(
        recipient=recipient,
        temporary=temporary,
        status="4.2.2" if temporary else "5.1.1",
        diagnostic="mailbox full" if temporary else "550 5.1.1 User unknown",
    )
    return bounces.Bounce(reports=(said,), message_id=OUR_ID)


def test_bounce_makes_the_delivery_failed(sent: Delivery):
    recorded = returns.record(bounce_of())

    assert recorded == [sent]
    sent.refresh_from_db()
    assert (sent.status, sent.reply) == (Status.FAILED, "550 5.1.1 User unknown")


def test_notice_of_a_delay_leaves_the_delivery_done(sent: Delivery):
    returns.record(bounce_of(temporary=True))

    sent.refresh_from_db()
    assert (sent.status, sent.reply) == (Status.DONE, "450 4.2.2 mailbox full")


def test_nobody_is_told_of_what_came_back(sent: Delivery):
    returns.record(bounce_of())

    assert Message.objects.get() == sent.message


def test_bounce_of_another_recipient_changes_nothing(sent: Delivery):
    assert returns.record(bounce_of("other@client.test")) == []


def test_bounce_that_names_no_mail_changes_nothing(delivery: Callable[..., Delivery]):
    delivery("reader@client.test", raw=b"\r\n\r\n", queue=OUTGOING)

    nameless = bounces.Bounce(reports=bounce_of().reports, message_id="")

    assert returns.record(nameless) == []


def test_bounce_about_mail_that_only_came_in_changes_nothing(delivery: Callable[..., Delivery]):
    delivery("reader@client.test", raw=OURS)

    assert returns.record(bounce_of()) == []


def test_bounce_waits_for_a_delivery_that_the_relay_has_in_hand(
    delivery: Callable[..., Delivery], process: Callable[..., Process]
):
    delivery("reader@client.test", raw=OURS, queue=OUTGOING, protocol="")
    [claimed] = Delivery.objects.claim(OUTGOING, process("relay", OUTGOING), 1)

    with pytest.raises(DeliveryInHand):
        returns.record(bounce_of())

    Delivery.objects.settle({claimed: Outcome(status=Status.DONE, reply="250 Ok")})
    assert returns.record(bounce_of()) == [claimed]
