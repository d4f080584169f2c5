"""Byte sequences that broke other servers, where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("MAIL_WIRE") or ROOT.parent / "shared" / "wire")

IDENTITY = FOLDER / "identity.json"  #: fields that name several people, each with who is meant

REASON = f"there is no {FOLDER}/vectors.json; MAIL_WIRE may name another folder"

Vector = dict[str, Any]  #: README.md of that folder tells the keys


def vectors(*groups: str) -> list[Vector]:
    """Return those of these groups, or all; none without the file."""
    path = FOLDER / "vectors.json"
    found = json.loads(path.read_text())["variants"] if path.exists() else []
    return [vector for vector in found if not groups or vector["group"] in groups]


def vector_parameters() -> list[Any]:
    """Return all as parameters of a test, which is skipped without the file."""
    if found := vectors():
        return [pytest.param(vector, id=vector["id"]) for vector in found]
    return [pytest.param({}, marks=pytest.mark.skip(reason=REASON), id="none")]


def octets(vector: Vector) -> bytes:
    """Return the bytes of a vector, with what is repeated in a flood."""
    repeated = b""
    if pattern := vector.get("pattern"):
        repeated = bytes.fromhex(pattern["hex"]) * pattern["times"]
    return bytes.fromhex(vector.get("bytes_hex") or "") + repeated
