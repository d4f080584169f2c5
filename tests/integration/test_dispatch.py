"""From a delivery to its handler and on to the next state."""

from __future__ import annotations

import pytest
from django.core.mail import send_mail

from mailapp import dispatch, registry
from mailapp.errors import ConversationMoved
from mailapp.models import Conversation, Delivery, Handler, Status, Transition
from mailapp.routing import bounces, for_people, route, state_key_generator, stateless

pytestmark = pytest.mark.django_db


@pytest.fixture
def say(message, work):
    """Store a mail, work it, and return its deliveries: `say("news@localhost")`."""

    def write(*recipients: str, sender: str = "reader@client.test", **fields) -> list[Delivery]:
        stored = message(recipients=recipients, sender=sender, **fields)
        work()
        return list(stored.deliveries.order_by("id"))

    return write


def statuses(deliveries: list[Delivery]) -> list[str]:
    return [str(delivery.status) for delivery in deliveries]


def history() -> list[tuple[str, str, str]]:
    return list(Transition.objects.values_list("from_state", "to_state", "cause"))


# Moves


def test_state_moves_to_what_the_function_returns(handle, say):
    @route("news@(host)")
    def START(message, host):
        return CONFIRMING

    @route("news@(host)")
    def CONFIRMING(message, host):
        return START

    handle(START, CONFIRMING)

    say("news@localhost")

    conversation = Conversation.objects.get()
    assert conversation.state == "CONFIRMING"
    assert conversation.person == "reader@client.test"
    assert conversation.handler.module == "news"
    assert history() == [("START", "CONFIRMING", "mail")]


def test_conversation_that_returns_to_start_keeps_its_row_and_its_history(handle, say):
    @route("news@(host)")
    def START(message, host):
        return CONFIRMING

    @route("news@(host)")
    def CONFIRMING(message, host):
        return START

    handle(START, CONFIRMING)

    say("news@localhost")
    [second] = say("news@localhost")

    conversation = Conversation.objects.get()
    assert (conversation.state, conversation.version) == ("START", 2)
    assert conversation.updated_at == conversation.transitions.last().at > conversation.created_at
    assert history() == [("START", "CONFIRMING", "mail"), ("CONFIRMING", "START", "mail")]
    assert conversation.transitions.last().delivery == second


@pytest.mark.parametrize("stays", [True, False])
def test_start_stores_no_row(handle, say, stays):
    @route("news@(host)")
    def START(message, host):
        return None if stays else START

    handle(START)

    [delivery] = say("news@localhost")

    assert delivery.status == Status.DONE
    assert delivery.handler == Handler.objects.get(module="news")
    assert not Conversation.objects.exists()
    assert not Transition.objects.exists()


def test_none_stays_in_the_state(handle, say):
    @route("news@(host)")
    def START(message, host):
        return READING

    @route("news@(host)")
    def READING(message, host):
        return None

    handle(START, READING)

    say("news@localhost")
    say("news@localhost")

    assert Conversation.objects.get().state == "READING"
    assert history()[-1] == ("READING", "READING", "mail")


def test_state_of_another_module_moves_the_conversation_with_that_handler(handle, say):
    @route("news@(host)")
    def START(message, host):
        message.data["asked"] = 1
        return CONFIRMING

    @route("confirm@(host)")
    def CONFIRMING(message, host): ...

    handle(news=[START], confirmations=[CONFIRMING])

    say("news@localhost")

    states = {each.handler.module: (each.state, each.data) for each in Conversation.objects.all()}
    assert states == {"news": ("START", {"asked": 1}), "confirmations": ("CONFIRMING", {})}


def test_own_conversation_without_data_has_no_row_when_another_modules_moves(handle, say):
    @route("news@(host)")
    def START(message, host):
        return CONFIRMING

    @route("confirm@(host)")
    def CONFIRMING(message, host): ...

    handle(news=[START], confirmations=[CONFIRMING])

    say("news@localhost")

    assert [each.handler.module for each in Conversation.objects.all()] == ["confirmations"]


def test_what_is_no_state_is_an_error_and_nothing_moves(handle, say):
    @route("news@(host)")
    def START(message, host):
        message.data["lost"] = True
        return "CONFIRMING"

    handle(START)

    [delivery] = say("news@localhost")

    assert delivery.status == Status.DEFERRED
    assert "NotAState" in delivery.reply
    assert "'CONFIRMING'" in delivery.reply
    assert not Conversation.objects.exists()


