"""Jobs on a shard's volume, as processes against real servers: what they leave, killed, stopped, and run again."""

import asyncio
import random
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from eco_crds.jobs import JobName
from eco_workers.errors import JournalLockedError
from eco_workers.journal import Emit, NewTask, SqliteJournal
from eco_workers.journal.limits import Limits
from eco_workers.journal.opening import Plan, quarantine
from eco_workers.runtime import jobs as jobs_module
from eco_workers.runtime.jobs import ShardJob
from eco_workers.settings import Settings, load
from tests.support.job_process import IDENTITY, JobProcess
from tests.support.processes import wait_for
from tests.support.queues import Queues
from tests.support.worker_process import WorkerProcess, postgres_environment

pytestmark = [pytest.mark.broker, pytest.mark.slow]
WITHIN_S = 60.0
KILLS_MAX = 8
MESSAGES_BEFORE_A_KILL = 150
OWN = "tests.support.own_tasks"
FRAGILE = b"fragile"
"""In the payload of the task whose row `damage` breaks."""
AWAY = "amqp://guest:guest@127.0.0.1:9/"


@pytest.fixture
def queues(amqp_url: str) -> Queues:
    made = Queues(amqp_url)
    made.clean()
    return made


@pytest.fixture
def shard(tmp_path: Path, queues: Queues) -> WorkerProcess:
    """Shard 0, whose worker does not run."""
    return WorkerProcess(tmp_path / "shard-0", queues.url, queues="q.api", modules=OWN)


@pytest.fixture
def job(shard: WorkerProcess) -> JobProcess:
    return JobProcess(shard)


@pytest.fixture
def elsewhere(tmp_path: Path, queues: Queues) -> Iterator[WorkerProcess]:
    """Another shard of the same worker, ended with the test."""
    worker = WorkerProcess(tmp_path / "shard-1", queues.url, index=1, queues="q.api", modules=OWN)
    yield worker
    worker.kill()


async def with_journal(shard: WorkerProcess) -> SqliteJournal:
    return await SqliteJournal.open(shard.journal, identity=IDENTITY)


def fill(shard: WorkerProcess, *, pending: int = 0, completed: int = 0, ledger: Path | None = None) -> list[str]:
    """Leave a journal as a killed worker would: tasks that wait, messages unsent, results unsynced. The waiting ids."""
    payload = f'{{"ledger":"{ledger}"}}'.encode() if ledger else b"{}"
    run = uuid.uuid4().hex[:8]
    ids = [f"{run}-{number}" for number in range(pending)]

    async def go() -> None:
        async with await with_journal(shard) as journal:
            done = [f"{run}-done-{number}" for number in range(completed)]
            if done:
                await journal.accept([NewTask(each, "test.echo", payload, "q.api") for each in done])
                for each in await journal.claim(completed, names=frozenset({"test.echo"})):
                    await journal.complete(each.task_id, b'{"ok":true}', emits=[Emit("q.ai", b"{}")])
            await journal.accept([NewTask(each, "test.echo", payload, "q.api") for each in ids[1:]])
            fragile = payload[:-1] + (b"," if ledger else b"") + b'"note":"%s"}' % FRAGILE
            await journal.accept([NewTask(each, "test.echo", fragile, "q.api") for each in ids[:1]])

    asyncio.run(go())
    return ids


def counts(shard: WorkerProcess) -> dict[str, int]:
    async def go() -> dict[str, int]:
        async with await with_journal(shard) as journal:
            return (await journal.statistics()).counts.model_dump()

    return asyncio.run(go())


def runs(ledger: Path) -> Counter[str]:
    """How often each task ran."""
    return Counter(line.split()[1] for line in ledger.read_text().splitlines()) if ledger.exists() else Counter()


