"""How many examples the property tests try: `FUZZ_EXAMPLES=1000000 pytest -k any_` for an hour."""

from __future__ import annotations

import os

from hypothesis import settings

fuzzed = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "200")), deadline=None)
