"""The operator's pages in a real browser: light and dark, wide and narrow, hostile mail and all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

    from tests.mailroom import Mailroom

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SCREENSHOTS = Path(__file__).parent.parent / "screenshots"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
LISTS = [
    *("queue", "message", "delivery", "conversation", "transition", "timer", "handler"),
    *("process", "suppression"),
]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH"),
    pytest.mark.django_db(transaction=True),
    pytest.mark.any_database,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright keeps a loop in this thread; Django would refuse to touch the database.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def mailroom(transactional_db: None) -> Iterator[Mailroom]:
    from tests.mailroom import furnished

    with furnished() as mailroom:
        yield mailroom


class Watch:
    """What a browser context did that no page may do."""

    def __init__(self, context: BrowserContext, home: str) -> None:
        self.faults: list[str] = []
        context.on("console", lambda said: self.faults.append(f"{said.type}: {said.text}"))
        context.on("weberror", lambda error: self.faults.append(str(error.error)))
        context.on("dialog", self._dismiss)
        context.on("response", self._look_at)
        context.on("request", lambda request: self._must_be_ours(request.url, home))

    def _dismiss(self, dialog: Any) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _look_at(self, response: Any) -> None:
        if response.status >= 400:
            self.faults.append(f"{response.status} {response.url}")

    def _must_be_ours(self, url: str, home: str) -> None:
        if not url.startswith(home):
            self.faults.append(f"fetched {url}")


@pytest.fixture
def operate(
    browser: Browser, live_server: Any, admin_client: Any
) -> Iterator[Callable[..., tuple[Page, Watch]]]:
    """Open the admin as a signed-in operator: `operate(theme="dark", width="phone")`."""
    contexts = []

    def make(theme: str = "light", width: str = "desktop") -> tuple[Page, Watch]:
        wide, high = WIDTHS[width]
        context = browser.new_context(
            base_url=live_server.url,
            viewport={"width": wide, "height": high},
            color_scheme=theme,
            reduced_motion="reduce",
        )
        contexts.append(context)
        session = admin_client.cookies["sessionid"].value
        context.add_cookies([{"name": "sessionid", "value": session, "url": live_server.url}])
        return context.new_page(), Watch(context, live_server.url)

    yield make
    for context in contexts:
        context.close()


def addresses(mailroom: Mailroom) -> dict[str, str]:
    """The path of every page, by the name of its screenshot."""
    from mailapp.admin.display import page_url

    lists = {f"list-{model}": f"/admin/mailapp/{model}/" for model in LISTS}
    pages = {f"page-{name}": page_url(row) for name, row in mailroom.rows.items()}
    return {
        "index": "/admin/",
        "overview": "/admin/mailapp/",
        **lists,
        "list-empty": "/admin/mailapp/delivery/?status=claimed",
        "list-found": "/admin/mailapp/delivery/?q=hours@example.com&queue=incoming",
        **pages,
        "history": f"{page_url(mailroom.done)}../history/",
    }


@pytest.mark.parametrize(("theme", "width"), [("light", "desktop"), ("dark", "phone")])
def test_every_page_opens_without_a_word_on_the_console(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]], theme: str, width: str
) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page, watch = operate(theme, width)

    for name, path in addresses(mailroom).items():
        page.goto(path)
        page.screenshot(path=SCREENSHOTS / f"{name}-{theme}-{width}.png", full_page=True)

    assert watch.faults == []


def test_hostile_mail_runs_nothing_and_fetches_nothing(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]]
) -> None:
    from mailapp.admin.display import page_url

    delivery = mailroom.hostile.deliveries.get()
    conversation = mailroom.handler.conversations.latest("id")
    rows = [mailroom.hostile, delivery, conversation]
    page, watch = operate()

    for path in [*map(page_url, rows), "/admin/", *(f"/admin/mailapp/{name}/" for name in LISTS)]:
        page.goto(path)
        for frame in page.frames:
            assert frame.locator("script:not([src])").count() == 0
            assert frame.locator("[onerror], [onclick], [onload], [style]").count() == 0

    page.goto(page_url(mailroom.hostile))
    letter = page.frame_locator("iframe")
    letter.get_by_text("pay").click()
    assert letter.get_by_role("heading").inner_text() == "A dear friend"
    assert watch.faults == []


@pytest.mark.parametrize("width", WIDTHS)
def test_no_page_is_wider_than_the_window_whatever_a_stranger_wrote(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]], width: str
) -> None:
    lengthen(mailroom)
    page, _ = operate(width=width)

    wide = []
    for name, path in long_addresses(mailroom).items():
        page.goto(path)
        if page.evaluate("document.documentElement.scrollWidth > window.innerWidth"):
            wide.append(name)

    assert wide == []


@pytest.mark.parametrize("width", WIDTHS)
def test_no_table_hides_a_column(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]], width: str
) -> None:
    lengthen(mailroom)
    page, _ = operate(width=width)

    hidden = {}
    for name, path in long_addresses(mailroom).items():
        page.goto(path)
        for table in page.locator(".results, .mail-scroll").all():
            if by := table.evaluate("it => it.scrollWidth - it.clientWidth"):
                hidden[name] = by

    assert hidden == {}


def test_a_row_on_a_phone_names_what_does_not_speak_for_itself(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]]
) -> None:
    page, _ = operate(width="phone")

    page.goto("/admin/mailapp/timer/?standing=held")
    tries = page.locator(".field-tries").evaluate(LABEL)
    page.goto("/admin/mailapp/queue/")
    queued = page.locator(".field-queued").first.evaluate(LABEL)
    page.goto("/admin/")
    held = page.locator(".mail-number:visible", has_text="1").last.evaluate(LABEL)

    assert (tries, queued, held) == ('"tries: "', '"queued: "', '"held: "')


LABEL = "it => getComputedStyle(it, '::before').content"


def lengthen(mailroom: Mailroom) -> None:
    """Have a stranger write words without an end."""
    word, person = "x" * 600, f"{'y' * 300}@client.test"
    delivery = mailroom.held
    type(delivery.message).objects.update(subject=word, sender=person, helo=word, peer=word)
    type(delivery).objects.update(recipient=person, person=person, reply=word)
    type(mailroom.conversation).objects.filter(pk=mailroom.conversation.pk).update(
        person=person, key="z" * 255
    )
    type(mailroom.timer).objects.update(reply=word)
    type(mailroom.suppression).objects.update(address=person, reason=word)


def long_addresses(mailroom: Mailroom) -> dict[str, str]:
    """The path of every page, and of what asks and what follows when something is done."""
    suppression = f"/admin/mailapp/suppression/{mailroom.suppression.pk}"
    return {
        **addresses(mailroom),
        "suppression-history": f"{suppression}/history/",
        "suppression-delete": f"{suppression}/delete/",
    }


def test_an_attachment_is_saved_and_not_opened(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]]
) -> None:
    from mailapp.admin.display import page_url

    page, watch = operate()
    page.goto(page_url(mailroom.hostile))

    with page.expect_download() as downloading:
        page.get_by_role("link", name="invoice[U+202E]fdp.exe").click()

    assert downloading.value.suggested_filename == "_invoice_fdp.exe"
    assert watch.faults == []


def test_an_operator_retries_what_failed(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]]
) -> None:
    page, watch = operate()
    page.goto("/admin/")
    page.get_by_role("link", name="Held in the queue undeliverable: 1.").click()
    page.get_by_role("link", name="hours@example.com").click()

    page.get_by_role("button", name="Retry now").click()

    page.get_by_text("Retried 1 delivery.").wait_for()
    assert page.locator(".mail-badge").first.inner_text() == "Queued"
    assert page.get_by_role("button", name="Hold").count() == 1
    assert watch.faults == []


def test_an_operator_moves_a_conversation(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]]
) -> None:
    page, watch = operate("dark", "phone")
    page.goto("/admin/mailapp/conversation/")
    page.get_by_role("link", name="reader-sunday@client.test").click()

    page.get_by_label("Move to").select_option("START")
    page.get_by_role("button", name="Move").click()

    page.get_by_text("Moved from CONFIRMING to START.").wait_for()
    assert page.get_by_role("rowheader", name="CONFIRMING → START").count() == 1
    assert watch.faults == []


def test_a_reader_leaves_a_list_by_a_click(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]], live_server: Any, settings: Any
) -> None:
    from examples.mailinglist.models import MailingList
    from mailapp.unsubscribing import Wish, link

    settings.MAIL = {**settings.MAIL, "UNSUBSCRIBE_URL": f"{live_server.url}/unsubscribe/"}
    news = MailingList.objects.create(name="news", host="localhost")
    news.subscribe("reader@client.test")
    page, watch = operate("dark", "phone")
    page.goto(link(Wish("news@localhost", "reader@client.test")))
    assert news.has("reader@client.test")
    page.screenshot(path=SCREENSHOTS / "unsubscribe-dark-phone.png")

    page.get_by_role("button", name="Unsubscribe").click()

    page.get_by_role("heading", name="You are off the list").wait_for()
    assert not news.has("reader@client.test")
    assert watch.faults == []


def test_an_operator_suppresses_an_address_and_writes_to_it_again(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]]
) -> None:
    page, watch = operate()
    page.goto("/admin/mailapp/suppression/")
    page.get_by_role("link", name="Add suppression").click()
    page.get_by_label("Address").fill("reader@client.test")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_role("link", name="reader@client.test").first.click()

    page.locator("a.deletelink").click()
    page.get_by_role("button", name="Yes").click()

    page.get_by_text("was deleted successfully").wait_for()
    page.goto("/admin/mailapp/suppression/")
    assert page.get_by_role("link", name="reader@client.test").count() == 0
    assert watch.faults == []


CONTRASTS = """
() => {
  const canvas = document.createElement("canvas").getContext("2d");
  const luminance = colour => {
    canvas.fillStyle = colour;
    const parts = canvas.fillStyle.match(/[0-9a-f]{2}/g).map(part => parseInt(part, 16) / 255);
    const [r, g, b] = parts.map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll(".mail-badge, .mail-problems, .mail-well")].map(element => {
    const style = getComputedStyle(element);
    const both = [style.color, style.backgroundColor].map(luminance);
    const contrast = (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
    return [element.textContent.trim(), contrast];
  });
}
"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_badge_has_the_contrast_of_wcag_aa(
    mailroom: Mailroom, operate: Callable[..., tuple[Page, Watch]], theme: str
) -> None:
    page, _ = operate(theme)

    seen = []
    for path in ["/admin/", "/admin/mailapp/delivery/", "/admin/mailapp/handler/"]:
        page.goto(path)
        seen += page.evaluate(CONTRASTS)

    assert {"Done", "Failed", "Deferred", "Held", "Queued", "Alive", "Silent"} < dict(seen).keys()
    assert [text for text, contrast in seen if contrast < 4.5] == []
