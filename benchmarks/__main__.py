"""All benchmarks: one command, one table.

python -m benchmarks                                  # everything on every device there is
python -m benchmarks --quick                          # small sizes, under two minutes on two cores
python -m benchmarks --only network memory --output FILE
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

# Other parts' processes and libraries read this, and only when they start.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from benchmarks import measure, report
from benchmarks.settings import Settings

# What each part is about, in the order of the table, and where it runs.
PARTS = {
    "network": ("time of the network, whole and by stage, eager and compiled", ("cpu", "cuda")),
    "peers": ("transformers compiled, in ONNX Runtime and in OpenVINO", ("cpu",)),
    "sampling": ("multi-scale deformable attention alone", ("cpu", "cuda")),
    "postprocessing": ("from logits to segments", ("cpu", "cuda")),
    "training": ("one training step and its memory", ("cpu", "cuda")),
    "memory": ("peak memory of one inference", ("cpu", "cuda")),
    "scaling": ("a quarter to 16 megapixels, and a whole large photo", ("cpu", "cuda")),
    "stream": ("photos a second of the whole command", ("cpu", "cuda")),
    "bfloat16": ("what bfloat16 changes in the answers", ("cpu", "cuda")),
    "throughput": ("images a second, tensor in, panoptic out", ("cuda",)),
}


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    devices = [torch.device(name) for name in options.device or ["cpu", *["cuda"] * torch.cuda.is_available()]]
    rows, notes, failed = [], [], False
    for device in devices:
        settings = Settings(
            device=device,
            quick=options.quick,
            repeats=options.repeats or (2 if options.quick else 5),
            threads=options.threads,
            force_bfloat16=options.force_bf16,
        )
        for part in options.only or PARTS:
            if device.type not in PARTS[part][1]:
                continue
            start = time.perf_counter()
            try:
                for found in importlib.import_module(f"benchmarks.{part}").rows(settings):
                    if isinstance(found, str):
                        notes.append(found)
                        print(f"{part}: {found}", file=sys.stderr, flush=True)
                        continue
                    found = replace(found, work=found.work + " on the GPU") if settings.on_gpu else found
                    rows.append(found)
                    print(f"{part}: {' | '.join(found.cells())}", file=sys.stderr, flush=True)
            except Exception as error:  # hours of other parts' numbers must not go with it
                failed = True
                traceback.print_exc()
                notes.append(f"{part} failed on {device}: {(str(error) or type(error).__name__).splitlines()[0]}")
            print(f"{part}: {time.perf_counter() - start:.0f} seconds in all", file=sys.stderr, flush=True)
    text = report.document(measure.machine(devices), rows, notes)
    print(text, end="")
    if options.output:
        options.output.write_text(text, encoding="utf-8")
    return int(failed)


def parser() -> argparse.ArgumentParser:
    said = "\n".join(f"  {part:15} {about}" for part, (about, _) in PARTS.items())
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Ours against transformers, and against its other runtimes. Parts:\n{said}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--quick", action="store_true", help="small sizes, two repeats at most: under two minutes")
    arguments.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="these parts alone")
    arguments.add_argument("--repeats", type=int, help="timed runs of each side (default 5)")
    arguments.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads of every side")
    arguments.add_argument("--device", action="append", choices=("cpu", "cuda"), help="may be repeated; default: all")
    arguments.add_argument(
        "--force-bf16", action="store_true", help="time bfloat16 on a CPU without instructions for it"
    )
    arguments.add_argument("--output", type=Path, metavar="FILE", help="write the table there, too")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
