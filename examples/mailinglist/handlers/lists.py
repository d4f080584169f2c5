"""Mailing lists. Who writes to LIST-subscribe@HOST, and confirms it, is on LIST: mail to
LIST@HOST reaches everybody on it, and LIST-unsubscribe@HOST leads off it again.

Every name without a hyphen counts as a list's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from examples.mailinglist import confirmation
from examples.mailinglist.conf import list_settings
from examples.mailinglist.models import NAME, MailingList, list_address
from examples.mailinglist.posting import nuisance
from mailapp.conf import mail_settings
from mailapp.errors import SMTPError
from mailapp.models import Suppression
from mailapp.request import ConversationRequest, MailRequest
from mailapp.routing import accepts, after, route, route_like, state_key_generator

example = f"test.list-subscribe@{mail_settings().HOSTS[0]}"

State = Callable[..., Any]


@state_key_generator
def one_conversation_per_list(module_name: str, message: MailRequest) -> str:
    """Tell a person's conversations apart by the list that each is about."""
    return list_address(message.recipient)


@accepts
def is_known(list_name: str, host: str, wish: str = "post", token: str = "") -> bool:
    """Have mail refused at once for a list that is not there, unless it may be made."""
    return may_be_made(wish) or MailingList.objects.filter(name=list_name, host=host).exists()


def may_be_made(wish: str) -> bool:
    """Say whether this wish may make a list that is new."""
    return list_settings().CREATE_ON_SUBSCRIBE and wish in {"subscribe", "confirm"}


def for_people(function: State) -> State:
    """Let the mail of machines and of lists end before it reaches a state function."""

    @wraps(function)
    def only_of_people(message: MailRequest, *args: str, **captures: str) -> State | None:
        message.note = nuisance(message)
        return None if message.note else function(message, *args, **captures)

    return only_of_people


@route("(list_name)@(host)", list_name=NAME)
@route("(list_name)-(wish)@(host)", list_name=NAME, wish="subscribe|unsubscribe|help")
@route(
    "(list_name)-(wish)-(token)@(host)", list_name=NAME, wish="confirm", token=confirmation.TOKEN
)
@for_people
def START(
    message: MailRequest, list_name: str, host: str, wish: str = "post", token: str = ""
) -> State | None:
    """Not on the list: may ask to get on it."""
    mailing_list = find(list_name, host, wish)
    if mailing_list.has(message.sender):  # an operator saw to that
        return POSTING(message, list_name, host, wish, token) or POSTING
    match wish:
        case "subscribe" if mailing_list.is_open:
            confirmation.ask(message, mailing_list, "mailinglist/confirm_subscribe.msg")
            return CONFIRMING_SUBSCRIBE
        case "subscribe":
            tell(message, mailing_list, "closed")
        case "post":
            turn_away(message, mailing_list)
        case "unsubscribe":
            tell(message, mailing_list, "not_subscribed")
        case "confirm":
            tell(message, mailing_list, "not_confirmed")
        case "help":
            tell(message, mailing_list, "help")
    return None


@route_like(START)
@for_people
def CONFIRMING_SUBSCRIBE(
    message: MailRequest, list_name: str, host: str, wish: str = "post", token: str = ""
) -> State | None:
    """Asked to get on the list: has to show that the mail was really theirs."""
    if not confirmation.redeem(message, token):
        return START(message, list_name, host, wish, token)
    mailing_list = find(list_name, host, wish)
    mailing_list.subscribe(message.sender)
    Suppression.objects.lift(message.sender)  # the confirmation was read
    message.data.clear()
    tell(message, mailing_list, "welcome")
    return POSTING


@after(CONFIRMING_SUBSCRIBE, hours=list_settings().CONFIRM_HOURS)
def forget(conversation: ConversationRequest) -> State:
    """Not confirmed in time. Perhaps it was somebody else who asked, so say nothing."""
    del conversation.data["token"]
    return START


@route_like(START)
@for_people
def POSTING(
    message: MailRequest, list_name: str, host: str, wish: str = "post", token: str = ""
) -> State | None:
    """On the list: may post to it, or ask to get off it."""
    mailing_list = find(list_name, host, wish)
    if not mailing_list.has(message.sender):  # an operator saw to that
        return START(message, list_name, host, wish, token) or START
    match wish:
        case "post":
            mailing_list.mail.distribute(message, mailing_list.readers())
        case "unsubscribe":
            confirmation.ask(message, mailing_list, "mailinglist/confirm_unsubscribe.msg")
            return CONFIRMING_UNSUBSCRIBE
        case "subscribe":
            tell(message, mailing_list, "already_subscribed")
        case "confirm":
            tell(message, mailing_list, "not_confirmed")
        case "help":
            tell(message, mailing_list, "help")
    return None


@route_like(START)
@for_people
def CONFIRMING_UNSUBSCRIBE(
    message: MailRequest, list_name: str, host: str, wish: str = "post", token: str = ""
) -> State | None:
    """Asked to get off the list: is on it until that is confirmed."""
    if not confirmation.redeem(message, token):
        return POSTING(message, list_name, host, wish, token)
    mailing_list = find(list_name, host, wish)
    mailing_list.unsubscribe(message.sender)
    tell(message, mailing_list, "goodbye")
    return START


@after(CONFIRMING_UNSUBSCRIBE, hours=list_settings().CONFIRM_HOURS)
def keep(conversation: ConversationRequest) -> State:
    """Not confirmed in time: remains on the list, and hears of it."""
    del conversation.data["token"]
    if mailing_list := MailingList.objects.at(conversation.key):
        tell(conversation, mailing_list, "still_subscribed")
    return POSTING


@route_like(START)
@for_people
def ERROR(
    message: MailRequest, list_name: str, host: str, wish: str = "post", token: str = ""
) -> State | None:
    """A mail failed for good, however often it was tried: say so, and begin anew."""
    tell(message, MailingList(name=list_name, host=host), "error")
    return START


def find(list_name: str, host: str, wish: str) -> MailingList:
    """Return the list, which is unsaved where a subscription may make it; raise SMTPError."""
    mailing_list = MailingList.objects.filter(name=list_name, host=host).first()
    if mailing_list:
        return mailing_list
    if may_be_made(wish):
        return MailingList(name=list_name, host=host)
    raise SMTPError(550, "No such list here", "5.1.1")


def turn_away(message: MailRequest, mailing_list: MailingList) -> None:
    """Refuse a stranger's post, or say how to get on the list, once."""
    if mailing_list.strangers == MailingList.Strangers.REFUSE:
        raise SMTPError(550, "Only subscribers may post", "5.7.2")  # RFC 3463 3.8
    if "told" in message.data:
        message.note = "Dropped: its author is not on the list, and was told so before"
        return
    message.data["told"] = True
    tell(message, mailing_list, "not_posted")


def tell(whom: MailRequest | ConversationRequest, mailing_list: MailingList, template: str) -> None:
    """Answer from the address for help, so that nobody's next answer becomes a post."""
    whom.respond(
        f"mailinglist/{template}.msg",
        author=f"{mailing_list} <{mailing_list.address_to('help')}>",
        mailing_list=mailing_list,
    )