# Data


def test_data_is_kept_from_mail_to_mail(handle, say):
    @route("news@(host)")
    def START(message, host):
        message.data["count"] = message.data.get("count", 0) + 1

    handle(START)

    for _ in range(3):
        say("news@localhost")

    assert Conversation.objects.get().data == {"count": 3}


def test_data_of_a_run_that_failed_is_not_kept(handle, say):
    @route("news@(host)")
    def START(message, host):
        message.data["lost"] = True
        raise LookupError

    handle(START)

    say("news@localhost")

    assert not Conversation.objects.exists()


def test_people_and_handlers_have_data_of_their_own(handle, say):
    def handler(name):
        @route("(list)-all@(host)", list="[a-z]+")
        @route(f"{name}@(host)")
        def START(message, **captured):
            message.data.setdefault("lists", []).append(name)

        return START

    handle(news=[handler("news")], letters=[handler("letters")])

    say("news@localhost")
    say("letters@localhost")
    say("news@localhost", sender="other@client.test")

    kept = {
        (each.handler.module, each.person): each.data["lists"]
        for each in Conversation.objects.all()
    }
    assert kept == {
        ("news", "reader@client.test"): ["news"],
        ("letters", "reader@client.test"): ["letters"],
        ("news", "other@client.test"): ["news"],
    }


def test_stateless_function_sees_no_conversation(handle, say):
    seen = []

    @stateless
    @route("news@(host)")
    def log(message, host):
        seen.append(message.conversation)

    @route("news@(host)")
    def START(message, host):
        seen.append(message.conversation)

    handle(log=[log], news=[START])

    say("news@localhost")

    assert seen[0] is None
    assert seen[1].handler.module == "news"


def test_person_has_one_conversation_for_each_key(handle, say):
    @state_key_generator
    def by_list(module_name, message):
        return f"{module_name}/{message.recipient}"

    @route("(list)@(host)", list="[a-z]+")
    def START(message, list, host):
        return READING

    @route("(list)@(host)", list="[a-z]+")
    def READING(message, list, host): ...

    handle(START, READING, by_list)

    say("news@localhost")
    say("letters@localhost")
    say("news@localhost")

    assert {each.key: each.version for each in Conversation.objects.all()} == {
        "news/news@localhost": 2,
        "news/letters@localhost": 1,
    }


# Who is asked


def test_conversation_without_a_key_is_found_beside_one_with_a_key(handle, say):
    seen = []

    @state_key_generator
    def key_of(module_name, message):
        return message.recipient.removesuffix("@localhost").removeprefix("all")

    @route("(list)@(host)", list="[a-z]+")
    def START(message, list, host):
        seen.append(message.data.get("list", "new"))
        message.data["list"] = list

    handle(START, key_of)

    for list in ["all", "news", "all", "news"]:
        say(f"{list}@localhost")

    assert seen == ["new", "new", "all", "news"]


def test_conversation_is_the_same_for_all_who_look_for_it_in_a_transaction(handle, delivery):
    @route("news@(host)")
    def START(message, host): ...

    handle(START)
    mail, router = delivery("news@localhost"), registry.current_router(max_age=0)
    conversations = dispatch.Conversations([mail.person])

    one, other = (dispatch.plan(mail, router, conversations).conversation for _ in range(2))

    assert one is other


def test_first_handler_whose_state_fits_takes_the_mail(handle, say):
    def named(name):
        @route("news@(host)")
        def START(message, host):
            message.note = name

        return START

    @route("news@(host)")
    def LATER(message, host): ...

    handle(first=[LATER], second=[named("second")], third=[named("third")])

    [delivery] = say("news@localhost")

    assert delivery.reply == "second"
    assert delivery.handler.module == "second"


def test_each_stateless_function_runs_and_then_one_with_a_state(handle, say):
    ran = []

    def runs(name, *marks):
        def function(message, host):
            ran.append(name)

        function.__name__ = name
        for mark in (route("news@(host)"), *marks):
            function = mark(function)
        return function

    handle(
        a=[runs("START"), runs("a_log", stateless)],
        b=[runs("b_log", stateless), runs("b_bounced", bounces)],
        c=[runs("START")],
    )

    [delivery] = say("news@localhost")

    assert ran == ["a_log", "b_log", "START"]
    assert delivery.handler.module == "a"


