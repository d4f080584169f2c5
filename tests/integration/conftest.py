"""What the integration tests have in common: a certificate of their own."""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Certificate(NamedTuple):
    """Paths of PEM files."""

    chain: str  #: with its key, for localhost and 127.0.0.1
    authority: str  #: who vouches for it, and whom nobody else knows


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Make a certificate and the authority that signed it."""
    import trustme

    folder = tmp_path_factory.mktemp("tls")
    made = Certificate(str(folder / "chain.pem"), str(folder / "authority.pem"))
    authority = trustme.CA()
    authority.cert_pem.write_to_path(made.authority)
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(made.chain)
    return made
