"""Which state function takes a recipient."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from datetime import timedelta
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailapp.errors import BadRoute, NotAState, TimerGone
from mailapp.routing import (
    Router,
    accepts,
    after,
    bounces,
    from_queue,
    in_order,
    non_atomic,
    read_module,
    route,
    route_like,
    state_key_generator,
    stateless,
)
from tests.modules import make_module

HOSTS = ["example.com", "example.net"]


@pytest.fixture
def handler(monkeypatch):
    """Read functions as a handler module: `handler("news", START, CONFIRMING)`."""

    def make(name: str, *functions: Callable[..., Any], **names: Any):
        return read_module(make_module(monkeypatch, name, *functions, **names))

    return make


@pytest.fixture
def router(handler):
    """Route to the functions of one module: `router(START, CONFIRMING)`."""

    def make(*functions: Callable[..., Any], **options: Any) -> Router:
        return Router([handler("news", *functions)], **({"hosts": HOSTS} | options))

    return make


def routed(pattern: str, **captures: str) -> Callable[..., Any]:
    @route(pattern, **captures)
    def START(message, **captured): ...

    return START


def captured(router: Router, recipient: str) -> dict[str, str]:
    [match] = router.matches(recipient)
    return dict(match.captures)


# Patterns


def test_captures_are_what_the_recipient_holds_there(router):
    news = router(routed("(name)-(action)@(host)", name="[a-z.]+", action="[a-z]+"))

    assert captured(news, "the.list-join@example.com") == {
        "name": "the.list",
        "action": "join",
        "host": "example.com",
    }


def test_capture_without_an_expression_of_its_own_has_the_default(router):
    news = router(routed("(number)@(host)"), defaults={"number": "[0-9]+"})

    assert captured(news, "42@example.com")["number"] == "42"
    assert not news.accepts("x@example.com")


def test_routes_own_expression_wins_over_the_default(router):
    news = router(routed("(number)@(host)", number="x"), defaults={"number": "[0-9]+"})

    assert news.accepts("x@example.com")
    assert not news.accepts("42@example.com")


@pytest.mark.parametrize(
    ("recipient", "taken"),
    [
        ("news@example.com", True),
        ("news@example.net", True),
        ("news@example.org", False),
        ("news@example-com", False),
        ("news@exampleXcom", False),
        ("news@sub.example.com", False),
        ("news@example.com.", False),
        ("news@example.comexample.net", False),
        ("news", False),
        ("", False),
    ],
)
def test_host_is_one_of_ours(router, recipient, taken):
    assert router(routed("news@(host)")).accepts(recipient) is taken


def test_host_may_be_narrowed_by_a_route(router):
    news = router(routed("news@(host)", host=r"example\.net"))

    assert news.accepts("news@example.net")
    assert not news.accepts("news@example.com")


def known(list_name: str, host: str) -> bool:
    return list_name == "news"


def test_handler_that_can_tell_is_asked_whether_the_recipient_exists(handler):
    lists = handler("lists", routed("(list_name)@(host)", list_name="[a-z]+"), accepts(known))
    router = Router([lists], hosts=HOSTS)

    assert router.asks("news@example.com")
    assert router.accepts("News@example.com")
    assert not router.accepts("olds@example.com")
    assert not router.asks("news@elsewhere.test")
    assert not router.accepts("news@elsewhere.test")


def test_nobody_is_asked_for_a_recipient_that_another_handler_takes(handler):
    def never(list_name: str, host: str) -> bool:
        raise LookupError

    lists = handler("lists", routed("(list_name)@(host)", list_name="[a-z]+"), accepts(never))
    desk = handler("desk", routed("desk@(host)"))
    router = Router([lists, desk], hosts=HOSTS)

    assert not router.asks("desk@example.com")
    assert router.accepts("desk@example.com")


def test_function_that_tells_must_take_what_the_routes_capture(handler):
    lists = handler("lists", routed("(name)@(host)", name="[a-z]+"), accepts(known))

    with pytest.raises(BadRoute, match="name"):
        Router([lists], hosts=HOSTS)


def test_recipient_in_a_foreign_domain_is_not_taken_whatever_the_route_says(router):
    assert not router(routed(".*")).accepts("news@elsewhere.test")


@pytest.mark.parametrize(
    "recipient",
    ["xnews@example.com", "news@example.comx", "news@example.com\n", "\nnews@example.com"],
)
def test_route_matches_the_whole_recipient(router, recipient):
    assert not router(routed("news@(host)")).matches(recipient)


def test_alternatives_of_a_route_match_the_whole_recipient(router):
    news = router(routed("news|letter@(host)"))

    assert not news.matches("newsreel@example.com")
    assert not news.matches("a-letter@example.com")


def test_ascii_letters_match_in_either_case_and_are_captured_in_lower_case(router):
    news = router(routed("(name)-JOIN@(host)", name="[a-z]+"))

    assert captured(news, "NEWS-join@EXAMPLE.com") == {"name": "news", "host": "example.com"}


@pytest.mark.parametrize(
    "recipient",
    [
        "bi\N{KELVIN SIGN}e@example.com",
        "mi\N{LATIN SMALL LETTER LONG S}t@example.com",
        "D\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}NG@example.com",
        "d\N{LATIN SMALL LETTER DOTLESS I}ng@example.com",
    ],
)
def test_letter_beyond_ascii_is_no_ascii_letter_in_another_case(router, recipient):
    assert not router(routed("(word)@(host)", word="bike|mist|ding|[a-z]+")).matches(recipient)


def test_parentheses_that_are_escaped_are_no_capture(router):
    assert router(routed(r"\(host\)@(host)")).accepts("(host)@example.com")


def test_groups_that_capture_nothing_by_name_are_left_alone(router):
    news = router(routed("(?:a|b)-([0-9]{2})@(host)"))

    assert captured(news, "b-42@example.com") == {"host": "example.com"}


@given(st.text())
def test_any_recipient_can_be_asked_for(recipient):
    router = router_of(routed("(name)-(rest)@(host)", name=r"\w+", rest=".+"))

    assert router.accepts(recipient) in (True, False)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Python's own, of sets in sets
@given(st.text(alphabet="()[]{}*+?|\\.^$ab-@0,:P<>=!", max_size=20))
def test_any_pattern_makes_a_router_or_a_bad_route(pattern):
    with contextlib.suppress(BadRoute):
        assert router_of(routed(pattern)).handlers


def router_of(function: Callable[..., Any]) -> Router:
    """Route to one function, without a fixture: hypothesis runs a test many times."""
    module = ModuleType("alone")
    function.__module__ = module.__name__
    setattr(module, function.__name__, function)
    return Router([read_module(module)], hosts=HOSTS)


# Decorators


def test_stacked_routes_are_tried_from_the_top(router):
    @route("(name)@(host)", name="n.*")
    @route("(other)@(host)", other=".*")
    def START(message, **captured): ...

    news = router(START)

    assert set(captured(news, "news@example.com")) == {"name", "host"}
    assert set(captured(news, "letter@example.com")) == {"other", "host"}


def test_function_matches_once_however_many_of_its_routes_do(router):
    @route("news@(host)")
    @route("n.*@(host)")
    def START(message, host): ...

    assert len(router(START).matches("news@example.com")) == 1


def test_route_like_takes_over_every_route_of_a_stacked_function(router):
    @route("news@(host)")
    @route("letter@(host)")
    def START(message, host): ...

    @route("paper@(host)")
    @route_like(START)
    def CONFIRMING(message, host): ...

    news = router(START, CONFIRMING)

    for name, states in [
        ("news", ["START", "CONFIRMING"]),
        ("letter", ["START", "CONFIRMING"]),
        ("paper", ["CONFIRMING"]),
    ]:
        assert [match.state.name for match in news.matches(f"{name}@example.com")] == states


def test_route_like_works_across_modules(handler):
    @route("(name)@(host)", name="[a-z]+")
    def START(message, name, host): ...

    @route_like(START)
    def AUDIT(message, name, host): ...

    router = Router([handler("news", START), handler("audit", AUDIT)], hosts=HOSTS)

    assert [str(match.state) for match in router.matches("letter@example.com")] == [
        "news.START",
        "audit.AUDIT",
    ]


def test_route_like_a_function_without_a_route_is_refused():
    def plain(message): ...

    with pytest.raises(BadRoute, match="plain"):
        route_like(plain)(routed("news@(host)"))


def test_marks_of_a_function_are_read(handler):
    @route("a@(host)")
    @stateless
    def log(message, host): ...

    @bounces
    @route("b@(host)")
    def bounced(message, host): ...

    @route("c@(host)")
    @non_atomic
    def SLOW(message, host): ...

    states = handler("marked", log, bounced, SLOW).states.values()

    assert [(each.stateless, each.bounces, each.atomic) for each in states] == [
        (True, False, True),
        (True, True, True),
        (False, False, False),
    ]


def test_function_for_bounces_opens_no_address(router):
    @bounces
    @route("news@(host)")
    def bounced(message, host): ...

    news = router(bounced)

    assert not news.accepts("news@example.com")
    assert len(news.matches("news@example.com")) == 1


def test_function_takes_the_mail_of_its_queue_and_no_other(router):
    @route("news@(host)")
    def START(message, host): ...

    @from_queue("index")
    @from_queue("incoming")
    @route_like(START)
    def BOTH(message, host): ...

    @from_queue("index")
    @stateless
    @route_like(START)
    def INDEX(message, host): ...

    def names(*queues: str) -> list[str]:
        matches = router(START, BOTH, INDEX, queues=queues).matches("news@example.com")
        return [match.state.name for match in matches]

    assert names("incoming") == ["START", "BOTH"]
    assert names("index") == ["BOTH", "INDEX"]
    assert names("another") == []


def test_function_of_another_queue_opens_no_address_and_needs_no_captures_of_accepts(handler):
    @route("news@(host)")
    def START(message, host): ...

    @accepts
    def exists(host: str) -> bool:
        return True

    @from_queue("index")
    @route("(anything)@(host)", anything=".+")
    def INDEX(message, anything, host): ...

    news = Router([handler("news", START, INDEX, exists)], hosts=HOSTS)

    assert news.accepts("news@example.com")
    assert not news.accepts("other@example.com")
    assert news.state(INDEX)[1].name == "INDEX"


@pytest.mark.parametrize("name", ["outgoing", "undeliverable", "", "two words", "q" * 49])
def test_queue_that_handlers_cannot_work_is_refused(handler, name):
    with pytest.raises(BadRoute, match=r"news\.START: handlers cannot work a queue named"):
        handler("news", from_queue(name)(routed("news@(host)")))


# Modules


def test_module_tells_of_itself(handler):
    def by_list(module_name, message): ...

    state_key_generator(by_list)

    read = handler(
        "news",
        routed("news@(host)"),
        by_list,
        __doc__="Letters to readers.\n",
        default_order=5,
        default_enabled=False,
        example="news@localhost",
    )

    assert read.state_key is by_list
    assert (read.description, read.order, read.enabled, read.example) == (
        "Letters to readers.",
        5,
        False,
        "news@localhost",
    )


def test_module_without_states_is_no_handler(handler):
    def plain(message): ...

    assert handler("plain", plain) is None


def test_functions_that_a_module_imports_are_not_its_states(handler):
    START = routed("news@(host)")
    handler("news", START)

    importing = handler("importing", START=START, routed=routed)

    assert importing is None


def test_module_may_give_its_function_a_second_name(handler):
    START = routed("news@(host)")

    assert list(handler("news", START, FIRST=START).states) == ["START"]


def loud(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return call


def silent(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(message: Any, host: str) -> Any:
        return function(message, host=host)

    return call


def test_state_may_have_decorators_of_its_own_above_or_below_the_route(router):
    @loud
    @route("above@(host)")
    def ABOVE(message, host): ...

    @route("below@(host)")
    @loud
    def BELOW(message, host): ...

    news = router(ABOVE, BELOW)

    assert news.state(ABOVE)[1].name == "ABOVE"
    assert news.state(BELOW)[1].name == "BELOW"
    assert news.accepts("above@example.com")
    assert news.accepts("below@example.com")


def test_state_that_a_decorator_has_renamed_is_refused(handler):
    hidden = route("hidden@(host)")(silent(routed("news@(host)")))

    with pytest.raises(BadRoute, match=r"^.*news.* silent\..*call .*functools\.wraps"):
        handler("news", HIDDEN=hidden)


def test_function_without_a_route_is_refused(handler):
    @stateless
    def lost(message): ...

    with pytest.raises(BadRoute, match=r"news\.lost has no @route"):
        handler("news", lost)


def test_stateless_function_keeps_no_order(handler):
    log = in_order(stateless(named("LOG")))

    with pytest.raises(BadRoute, match=r"news\.LOG is stateless"):
        handler("news", log)


def test_async_state_is_refused(handler):
    @route("news@(host)")
    async def START(message, host): ...

    with pytest.raises(BadRoute, match=r"news\.START is async"):
        handler("news", START)


# Timers


def named(name: str, **arguments: Any) -> Callable[..., Any]:
    @route("news@(host)")
    def state(message, host): ...

    state.__name__ = name
    return state


def test_timers_are_those_of_their_states_in_order(handler):
    ASKED, WARNED = named("ASKED"), named("WARNED")

    @after(ASKED, days=1)
    @after(ASKED, hours=1, minutes=30)
    @non_atomic
    def remind(conversation): ...

    @after(ASKED, days=3)
    @after(WARNED, seconds=5)
    def expire(conversation): ...

    read = handler("news", ASKED, WARNED, remind, expire)

    assert list(read.states) == ["ASKED", "WARNED"]
    timers = {
        state: [(each.name, each.delay, each.atomic) for each in found]
        for state, found in read.timers.items()
    }
    assert timers == {
        "ASKED": [
            ("remind", timedelta(days=1), False),
            ("remind", timedelta(minutes=90), False),
            ("expire", timedelta(days=3), True),
        ],
        "WARNED": [("expire", timedelta(seconds=5), True)],
    }


def test_timer_is_found_by_its_state_and_the_name_of_its_function(router):
    ASKED = named("ASKED")

    @after(ASKED, days=3)
    def expire(conversation): ...

    news = router(ASKED, expire)

    assert news.timer("news", "ASKED", "expire").function is expire
    for gone in [("old", "ASKED", "expire"), ("news", "OLD", "expire"), ("news", "ASKED", "old")]:
        with pytest.raises(TimerGone):
            news.timer(*gone)


async def waits(conversation): ...


def takes_nothing(): ...


def takes_more(conversation, host): ...


def plain(conversation): ...


@pytest.mark.parametrize(
    ("state", "function", "delay", "fault"),
    [
        (named("ELSEWHERE"), plain, {"days": 3}, "after.ELSEWHERE.: that is no state of"),
        (plain, plain, {"days": 3}, "that is no state of this module"),
        ("ASKED", plain, {"days": 3}, "that is no state of this module"),
        (stateless(named("LOG")), plain, {"days": 3}, "that is no state of this module"),
        (named("START"), plain, {"days": 3}, "in START before the first mail"),
        (named("ASKED"), plain, {}, "it takes a time"),
        (named("ASKED"), plain, {"days": -1}, "it takes a time"),
        (named("ASKED"), plain, {"days": 3_000_000}, "no more than a century"),
        (named("ASKED"), waits, {"days": 3}, "it is async"),
        (named("ASKED"), takes_nothing, {"days": 3}, "too many positional arguments"),
        (named("ASKED"), takes_more, {"days": 3}, "missing a required argument: 'host'"),
        (named("ASKED"), named("LATE"), {"days": 3}, "takes mail or a conversation, not both"),
    ],
)
def test_timer_that_cannot_run_is_named(handler, state, function, delay, fault):
    own = [state] if callable(state) and state.__name__ != "ELSEWHERE" else []
    timed = after(state, **delay)(function)

    try:
        with pytest.raises(BadRoute, match=rf"^.*news\.{function.__name__}, .*{fault}"):
            handler("news", *own, timed)
    finally:
        function.__dict__.pop("mail_marks", None)


# Bad routes


@pytest.mark.parametrize(
    ("pattern", "captures", "fault"),
    [
        ("(name)@(host)", {}, r"nothing says what \(name\) matches"),
        ("news[@(host)", {}, "not a regular expression"),
        ("(name)@(host)", {"name": "*"}, "not a regular expression"),
        ("(name)-(name)@(host)", {"name": "a"}, "not a regular expression"),
        ("a{99999999999999999999}@(host)", {}, "not a regular expression"),
        ("news@(host)", {"name": "[a-z]+"}, r"does not use the captures \['name'\]"),
    ],
)
def test_route_that_cannot_be_used_is_named(router, pattern, captures, fault):
    with pytest.raises(BadRoute, match=fault) as refused:
        router(routed(pattern, **captures))

    assert "news.START" in str(refused.value)
    assert repr(pattern) in str(refused.value)


def test_function_that_lacks_an_argument_for_a_capture_is_named(router):
    @route("(name)@(host)", name="[a-z]+")
    def START(message, name): ...

    with pytest.raises(BadRoute, match=r"news\.START.* 'host'"):
        router(START)


def test_function_that_wants_more_than_is_captured_is_named(router):
    @route("news@(host)")
    def START(message, host, name): ...

    with pytest.raises(BadRoute, match=r"news\.START.* 'name'"):
        router(START)


def test_capture_may_not_take_the_place_of_the_message(router):
    @route("(message)@(host)", message="[a-z]+")
    def START(message, host): ...

    with pytest.raises(BadRoute, match="message"):
        router(START)


@pytest.mark.parametrize(
    ("pattern", "captures"),
    [
        ("(name)@(host)", {"name": "([a-z]+)+"}),
        ("(name)@(host)", {"name": "(a|a)*"}),
        ("(name)@(host)", {"name": "([a-z.]+)*"}),
        ("(name)@(host)", {"name": r"(\w+\.?)+"}),
        ("(a)-(b)-(c)-(d)-(e)@(host)", dict.fromkeys("abcde", ".+")),
        ("list-(name)@(host)", {"name": "(x?[a-z]+)+"}),
        ("list-([a-z]+)+@(host)", {}),
        ("(year)-(name)@(host)", {"year": "[0-9]{4}", "name": "([a-z]+)+"}),
    ],
)
def test_route_that_backtracks_without_end_is_refused(router, pattern, captures):
    with pytest.raises(BadRoute, match="takes far too long"):
        router(routed(pattern, **captures))


@pytest.mark.parametrize(
    ("pattern", "captures"),
    [
        ("(name)-(token)@(host)", {"name": "[a-z0-9._+-]+", "token": "[a-f0-9]{32}"}),
        ("(name)@(host)", {"name": r"[a-z]+(?:[.-][a-z]+)*"}),
        ("(a)-(b)@(host)", {"a": ".+", "b": ".+"}),
        (".*", {}),
    ],
)
def test_route_that_fails_in_good_time_is_taken(router, pattern, captures):
    assert router(routed(pattern, **captures)).handlers


# What a state function returns


def test_state_is_found_by_the_function_that_was_returned(router):
    START, CONFIRMING = routed("news@(host)"), routed("news@(host)")
    CONFIRMING.__name__ = "CONFIRMING"
    news = router(START, CONFIRMING)

    handler, state = news.state(CONFIRMING)

    assert (handler.name, state.name) == ("news", "CONFIRMING")


def test_state_of_a_handler_that_is_off_is_still_a_state(handler):
    START, PARKED = routed("news@(host)"), routed("parked@(host)")
    off = handler("off", PARKED)
    router = Router([handler("news", START)], hosts=HOSTS, disabled=[off])

    assert router.state(PARKED)[0] is off
    assert not router.accepts("parked@example.com")


def test_what_is_no_state_is_refused(router):
    @stateless
    @route("log@(host)")
    def log(message, host): ...

    def undecorated(message): ...

    START = routed("news@(host)")
    news = router(START, log, undecorated)
    lookalike = functools.partial(START)
    copy = routed("news@(host)")
    copy.__module__ = "news"

    for returned in ("START", lambda: None, undecorated, log, lookalike, copy, 1, True, []):
        with pytest.raises(NotAState):
            news.state(returned)


# Order


def test_matches_come_in_the_order_of_the_handlers_then_as_written(handler):
    functions = {}
    for name in ("a1", "a2", "b1", "b2"):
        functions[name] = routed("news@(host)")
        functions[name].__name__ = name
    a = handler("a", functions["a1"], functions["a2"])
    b = handler("b", functions["b1"], functions["b2"])

    router = Router([b, a], hosts=HOSTS)

    assert [match.state.name for match in router.matches("news@example.com")] == [
        "b1",
        "b2",
        "a1",
        "a2",
    ]
