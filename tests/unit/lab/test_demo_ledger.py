"""The ledger finds what is missing, doubled or out of place, and nothing else."""

import json
from dataclasses import replace
from typing import Any

import pytest

from eco_lab.demo.broker import Message
from eco_lab.demo.evidence import Seen, defects
from eco_lab.demo.ledger import Evidence, Row, object_keys, settle, table
from eco_lab.demo.pictures import Flaw, Picture

REASON = {
    Flaw.TRUNCATED: "picture is truncated",
    Flaw.EMPTY: "upload is empty",
}


def picture(name: str, flaw: Flaw | None = None) -> Picture:
    return Picture(f"{name}.jpg", f"sha-{name}", flaw, 800, 600, 1)


def message(task: str, message_id: str, **headers: Any) -> Message:
    return Message(message_id, {"x-eco-task-id": task, **headers}, json.dumps({"image_task_id": task}).encode())


def dead(task: str, flaw: Flaw) -> Message:
    return message(task, f"dead-{task}", **{"x-eco-reason": REASON[flaw]})


def result(task: str) -> dict[str, Any]:
    return {"source": f"uploads/{task}.jpg", "web": f"images/web/{task}", "thumbnail": f"images/thumbnail/{task}"}


@pytest.fixture
def sound() -> Evidence:
    """Two pictures stored, two broken ones refused."""
    good, bad = ("a", "b"), {"x": Flaw.TRUNCATED, "y": Flaw.EMPTY}
    return Evidence(
        published={task: picture(task) for task in good} | {task: picture(task, flaw) for task, flaw in bad.items()},
        rows=[
            *(Row(task, "completed", result(task), None) for task in good),
            *(Row(task, "failed", None, REASON[flaw]) for task, flaw in bad.items()),
        ],
        dead_letters=[dead(task, flaw) for task, flaw in bad.items()],
        follow_ups=[message(task, f"emit-{task}") for task in good],
        objects=frozenset(f"images/{size}/{task}" for size in ("web", "thumbnail") for task in good),
    )


def test_a_run_in_which_all_went_well_is_sound(sound: Evidence) -> None:
    ledger = settle(sound)
    assert ledger.sound
    assert (ledger.published, ledger.completed, ledger.failed_as_they_should) == (4, 2, 2)
    assert (ledger.objects, ledger.rows, ledger.follow_ups) == (4, 4, 2)
    assert ledger.reasons == {"truncated": 1, "empty": 1}
    assert "PROBLEM" not in table(ledger)


def test_a_task_without_an_end_is_lost(sound: Evidence) -> None:
    ledger = settle(replace(sound, rows=sound.rows[1:]))
    assert ledger.lost == ("a",)
    assert not ledger.sound


def test_a_broken_picture_without_a_dead_letter_is_lost(sound: Evidence) -> None:
    """A failed row alone is no end: nobody would ever look at it."""
    assert settle(replace(sound, dead_letters=sound.dead_letters[:1])).lost == ("y",)


def test_a_completed_row_whose_object_is_missing_is_lost(sound: Evidence) -> None:
    assert settle(replace(sound, objects=sound.objects - {"images/web/b"})).lost == ("b",)


def test_a_completed_row_that_names_no_object_is_lost(sound: Evidence) -> None:
    rows = [replace(sound.rows[0], result={"source": "uploads/a.jpg"}), *sound.rows[1:]]
    assert "a" in settle(replace(sound, rows=rows)).lost


def test_a_completed_task_without_its_follow_up_is_lost(sound: Evidence) -> None:
    assert settle(replace(sound, follow_ups=sound.follow_ups[:1])).lost == ("b",)


def test_an_object_that_no_row_names_is_a_duplicate(sound: Evidence) -> None:
    ledger = settle(replace(sound, objects=sound.objects | {"images/web/other"}))
    assert ledger.duplicates == ("object images/web/other",)
    assert not ledger.sound


def test_two_rows_of_one_task_are_a_duplicate(sound: Evidence) -> None:
    assert settle(replace(sound, rows=[*sound.rows, sound.rows[0]])).duplicates == ("row of a",)


def test_raw_repeats_of_one_message_are_shown_and_are_no_fault(sound: Evidence) -> None:
    ledger = settle(replace(sound, follow_ups=[*sound.follow_ups, sound.follow_ups[0]]))
    assert ledger.sound
    assert (ledger.follow_ups, ledger.follow_ups_raw) == (2, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"follow_ups": "a"}, "several follow-ups of one task under different ids"),
        ({"dead_letters": "b"}, "sound picture in the dead-letter queue"),
        ({"dead_letters": "stranger"}, "dead letter of no published task"),
        ({"follow_ups": "x"}, "follow-up of a task that did not complete"),
    ],
)
def test_a_message_out_of_place_is_a_problem(sound: Evidence, change: dict[str, str], words: str) -> None:
    [(queue, task)] = change.items()
    extra: Any = {queue: [*getattr(sound, queue), message(task, "another-id")]}
    more = replace(sound, **extra)
    assert words in table(settle(more))
    assert not settle(more).sound


def test_a_dead_letter_with_a_reason_of_another_flaw_is_a_problem(sound: Evidence) -> None:
    wrong = message("x", "dead-x", **{"x-eco-reason": "connection refused"})
    ledger = settle(replace(sound, dead_letters=[wrong, *sound.dead_letters[1:]]))
    assert any("does not name the flaw" in problem for problem in ledger.problems)


def test_the_key_of_the_upload_is_not_an_object_of_the_worker() -> None:
    assert object_keys(result("a")) == {"images/web/a", "images/thumbnail/a"}
    assert object_keys({"sizes": [{"key": "images/one"}, {"key": "images/two"}], "width": 3}) == {
        "images/one",
        "images/two",
    }
    assert object_keys(None) == frozenset()


SEEN = Seen(800, 600, has_exif=False, readable=True, size_bytes=1)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (replace(SEEN, has_exif=True), "still carries EXIF"),
        (replace(SEEN, readable=False), "cannot be decoded"),
        (replace(SEEN, width=600, height=800), "not the shape"),
        (replace(SEEN, width=1600, height=1200), "more than 1280"),
    ],
)
def test_an_object_with_the_wrong_content_is_a_defect(sound: Evidence, seen: Seen, words: str) -> None:
    objects = dict.fromkeys(sound.objects, SEEN)
    assert defects(sound.published, sound.rows, objects) == []
    [found] = defects(sound.published, sound.rows, {**objects, "images/web/a": seen})
    assert words in found
