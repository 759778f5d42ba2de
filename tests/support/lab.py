"""JupyterLab on loopback, driven as a person does: open a notebook, run its cells, use its widgets."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import urllib.request

from support.chromium import browser_page
from support.commands import CHECKOUT
from support.processes import wait_until

READY = """async () => {
  const page = window.jupyterapp.shell.currentWidget;
  await page.context.ready;
  await page.sessionContext.ready;
  const kernel = page.sessionContext.session.kernel;
  await kernel.info;
  while (kernel.status !== "idle") await new Promise(go => setTimeout(go, 50));
}"""


@contextlib.contextmanager
def running_lab(folder, port):
    """JupyterLab over a copy of our notebooks in `folder`; gives its address."""
    shutil.copytree(CHECKOUT / "notebooks", folder, dirs_exist_ok=True)
    own = ("CONFIG_DIR", "RUNTIME_DIR", "DATA_DIR")
    settings = {f"JUPYTER_{name}": str(folder / ".jupyter" / name) for name in own}
    settings |= {f"JUPYTERLAB_{name}_DIR": str(folder / ".jupyter" / name) for name in ("SETTINGS", "WORKSPACES")}
    options = [
        *("--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        *(f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--ServerApp.password="),
        *("--expose-app-in-browser", "--LabApp.news_url=None", "--KernelManager.shutdown_wait_time=2"),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with open(folder / "lab.log", "w") as log:
        lab = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=os.environ | settings | {"TMPDIR": str(folder), "PYTHONPATH": str(CHECKOUT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: lab.poll() is not None or answers(f"{address}/api"), 60)
        assert lab.poll() is None, (folder / "lab.log").read_text()[-2000:]
        yield address
    finally:
        lab.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            lab.wait(30)
        if lab.poll() is None:  # a kernel keeps it waiting, which ends with it
            os.killpg(lab.pid, signal.SIGKILL)
            lab.wait()


def answers(url):
    """Whether somebody serves `url`."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
        return True
    return False


@contextlib.contextmanager
def opened_notebook(address, name):
    """A page with the notebook open, its cells run."""
    from playwright.sync_api import expect

    with browser_page(width=1300, height=1200) as seen:
        seen.page.set_default_timeout(60_000)
        expect.set_options(timeout=30_000)  # a slow machine, and a kernel that computes
        seen.page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
        run_all_cells(seen.page)
        yield seen.page


def run_all_cells(page):
    """Run the open notebook's cells once its kernel is there."""
    page.wait_for_function("window.jupyterapp?.shell.currentWidget?.sessionContext")
    page.evaluate(READY)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
