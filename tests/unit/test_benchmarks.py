"""How the benchmarks choose what to do and what to print."""

from benchmarks.harness import medians, print_table, rounds
from benchmarks.load import token_of


def test_contestants_take_turns():
    asked = []

    def contestant(name, seconds):
        def do(count):
            asked.append(name)
            return count * seconds

        return do

    rates = medians({"fast": contestant("fast", 0.001), "slow": contestant("slow", 0.1)}, 2)

    assert rates == {"fast": 1000, "slow": 10}
    assert asked[-2 * rounds :] == ["fast", "slow"] * rounds


def test_the_median_forgives_one_bad_round():
    calls = []

    def do(count):
        calls.append(count)
        return 100 if len(calls) == 3 else count / 50

    assert medians({"it": do}, 1) == {"it": 50}


def test_a_table_has_its_columns_in_line(capsys):
    print_table("rates", ["", "SQLite"], [["kept", "5300"], ["a connection each", "90"]])

    assert capsys.readouterr().out == (
        "\n"
        "rates\n"
        "\n"
        "                   SQLite\n"
        "kept                 5300\n"
        "a connection each      90\n"
    )


def test_no_two_messages_are_alike_and_none_is_in_order():
    tokens = [token_of(run, number) for run in ("first", "second") for number in range(100)]

    assert len(set(tokens)) == 200
    assert tokens != sorted(tokens)
