"""The README's two pictures: the sweep panel in JupyterLab after a sweep, and the report of that sweep.

Run it by hand on a quiet machine: `python benchmarks/pictures.py [--model FILE.gguf] [--into notebooks]`; two minutes.
Look at both pictures afterwards: the curve should rise with the level and bend.
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.chromium import opened_report
from support.lab import opened_notebook, running_lab
from support.processes import free_port

ASKED = {"levels": "1 2 4 8", "scenarios": "D(8,16)", "max seconds": "10", "n parallel": "8", "n threads": "2"}
NOT_SHOWN = ".jp-Toolbar { display: none } .tuner-panel { background: white }"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="", help="a .gguf file; by default the demo's model")
    parser.add_argument("--into", type=Path, default=Path("notebooks"), help="the folder of the pictures")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running_lab(folder, free_port()) as address, opened_notebook(address, "sweep") as page:
            page.get_by_text("Engine parameters").click()
            for field, value in (ASKED | {"model": asked.model}).items():
                page.get_by_label(field, exact=True).fill(value)
                page.keyboard.press("Tab")
            page.get_by_text("Engine parameters").click()
            page.get_by_role("button", name="Run sweep").click()
            page.get_by_text("done: 4 levels").wait_for(timeout=300_000)
            page.locator(".js-plotly-plot .scatterlayer .point").first.wait_for()
            page.set_viewport_size({"width": 1450, "height": 2400})
            page.add_style_tag(content=NOT_SHOWN)
            page.locator(".tuner-panel").screenshot(path=asked.into / "panel.png")
        (report,) = folder.glob("runs/*/report.html")
        with opened_report(report, width=1000, height=880) as seen:
            seen.page.screenshot(path=asked.into / "report.png")


if __name__ == "__main__":
    main()
