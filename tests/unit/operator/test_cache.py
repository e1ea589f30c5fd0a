"""The cache of the cluster: what is newer wins, whichever way it came; what a list does not name is gone."""

from typing import Any

import pytest

from eco_crds import contract
from eco_operator import cache as cache_module
from eco_operator import kinds
from eco_operator.cache import Cache, Identity, Key

WORKER = Key(kinds.ECO_WORKER.kind, "shop", "storage")


def child(version: int, *, name: str = "storage-0", worker: str = "storage", **metadata: Any) -> dict[str, Any]:
    labels = {contract.LABEL_WORKER: worker, contract.LABEL_SHARD: name}
    return {
        "metadata": {
            "name": name,
            "namespace": "shop",
            "uid": f"uid-{name}",
            "resourceVersion": str(version),
            "labels": labels,
            **metadata,
        },
        "data": {"version": str(version)},
    }


def versions(cache: Cache) -> list[int]:
    return [it.version for it in cache.children("shop", "storage")]


def test_an_event_names_the_ecoworker_it_concerns() -> None:
    cache = Cache()
    assert cache.see(kinds.CONFIG_MAP, "ADDED", child(1)) == {WORKER}


def test_what_is_of_our_own_kinds_is_found_by_kind_and_namespace_as_long_as_it_is_there() -> None:
    cache = Cache()
    cache.see(kinds.ECO_WORKER, "ADDED", child(1, name="storage"))
    cache.see(kinds.WAL_SYNC, "ADDED", child(2, name="reports"))
    assert [it.key for it in cache.all_owned(kinds.ECO_WORKER)] == [WORKER]
    assert cache.all_owned(kinds.ECO_WORKER, "elsewhere") == []
    cache.see(kinds.ECO_WORKER, "DELETED", child(3, name="storage"))
    assert cache.all_owned(kinds.ECO_WORKER) == []
    assert [it.key.name for it in cache.all_owned(kinds.WAL_SYNC, "shop")] == ["reports"]


def test_a_repeated_event_tells_nothing_new() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(1))
    assert cache.see(kinds.CONFIG_MAP, "ADDED", child(1)) == set()


def test_a_late_event_does_not_undo_a_newer_one() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "MODIFIED", child(5))
    assert cache.see(kinds.CONFIG_MAP, "MODIFIED", child(3)) == set()
    assert versions(cache) == [5]


def test_a_late_deletion_of_an_earlier_object_does_not_remove_the_new_one() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(9, uid="new"))
    cache.see(kinds.CONFIG_MAP, "DELETED", child(7, uid="old"))
    assert versions(cache) == [9]


def test_the_answer_to_a_write_is_known_before_the_watch_tells_of_it() -> None:
    cache = Cache()
    cache.put_written(kinds.CONFIG_MAP, child(4))
    assert versions(cache) == [4]
    assert cache.see(kinds.CONFIG_MAP, "ADDED", child(4)) == set()


def test_what_a_list_does_not_name_is_gone() -> None:
    """A deletion in the gap after a 410 is never told by the watch."""
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(1))
    cache.see(kinds.CONFIG_MAP, "ADDED", child(2, name="storage-1"))
    cache.begin_list()
    named = cache.take_list(kinds.CONFIG_MAP, [child(1)])
    assert cache.forget_unnamed(kinds.CONFIG_MAP, named, 10) == 1
    assert versions(cache) == [1]


def test_what_came_after_a_list_was_made_outlives_it() -> None:
    cache = Cache()
    cache.begin_list()
    named = cache.take_list(kinds.CONFIG_MAP, [])
    cache.see(kinds.CONFIG_MAP, "ADDED", child(11))
    assert cache.forget_unnamed(kinds.CONFIG_MAP, named, 10) == 0
    assert versions(cache) == [11]


def test_a_stale_list_does_not_bring_back_what_went_meanwhile() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(1))
    cache.begin_list()
    cache.see(kinds.CONFIG_MAP, "DELETED", child(5))
    cache.take_list(kinds.CONFIG_MAP, [child(1)])
    cache.end_list()
    assert versions(cache) == []


def test_a_list_of_one_kind_forgets_nothing_of_another() -> None:
    cache = Cache()
    cache.see(kinds.SERVICE, "ADDED", child(1, name="storage"))
    cache.begin_list()
    assert cache.forget_unnamed(kinds.CONFIG_MAP, set(), 10) == 0
    assert versions(cache) == [1]


def test_names_of_ecoworkers_that_left_something_are_still_looked_at() -> None:
    cache = Cache()
    cache.see(kinds.CLAIM, "ADDED", {**child(1), "spec": {}})
    assert cache.all_keys() == {WORKER}


def test_an_object_that_changes_its_ecoworker_concerns_both() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(1))
    concerned = cache.see(kinds.CONFIG_MAP, "MODIFIED", child(2, worker="other"))
    assert concerned == {WORKER, Key(kinds.ECO_WORKER.kind, "shop", "other")}
    assert versions(cache) == []


