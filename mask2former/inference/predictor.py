"""Photo in, segments in the photo's own pixels out.

Shape letters: B photos, h × w the padded input.
"""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mask2former.inference import postprocess
from mask2former.inference.preprocess import MAX_PIXELS, PhotoError, Preprocess, read_photo
from mask2former.inference.segmentation import Segmentation
from mask2former.structures import TASKS, Outputs, PhotoSizes

AHEAD = 2  # batches of photos that are read while the network works


class Predictor:
    """Segments photos with a Mask2Former or a OneFormer; owns all that happens before and after the network.

    A photo is padded only to its own next multiple of 32, and only photos of equal padded size share a batch: what
    comes out for a photo never depends on the photos beside it.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        preset: str = "paper",
        size: int | tuple[int, int] | None = None,
        batch_size: int = 1,
        object_mask_threshold: float | None = None,
        overlap_threshold: float | None = None,
        instances_per_image: int | None = None,
        score_threshold: float = 0.0,
        max_pixels: int = MAX_PIXELS,
    ):
        """
        Args:
            model: with a `config`; it is put into evaluation mode, and moved if device or dtype say so.
            dtype: of the network; what follows it is float32 (float64 for float64).
            preset, size: see `Preprocess.from_protocol`.
            batch_size: photos of equal padded size that go through the network together.
            object_mask_threshold, overlap_threshold: of panoptic segmentation; by default the model's test protocol's.
            instances_per_image, score_threshold: of instance segmentation; by default the protocol's number, all of
                them whatever they score.
            max_pixels: a larger photo is refused.
        """
        protocol = model.config.protocol
        self.model = model.to(device=device, dtype=dtype).eval()
        self.classes, self.protocol = model.config.classes, protocol
        self.preprocess = Preprocess.from_protocol(protocol, preset, size)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: expected at least 1")
        self.batch_size, self.max_pixels = batch_size, max_pixels
        self._warned = False
        self.panoptic_options = {
            "object_mask_threshold": _default(object_mask_threshold, protocol.object_mask_threshold),
            "overlap_threshold": _default(overlap_threshold, protocol.overlap_threshold),
        }
        self.instance_options = {
            "instances": _default(instances_per_image, protocol.instances_per_image),
            "score_threshold": score_threshold,
        }

    def __call__(self, photos: Any, task: str | Sequence[str] | None = None) -> Any:
        """The `Segmentation` of a photo, or a list of them for a list of photos.

        photos: a path, a PIL image, an (H, W, 3) uint8 array, a (3, H, W) tensor (uint8, or float from 0 to 1), or a
            list of these in any mixture.
        task: "panoptic", "instance" or "semantic", by default the model's first; another than the model was trained
            for gives a warning. "all" gives a dict with those it was trained for, a list of tasks one with these;
            the photo goes through backbone and pixel decoder once for all of them.

        Raises PhotoError or FileNotFoundError for the first photo that cannot be read, ValueError for unknown tasks.
        """
        several = isinstance(photos, list | tuple)
        results = []
        for prediction in self.stream(photos if several else [photos], task):
            if prediction.error is not None:
                raise prediction.error
            results.append(prediction.result)
        return results if several else results[0]

    def stream(self, photos: Iterable[Any], task: str | Sequence[str] | None = None) -> Iterator[Prediction]:
        """Segment photos one after the other, as many as there are, and say how long each step took.

        Photos are read in a thread beside the network. A photo that cannot be read does not stop the others: its
        `Prediction` carries the error. Predictions come in the order of the photos.
        """
        tasks = self._tasks(task)  # complain now, not when the first result is asked for
        return self._stream(photos, tasks, single=task is None or task in TASKS)

    def _stream(self, photos: Iterable[Any], tasks: Sequence[str], single: bool) -> Iterator[Prediction]:
        photos = iter(photos)
        queue: deque[Future[Prediction]] = deque()  # being read
        waiting: deque[Prediction] = deque()  # in order; done, failed, or read
        with ThreadPoolExecutor(1, "photo reader") as reader:
            while True:
                while len(queue) < AHEAD * self.batch_size and (photo := next(photos, _END)) is not _END:
                    queue.append(reader.submit(self._read, photo))
                if not queue and not waiting:
                    return
                if queue:
                    waiting.append(queue.popleft().result())
                if batch := self._next_batch(waiting, last=not queue):
                    self._predict(batch, tasks, single)
                while waiting and waiting[0].done:
                    yield waiting.popleft()

    def _next_batch(self, waiting: Sequence[Prediction], last: bool) -> list[Prediction]:
        """Photos of one padded size: a full batch of the newest's, or what there is of the oldest's once no more is to
        come or too many wait."""
        read = [prediction for prediction in waiting if not prediction.done]
        if not read:
            return []
        batch = [p for p in read if p.sizes.padded == read[-1].sizes.padded][: self.batch_size]
        if len(batch) == self.batch_size:
            return batch
        if last or len(read) >= AHEAD * self.batch_size:
            return [p for p in read if p.sizes.padded == read[0].sizes.padded][: self.batch_size]
        return []

    def _read(self, source: Any) -> Prediction:
        start = time.perf_counter()
        prediction = Prediction(source)
        try:
            prediction.photo = read_photo(source, self.max_pixels)
            prediction.pixel_values, prediction.sizes = self.preprocess(prediction.photo)
        except (PhotoError, OSError) as error:
            prediction.error = error
        prediction.seconds["reading"] = time.perf_counter() - start
        return prediction

    @torch.inference_mode()
    def _predict(self, batch: Sequence[Prediction], tasks: Sequence[str], single: bool) -> None:
        """Fill in the results of photos of one padded size; single: for one task, not a dict."""
        start = time.perf_counter()
        parameter = next(self.model.parameters())
        pixel_values = torch.stack([p.pixel_values for p in batch]).to(
            parameter.device, parameter.dtype
        )  # (B, 3, h, w)
        outputs = run_network(self.model, pixel_values, tasks)
        if parameter.is_cuda:
            torch.cuda.synchronize(parameter.device)  # for the clock alone
        network = (time.perf_counter() - start) / len(batch)
        for row, prediction in enumerate(batch):
            start = time.perf_counter()
            found = {}
            for name, predicted in outputs.items():
                found[name] = self.segment(predicted[row], prediction.sizes, name)
                found[name].photo, found[name].name = prediction.photo, prediction.name
            prediction.result = found.popitem()[1] if single else found
            prediction.pixel_values = None
            prediction.seconds |= {"network": network, "post-processing": time.perf_counter() - start}

    def segment(self, outputs: Outputs, sizes: PhotoSizes, task: str) -> Segmentation:
        """The segments in the network's outputs for one photo: post-processing alone."""
        if task == "instance":
            masks, segments = postprocess.instance(outputs, sizes, self.classes, **self.instance_options)
            return Segmentation(task, segments, self.classes, masks=masks)
        if task == "panoptic":
            ids, segments = postprocess.panoptic(outputs, sizes, self.classes, **self.panoptic_options)
            return Segmentation(task, segments, self.classes, ids=ids.cpu().numpy())
        labels = postprocess.semantic(outputs, sizes, sum_first=self.protocol.tasks == ("semantic",))
        return Segmentation.from_labels(labels.cpu().numpy(), self.classes)

    def _tasks(self, task: str | Sequence[str] | None) -> tuple[str, ...]:
        """The tasks to do. Warns, once in the predictor's life, of such as the model was not trained for."""
        trained = self.protocol.tasks
        if task == "all":
            return trained
        tasks = (task,) if isinstance(task, str) else trained[:1] if task is None else tuple(task)
        if not tasks or not set(tasks) <= set(TASKS):
            raise ValueError(f"task {task!r}: expected one of {TASKS}, a list of them, or 'all'")
        untrained = [name for name in tasks if name not in trained]
        if untrained and not self._warned:
            self._warned = True
            warnings.warn(
                f"the model was trained for {', '.join(trained)}, not for {', '.join(untrained)}: expect worse results",
                stacklevel=3,
            )
        return tasks