def test_bounce_reaches_stateless_functions_alone(handle, say):
    ran = []

    @route("news@(host)")
    def START(message, host):
        ran.append("START")

    @bounces
    @route("news@(host)")
    def bounced(message, host):
        ran.append("bounced")

    @stateless
    @route("news@(host)")
    def log(message, host):
        ran.append("log")

    handle(START, bounced, log)

    say("news@localhost", sender="")

    assert ran == ["bounced", "log"]
    assert not Conversation.objects.exists()


def test_mail_of_a_machine_ends_before_a_function_for_people(handle, say):
    @for_people
    @route("(name)@(host)", name="news|views")
    def START(message, host, name):
        message.data["heard"] = [*message.data.get("heard", []), name]
        return START

    handle(START)

    [of_machine] = say("news@localhost", raw=b"Auto-Submitted: auto-replied\r\n\r\nAway\r\n")
    say("views@localhost")

    assert of_machine.status == Status.DONE
    assert of_machine.reply == "Dropped: a machine sent it"
    assert Conversation.objects.get().data == {"heard": ["views"]}


def test_function_for_people_is_called_by_another_state(handle, say):
    @for_people
    @route("news@(host)")
    def START(message, host):
        message.data["host"] = host
        return READING

    @route("news@(host)")
    def READING(message, host):
        return START(message, host)

    handle(START, READING)

    say("news@localhost")
    [again] = say("news@localhost")

    assert again.status == Status.DONE


def test_null_sender_has_no_conversation(handle, say):
    @route("news@(host)")
    def START(message, host): ...

    handle(START)

    [delivery] = say("news@localhost", sender="")

    assert (delivery.status, delivery.queue_id) == (Status.HELD, "undeliverable")
    assert "NotHandled" in delivery.reply


def test_mail_that_nobody_takes_is_held_at_once_and_can_be_replayed(handle, say, work):
    @route("other@(host)")
    def START(message, host): ...

    handle(START)
    [delivery] = say("news@localhost")

    @route("news@(host)")
    def LATER(message, host): ...

    LATER.__name__ = "START"
    handle(letters=[LATER])
    Delivery.objects.filter(pk=delivery.pk).retry()
    work()

    assert delivery.status == Status.HELD
    delivery.refresh_from_db()
    assert (delivery.status, delivery.queue_id) == (Status.DONE, "incoming")


def test_each_recipient_is_a_call_with_captures_of_its_own(handle, say):
    calls = []

    @route("(list)@(host)", list="[a-z]+")
    def START(message, list, host):
        calls.append((message.recipient, list))
        if list == "bad":
            raise LookupError

    handle(START)

    deliveries = say("news@localhost", "bad@localhost", "letters@localhost")

    assert calls == [
        ("news@localhost", "news"),
        ("bad@localhost", "bad"),
        ("letters@localhost", "letters"),
    ]
    assert statuses(deliveries) == ["done", "deferred", "done"]


def test_person_is_the_envelope_sender_whoever_the_header_names(handle, say):
    @route("news@(host)")
    def START(message, host):
        return READING

    @route("news@(host)")
    def READING(message, host): ...

    handle(START, READING)

    say("news@localhost", sender="Reader@Client.test", raw=b"From: boss@client.test\r\n\r\n")

    assert Conversation.objects.get().person == "reader@client.test"


def test_state_whose_function_is_gone_is_held_and_not_started_anew(handle, say):
    @route("news@(host)")
    def START(message, host):
        return READING

    @route("news@(host)")
    def READING(message, host): ...

    handle(START, READING)
    say("news@localhost")
    handle(START)

    [delivery] = say("news@localhost")

    assert delivery.status == Status.HELD
    assert Conversation.objects.get().state == "READING"


# ERROR


@pytest.fixture
def one_try(settings):
    """No mail is tried twice."""
    settings.MAIL = {**settings.MAIL, "RETRY_SECONDS": [1]}

    def exhaust(delivery: Delivery, work) -> None:
        Delivery.objects.filter(pk=delivery.pk).update(due_at="2000-01-01T00:00:00Z")
        work()
        delivery.refresh_from_db()

    return exhaust


