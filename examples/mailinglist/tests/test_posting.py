"""What is written to a list."""

from __future__ import annotations

import pytest

from examples.mailinglist.models import MailingList, Subscription
from mailapp import dsn, returnpath
from mailapp.models import OUTGOING, UNDELIVERABLE, Delivery, Message, Suppression
from mailapp.testing.post import Refused

POST = b"From: you@example.com\r\nSubject: =?utf-8?q?Caf=C3=A9?=\r\n\r\nTwo  blanks. \r\n.dot\r\n"


def test_post_reaches_every_subscriber_as_one_message(subscriber):
    author, other = subscriber("you@example.com"), subscriber("other@client.test")

    author.say("news@localhost", "Hello all.", subject="Good news")

    for each in [author, other]:
        assert each.expect("Good news").body() == "Hello all.\n"
        each.expect_nothing()
    sent = Message.objects.filter(deliveries__queue=OUTGOING, subject="Good news").distinct()
    assert sent.get().deliveries.count() == 2


def test_bytes_of_a_post_stay_as_they_were(subscriber):
    author = subscriber()

    author.send("news@localhost", POST)

    received = author.expect("Café").raw
    assert received.endswith(POST)
    assert b"Two  blanks" not in received.removesuffix(POST)


def test_post_carries_the_headers_of_a_list(subscriber):
    author = subscriber()

    author.say("news@localhost", subject="Good news")

    post = author.expect("Good news")
    assert post.header("List-Id") == "<news.localhost>"
    assert post.header("List-Post") == "<mailto:news@localhost>"
    assert post.header("List-Help") == "<mailto:news-help@localhost>"
    assert post.header("List-Subscribe") == "<mailto:news-subscribe@localhost>"
    assert post.header("List-Unsubscribe") == "<mailto:news-unsubscribe@localhost>"
    assert post.header("Precedence") == "list"
    assert returnpath.delivery_of(post.sender)
    assert post.author == "you@example.com"


def test_post_to_many_costs_as_many_queries_as_one_to_few(
    subscriber, news, django_assert_max_num_queries
):
    author = subscriber()
    Subscription.objects.bulk_create(
        Subscription(mailing_list=news, address=f"reader{number}@client.test")
        for number in range(2000)
    )

    with django_assert_max_num_queries(60):
        author.say("news@localhost", subject="Good news")

    assert Delivery.objects.filter(message__subject="Good news", queue=OUTGOING).count() == 2001


def test_post_that_came_from_the_list_is_dropped(subscriber):
    author, other = subscriber("you@example.com"), subscriber("other@client.test")
    author.say("news@localhost", subject="Good news")
    post = other.expect("Good news")
    author.read_all()

    other.send("news@localhost", post.raw)

    author.expect_nothing()
    other.expect_nothing()
    assert newest().reply == "Dropped: it came from this list"
    assert newest().status == Delivery.Status.DONE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Auto-Submitted", "auto-replied"),
        ("Precedence", "bulk"),
        ("List-Id", "<another.list.test>"),
    ],
)
def test_automatic_mail_is_dropped(subscriber, reader, name, value):
    author = subscriber()

    for each in [author, reader]:
        each.say("news@localhost", "I am away.", headers={name: value})

        each.expect_nothing()
        assert newest().reply == "Dropped: a machine sent it"


def test_bounce_does_not_reach_the_list(subscriber):
    author = subscriber()

    author.say("news@localhost", "Returned mail", sender="")

    author.expect_nothing()


def test_list_among_the_subscribers_gets_no_post(subscriber, news):
    author = subscriber()
    views = MailingList.objects.create(name="views", host="localhost")
    for address in ["news@localhost", "views@localhost", "views-subscribe@localhost"]:
        news.subscriptions.create(address=address)
    assert views.readers() == []

    author.say("news@localhost", subject="Good news")

    recipients = Delivery.objects.filter(queue=OUTGOING, message__subject="Good news")
    assert [each.recipient for each in recipients] == ["you@example.com"]


def test_post_by_a_stranger_is_answered_once(reader, news, subscriber):
    member = subscriber()

    for _ in range(2):
        reader.say("news@localhost", "Let me in")

    reader.expect("You are not on The News", body="news-subscribe@localhost")
    reader.expect_nothing()
    member.expect_nothing()
    assert newest().reply == "Dropped: its author is not on the list, and was told so before"


def test_who_has_left_is_answered_once_more(reader, news):
    reader.say("news@localhost")
    reader.say("news-subscribe@localhost")
    reader.expect("Please confirm").respond()
    reader.say("news-unsubscribe@localhost")
    reader.expect("Please confirm").respond()
    reader.read_all()

    reader.say("news@localhost")

    reader.expect("You are not on The News")


