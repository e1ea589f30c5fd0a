"""The example of own tasks does what it says: laid out as its Dockerfile lays it out, run by a real worker."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import boto3
import pytest

from eco_crds import contract
from eco_workers.client import NewMessage
from tests.support.lab import S3Target
from tests.support.processes import wait_for
from tests.support.queues import Queues
from tests.support.worker_process import ROOT, WorkerProcess

EXAMPLE = ROOT / "workers" / "examples" / "invoices"
DOCKERFILE = (EXAMPLE / "Dockerfile").read_text()
ORDER = {"customer": "a@b.example", "lines": [{"text": "tea", "pieces": 2, "price": "3.50"}]}


def laid_out(root: Path) -> dict[str, str]:
    """Do what the Dockerfile does, below another root; the variables that it sets."""
    for source, target in re.findall(r"^COPY (\S+) (\S+)$", DOCKERFILE, re.MULTILINE):
        shutil.copytree(EXAMPLE / source, root / target.lstrip("/"))
    [line] = re.findall(r"^ENV (.+)$", DOCKERFILE, re.MULTILINE)
    env = dict(word.split("=", 1) for word in line.split())
    return env | {"PYTHONPATH": str(root / env["PYTHONPATH"].lstrip("/"))}


def test_the_image_is_the_workers_own_and_one_folder() -> None:
    assert re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE) == ["${WORKER}"]
    assert re.search(r" AS storage$", (ROOT / "workers" / "Dockerfile").read_text(), re.MULTILINE)
    # Neither the user nor the entry point changes, so a pod of the operator's runs it as it runs ours.
    assert not re.search(r"^(USER|ENTRYPOINT|CMD|WORKDIR)", DOCKERFILE, re.MULTILINE)


def test_the_task_is_known_in_that_layout(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | laid_out(tmp_path)
    argv = [sys.executable, "-m", "eco_workers", "tasks"]
    shown = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"^invoice\.write +q\.batch +60 s +5x", shown.stdout, re.MULTILINE)


@pytest.mark.broker
@pytest.mark.s3
def test_an_invoice_is_written_once_and_the_mail_goes_out_behind_it(
    tmp_path: Path, amqp_url: str, s3: S3Target
) -> None:
    queues = Queues(amqp_url)
    queues.clean()
    env = laid_out(tmp_path / "image") | {
        contract.ENV_S3_ENDPOINT_URL: s3.endpoint_url, contract.ENV_S3_BUCKET: s3.bucket,
        contract.ENV_AWS_REGION: s3.region, contract.ENV_AWS_ACCESS_KEY_ID: s3.access_key,
        contract.ENV_AWS_SECRET_ACCESS_KEY: s3.secret_key,
    }  # fmt: skip
    client = boto3.client(
        "s3", endpoint_url=s3.endpoint_url, region_name=s3.region,
        aws_access_key_id=s3.access_key, aws_secret_access_key=s3.secret_key,
    )  # fmt: skip
    worker = WorkerProcess(tmp_path / "shard-0", amqp_url, env=env)
    worker.start()
    try:
        worker.wait_ready()
        free = {"customer": "a@b.example", "lines": [{"text": "air", "pieces": 1, "price": "0.00"}]}
        queues.send(
            NewMessage("invoice.write", ORDER, "q.batch", "first"),
            NewMessage("invoice.write", ORDER, "q.batch", "again"),
            NewMessage("invoice.write", free, "q.batch", "nothing"),
            NewMessage("invoice.write", {"customer": "x", "lines": []}, "q.batch", "empty"),
        )
        worker.wait_for(
            lambda r: r.counts.completed == 2 and r.counts.failed == 2 and not r.counts.outbox_unsent,
            "all ended", timeout_s=60,
        )  # fmt: skip
    finally:
        worker.kill()
    mails = [(headers["x-eco-task-name"], json.loads(body)) for headers, body, _ in queues.take("q.api")]
    [key] = {mail["invoice"] for _, mail in mails}
    assert (len(mails), mails[0][0], mails[0][1]["to"]) == (2, "mail.send", "a@b.example")
    text = client.get_object(Bucket=s3.bucket, Key=key)["Body"].read()
    assert key == f"invoices/{hashlib.sha256(text).hexdigest()}.txt"
    assert re.search(rb"Total +7\.00", text)
    wait_for(lambda: queues.ready("q.dlq") == 2, "two letters")
    reasons = {headers["x-eco-task-id"]: headers["x-eco-reason"] for headers, _, _ in queues.take("q.dlq")}
    assert "nothing to pay" in reasons["nothing"]
    assert "lines" in reasons["empty"]
