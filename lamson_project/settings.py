"""Settings of this project: the only place that reads the environment."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

import dj_database_url
import django
from django.core.exceptions import ImproperlyConfigured

from mailapp import logs
from mailapp.conf import SQLITE_OPTIONS

BASE_DIR = Path(__file__).resolve().parent.parent
RUN_DIR = Path(os.environ.get("RUN_DIR") or BASE_DIR / "run").absolute()
LOG_DIR = Path(os.environ.get("LOG_DIR") or BASE_DIR / "logs").absolute()


def _flag(name: str, default: str) -> bool:
    value = os.environ.get(name, default).strip().lower()
    if value not in {"1", "0", "true", "false", "yes", "no", "on", "off", ""}:
        raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}")
    return value in {"1", "true", "yes", "on"}


def _one_of(name: str, default: str, *others: str) -> str:
    value = os.environ.get(name) or default
    if value not in {default, *others}:
        choices = ", ".join([default, *others])
        raise ImproperlyConfigured(f"{name} must be one of {choices}, not {value!r}")
    return value


def _list(name: str, default: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, default).split(",") if item.strip()]


def _secret_key() -> str:
    if key := os.environ.get("SECRET_KEY"):
        return key
    if not DEBUG:
        raise ImproperlyConfigured("SECRET_KEY must be set when DEBUG is off")
    kept = RUN_DIR / "secret-key"
    if not kept.exists():
        fresh = RUN_DIR / f"secret-key.{os.getpid()}"
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(50))
        with contextlib.suppress(FileExistsError):  # another process was first
            kept.hardlink_to(fresh)
        fresh.unlink()
    return kept.read_text()


RUN_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds other people's mail
DEBUG = _flag("DEBUG", "1")
SECRET_KEY = _secret_key()
ALLOWED_HOSTS = _list("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]" if DEBUG else "")
CSRF_TRUSTED_ORIGINS = _list("CSRF_TRUSTED_ORIGINS", "")

INSTALLED_APPS = [
    "examples.mailinglist",
    "mailapp",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "lamson_project.urls"
WSGI_APPLICATION = "lamson_project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]


def _database() -> dict[str, object]:
    url = os.environ.get("DATABASE_URL") or f"sqlite:///{RUN_DIR / 'mail.sqlite3'}"
    try:
        database: dict[str, object] = dict(dj_database_url.parse(url))
    except ValueError as error:
        raise ImproperlyConfigured(f"DATABASE_URL: {error}") from error
    if str(database["ENGINE"]).endswith("sqlite3"):
        database["OPTIONS"] = dict(SQLITE_OPTIONS)
    return database


DATABASES = {"default": _database()}

STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    "mail": {
        "BACKEND": "mailapp.storage.DurableFileSystemStorage",
        "OPTIONS": {"location": RUN_DIR / "large"},
    },
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator"},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

WEB = os.environ.get("WEB", "127.0.0.1:8000" if DEBUG else "")
MAIL = {
    "HOSTS": _list("MAIL_HOSTS", "localhost"),
    "RECEIVER": os.environ.get("MAIL_RECEIVER", "127.0.0.1:8823"),
    "RELAY": _list("MAIL_RELAY", "127.0.0.1:8899"),
    "RELAY_PASSWORD": os.environ.get("MAIL_RELAY_PASSWORD", ""),
    "RELAY_CA_FILE": os.environ.get("MAIL_RELAY_CA_FILE", ""),
    "CATCHER": os.environ.get("MAIL_CATCHER", "127.0.0.1:8899" if DEBUG else ""),
    "CATCHER_QUEUE": str(RUN_DIR / "queue"),
    "WEB": WEB,
    "ADMIN_URL": f"http://{WEB}/admin/" if WEB else "",
    "UNSUBSCRIBE_URL": os.environ.get("UNSUBSCRIBE_URL", ""),
    "RELOAD": _flag("MAIL_RELOAD", "1"),
    "RUN_DIR": str(RUN_DIR),
    "LOG_DIR": str(LOG_DIR),
}
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": "mailapp.backends.OutboxBackend"}}
else:
    EMAIL_BACKEND = "mailapp.backends.OutboxBackend"

# In development anybody may make a list by subscribing to it.
MAILING_LISTS = {"CREATE_ON_SUBSCRIBE": DEBUG}

LOGGING = logs.logging_settings(
    form=_one_of("LOG_FORMAT", *logs.FORMS),
    level=_one_of("LOG_LEVEL", "INFO", "DEBUG", "WARNING", "ERROR"),
    folder=LOG_DIR if _flag("LOG_FILES", "0") else None,  # `runmail --detach` sets it
)

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = RUN_DIR / "static"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

if not DEBUG:
    SECURE_CONTENT_TYPE_NOSNIFF = True
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True
    SECURE_SSL_REDIRECT = _flag("SECURE_SSL_REDIRECT", "1")
    SECURE_HSTS_SECONDS = int(os.environ.get("SECURE_HSTS_SECONDS", "3600"))
    # What the other hosts of the domain do is not ours to promise.
    SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]
