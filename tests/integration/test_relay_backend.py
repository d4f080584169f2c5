"""Another Django email backend as the way out: what it is handed, and what becomes of it."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import django
import pytest
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

from mailapp import mime, outbox
from mailapp.endpoints import Endpoint
from mailapp.models import Attempt, Delivery, Status
from tests.integration.relaying import settled, statuses, tried
from tests.integration.scripted_server import DROP
from tests.waiting import DEADLINE, wait_until

# What a backend is handed does not depend on the database.
pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]

RICH = """\
Received: from somewhere\r
DKIM-Signature: v=1; d=example.com\r
From: =?utf-8?q?Gr=C3=BC=C3=9Fe?= <you@example.com>\r
To: "Ann, B." <a@client.test>, other@client.test\r
Cc: c@client.test\r
Reply-To: desk@example.com\r
Subject: =?utf-8?q?Sch=C3=B6n?=\r
Message-ID: <1@example.com>\r
X-Mine:  two  blanks\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=m\r
\r
--m\r
Content-Type: multipart/alternative; boundary=a\r
\r
--a\r
Content-Type: text/plain; charset=utf-8\r
Content-Transfer-Encoding: 8bit\r
\r
Grüße\r
.dot\r
--a\r
Content-Type: multipart/related; boundary=r\r
\r
--r\r
Content-Type: text/html; charset=utf-8\r
\r
<p>Hello <img src="cid:pic"></p>\r
--r\r
Content-Type: image/png\r
Content-ID: <pic>\r
Content-Disposition: inline; filename=pic.png\r
Content-Transfer-Encoding: base64\r
\r
AAEC\r
--r--\r
--a--\r
--m\r
Content-Type: text/csv; charset=latin-1\r
Content-Disposition: attachment; filename*=utf-8''%C3%BC.csv\r
Content-Transfer-Encoding: base64\r
\r
/Pz8\r
--m\r
Content-Type: text/plain\r
\r
A footer\r
--m--\r
""".encode()
RECIPIENTS = ["a@client.test", "b@client.test", "c@client.test"]


@pytest.fixture
def via_smtp(settings: Any, relay: Callable[..., Any]) -> Callable[..., Any]:
    """Run a relay whose way out is Django's SMTP backend: `via_smtp(server.address)`."""

    def start(address: str, **changes: Any) -> Any:
        host, port = Endpoint.parse(address)
        backend = "django.core.mail.backends.smtp.EmailBackend"
        if django.VERSION >= (6, 1):
            out = {"BACKEND": backend, "OPTIONS": {"host": host, "port": port}}
            settings.MAILERS = {**getattr(settings, "MAILERS", {}), "out": out}
            backend = "out"
        else:
            settings.EMAIL_HOST, settings.EMAIL_PORT = host, port
        return relay(backend, **changes)

    return start


@pytest.fixture
def via(settings: Any, relay: Callable[..., Any]) -> Callable[..., Any]:
    """Run a relay whose way out is a backend with settings of its own: `via("path.of.Class")`."""

    def start(path: str, **changes: Any) -> Any:
        if django.VERSION >= (6, 1):
            settings.MAILERS = {**getattr(settings, "MAILERS", {}), "out": {"BACKEND": path}}
            path = "out"
        return relay(path, **changes)

    return start


# A backend that asks for the mail as a whole


def test_mail_arrives_byte_for_byte_with_its_envelope_and_each_has_a_reply(serve, via_smtp, post):
    server = serve(RCPT=["250 Ok", "550 5.1.1 Unknown", "250 Ok"])
    post(*RECIPIENTS, raw=RICH, sender="bounces@example.com")

    via_smtp(server.address)

    wait_until(lambda: Delivery.objects.filter(status=Status.FAILED).exists())
    found = {each: status for each, status in tried().items() if each in RECIPIENTS}
    assert found == dict(zip(RECIPIENTS, [Status.DONE, Status.FAILED, Status.DONE], strict=True))
    assert server.messages[:2] == [RICH.replace(b"\r\n.dot", b"\r\n..dot")] * 2
    envelopes = [each for each in server.commands if each.lower().startswith(("mail", "rcpt"))]
    assert [each.lower().partition(">")[0] for each in envelopes[:2]] == [
        "mail from:<bounces@example.com",
        "rcpt to:<a@client.test",
    ]
    assert Delivery.objects.get(status=Status.FAILED).reply == "550 5.1.1 Unknown"


@pytest.mark.parametrize(
    ("script", "status", "reply"),
    [
        ({"MAIL": "550 5.7.1 No"}, Status.FAILED, "550 5.7.1 No"),
        ({"DATA": "451 4.7.1 Later"}, Status.DEFERRED, "451 4.7.1 Later"),
        ({"dot": "554 5.6.0 Never"}, Status.FAILED, "554 5.6.0 Never"),
        ({"dot": DROP}, Status.DEFERRED, "451 4.4.2 Connection with the relay broken"),
        ({"MAIL": "421 4.3.2 Busy"}, Status.DEFERRED, "451 4.4.2 Connection with the relay broken"),
        ({"banner": "421 4.3.2 Busy"}, Status.DEFERRED, "451 4.4.1 Relay not reachable"),
    ],
)
def test_refusal_and_trouble_of_the_backend_are_those_of_its_server(
    serve, via_smtp, post, script, status, reply
):
    server = serve(**script)
    sent = post("a@client.test", sender="")

    via_smtp(server.address, RELAY_REST_SECONDS=[DEADLINE])

    delivery = settled(sent)
    assert (delivery.status, delivery.reply) == (status, reply)


