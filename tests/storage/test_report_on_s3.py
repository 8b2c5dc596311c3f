"""The report of a run that lies in an object store, read there and written there."""

from tests.report.synthetic_run import SOURCES, SyntheticRun
from tests.storage.s3_server import S3Server
from wrpo_ray.cli import main
from wrpo_ray.storage.location import locate


def test_report_from_and_to_an_object_store(s3: S3Server) -> None:
    folder = locate(f"s3://{s3.new_bucket()}/runs/synthetic")
    run = SyntheticRun(folder, num_prompts=12, sources=SOURCES[:2], num_steps=20).run()
    run.fail("wrpo", "an error of an earlier start")
    assert main(["report", str(folder)]) == 0
    page = (folder / "report.html").read_bytes().decode("utf-8")
    # One synthetic prompt has no quadruple.
    assert page.count('<article class="quadruple"') == 11
    assert page.count("<figure ") == 17
    assert main(["compare", str(folder), f"{folder}/"]) == 2