def run_elsewhere(worker: WorkerProcess, queues: Queues, ledger: Path, ids: list[str]) -> None:
    worker.start()
    worker.wait_ready()
    wait_for(lambda: set(runs(ledger)) >= set(ids) and not queues.ready("q.api"), "all ran", timeout_s=WITHIN_S)
    worker.wait_for(lambda r: not r.counts.due and not r.counts.running, "idle", timeout_s=WITHIN_S)


@pytest.mark.postgres
def test_a_drain_leaves_an_empty_journal_and_each_task_runs_once_elsewhere(
    shard: WorkerProcess, job: JobProcess, elsewhere: WorkerProcess, queues: Queues, postgres_dsn: str, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    job.env |= postgres_environment(postgres_dsn)
    shard.sync_to(batch_size=50)
    ids = fill(shard, pending=300, completed=120, ledger=ledger)
    code, report = job.run("drain")
    assert (code, report.succeeded, report.empty, report.error) == (0, True, True, "")
    assert (report.republished, report.published, report.synced) == (300, 420, 120)
    assert (report.unfinished, report.unsent, report.unsynced) == (0, 0, 0)
    assert (report.job, report.shard) == (JobName.DRAIN, "storage-0")
    assert (queues.ready("q.api"), queues.ready("q.ai")) == (300, 120)

    async def synced() -> int:
        connection = await asyncpg.connect(postgres_dsn)
        try:
            like = f"{ids[0].split('-')[0]}-done-%"
            return int(await connection.fetchval("SELECT count(*) FROM task_results WHERE task_id LIKE $1", like))
        finally:
            await connection.close()

    assert asyncio.run(synced()) == 120
    run_elsewhere(elsewhere, queues, ledger, ids)
    assert runs(ledger) == dict.fromkeys(ids, 1)


def test_a_drain_that_is_killed_again_and_again_comes_to_the_same_end(
    shard: WorkerProcess, job: JobProcess, elsewhere: WorkerProcess, queues: Queues, tmp_path: Path
) -> None:
    """Whatever was confirmed twice carries one generation: elsewhere it runs once."""
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ledger = tmp_path / "ledger"
    ids = fill(shard, pending=4000, ledger=ledger)
    killed = 0
    for _ in range(KILLS_MAX):
        process = job.begin("drain")
        begun_with = queues.ready("q.api")
        # In the midst of its work, however fast the machine is.
        wait_for(
            lambda process=process, least=begun_with + MESSAGES_BEFORE_A_KILL: (
                process.poll() is not None or queues.ready("q.api") >= least
            ),
            "some messages have gone out",
            timeout_s=WITHIN_S,
        )
        time.sleep(chance.uniform(0, 0.02))
        if process.poll() is None:
            process.kill()
            killed += 1
        process.communicate()
        if process.returncode == 0:
            break
    code, report = job.run("drain")
    assert (code, report.empty) == (0, True)
    assert killed >= 3
    assert queues.ready("q.api") >= len(ids)
    run_elsewhere(elsewhere, queues, ledger, ids)
    assert runs(ledger) == dict.fromkeys(ids, 1)


def test_a_task_given_back_keeps_its_attempts_its_start_and_raises_its_generation(
    shard: WorkerProcess, job: JobProcess, queues: Queues
) -> None:
    later = time.time() + 3600

    async def go() -> None:
        async with await with_journal(shard) as journal:
            await journal.accept([NewTask("again", "test.echo", b"{}", "q.api", generation=4, attempts=2)])
            await journal.claim(1, names={"test.echo": 9})
            await journal.retry("again", "not yet", not_before=later)
            # A task that ran when its process was killed, and one whose name no image knows.
            await journal.accept(
                [NewTask("ran", "test.echo", b"{}", "q.api"), NewTask("odd", "no.such", b"{}", "q.api")]
            )
            await journal.claim(1, names={"test.echo": 9})

    asyncio.run(go())
    code, report = job.run("drain")
    assert (code, report.republished, report.empty) == (0, 3, True)
    found = {headers["x-eco-task-id"]: headers for headers, _, _ in queues.take("q.api")}
    assert set(found) == {"again", "ran", "odd"}
    assert (found["again"]["x-eco-generation"], found["again"]["x-eco-attempts"]) == ("5", "3")
    assert float(found["again"]["x-eco-not-before"]) == pytest.approx(later)
    assert (found["ran"]["x-eco-generation"], found["ran"]["x-eco-attempts"]) == ("1", "1")


def test_a_sync_leaves_unfinished_tasks_to_the_next_worker(
    shard: WorkerProcess, job: JobProcess, queues: Queues
) -> None:
    fill(shard, pending=7, completed=3)
    code, report = job.run("sync")
    assert (code, report.succeeded, report.empty) == (0, True, False)
    assert (report.unfinished, report.published, report.synced, report.unsynced) == (7, 3, 0, 0)
    assert (queues.ready("q.ai"), queues.ready("q.api")) == (3, 0)


def test_a_broker_that_is_away_is_named_and_nothing_is_lost(
    shard: WorkerProcess, job: JobProcess, queues: Queues
) -> None:
    fill(shard, pending=5)
    job.env["RABBITMQ_URL"] = AWAY
    code, report = job.run("drain", "--timeout", "2")
    assert (code, report.succeeded, report.empty) == (1, False, False)
    assert "127.0.0.1:9" in report.error
    assert "guest:guest" not in report.error
    assert (report.republished, report.unsent) == (5, 5)
    job.env["RABBITMQ_URL"] = queues.url
    code, report = job.run("drain")
    assert (code, report.empty, report.republished, report.published) == (0, True, 0, 5)
    assert queues.ready("q.api") == 5


def test_a_signal_ends_a_job_in_order_and_the_next_one_goes_on(
    shard: WorkerProcess, job: JobProcess, queues: Queues
) -> None:
    fill(shard, pending=5)
    job.env["RABBITMQ_URL"] = AWAY
    process = job.begin("drain")
    assert process.stderr is not None
    while "given back" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    code, report = job.end(process)
    assert (code, report.succeeded) == (1, False)
    assert report.error.startswith("stopped, run it again")
    job.env["RABBITMQ_URL"] = queues.url
    assert job.run("drain")[1].empty


def test_a_message_that_reaches_no_queue_is_told_and_kept(
    shard: WorkerProcess, job: JobProcess, queues: Queues
) -> None:
    async def go() -> None:
        async with await with_journal(shard) as journal:
            await journal.accept(
                [NewTask("a", "test.echo", b"{}", "q.nowhere"), NewTask("b", "test.echo", b"{}", "q.api")]
            )

    asyncio.run(go())
    code, report = job.run("drain")
    assert (code, report.unsent, report.published, report.empty) == (1, 1, 1, False)
    assert "reach no queue" in report.error
    assert queues.ready("q.api") == 1


@pytest.mark.postgres
def test_rows_that_cannot_be_synced_are_told_with_the_reason(
    shard: WorkerProcess, job: JobProcess, postgres_dsn: str
) -> None:
    fill(shard, completed=4)
    shard.sync_to()
    code, report = job.run("sync")
    assert (code, report.unsynced, report.unsent) == (1, 4, 0)
    assert "POSTGRES_HOST" in report.error
    job.env |= postgres_environment(postgres_dsn) | {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "9"}
    # Time enough to import the client and to try once, on a busy machine too.
    code, report = job.run("sync", "--timeout", "8")
    assert (code, report.unsynced) == (1, 4)
    assert "127.0.0.1:9" in report.error
    job.env |= postgres_environment(postgres_dsn)
    code, report = job.run("sync")
    assert (code, report.synced, report.unsynced, report.empty) == (0, 4, 0, True)


def test_a_wrong_setting_is_in_the_report_too(job: JobProcess) -> None:
    job.env["ECO_CONCURRENCY"] = "many"
    code, report = job.run("drain")
    assert (code, report.succeeded) == (2, False)
    assert "ECO_CONCURRENCY" in report.error


async def test_a_journal_that_somebody_holds_is_left_alone(shard: WorkerProcess) -> None:
    async with await with_journal(shard):
        for name in JobName:
            made = ShardJob(name, settings_of(shard), limits=Limits(lock_wait_s=0.2))
            ended = await made.run()
            assert (ended.exit_code, ended.report.succeeded) == (70, False)
            assert JournalLockedError.__name__ in ended.report.error
            assert "is held by process" in ended.report.error


def test_a_journal_that_is_not_the_known_one_is_left_alone(shard: WorkerProcess, job: JobProcess) -> None:
    fill(shard, pending=2)
    job.know(str(uuid.uuid4()))
    for words in (("drain",), ("sync",), ("recover",), ("recover", "--dry-run")):
        code, report = job.run(*words)
        assert (code, report.succeeded) == (70, False)
        assert "is it the right volume" in report.error
    assert counts(shard)["due"] == 2


# Recovery


def settings_of(shard: WorkerProcess, **env: str) -> Settings:
    return load(shard.environment | env)


def damage(shard: WorkerProcess) -> None:
    """Flip a bit in one row, and mark the journal as the worker that read it would: no worker opens it any more."""
    data = bytearray(shard.journal.read_bytes())
    data[data.index(FRAGILE) + 2] ^= 1
    shard.journal.write_bytes(data)
    quarantine(Plan(shard.journal, IDENTITY), "a row does not fit its checksum")


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def test_a_damaged_journal_is_set_right_and_its_tasks_run(
    shard: WorkerProcess, job: JobProcess, elsewhere: WorkerProcess, queues: Queues, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    ids = fill(shard, pending=50, completed=4, ledger=ledger)
    code, sound = job.run("recover")
    assert (code, sound.action, sound.unfinished, sound.published) == (0, "none", 50, 4)
    job.know(sound.journal_uuid)
    damage(shard)
    code, refused = job.run("drain")
    assert (code, refused.succeeded) == (70, False)
    before = contents(shard.journal.parent)
    code, plan = job.run("recover", "--dry-run")
    assert (code, plan.action, plan.dry_run, plan.moved_aside) == (0, "rebuilt", True, "")
    assert (plan.salvaged, plan.distrusted) == (53, 1)
    assert contents(shard.journal.parent) == before
    code, done = job.run("recover")
    assert (code, done.action, done.salvaged, done.journal_uuid) == (0, "rebuilt", 53, sound.journal_uuid)
    assert "checksum" in done.problems[0]
    [(headers, _, _)] = queues.take("q.dlq")
    assert "salvaged from a damaged journal" in headers["x-eco-reason"]
    ids.remove(headers["x-eco-message-id"])
    assert done.epoch > sound.epoch
    assert (shard.journal.parent / done.moved_aside).read_bytes() == before[str(shard.journal)]
    assert job.run("recover")[1].action == "none"
    assert job.run("drain")[1].republished == len(ids)
    run_elsewhere(elsewhere, queues, ledger, ids)
    assert runs(ledger) == dict.fromkeys(ids, 1)


def test_a_recovery_that_is_killed_again_and_again_comes_to_the_same_end(
    shard: WorkerProcess, job: JobProcess, queues: Queues
) -> None:
    seed = random.randrange(1_000_000)
    print(f"seed {seed}")
    chance = random.Random(seed)
    ids = fill(shard, pending=3000)
    damage(shard)
    for _ in range(8):
        process = job.begin("recover")
        time.sleep(chance.uniform(0.4, 1.1))
        process.kill()
        process.communicate()
    code, report = job.run("recover")
    assert (code, report.unfinished) == (0, len(ids) - 1)
    assert len(list(shard.journal.parent.glob("*.aside-?"))) == 1
    assert job.run("drain")[1].empty
    [(headers, _, _)] = queues.take("q.dlq")
    ids.remove(headers["x-eco-message-id"])
    given = Counter(headers["x-eco-task-id"] for headers, _, _ in queues.take("q.api"))
    assert given == dict.fromkeys(ids, 1)


def test_a_lost_journal_begins_anew_under_the_known_name(shard: WorkerProcess, job: JobProcess) -> None:
    known = str(uuid.uuid4())
    job.know(known)
    assert job.run("drain")[0] == 70
    code, plan = job.run("recover", "--dry-run")
    assert (code, plan.action, shard.journal.exists()) == (0, "anew", False)
    code, report = job.run("recover")
    assert (code, report.action, report.journal_uuid, report.empty) == (0, "anew", known, True)
    assert job.run("drain")[0] == 0


def test_a_log_without_its_database_is_kept_beside_the_new_journal(shard: WorkerProcess, job: JobProcess) -> None:
    fill(shard, pending=2)
    copy = shard.directory / "copy"

    async def go() -> None:
        # A log as a killed worker leaves it: the copy is made while the journal is open.
        async with await with_journal(shard) as journal:
            await journal.accept([NewTask("c", "test.echo", b"{}", "q.api")])
            log = shard.journal.with_name("journal.db-wal")
            copy.write_bytes(await asyncio.to_thread(log.read_bytes))

    asyncio.run(go())
    shard.journal.unlink()
    log = shard.journal.with_name("journal.db-wal")
    log.write_bytes(copy.read_bytes())
    code, report = job.run("recover")
    assert (code, report.action, report.unfinished) == (0, "anew", 0)
    assert shard.journal.with_name("journal.db.aside-1-wal").read_bytes() == copy.read_bytes()


async def test_a_copy_from_elsewhere_is_the_base_of_what_is_salvaged(shard: WorkerProcess) -> None:
    """What only the copy and what only the damaged file holds are both there; a sound journal asks for no copy."""
    backup = shard.directory / "backup.db"
    asked: list[tuple[Path, bool]] = []

    async def restore(settings: Settings, target: Path, *, seal: bool) -> Path | None:
        asked.append((settings.wal_db_path, seal))
        await asyncio.to_thread(target.write_bytes, await asyncio.to_thread(backup.read_bytes))
        return target

    async with await with_journal(shard) as journal:
        await journal.accept([NewTask("early", "test.echo", b"{}", "q.api")])
        await journal.backup(backup)
    ended = await ShardJob(JobName.RECOVER, settings_of(shard), restore=restore).run()
    assert (ended.report.action, asked) == ("none", [])
    shard.journal.unlink()
    async with await with_journal(shard) as journal:
        await journal.accept([NewTask("torn", "test.echo", b'{"note":"%s"}' % FRAGILE, "q.api")])
        await journal.accept([NewTask("late", "test.echo", b"{}", "q.api")])
    damage(shard)
    ended = await ShardJob(JobName.RECOVER, settings_of(shard), dry_run=True, restore=restore).run()
    assert (ended.report.action, asked.pop()) == ("restored", (shard.journal, False))
    ended = await ShardJob(JobName.RECOVER, settings_of(shard), restore=restore).run()
    assert (ended.report.action, ended.report.unfinished, asked) == ("restored", 2, [(shard.journal, True)])
    assert not shard.journal.with_name("journal.db.base").exists()


async def test_a_recovery_does_not_fail_because_the_broker_is_away(
    shard: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard must not stay fenced for it: the worker that follows publishes."""
    monkeypatch.setattr(jobs_module, "SETTLE_S", 0.5)
    async with await with_journal(shard) as journal:
        await journal.accept([NewTask("a", "test.echo", b"{}", "q.api")])
        await journal.claim(1, names=frozenset({"test.echo"}))
        await journal.complete("a", b"{}", emits=[Emit("q.ai", b"{}")])
    ended = await ShardJob(JobName.RECOVER, settings_of(shard, RABBITMQ_URL=AWAY)).run()
    assert (ended.exit_code, ended.report.succeeded, ended.report.unsent) == (0, True, 1)
    assert "127.0.0.1:9" in "".join(ended.report.problems)