def test_report_is_sent_in_the_name_of_its_author_since_no_backend_takes_the_null_sender(
    serve, via_smtp, post
):
    server = serve()
    sent = post("a@client.test", sender="", raw=b"From: mailer-daemon@example.com\r\n\r\nNo\r\n")

    via_smtp(server.address)

    assert settled(sent).status == Status.DONE
    assert "mailer-daemon@example.com" in server.commands[1]


# A backend of an HTTP service


class Postmark:
    """What an API of Postmark was asked, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.answers: list[tuple[int, dict[str, Any]]] = []

    def answer(self, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(question)
        taken = {"ErrorCode": 0, "Message": "OK", "MessageID": "id", "To": question["To"]}
        return self.answers.pop(0) if self.answers else (200, taken)


@pytest.fixture
def postmark(settings: Any) -> Iterator[Postmark]:
    made = Postmark()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            code, answer = made.answer(question)
            content = json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *ignored: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        settings.ANYMAIL = {
            "POSTMARK_API_URL": f"http://127.0.0.1:{server.server_port}/",
            "POSTMARK_SERVER_TOKEN": "token",
        }
        try:
            yield made
        finally:
            server.shutdown()
            thread.join(DEADLINE)


POSTMARK = "anymail.backends.postmark.EmailBackend"


def test_all_of_a_mail_reaches_an_http_service(postmark, via, post):
    post("a@client.test", "c@client.test", raw=RICH)

    via(POSTMARK)

    assert set(tried().values()) == {Status.DONE}
    [asked] = postmark.asked
    headers = {each["Name"]: each["Value"] for each in asked.pop("Headers")}
    assert headers == {"Message-ID": "<1@example.com>", "X-Mine": "two blanks"}
    attached = [
        (each["Name"], each["ContentType"], base64.b64decode(each["Content"]))
        for each in asked["Attachments"]
    ]
    assert attached == [
        ("pic.png", "image/png", b"\0\1\2"),
        ("ü.csv", "application/octet-stream", b"\xfc\xfc\xfc"),
        ("", 'text/plain; charset="utf-8"', b"A footer"),
    ]
    assert asked["Attachments"][0]["ContentID"] == "cid:pic"
    assert asked["TextBody"] == "Grüße\n.dot"
    assert asked["HtmlBody"] == '<p>Hello <img src="cid:pic"></p>'
    assert {name: mime.decoded(asked[name]) for name in ("From", "To", "Cc", "ReplyTo")} == {
        "From": "Grüße <you@example.com>",
        "To": '"Ann, B." <a@client.test>',
        "Cc": "c@client.test",
        "ReplyTo": "desk@example.com",
    }
    assert mime.decoded(asked["Subject"]) == "Schön"


def test_who_is_not_named_in_the_header_gets_a_mail_of_their_own_and_nobody_else_does(
    postmark, via, post
):
    post("hidden@client.test", "a@client.test", "other.hidden@client.test", raw=RICH)

    via(POSTMARK)

    assert set(tried().values()) == {Status.DONE}
    assert sorted((mime.decoded(each["To"]), each.get("Cc")) for each in postmark.asked) == [
        ('"Ann, B." <a@client.test>', None),
        ("hidden@client.test", None),
        ("other.hidden@client.test", None),
    ]


def test_recipient_that_the_service_does_not_write_to_fails_alone(postmark, via, post):
    inactive = "Found inactive addresses: a@client.test. Inactive recipients are"
    postmark.answers = [(422, {"ErrorCode": 406, "Message": inactive})]
    post("a@client.test", "hidden@client.test", raw=RICH, sender="")

    via(POSTMARK)

    assert tried() == {"a@client.test": Status.FAILED, "hidden@client.test": Status.DONE}
    assert Delivery.objects.get(status=Status.FAILED).reply.endswith("says: rejected")


@pytest.mark.parametrize(("code", "rests"), [(503, True), (401, True), (400, False)])
def test_service_in_trouble_is_left_alone_and_a_mail_that_it_minds_is_put_off(
    postmark, via, post, caplog, code, rests
):
    postmark.answers = [(code, {"ErrorCode": 10, "Message": "Bad"})]
    deferred = post("a@client.test", raw=RICH)

    via(POSTMARK, RELAY_REST_SECONDS=[DEADLINE])

    assert settled(deferred).status == Status.DEFERRED
    assert f"API response {code}" in Attempt.objects.get().error
    assert ("left alone" in caplog.text) is rests


def test_service_that_takes_no_envelope_sender_can_be_told_to_leave_it_out(
    postmark, via, post, settings
):
    settings.ANYMAIL["IGNORE_UNSUPPORTED_FEATURES"] = True
    sent = post("a@client.test", raw=RICH, sender="bounces@example.com")

    via(POSTMARK)

    assert settled(sent).status == Status.DONE
    assert mime.decoded(postmark.asked[0]["From"]) == "Grüße <you@example.com>"


def test_what_django_wrote_reaches_the_service_as_it_was_written(
    postmark, via, outbox_backend, settings
):
    mail = EmailMessage(
        "Line", "Hello", "You <you@example.com>", ["Ann <a@client.test>"], bcc=["bcc@client.test"]
    )
    mail.attach("a.bin", b"\0\1", "application/octet-stream")
    mail.send()

    via(POSTMARK)

    assert set(tried().values()) == {Status.DONE}
    asked = {each["To"]: each for each in postmark.asked}
    assert set(asked) == {"Ann <a@client.test>", "bcc@client.test"}
    for each in asked.values():
        assert (each["From"], each["Subject"]) == ("You <you@example.com>", "Line")
        assert each["TextBody"].strip() == "Hello"
        assert [part["Name"] for part in each["Attachments"]] == ["a.bin"]


# Backends that do what they like


class Odd(BaseEmailBackend):
    """Answers what the subject says."""

    def send_messages(self, messages: Any) -> Any:
        [mail] = messages
        if mail.subject == "raise":
            raise LookupError("what a\nfault")
        return {"none": None, "0": 0, "1": 1}[mail.subject]


class Broken(Odd):
    """Cannot be opened."""

    def open(self) -> None:
        raise LookupError("no key")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        ("1", Status.DONE),
        ("none", Status.DONE),
        ("0", Status.DEFERRED),
        ("raise", Status.DEFERRED),
    ],
)
def test_mail_is_done_unless_the_backend_says_that_it_sent_nothing(via, post, answer, status):
    sent = post("a@client.test", raw=b"Subject: %s\r\n\r\n" % answer.encode())

    via(f"{__name__}.Odd")

    assert settled(sent).status == status
    assert ("LookupError: what a\nfault" in Attempt.objects.get().error) is (answer == "raise")


def test_address_that_is_more_than_an_address_reaches_no_backend(via, post):
    post("a@client.test", "a@client.test\r\nBcc: b@client.test", raw=b"Subject: 1\r\n\r\n")

    via(f"{__name__}.Odd")

    wait_until(lambda: Delivery.objects.filter(status=Status.FAILED).exists())
    refused = Delivery.objects.get(status=Status.FAILED)
    assert refused.reply == "553 5.1.3 Malformed recipient address; nothing was sent"
    assert Delivery.objects.get(recipient="a@client.test").status == Status.DONE


def test_backend_that_cannot_be_opened_is_left_alone(via, post, caplog):
    kept = post("a@client.test")

    via(f"{__name__}.Broken", RELAY_REST_SECONDS=[DEADLINE])

    assert settled(kept).reply == "451 4.4.1 Relay not reachable"
    assert "LookupError: no key; left alone" in caplog.text


def test_backend_takes_the_mail_when_the_smart_host_before_it_is_in_trouble(
    serve, settings, relay, post
):
    busy = serve(banner="421 Busy")
    sent = post("a@client.test", raw=b"Subject: 1\r\n\r\n")
    path = f"{__name__}.Odd"
    if django.VERSION >= (6, 1):
        settings.MAILERS = {**settings.MAILERS, "out": {"BACKEND": path}}
        path = "out"

    relay([busy.address, path], RELAY_REST_SECONDS=[DEADLINE])

    assert settled(sent).reply == f"250 2.0.0 Taken by {path}"


def test_mail_of_strangers_can_be_made_an_email_message(via, outbox_backend):
    raws = [
        b"",
        b"no header at all",
        b"From: \xff\xfe <x>\r\nTo: (((((\r\nSubject: =?x?q?=\r\n\r\n\xff",
        b"Content-Type: multipart/mixed\r\n\r\nnothing",
        b"Content-Type: image/png\r\nContent-ID: <a\r\n b>\r\nContent-Transfer-Encoding: base64\r\n"
        b"\r\n%%%%",
        b"Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\ny",
        b"From: a@b.test\r\nSubject: 1\r\nBcc: secret@client.test\r\n\r\n",
    ]
    for number, raw in enumerate(raws):
        outbox.post(raw, sender="you@example.com", recipients=[f"r{number}@client.test"])

    via(f"{__name__}.Anything")

    assert set(tried().values()) == {Status.DONE}
    assert len(statuses()) == len(raws)


class Anything(BaseEmailBackend):
    """Asks for all of each mail."""

    def send_messages(self, messages: Any) -> int:
        for mail in messages:
            assert mail.recipients()[0].endswith("@client.test")
            assert len(mail.recipients()) == 1
            whole = mail.message()
            assert whole.as_bytes().replace(b"\r\n", b"\n")
            whole["X-New"] = "yes"
            assert b"X-New: yes\n" in whole.as_bytes()
            with contextlib.suppress(UnicodeDecodeError):
                EmailMessage.message(mail).as_bytes()  # of Django's own, from the parts
        return len(messages)
