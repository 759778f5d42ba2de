"""The report's own field for a load: how many servers it takes, in the words of Python."""

import pytest
from support import result_files
from support.chromium import needs_chromium, opened_report

from tuner.judging.costs import Target, fleet_text
from tuner.judging.slo import SLO
from tuner.report.results import read_results
from tuner.report.write import write_report

pytestmark = needs_chromium
LIMIT = SLO.parse({"ttft": {"p90": {"threshold": 0.25}}})


@pytest.fixture
def run(tmp_path):
    trial = result_files.run(tmp_path / "run", [1, 2, 4])
    for level in (1, 2, 4):
        requests = [result_files.request(ttft=0.1 * level + 0.0001 * n) for n in range(60)]
        result_files.add_level(trial, level, result_files.result(requests, level=level))
    return tmp_path / "run"


def test_the_field_says_what_python_says(run, tmp_path):
    report = write_report(run, tmp_path / "r.html", LIMIT)
    summary = read_results(run, slo=LIMIT).summary
    with opened_report(report) as seen:
        page = seen.page
        page.click("#fleet summary")
        page.fill("#fleet input[data-unit='requests/s']", "400")
        page.fill("#fleet input[data-unit='users at once']", "500")
        said = page.text_content("#servers")
        assert said == " ".join(fleet_text(summary, Target(400, 500), 0, None)[:-1])
        page.locator("#limit-ttft_p90").fill("1")  # the tightest limit: no level meets it any more
        assert page.text_content("#servers").startswith("For 400 requests/s: none, since no level meets the SLO.")
        assert not seen.errors