def test_mail_that_failed_for_good_is_held_and_given_to_error(handle, say, work, one_try):
    seen = []

    @route("news@(host)")
    def START(message, host):
        message.data["lost"] = True
        raise LookupError("no such news")

    @route("news@(host)")
    def ERROR(message, host):
        seen.append((message.conversation.state, message.raw))
        message.data["failed"] = True
        send_mail("Sorry", "", "news@localhost", [message.sender])
        return START

    handle(START, ERROR)
    [delivery] = say("news@localhost")
    before = list(seen)

    one_try(delivery, work)

    assert before == []
    assert seen == [("ERROR", delivery.message.raw)]
    assert (delivery.status, delivery.queue_id) == (Status.HELD, "undeliverable")
    assert delivery.reply == "LookupError: no such news"
    conversation = Conversation.objects.get()
    assert (conversation.state, conversation.data) == ("START", {"failed": True})
    assert history() == [("START", "ERROR", "error"), ("ERROR", "START", "mail")]
    assert Delivery.objects.get(queue="outgoing").message.cause == delivery


def test_conversation_stays_in_error_when_error_fails_too(handle, say, work, one_try, caplog):
    @route("news@(host)")
    def START(message, host):
        raise LookupError

    @route("news@(host)")
    def ERROR(message, host):
        send_mail("Sorry", "", "news@localhost", [message.sender])
        message.data["lost"] = True
        raise ValueError

    handle(START, ERROR)
    [delivery] = say("news@localhost")

    one_try(delivery, work)

    conversation = Conversation.objects.get()
    assert delivery.status == Status.HELD
    assert (conversation.state, conversation.data) == ("ERROR", {})
    assert not Delivery.objects.filter(queue="outgoing").exists()
    assert "ERROR itself failed" in caplog.text


def test_mail_that_fails_in_error_does_not_run_it_twice(handle, say, work, one_try):
    runs = []

    @route("news@(host)")
    def START(message, host):
        return ERROR

    @route("news@(host)")
    def ERROR(message, host):
        runs.append(message)
        raise ValueError

    handle(START, ERROR)
    say("news@localhost")
    [delivery] = say("news@localhost")

    one_try(delivery, work)

    assert len(runs) == 2
    assert Conversation.objects.get().state == "ERROR"


def test_error_takes_only_mail_that_its_route_fits(handle, say, work, one_try):
    @route("(list)@(host)", list="[a-z]+")
    def START(message, list, host):
        raise LookupError

    @route("help@(host)")
    def ERROR(message, host):
        return START

    handle(START, ERROR)
    [delivery] = say("news@localhost")

    one_try(delivery, work)
    assert Conversation.objects.get().state == "ERROR"

    say("help@localhost")
    assert Conversation.objects.get().state == "START"


def test_conversation_stays_where_it_is_without_error(handle, say, work, one_try):
    @route("news@(host)")
    def START(message, host):
        return READING

    @route("news@(host)")
    def READING(message, host):
        raise LookupError

    handle(START, READING)
    say("news@localhost")
    [delivery] = say("news@localhost")

    one_try(delivery, work)

    assert delivery.status == Status.HELD
    assert Conversation.objects.get().state == "READING"


# By hand


@pytest.fixture
def conversation(handle):
    @route("news@(host)")
    def START(message, host): ...

    handle(START)
    return Conversation.objects.create(
        handler=Handler.objects.get(module="news"), person="reader@client.test"
    )


def test_operator_moves_a_conversation_and_history_says_who(conversation, admin_user):
    dispatch.move(conversation, "READING", operator=admin_user)

    [transition] = conversation.transitions.all()
    assert (transition.cause, transition.operator) == ("operator", admin_user)
    assert (transition.from_state, transition.to_state) == ("START", "READING")
    assert Conversation.objects.get().state == "READING"


def test_operator_does_not_undo_what_a_mail_did_meanwhile(conversation, admin_user):
    same = Conversation.objects.get()
    dispatch.move(same, "READING", operator=admin_user)

    with pytest.raises(ConversationMoved):
        dispatch.move(conversation, "START", operator=admin_user)

    assert Conversation.objects.get().state == "READING"
    assert Transition.objects.count() == 1


def test_two_who_begin_the_same_conversation_do_not_both_win(conversation, admin_user):
    again = Conversation(handler=conversation.handler, person=conversation.person)

    with pytest.raises(ConversationMoved):
        dispatch.move(again, "READING", operator=admin_user)

    assert Conversation.objects.get().state == "START"
