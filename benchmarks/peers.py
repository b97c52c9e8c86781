"""What else a user could pick: transformers' network compiled, or exported and run by ONNX Runtime or by OpenVINO.

All in one interleaved run at 640 × 640, on the CPU, in as many threads each. Before anything is timed, what a peer
computes is compared with transformers' eager network. A peer whose packages are not installed is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks import measure, models, runtimes
from benchmarks.report import Row, size_text
from benchmarks.settings import Settings

MODEL, SIZE = "mask2former_swin_tiny", (640, 640)
INSTALL = 'pip install -e ".[peers]"'


def rows(settings: Settings) -> Iterator[Row | str]:
    if settings.quick:
        yield "peers are left out of a quick run: exporting and compiling takes minutes"
        return
    with models.saved(MODEL) as folder:
        ours, theirs = (models.load(side, folder) for side in ("ours", "transformers"))
    yield from peer_rows(ours, theirs, torch.randn(1, 3, *SIZE), settings)


def peer_rows(ours, theirs, pixel_values: Tensor, settings: Settings, compiled: bool = True) -> Iterator[Row | str]:
    """compiled: also measure both sides under `torch.compile`, which takes a minute or two each."""
    with torch.inference_mode():
        expected = runtimes.TwoOutputs(theirs)(pixel_values)
    works: dict[str, Callable[[], object]] = {
        "transformers eager": lambda: models.run_theirs(theirs, pixel_values),
        "ours eager": lambda: models.run_ours(ours, pixel_values),
    }
    if compiled:
        works["ours compiled"] = models.compiled_ours(ours, pixel_values)
        try:
            network = torch.compile(runtimes.TwoOutputs(theirs), dynamic=False)
            run = torch.inference_mode()(lambda: network(pixel_values))
            yield difference("transformers compiled", run(), expected)
            works["transformers compiled"] = run
        except Exception as error:  # the others are still worth a number
            yield f"transformers compiled is left out: {' '.join(str(error).split())[:300]}"
    for name in runtimes.PACKAGES:
        if lacking := runtimes.missing(name):
            yield f"{name} is left out: {', '.join(lacking)} not installed; {INSTALL}"
    loaded, reasons = runtimes.load(theirs, pixel_values, settings.threads)
    yield from (f"{name} is left out: {reason}" for name, reason in reasons.items())
    array = pixel_values.numpy()
    for name, run in loaded.items():
        yield difference(name, run(array), expected)
        works[name] = lambda run=run: run(array)
    seconds = {name: parts["all"] for name, parts in measure.interleaved_medians(works, settings.repeats).items()}
    size = size_text(tuple(pixel_values.shape[2:]))
    for side in ("eager", "compiled") if compiled else ("eager",):
        for peer in [name for name in seconds if not name.startswith("ours")]:
            how = peer.removeprefix("transformers ")
            part = f"ours {side}, transformers {'' if how != peer else 'by '}{how}"
            yield Row(f"peers, {MODEL}", size, part, seconds[f"ours {side}"], seconds[peer])


def difference(name: str, outputs: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> str:
    """A note on how far a peer is from transformers' eager network."""
    off = [(a - b).abs().max().item() for a, b in zip(outputs, expected, strict=True)]
    large = [b.abs().max().item() for b in expected]
    return (
        f"{name} differs from transformers eager by at most {off[0]:.1g} in class logits (of up to {large[0]:.2g}) and "
        f"{off[1]:.1g} in mask logits (of up to {large[1]:.2g})"
    )
