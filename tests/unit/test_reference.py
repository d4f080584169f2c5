"""The pages of the reference say what the code has."""

from __future__ import annotations

import argparse
import re

import pytest
from django.apps import apps
from django.core.management import BaseCommand, load_command_class

from docs import reference


@pytest.mark.parametrize("page", reference.PARTS)
def test_page_is_as_the_code_has_it(page):
    assert (reference.DOCS / page).read_text() == reference.filled(page), "run make reference"


def test_each_table_is_in_the_architecture():
    _, _, tables = (reference.DOCS / "architecture.md").read_text().partition("## The tables\n")

    models = {model.__name__ for model in apps.get_app_config("mailapp").get_models()}
    rows = re.findall(r"^\| (`.+?) \|", tables, re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == models


@pytest.mark.parametrize("command", reference.command_names())
def test_each_command_and_each_option_of_it_is_described(command):
    page = (reference.DOCS / "commands.md").read_text()

    [section] = re.findall(rf"^## {command}: .+?(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)

    assert [option for option in options(command) if option not in section] == []


def options(command):
    """The long options of a command that Django does not give to all of them."""
    parser = load_command_class("mailapp", command).create_parser("manage.py", command)
    named = {
        option
        for action in parser._actions
        if action.help != argparse.SUPPRESS
        for option in action.option_strings
        if option.startswith("--")
    }
    return sorted(named - COMMON)


COMMON = {
    option
    for action in BaseCommand().create_parser("manage.py", "any")._actions
    for option in action.option_strings
}
