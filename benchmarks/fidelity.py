"""What tuner, bare genai-bench and GuideLLM read of a server whose times are known, in turn at levels 1, 8 and 64.

`python benchmarks/fidelity.py [--guidellm EXECUTABLE] [--levels 1,8,64] [--seconds 10] [--rounds 1]`. GuideLLM 0.8.1
needs an environment of its own (`python3 -m venv DIR && DIR/bin/pip install guidellm==0.8.1`, then name
`DIR/bin/guidellm`); without, its rows are left out. The server is `tuner.traffic.stub`, which says when it sent what:
that is the truth of a row. Every tool's own files are read by `tuner.load_batches`. The ideal throughput is that of
users who send again at once.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from sweep_overhead import OURS, bare

import tuner
from tuner.engines.gguf import demo_model, tokenizer_folder
from tuner.traffic.stub import MODEL

PROMPT, OUTPUTS = 50, 50
QUIET = {"ENABLE_UI": "false", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
SERVER = [sys.executable, "-m", "tuner.traffic.stub", "--ttft", "0.1", "--itl", "0.01"]


def ours(url, tokenizer, folder, level, seconds):
    """A sweep of one level, attached to the server."""
    asked = {
        "engine": "attach",
        "base_url": url,
        "tokenizer": tokenizer,
        "scenarios": [f"D({PROMPT},{OUTPUTS})"],
        "levels": [level],
        "max_seconds": seconds,
        "max_requests": 10**6,
        "warmup_requests": 0,
    }
    return [sys.executable, "-c", OURS, json.dumps(asked), str(folder)]


def genai_bench(url, tokenizer, folder, level, seconds):
    """Its own command and client."""
    return bare(url, tokenizer, folder, [level], (f"D({PROMPT},{OUTPUTS})", seconds))


def guidellm(executable):
    """What makes its command."""

    def command(url, tokenizer, folder, level, seconds):
        options = {
            "backend": f"kind=openai_http,target={url},model={MODEL}",
            "profile": f"kind=concurrent,streams={level}",
            "constraint": f"kind=max_duration,seconds={seconds:.0f}",
            "tokenizer": f"kind=huggingface_auto,model={tokenizer}",
            "data": f"kind=synthetic_text,prompt_tokens={PROMPT},output_tokens={OUTPUTS}",
            "output": f"kind=json,path={folder / 'benchmarks.json'}",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        return [executable, "run", *flags, "--disable-console"]

    return command


def measure(make_command, url, tokenizer, level, seconds):
    """TTFT and TPOT in milliseconds, and the share of the ideal throughput, as a tool reads them; then the truth."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "run"
        folder.mkdir()
        httpx.get(f"{url}/served", trust_env=False)  # forgets what it sent before
        command = make_command(url, tokenizer, folder, level, seconds)
        done = subprocess.run(command, check=False, cwd=name, env=os.environ | QUIET, capture_output=True, text=True)
        sent = httpx.get(f"{url}/served", trust_env=False).json()
        batches = tuner.load_batches(folder)
    if done.returncode or batches.empty or not sent["requests"]:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:] or done.stdout[-2000:]}")
    row = batches.iloc[-1]
    ideal = level * OUTPUTS / (sent["ttft"] + sent["tpot"] * (OUTPUTS - 1))
    read = (row["ttft_p50"] * 1000, row["tpot_p50"] * 1000, row["output_throughput"] / ideal * 100)
    return *read, sent["ttft"] * 1000, sent["tpot"] * 1000


def main():
    """Print a table of what each tool read at each level."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--guidellm", metavar="EXECUTABLE", help="of GuideLLM 0.8.1, in an environment of its own")
    parser.add_argument("--levels", default="1,8,64")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    tools = {"tuner": ours, "genai-bench": genai_bench}
    if asked.guidellm:
        tools["GuideLLM"] = guidellm(asked.guidellm)
    else:
        print("GuideLLM is left out: --guidellm names its executable")
    tokenizer = str(tokenizer_folder(demo_model()))
    print("level  tool         TTFT read    true   added (ms)  TPOT read    true   added (ms)  throughput (% of ideal)")
    with subprocess.Popen(SERVER, stdout=subprocess.PIPE, text=True) as server:
        url = server.stdout.readline().split()[-1]
        try:
            for level in map(int, asked.levels.split(",")):
                for name, make_command in [*tools.items()] * asked.rounds:
                    ttft, tpot, share, true_ttft, true_tpot = measure(
                        make_command, url, tokenizer, level, asked.seconds
                    )
                    print(
                        f"{level:>5}  {name:<12} {ttft:>8.2f} {true_ttft:>8.2f} {ttft - true_ttft:>+11.2f}"
                        f"  {tpot:>9.3f} {true_tpot:>8.3f} {tpot - true_tpot:>+11.3f}  {share:>14.1f}",
                        flush=True,
                    )
        finally:
            server.kill()


if __name__ == "__main__":
    main()
