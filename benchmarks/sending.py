"""How fast a post to a list and many single mails go out, next to Django's SMTP backend."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from benchmarks.footprint import NOW, PEAK, PROC, megabytes
from benchmarks.harness import Installation, Server, fixed_medians, installation, print_table
from benchmarks.sink import Sink, running_sink

LIST, SINGLES = "a post to a list", "single mails"
PEER = "Django's SMTP backend, one kept connection"
PEERS_SHARE = 5  # of the mails it sends so small a part, since it takes so long


def measure(servers: Sequence[Server], count: int) -> None:
    """Print how many mails a second go out, on each server, and what it takes to post them."""
    columns = [_figures(server, count) for server in servers]
    bars = {
        "rows of the post made, s": "at most 2",
        "growth of memory meanwhile, MB": "",
        f"{LIST}, messages per second": "",
        f"{SINGLES}, messages per second": "",
        f"{PEER}, messages per second": "",
        f"{LIST} to {PEER.partition(',')[0]}": "at least 2",
        f"{SINGLES} to {PEER.partition(',')[0]}": "at least 2",
        "growth of the relay's memory, MB": "",
    }
    print_table(
        f"{count:,} mails of 4 kB to a sink",
        ["", *(server.name for server in servers), ""],
        [[name, *cells, bar] for (name, bar), *cells in zip(bars.items(), *columns, strict=True)],
    )


def _figures(server: Server, count: int) -> list[str]:
    with running_sink() as sink, installation(server, MAIL_RELAY=sink.address) as ours:
        posts, singles = Relayed(ours, sink, "list"), Relayed(ours, sink, "single")
        rates = fixed_medians(
            {
                PEER: (_by_django(ours), max(count // PEERS_SHARE, 1)),
                LIST: (posts.send, count),
                SINGLES: (singles.send, count),
            }
        )
    return [
        f"{statistics.median(posts.seconds_made):.2f}",
        f"{max(posts.growth_made):.1f}",
        *(f"{rates[name]:.0f}" for name in (LIST, SINGLES, PEER)),
        *(f"{rates[name] / rates[PEER]:.2f}" for name in (LIST, SINGLES)),
        f"{max(posts.growth_sent + singles.growth_sent):.1f}" if PROC.exists() else "-",
    ]


class Relayed:
    """Posts mail, and then has the relay send it; keeps what each time took beside."""

    def __init__(self, ours: Installation, sink: Sink, way: str) -> None:
        self.ours = ours
        self.sink = sink
        self.way = way
        self.seconds_made: list[float] = []
        self.growth_made: list[float] = []
        self.growth_sent: list[float] = []

    def send(self, count: int) -> float:
        """Return the seconds from the first mail at the sink to the last."""
        seconds, growth = self.ours.run("-m", "benchmarks.post", self.way, str(count)).split()
        self.seconds_made.append(float(seconds))
        self.growth_made.append(float(growth))
        before = self.sink.count
        with self.ours.part("relay") as relay:
            begin = self.sink.wait_for(before + 1)
            memory = megabytes(relay.pid, NOW)
            end = self.sink.wait_for(before + count)
            self.growth_sent.append(megabytes(relay.pid, PEAK) - memory)
        return end - begin


def _by_django(ours: Installation) -> Callable[[int], float]:
    return lambda count: float(ours.run("-m", "benchmarks.post", "django", str(count)).split()[0])