@dataclass
class Prediction:
    """One photo on its way through a predictor, and what came of it."""

    source: Any  # the photo as it was given
    result: Segmentation | dict[str, Segmentation] | None = None
    error: Exception | None = None  # why there is no result
    seconds: dict[str, float] = field(default_factory=dict)  # reading, network, post-processing
    photo: Image.Image | None = None
    sizes: PhotoSizes | None = None
    pixel_values: Tensor | None = field(default=None, repr=False)  # until the network has seen them

    @property
    def done(self) -> bool:
        return self.result is not None or self.error is not None

    @property
    def name(self) -> str:
        return Path(self.source).stem if isinstance(self.source, str | os.PathLike) else "photo"


def run_network(model: nn.Module, pixel_values: Tensor, tasks: Sequence[str]) -> dict[str, Outputs]:
    """The outputs for each task. A Mask2Former answers all with the same; a OneFormer has its decoder run for each,
    and backbone and pixel decoder once."""
    if model.config.family != "oneformer":
        return dict.fromkeys(tasks, model(pixel_values))
    if len(tasks) == 1:
        return {tasks[0]: model(pixel_values, task=tasks[0])}
    mask_features, levels = model.pixel_decoder(model.backbone(pixel_values))
    tokens = {task: model.task_token(task, len(pixel_values)) for task in tasks}
    return {task: model.transformer_decoder(levels, mask_features, token) for task, token in tokens.items()}


_END = object()


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
