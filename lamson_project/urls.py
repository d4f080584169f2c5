"""The admin is the operator's view."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

admin.site.site_header = admin.site.site_title = "Mail"
admin.site.index_title = "Overview"
admin.site.index_template = "admin/mailapp/index.html"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("", include("mailapp.urls")),
    path("favicon.ico", RedirectView.as_view(url=f"{settings.STATIC_URL}mailapp/icon.svg")),
]
