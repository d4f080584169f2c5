"""docs/queue.md says what a crash leaves; each row of its tables has tests that hold it to that."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: The first cell of each row, and the tests of what the row says, by name.
TESTS = {
    "(in a Maildir)": [
        "deq_that_is_killed_before_any_act_loses_nothing_and_repeats_nothing",
        "pickups_of_one_maildir_share_the_work",
        "what_cannot_be_stored_stays",
    ],
    "(arriving)": [
        "retry_of_a_mail_that_was_stored_is_not_stored_again_after_a_kill",
        "what_was_answered_250_is_worked_exactly_once_whatever_fails",
        "file_that_no_row_names_goes_when_it_is_ours_and_old",
    ],
    "`queued`": [
        "mail_that_was_stored_before_the_worker_is_handled_at_its_start",
        "verb_moves_only_what_it_may",
    ],
    "`claimed`": [
        "stop_in_the_middle_gives_the_rest_back_uncounted",
        "claims_of_a_process_that_fell_silent_are_due_again",
        "relay_frees_what_a_dead_worker_had_claimed",
        "relay_sends_what_a_dead_relay_had_claimed",
        "what_the_smart_host_took_is_not_sent_again_after_a_kill",
        "worker_that_is_killed_starts_again_and_its_claims_are_free_at_once",
    ],
    "`deferred`": [
        "mail_that_comes_due_is_handled_without_a_wake_up",
        "verb_moves_only_what_it_may",
    ],
    "`done`": [
        "bounce_makes_the_delivery_failed",
        "mail_goes_when_its_status_is_not_kept_so_long",
    ],
    "`failed`": [
        "5xx_fails_and_tells_the_sender_and_nothing_else",
        "sender_is_not_told_of_a_failure_that_is_not_noted",
        "operator_reads_why_a_sender_is_not_told_of_a_second_failure",
        "nobody_is_told_of_what_was_discarded",
        "nobody_is_told_of_what_came_back",
        "mail_goes_when_its_status_is_not_kept_so_long",
    ],
    "`held`": [
        "what_was_held_goes_back_to_the_queue_it_came_from",
        "mail_goes_when_its_status_is_not_kept_so_long",
    ],
    'claim up to `MAIL["BATCH_SIZE"]` due deliveries and count the attempt': [
        "takes_no_more_than_the_limit",
        "claims_of_a_process_that_stopped_are_due_again",
    ],
    "for each: run the state functions, in a savepoint that begins with their first query": [
        "one_bad_mail_among_fifty_leaves_the_others_done",
        "what_was_answered_250_is_worked_exactly_once_and_sent_whatever_is_killed",
    ],
    "write the moved conversations, the outgoing mail, the ends of the deliveries, the attempts, "
    "and commit": [
        "state_mail_and_mark_are_stored_together",
        "lost_claim_leaves_neither_state_nor_mail",
        "what_was_answered_250_is_worked_exactly_once_whatever_fails",
    ],
    "raises `SMTPError(4xx)`, or any exception": [
        "4xx_defers",
        "exception_leaves_neither_state_nor_mail",
        "exception_is_kept_with_its_traceback_and_tried_again_with_growing_waits",
    ],
    "does so after the last wait": [
        "mail_that_failed_for_good_is_held_and_given_to_error",
        "conversation_stays_where_it_is_without_error",
    ],
    "raises `SMTPError(5xx)`": [
        "5xx_fails_and_tells_the_sender_and_nothing_else",
        "null_sender_is_told_nothing",
        "nothing_is_told_about_automatic_mail",
    ],
    'takes longer than `MAIL["HANDLER_SECONDS"]`': [
        "hundred_good_mails_are_done_whatever_handlers_do_to_their_process",
        "where_a_handler_hangs_is_in_the_log",
        "all_other_mail_goes_on_while_a_handler_hangs",
    ],
    "kills its process": [
        "mail_whose_process_died_is_tried_alone",
        "hundred_good_mails_are_done_whatever_handlers_do_to_their_process",
    ],
    "does either three times": [
        "mail_that_kills_three_processes_is_held_and_counts_for_no_other",
    ],
    "is broken off, since the database goes away": [
        "try_that_the_database_broke_off_is_not_held_against_the_mail",
        "mail_that_brings_the_database_down_each_time_is_lost_in_the_end",
    ],
    'takes more memory than `MAIL["WORKER_MEMORY"]` leaves it': [
        "worker_that_ran_out_of_memory_makes_way_for_a_new_one",
    ],
    "begins a transaction and never ends it": [
        "transaction_that_a_handler_never_ends_costs_its_mail_alone",
        "autocommit_that_a_function_turned_off_costs_its_mail_alone",
        "worker_in_which_a_transaction_was_left_makes_way_for_a_new_one",
    ],
    "is undone by PostgreSQL for a deadlock": [
        "deadlock_of_two_batches_costs_no_mail_a_try",
        "mail_that_meets_a_deadlock_alone_is_deferred",
    ],
    "is not there: nobody takes the recipient in the person's state": [
        "mail_that_nobody_takes_is_held_at_once_and_can_be_replayed",
    ],
    "waiting": [
        "function_runs_when_the_conversation_is_still_in_the_state",
        "timer_that_came_due_while_nothing_ran_runs_at_the_start",
    ],
    "claimed": [
        "timer_whose_process_died_is_run_by_another",
        "timer_that_killed_three_processes_is_held",
        "timer_whose_worker_is_killed_in_the_middle_runs_again_and_counts_once",
    ],
    "failed, to be tried again": [
        "function_that_raises_leaves_nothing_and_is_tried_again_later",
    ],
    "held": [
        "function_that_fails_for_good_is_left_to_an_operator",
        "held_timers_can_be_discarded",
        "held_timer_is_gone_when_the_conversation_moves_on",
    ],
    "deliveries with their attempts; the message with the last of them": [
        "message_stays_whole_while_another_delivery_is_kept",
        "age_counts_from_the_last_try",
        "cleaning_ends_early_when_it_is_asked_to",
    ],
    "the file of a large message": [
        "file_of_a_large_message_goes_after_the_commit",
        "file_that_cannot_be_removed_goes_later_as_an_orphan",
    ],
    "files that no row names, and halves of files": [
        "file_that_no_row_names_goes_when_it_is_ours_and_old",
        "file_that_a_row_names_stays_however_old",
    ],
    "transitions": [
        "old_transitions_go_and_their_conversation_stays",
    ],
    "processes": [
        "process_goes_once_it_is_long_silent_and_nothing_names_it",
    ],
    "duties: a sender's hour without another DSN": [
        "duties_that_nobody_takes_any_more_go",
        "sender_is_told_once_an_hour",
    ],
    "counted answers": [
        "answers_go_that_no_limit_counts_any_more",
    ],
    "suppressions": ["expired_suppressions_go_and_those_without_an_end_stay"],
    "notes of unheard mail": [
        "unheard_mail_is_forgotten_when_nobody_will_send_it_again",
    ],
}


def rows() -> list[str]:
    """The first cell of each row of each table."""
    lines = (ROOT / "docs/queue.md").read_text().splitlines()
    heads = {number - 1 for number, line in enumerate(lines) if line.startswith("|---")}
    return [
        line.split(" | ")[0].removeprefix("| ")
        for number, line in enumerate(lines)
        if re.match(r"\| ", line) and number not in heads
    ]


def test_each_row_has_tests():
    assert sorted(rows()) == sorted(TESTS)


def test_each_test_is_there():
    named = {test for tests in TESTS.values() for test in tests}
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"def test_(\w+)\(", text)}

    assert named <= there
