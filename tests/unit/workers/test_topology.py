from eco_workers.broker.topology import DEAD_LETTER_QUEUE, TOPOLOGY, definitions


def test_a_queue_carries_only_what_never_changes() -> None:
    """Arguments cannot be changed once a queue exists: limits there would be for ever."""
    for queue in TOPOLOGY.queues:
        assert set(queue.arguments) <= {"x-queue-type", "x-dead-letter-exchange"}
        assert queue.arguments["x-queue-type"] == "quorum"


def test_every_queue_but_the_last_one_dead_letters_at_least_once() -> None:
    """At least once needs reject-publish beside it, else RabbitMQ silently does it at most once."""
    for queue in TOPOLOGY.queues:
        if queue.name == DEAD_LETTER_QUEUE:
            assert "x-dead-letter-exchange" not in queue.arguments
            continue
        assert queue.policy["dead-letter-strategy"] == "at-least-once"
        assert queue.policy["overflow"] == "reject-publish"
        assert queue.policy["delivery-limit"] == 100
        assert queue.policy["message-ttl"] > 0


def test_priorities_are_never_queue_arguments() -> None:
    assert not [q for q in TOPOLOGY.queues if "x-max-priority" in q.arguments | q.policy]


def test_each_stage_leads_to_one_queue() -> None:
    assert {TOPOLOGY.route(f"ai.{stage}") for stage in ("preprocess", "vision", "rag", "llm")} == {"q.ai"}
    assert TOPOLOGY.route("nowhere") is None
    keys = [key for _, queue, key in TOPOLOGY.bindings() if queue != DEAD_LETTER_QUEUE]
    assert len(keys) == len(set(keys))


def test_the_definitions_file_names_what_is_declared() -> None:
    found = definitions()
    assert {queue["name"] for queue in found["queues"]} == TOPOLOGY.names()
    assert {policy["pattern"] for policy in found["policies"]} == {
        f"^{name}$".replace(".", r"\.") for name in TOPOLOGY.names()
    }
    assert len(found["bindings"]) == len(TOPOLOGY.bindings())
