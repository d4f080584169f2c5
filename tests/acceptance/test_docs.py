"""Every block of README and docs: its code runs, and its commands do what they say."""

from __future__ import annotations

import re
import shlex
from types import ModuleType

import pytest
from django.test.utils import isolate_apps

from mailapp.conf import problems
from mailapp.routing import Router, read_module
from tests.reader import Reader, reading
from tests.snippets import PAGES, ROOT, Snippet, snippets

pytestmark = pytest.mark.any_database

SNIPPETS = [snippet for page in PAGES for snippet in snippets(page)]

#: Pages whose blocks make one program, which a test of its own follows.
FOLLOWED_ELSEWHERE = {
    "docs/index.md": "acceptance/test_introduction.py",
    "docs/support-desk.md": "acceptance/test_support_desk.py",
    "docs/deferred.md": "integration/test_deferred.py",
}

#: What is not typed here, and why.
NOT_TYPED = {
    r"make |\.ci/run": "runs this suite or this project; .ci/run does so",
    r"(pip|apt) install ": "would install what is here already",
    r"manage\.py (runmail|runworker|maillog)(?! .*--detach)": "stays: test_runmail, …",
    r"manage\.py deq ": "needs a folder or a queue of one's own: test_deq",
    r"manage\.py (procrastinate|db_worker|prune_db)|celery ": "needs an engine: test_engines",
    r"(\w+=\S+ )*\.venv/bin/pytest": "runs this suite; that it could is tested below",
    r"(\w+=\S+ )*\.venv/bin/python -m tests\.": "is a tool of this suite: test_deq",
    r"mutt ": "wants a terminal: test_introduction",
    r"(swaks|sqlite3) ": "is not ours",
    r"systemctl ": "needs a machine that systemd runs: test_systemd",
}

#: 1 says that mail is held: that of importmail is.
MAY_END_SO = {f"manage.py mailstatus{how}": " || test $? = 1" for how in ("", " --json")}

#: Modules that blocks import and the tests need not have.
MAY_BE_MISSING = {"botocore"}