def test_stranger_is_not_told_to_subscribe_to_a_closed_list(reader, news):
    MailingList.objects.update(is_open=False)

    reader.say("news@localhost")

    assert "news-subscribe" not in reader.expect("You are not on The News").body()


def test_post_by_a_stranger_is_refused_where_the_list_wants_that(reader, news):
    MailingList.objects.update(strangers=MailingList.Strangers.REFUSE)

    reader.say("news@localhost")

    reader.expect("Undelivered mail", body="550 5.7.2 Only subscribers may post")


def test_post_to_no_list_is_refused_even_where_lists_may_be_made(reader, settings):
    settings.MAILING_LISTS = {"CREATE_ON_SUBSCRIBE": True}

    with pytest.raises(Refused, match=r"550 5\.1\.1"):
        reader.say("test.list@localhost")


def test_post_before_the_confirmation_reaches_nobody_and_leaves_it_good(reader, news):
    reader.say("news-subscribe@localhost")

    reader.say("news@localhost", "Already here!")

    reader.expect("You are not on The News")
    reader.expect("Please confirm").respond()
    reader.expect("Welcome")


def test_subscriber_added_by_an_operator_may_post(reader, news):
    news.subscribe("Reader@client.test")

    reader.say("news@localhost", subject="Good news")

    reader.expect("Good news")
    assert reader.state == "POSTING"


def test_subscriber_removed_by_an_operator_may_not_post(subscriber):
    member = subscriber()
    Subscription.objects.all().delete()

    member.say("news@localhost", subject="Good news")

    member.expect("You are not on The News")
    assert member.state == "START"


def test_title_beyond_ascii_is_written_as_a_name(reader, news):
    MailingList.objects.update(title="Grüße, aus der „Küche“")

    reader.say("news-help@localhost")

    answer = reader.expect("How Grüße, aus der „Küche“ works", author="news-help@localhost")
    assert "Grüße" in answer.header("From")


@pytest.mark.parametrize("on_the_list", [True, False])
def test_help_is_given_to_everybody(reader, news, on_the_list):
    if on_the_list:
        news.subscribe(reader.address)

    reader.say("news-help@localhost")

    reader.expect("How The News works", body="news-unsubscribe@localhost")


def test_bounce_is_noted_for_the_operator(subscriber, person, admin_client):
    subscriber("you@example.com"), subscriber("other@client.test")
    person("you@example.com").say("news@localhost", subject="Good news")
    post = person("you@example.com").expect("Good news")
    Delivery.objects.filter(queue=OUTGOING).update(status=Delivery.Status.DONE, due_at=None)
    failure = [("you@example.com", "550 5.1.1 User unknown")]
    report = dsn.compose(Message(pk=1, sender=post.sender), failure, b"")

    person("postmaster@example.com").send(post.sender, report, sender="")

    page = admin_client.get("/admin/mailinglist/subscription/").content.decode()
    assert [each.address for each in Suppression.objects.all()] == ["you@example.com"]
    assert page.count('alt="True"') == 1
    assert not Delivery.objects.filter(queue=UNDELIVERABLE).exists()


def test_answers_go_where_the_list_wants_them(subscriber, news):
    MailingList.objects.update(reply_to="list")
    author = subscriber()

    author.say("news@localhost", subject="Good news", headers={"Reply-To": "me@client.test"})

    post = author.expect("Good news")
    assert [value for name, value in post.headers if name == "Reply-To"] == ["news@localhost"]


def test_suppressed_person_who_confirms_gets_mail_again(reader, news):
    Suppression.objects.create(address="reader@client.test")
    reader.say("news-subscribe@localhost")
    question = Message.objects.get(subject__startswith="Please confirm")
    assert question.even_suppressed

    reader.expect("Please confirm").respond()

    assert not Suppression.objects.exists()


def test_click_in_a_post_leads_off_the_list(subscriber, news, client, settings):
    settings.MAIL = {**settings.MAIL, "UNSUBSCRIBE_URL": "http://testserver/unsubscribe/"}
    author, other = subscriber("you@example.com"), subscriber("other@client.test")
    author.say("news@localhost", subject="Good news")
    links = {each: each.expect("Good news").header("List-Unsubscribe") for each in (author, other)}

    page = client.post(links[other].strip("<>"), {"List-Unsubscribe": "One-Click"})

    assert page.status_code == 200
    assert not news.has("other@client.test")
    assert news.has("you@example.com")


def newest() -> Delivery:
    return Delivery.objects.filter(queue="incoming").latest("id")
