"""The report of a job, as it is left for the operator."""

from typing import Any

from eco_crds.jobs import JobName, JobReport


def test_a_report_fits_the_kubelets_bound_whatever_is_in_it() -> None:
    long: dict[str, Any] = {"error": "\u2620" * 1024, "problems": ["\u2620" * 300] * 5, "moved_aside": "\u2620" * 255}
    report = JobReport(job=JobName.RECOVER, shard="storage-0", succeeded=False, journal_uuid="u" * 64, **long)
    line = report.line()
    assert len(line.encode()) <= 4096
    read = JobReport.model_validate_json(line)
    assert (read.shard, read.succeeded, len(read.error) >= 512) == ("storage-0", False, True)
    short = JobReport(job=JobName.SYNC, shard="storage-0", succeeded=True)
    assert JobReport.model_validate_json(short.line()) == short
