"""Lists in the admin."""

from __future__ import annotations

import pytest

from examples.mailinglist.models import MailingList, Subscription

MAIL = {"reply_to": "author", "authors": "nobody"}


@pytest.mark.parametrize("page", ["mailinglist", "subscription"])
def test_pages_open(admin_client, news, page):
    news.subscribe("reader@client.test")

    changelist = admin_client.get(f"/admin/mailinglist/{page}/?q=news")
    form = admin_client.get(f"/admin/mailinglist/{page}/add/")

    assert changelist.status_code == form.status_code == 200


def test_list_shows_how_many_are_on_it(admin_client, news):
    news.subscribe("reader@client.test")
    news.subscribe("you@example.com")

    page = admin_client.get("/admin/mailinglist/mailinglist/").content.decode()

    assert '<td class="field-subscribers">2</td>' in page


def test_list_is_made(admin_client):
    fields = {"name": "news", "host": "LOCALHOST", "strangers": "answer", **MAIL}

    admin_client.post("/admin/mailinglist/mailinglist/add/", fields)

    assert MailingList.objects.get().address == "news@localhost"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "my-news"},
        {"name": "News"},
        {"name": "postmaster"},
        {"name": "news."},
        {"name": "a" * 32},
        {"host": "elsewhere.test"},
    ],
)
def test_list_that_mail_could_not_reach_is_not_made(admin_client, wrong):
    fields = {"name": "news", "host": "localhost", "strangers": "answer", **MAIL} | wrong

    admin_client.post("/admin/mailinglist/mailinglist/add/", fields)

    assert not MailingList.objects.exists()


def test_subscriber_is_added_in_lower_case(admin_client, news):
    fields = {"mailing_list": news.pk, "address": "Reader@Client.Test"}

    admin_client.post("/admin/mailinglist/subscription/add/", fields)

    assert Subscription.objects.get().address == "reader@client.test"


def test_list_is_not_added_to_a_list(admin_client, news):
    fields = {"mailing_list": news.pk, "address": "news@localhost"}

    admin_client.post("/admin/mailinglist/subscription/add/", fields)

    assert not Subscription.objects.exists()