#: The app that the examples speak of.
SHOP = {
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models


class Order(models.Model):
    number = models.CharField(max_length=20)

    class Meta:
        app_label = "shop"
""",
    "shop/handlers.py": """
from django.core.mail import send_mail
from mailapp.routing import route, route_like

default_order = 50  # before the lists, which take any name


@route("orders@(host)")
def START(message, host):
    raise LookupError("the shop is closed")


@route_like(START)
def ERROR(message, host):
    send_mail("We are sorry", "The shop is closed.", message.recipient, [message.sender])
    return START
""",
}


def code(page: str) -> list[Snippet]:
    return [each for each in snippets(page) if each.language == "python"]


def test_each_block_is_found():
    fences = [
        line for page in PAGES for line in (ROOT / page).read_text().splitlines() if "```" in line
    ]

    assert len(fences) == 2 * len(SNIPPETS)
    assert {each.language for each in SNIPPETS}.isdisjoint({"bash", "shell", "console", "py"})


def test_links_of_the_readme_lead_to_files():  # those of docs are held by MkDocs
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text())

    assert "docs/index.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if code(page)])
def test_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    if page in FOLLOWED_ELSEWHERE:
        test = ROOT / "tests" / FOLLOWED_ELSEWHERE[page]
        assert page.partition("/")[2] in test.read_text()
        return
    for name, text in SHOP.items():
        Reader(tmp_path).write(name, text)
    monkeypatch.syspath_prepend(tmp_path)
    module = module_of_a_page()

    with isolate_apps():
        for snippet in code(page):
            for variable in re.findall(r'os\.environ\["(\w+)"\]', snippet.text):
                monkeypatch.setenv(variable, "set where the program runs")
            run(snippet, module)

    assert problems(module.MAIL) == []


def module_of_a_page() -> ModuleType:
    """A module that has what settings have, which the blocks of a page add to."""
    from lamson_project import settings

    module = ModuleType("a_page")
    vars(module).update(vars(settings) | {"MAIL": {}, "INSTALLED_APPS": [], "__name__": "a_page"})
    return module


def run(snippet: Snippet, module: ModuleType) -> None:
    """Run a block; fail if the state functions that the page has by then are no handler."""
    program = compile(snippet.text, str(snippet), "exec")
    try:
        exec(program, vars(module))
    except ModuleNotFoundError as error:
        if error.name not in MAY_BE_MISSING:
            raise
    if handler := read_module(module):
        Router([handler], hosts=["localhost"])


def test_names_of_the_walk_are_in_the_files_that_it_leads_to():
    stops = (ROOT / "docs/walkthrough.md").read_text().split("\n## ")[1:]

    there = ""
    for stop in stops:
        files = re.findall(r"\]\(\.\./([^)]+)\)", stop)
        there += "".join((ROOT / file).read_text() for file in files)
        names = re.findall(r"`(?:\w+\.)?([a-z_]\w{3,}|[A-Z]\w+[a-z]\w+)`", stop)
        assert [name for name in names if name not in there] == [], stop.splitlines()[0]


def test_tests_that_are_shown_pass(tmp_path):
    shown = [each for each in SNIPPETS if each.language == "python" and is_test(each)]

    with reading(tmp_path) as reader:
        reader.make_project("shop")
        for name, text in SHOP.items():
            reader.write(name, text)
        for snippet in shown:
            reader.write(f"tests/test_shown_{snippet.line}.py", snippet.text)
        said = reader.type("python -m pytest tests/test_shown_*")

    passed = re.search(r"(\d+) passed", said)
    assert passed
    assert int(passed[1]) >= len(shown) > 4


def is_test(snippet: Snippet) -> bool:
    if snippet.page in FOLLOWED_ELSEWHERE:
        return False
    return re.search(r"^ *def test_", snippet.text, re.MULTILINE) is not None


def test_each_reason_not_to_type_a_command_is_needed():
    commands = [command for snippet in SNIPPETS for command in snippet.commands]

    needed = [any(re.match(pattern, command) for command in commands) for pattern in NOT_TYPED]

    assert all(needed), list(NOT_TYPED)


def test_commands_that_are_shown_do_what_they_should(tmp_path):
    typed: set[str] = set()
    with reading(tmp_path) as reader:
        reader.make_project()
        reader.write("letter.txt", "Subject: Hello\n\nHello you.\n")
        home = reader.folder
        for snippet in SNIPPETS:
            if snippet.page not in FOLLOWED_ELSEWHERE:
                type_new(snippet, typed, reader)
            reader.folder = home


def type_new(snippet: Snippet, typed: set[str], reader: Reader) -> None:
    """Type the commands of a block, unless all of them were typed for other blocks."""
    commands = [each for each in snippet.commands if not is_not_typed(each)]
    if typed.issuperset(commands):
        return
    reader.have_it_running(not any("runmail --detach" in each for each in commands))
    for command in commands:
        reader.wait_for_the_mail()
        try:
            reader.type(command.replace("TOKEN", token(reader)) + MAY_END_SO.get(command, ""))
        except AssertionError as error:
            raise AssertionError(f"{snippet}: {error}") from None
    typed.update(commands)


def is_not_typed(command: str) -> bool:
    return any(re.match(pattern, command) for pattern in NOT_TYPED)


def token(reader: Reader) -> str:
    """What a mail of the list asks its reader to write to."""
    found = re.findall(r"-confirm-(\w+)@", "".join(reader.caught()))
    return found[-1] if found else "TOKEN"


def test_commands_of_pytest_name_files_and_options_that_are_there(request):
    commands = [each for snippet in SNIPPETS for each in snippet.commands if "bin/pytest" in each]
    words = [word for command in commands for word in shlex.split(command, comments=True)]

    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert options
    for option in options:
        request.config.getoption(option)
    files = {word for word in words if word.startswith("tests/")}
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []
