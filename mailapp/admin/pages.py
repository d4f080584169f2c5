"""What the operator's pages have in common: they are read, and a few verbs act."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.contrib import admin
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.options import ShowFacets
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from .counting import CappedPaginator
from .display import page_url


class MailAdmin(admin.ModelAdmin):
    """Lists that stay quick over a million rows, newest first. Nobody adds or deletes."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = ShowFacets.NEVER
    sortable_by = ()
    list_per_page = 50
    list_max_show_all = 0
    found = "whole addresses"  #: what a search may be for, told when it finds nothing

    class Media:
        css = {"all": ["mailapp/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def visible_row(self, request: HttpRequest, object_id: str) -> Any:
        """Return the row that an address names; raise Http404 or PermissionDenied."""
        row = self.get_object(request, unquote(object_id))
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        return row

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        row = kwargs.get("obj")
        if row is not None:
            context.update(self.page_context(request, row))
        return super().render_change_form(request, context, *args, **kwargs)

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What the template of this model's page shows besides the fields."""
        return {}


@dataclass(frozen=True)
class Verb:
    """Something an operator may do to rows, with a permission of its own."""

    name: str
    label: str
    past: str  #: what the log says of each row
    permission: str  #: checked by `has_<permission>_permission`


class VerbAdmin(MailAdmin):
    """Verbs as actions of the list and as buttons on the page, each logged."""

    verbs: tuple[Verb, ...] = ()

    def __init__(self, model: type[Model], admin_site: admin.AdminSite) -> None:
        self.actions = [_action(verb) for verb in self.verbs]
        super().__init__(model, admin_site)

    def act(self, request: HttpRequest, queryset: QuerySet[Any], verb: Verb) -> int:
        """Do it to the rows it is open to, log each, and return how many."""
        raise NotImplementedError

    def is_open_to(self, row: Any, verb: Verb) -> bool:
        """Say whether the verb would change this row."""
        raise NotImplementedError

    def log(self, request: HttpRequest, rows: list[Any], verb: Verb) -> None:
        LogEntry.objects.log_actions(request.user.pk or 0, rows, CHANGE, verb.past)

    def may(self, request: HttpRequest, verb: Verb) -> bool:
        """Say whether this user has the permission that the verb needs."""
        return getattr(self, f"has_{verb.permission}_permission")(request)

    def act_and_tell(self, request: HttpRequest, queryset: QuerySet[Any], verb: Verb) -> None:
        """Do it, and say on the next page to how many rows."""
        changed = self.act(request, queryset, verb)
        names = self.opts.verbose_name if changed == 1 else self.opts.verbose_name_plural
        told = f"{changed} {names}" if changed else f"no {names}"
        self.message_user(request, f"{verb.past} {told}.", "SUCCESS" if changed else "WARNING")

    def get_urls(self) -> list[URLPattern]:
        name = f"{self.opts.app_label}_{self.opts.model_name}_act"
        view = self.admin_site.admin_view(require_POST(self.act_view))
        return [path("<path:object_id>/act/<slug:name>/", view, name=name), *super().get_urls()]

    def act_view(self, request: HttpRequest, object_id: str, name: str) -> HttpResponse:
        """Do a verb to the one row of a page."""
        row = self.visible_row(request, object_id)
        verb = next((verb for verb in self.verbs if verb.name == name), None)
        if verb is None:
            raise Http404
        if not self.may(request, verb):
            raise PermissionDenied
        self.act_and_tell(request, self.get_queryset(request).filter(pk=row.pk), verb)
        return HttpResponseRedirect(page_url(row))

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        buttons = [
            verb for verb in self.verbs if self.may(request, verb) and self.is_open_to(row, verb)
        ]
        return {**super().page_context(request, row), "verbs": buttons}


def _action(verb: Verb) -> Callable[..., None]:
    @admin.action(description=verb.label, permissions=[verb.permission])
    def act(page: VerbAdmin, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        page.act_and_tell(request, queryset, verb)

    act.__name__ = verb.name
    return act
