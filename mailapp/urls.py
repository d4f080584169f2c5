"""What strangers may see on the web: `path("", include("mailapp.urls"))`."""

from django.urls import path

from . import views

app_name = "mailapp"
urlpatterns = [path("unsubscribe/<str:token>/", views.unsubscribe, name="unsubscribe")]
