"""The page behind the link in each mail of a list: it leads off the list (RFC 8058)."""

from __future__ import annotations

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from mailapp import registry
from mailapp.errors import LinkForged
from mailapp.unsubscribing import unsubscribed, wish_of


@csrf_exempt  # mail programs post without having asked for the page; the token is what they know
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def unsubscribe(request: HttpRequest, token: str) -> HttpResponse:
    """Ask for a click, since programs follow links too; a POST acts, and may be repeated.

    Raise ImproperlyConfigured when nothing of the project takes people off lists: nobody is to
    be told that it was done.
    """
    try:
        wish = wish_of(token)
    except LinkForged as error:
        raise Http404 from error
    done = request.method == "POST"
    if done:
        registry.handler_modules()  # a receiver may be in one, which a web server has not imported
        with transaction.atomic():
            if not unsubscribed.send(sender=None, **wish._asdict()):
                raise ImproperlyConfigured("No receiver of mailapp.unsubscribing.unsubscribed")
    return render(request, "mailapp/unsubscribe.html", {"wish": wish, "done": done})