def test_no_value_of_a_secret_is_kept() -> None:
    cache = Cache()
    cache.see(kinds.SECRET, "ADDED", child(1))
    assert cache.children("shop", "storage")[0].data == {}


def test_a_watch_that_is_behind_the_lists_is_seen() -> None:
    cache = Cache()
    cache.begin_list()
    cache.take_list(kinds.CONFIG_MAP, [child(3)])
    assert cache.statistics().unwatched == 1
    cache.see(kinds.CONFIG_MAP, None, child(3))
    assert cache.statistics().unwatched == 0


def test_an_answer_that_was_long_on_its_way_brings_nothing_back_that_has_been_deleted() -> None:
    cache = Cache()
    cache.see(kinds.ECO_WORKER, "ADDED", child(1, name="storage"))
    cache.see(kinds.ECO_WORKER, "DELETED", child(3, name="storage"))
    cache.put_written(kinds.ECO_WORKER, child(2, name="storage"))
    assert cache.owned(WORKER) is None


def test_an_object_that_had_lost_its_label_is_known_again_when_it_was_asked_for() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(1))
    cache.see(kinds.CONFIG_MAP, "DELETED", child(2))
    cache.put_written(kinds.CONFIG_MAP, child(3))
    assert versions(cache) == [3]


def test_a_late_event_brings_nothing_of_our_own_kinds_back_that_a_list_did_not_name() -> None:
    cache = Cache()
    cache.see(kinds.ECO_WORKER, "ADDED", child(1, name="storage"))
    cache.forget_unnamed(kinds.ECO_WORKER, set(), 5)
    assert cache.see(kinds.ECO_WORKER, "MODIFIED", child(2, name="storage")) == set()
    assert cache.owned(WORKER) is None
    assert cache.see(kinds.ECO_WORKER, "ADDED", child(6, name="storage", uid="another"))


def test_what_is_gone_by_the_servers_own_word_is_forgotten_and_its_successor_is_not() -> None:
    cache = Cache()
    cache.see(kinds.ECO_WORKER, "ADDED", child(1, name="storage"))
    gone = cache.owned(WORKER)
    assert gone is not None
    cache.forget_gone(gone)
    cache.see(kinds.ECO_WORKER, "MODIFIED", child(2, name="storage"))
    assert cache.owned(WORKER) is None
    cache.see(kinds.ECO_WORKER, "ADDED", child(6, name="storage", uid="another"))
    cache.forget_gone(gone)
    assert cache.owned(WORKER) is not None


def test_the_watch_tells_no_news_of_the_version_that_is_known_and_of_no_other() -> None:
    cache = Cache()
    identity = Identity(kinds.CONFIG_MAP.kind, "shop", "storage-0")
    assert not cache.hear(identity, "3")
    cache.put_written(kinds.CONFIG_MAP, child(3))
    assert not cache.hear(identity, "2")
    assert not cache.hear(identity, "4")
    assert cache.statistics().unwatched == 1
    assert cache.hear(identity, "3")
    assert cache.statistics().unwatched == 0


def test_a_watch_that_has_yet_to_mention_a_write_of_just_now_is_not_behind() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(1))
    listed = cache.unwatched()
    cache.put_written(kinds.CONFIG_MAP, child(2))
    assert cache.statistics().unwatched == 1
    assert cache.still_unwatched(listed) == 0


def test_a_watch_is_behind_until_it_has_come_up_to_the_list() -> None:
    cache = Cache()
    cache.take_list(kinds.CONFIG_MAP, [child(3)])
    listed = cache.unwatched()
    cache.see(kinds.CONFIG_MAP, "MODIFIED", child(2))
    assert cache.still_unwatched(listed) == 1
    cache.see(kinds.CONFIG_MAP, "MODIFIED", child(4))
    assert cache.still_unwatched(listed) == 0
    cache.see(kinds.CONFIG_MAP, "DELETED", child(5))
    assert cache.still_unwatched(listed) == 0


def test_what_was_deleted_does_not_come_back_by_a_list_that_is_out_of_date() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(5))
    cache.see(kinds.CONFIG_MAP, "DELETED", child(7))
    cache.take_list(kinds.CONFIG_MAP, [child(6)])
    assert versions(cache) == []
    assert cache.see(kinds.CONFIG_MAP, "MODIFIED", child(6)) == set()
    assert versions(cache) == []
    cache.take_list(kinds.CONFIG_MAP, [child(9, uid="another of that name")])
    assert versions(cache) == [9]


def test_what_was_deleted_by_ourselves_does_not_come_back_either() -> None:
    cache = Cache()
    cache.see(kinds.CONFIG_MAP, "ADDED", child(5))
    cache.drop_deleted(cache.children("shop", "storage")[0])
    cache.take_list(kinds.CONFIG_MAP, [child(6)])
    assert versions(cache) == []


def test_only_so_many_deletions_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "BURIED_MAX", 2)
    cache = Cache()
    for number in range(3):
        cache.see(kinds.CONFIG_MAP, "DELETED", child(7, uid=f"uid-{number}"))
    cache.take_list(kinds.CONFIG_MAP, [child(6, uid="uid-0")])
    assert versions(cache) == [6]
