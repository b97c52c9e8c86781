"""Photo in, segments in the photo's own pixels out.

Shape letters: B photos, h × w the padded input.
"""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Literal, overload

import torch
from torch import nn

from mask2former.bounds import Amount, Count, Share, check_arguments, shown
from mask2former.errors import PhotoError
from mask2former.finite import NotFinite, require_finite
from mask2former.inference import postprocess
from mask2former.inference.memory import MemoryBudget
from mask2former.inference.merge import MergedMap, MergedMasks
from mask2former.inference.network import Clock, compile_network, run_network
from mask2former.inference.photo import MAX_PIXELS, Photo, PhotoWarning, open_photo
from mask2former.inference.prediction import Prediction
from mask2former.inference.preprocess import Preprocess
from mask2former.inference.segmentation import Segmentation
from mask2former.inference.side_thread import side_thread
from mask2former.structures import TASKS, ClassInfo, Outputs, PhotoSizes, Protocol, Task

AHEAD = 2  # batches of photos that are read while the network works
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
SETTINGS = {
    "batch_size": Count,
    "object_mask_threshold": Share | None,
    "overlap_threshold": Share | None,
    "instances_per_image": Count | None,
    "score_threshold": Share,
    "max_pixels": Amount,
    "memory": Amount | None,
    "compile": bool | str,
}


class Predictor:
    """Segments photos with a Mask2Former or a OneFormer; owns all that happens before and after the network.

    A photo is padded only to its own next multiple of 32, and only photos of equal padded size share a batch: what
    comes out for a photo never depends on the photos beside it.
    """

    model: nn.Module
    classes: tuple[ClassInfo, ...]
    protocol: Protocol

    def __init__(
        self,
        model: nn.Module,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        preset: str = "paper",
        size: int | tuple[int, int] | str | None = None,
        batch_size: int = 1,
        object_mask_threshold: float | None = None,
        overlap_threshold: float | None = None,
        instances_per_image: int | None = None,
        score_threshold: float = 0.0,
        max_pixels: int = MAX_PIXELS,
        memory: int | None = None,
        compile: bool | str = False,
    ):
        """
        Args:
            model: with a `config`; it is put into evaluation mode, and moved if device or dtype say so. What is done to
                it later counts (other weights, another device or dtype), but training mode is undone, with a warning.
            dtype: of the network; what follows it is float32 (float64 for float64).
            preset, size: see `Preprocess.from_protocol`.
            batch_size: photos of equal padded size that go through the network together.
            object_mask_threshold, overlap_threshold: of panoptic segmentation; by default the model's test protocol's.
            instances_per_image, score_threshold: of instance segmentation; by default the protocol's number, all of
                them whatever they score.
            max_pixels: a larger photo is refused.
            memory: a ceiling in bytes above the loaded model, in the main memory or the GPU's (`memory.py` has the
                estimate, which allows for a photo of the same size being read meanwhile). A photo that would need more
                goes through the network in as few overlapping windows as fit; batches are smaller where they have to
                be, and post-processing no longer runs beside the network. ValueError if not even a window of 256 × 256
                fits; what is too large for the ceiling in such windows is a PhotoError.

        Raises ValueError naming an argument whose value makes no sense.
        """
        given = locals()
        check_arguments(SETTINGS, given)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in DTYPES):
            raise ValueError(f"dtype={shown(dtype)}: expected one of {', '.join(map(str, DTYPES))}")
        protocol = model.config.protocol
        try:
            self.model = model.to(device=device if device is None else torch.device(device), dtype=dtype).eval()
        except (RuntimeError, TypeError, ValueError, OverflowError, AssertionError) as error:
            if "memory" in str(error):
                raise
            raise ValueError(f"device={shown(device)}: {str(error).partition(chr(10))[0]}") from error
        self.classes, self.protocol = model.config.classes, protocol
        self.preprocess = Preprocess.from_protocol(protocol, preset, size)
        self.batch_size, self.max_pixels = batch_size, max_pixels
        self._warned = self._warned_of_training = False
        self.panoptic_options = {
            "object_mask_threshold": _default(object_mask_threshold, protocol.object_mask_threshold),
            "overlap_threshold": _default(overlap_threshold, protocol.overlap_threshold),
        }
        self.instance_options = {
            "instances": _default(instances_per_image, protocol.instances_per_image),
            "score_threshold": score_threshold,
        }
        self.compile_mode = compile if isinstance(compile, str) else None
        if compile:
            compile_network(self.model, self.compile_mode)
        self.budget = None if memory is None else MemoryBudget(memory, model, self.instance_options["instances"])

    @overload
    def __call__(self, photos: Photo, task: Task | None = None) -> Segmentation: ...
    @overload
    def __call__(
        self, photos: Photo, task: Literal["all"] | list[str] | tuple[str, ...]
    ) -> dict[str, Segmentation]: ...
    @overload
    def __call__(self, photos: Sequence[Photo], task: Task | None = None) -> list[Segmentation]: ...
    @overload
    def __call__(
        self, photos: Sequence[Photo], task: Literal["all"] | list[str] | tuple[str, ...]
    ) -> list[dict[str, Segmentation]]: ...
    @overload
    def __call__(self, photos: Photo, task: str) -> Segmentation | dict[str, Segmentation]: ...
    @overload
    def __call__(self, photos: Sequence[Photo], task: str) -> list[Segmentation] | list[dict[str, Segmentation]]: ...
    def __call__(self, photos: Any, task: str | Sequence[str] | None = None) -> Any:
        """The `Segmentation` of a photo, or a list of them for a list of photos.

        photos: a path, a PIL image, an (H, W, 3) uint8 array, a (3, H, W) tensor (uint8, or float from 0 to 1), or a
            list of these in any mixture.
        task: "panoptic", "instance" or "semantic", by default the model's first; another than the model was trained
            for gives a warning. "all" gives a dict with those it was trained for, a list of tasks one with these;
            the photo goes through backbone and pixel decoder once for all of them.

        Raises PhotoError or FileNotFoundError for the first photo that cannot be read, ValueError for unknown tasks and
        for a photo of which the network computes numbers that are not finite.
        """
        several = isinstance(photos, list | tuple)
        results = []
        for prediction in self.stream(photos if several else [photos], task):
            for note in prediction.notes:
                warnings.warn(f"{prediction.label}: {note}", PhotoWarning, stacklevel=2)
            if prediction.error is not None:
                raise prediction.error
            results.append(prediction.result)
        return results if several else results[0]

    def stream(self, photos: Iterable[Photo], task: str | Sequence[str] | None = None) -> Iterator[Prediction]:
        """Segment photos one after the other, as many as there are, and say how long each step took.

        Photos are read in a thread beside the network, and those of the last batch are post-processed in another. A
        photo that cannot be read does not stop the others: its `Prediction` carries the error. Predictions come in the
        order of the photos; whatever the network or post-processing raises comes after those that were done before.
        Closing the iterator ends the threads.
        """
        tasks = self._tasks(task)  # complain now, not when the first result is asked for
        return self._stream(photos, tasks, single=task is None or task in TASKS)

    def _stream(self, photos: Iterable[Any], tasks: Sequence[str], single: bool) -> Iterator[Prediction]:
        photos = iter(photos)
        reading: deque[Future[Prediction]] = deque()
        waiting: deque[Prediction] = deque()  # in order; failed, read, through the network, or done
        finishing: Future[None] | None = None  # post-processing of the last batch
        reader, finisher = side_thread("photo reader"), side_thread("post-processing")
        ahead = AHEAD * self.batch_size if self.budget is None else 2  # the second tells whether there are more
        try:
            while True:
                while len(reading) < ahead and (photo := next(photos, _END)) is not _END:
                    reading.append(reader.submit(self._read, photo, tasks))
                if reading:
                    waiting.append(reading.popleft().result())
                batch = self._next_batch(waiting, last=not reading)
                if batch and batch[0].windows:
                    self._predict_windows(*batch, tasks, single, finisher)
                    batch = []
                outputs = self._predict(batch, tasks) if batch else None
                if finishing is not None and (batch or not reading):
                    finishing.result()  # never more than two batches of outputs are there
                    finishing = None
                if batch:
                    finishing = finisher.submit(self._finish, batch, *outputs, single)
                    # The queue of "mps" is not for two threads at once, a ceiling not for two batches
                    if outputs[1].device.type == "mps" or self.budget is not None:
                        finishing.result()
                    outputs = None  # they go when they are post-processed, not when there are new ones
                while waiting and waiting[0].done:
                    yield waiting.popleft()
                if not reading and not waiting:
                    return
        except Exception:
            if finishing is not None:
                wait([finishing])
            while waiting and waiting[0].done:  # what is done is done
                yield waiting.popleft()
            raise
        finally:
            reader.shutdown(cancel_futures=True)
            finisher.shutdown(cancel_futures=True)

    def _next_batch(self, waiting: Sequence[Prediction], last: bool) -> list[Prediction]:
        """Photos of one padded size: a full batch of the newest's, or what there is of the oldest's once no more is to
        come or too many wait behind it."""
        read = [prediction for prediction in waiting if prediction.is_read]
        if not read:
            return []

        def beside(photo: Prediction) -> tuple[list[Prediction], bool]:
            alike = [p for p in read if (p.sizes.padded, not p.windows) == (photo.sizes.padded, not photo.windows)]
            most = min(p.together for p in alike)
            return alike[:most], len(alike) >= most

        batch, full = beside(read[-1])
        if full:
            return batch
        behind = len(waiting) - next(n for n, prediction in enumerate(waiting) if prediction is read[0])
        return beside(read[0])[0] if last or behind >= AHEAD * read[0].together else []

    def _read(self, source: Any, tasks: Sequence[str]) -> Prediction:
        start = time.perf_counter()
        prediction = Prediction(source, together=self.batch_size)
        try:
            photo, prediction.notes = open_photo(source, self.max_pixels)
            prediction.photo = photo
            prediction.sizes = self.preprocess.sizes((photo.height, photo.width))
            if self.budget is not None:
                self._fit(prediction, tasks)
            if not prediction.windows:
                prediction.pixel_values, _ = self.preprocess(photo)
        except (PhotoError, OSError) as error:
            prediction.error = error
        prediction.seconds["reading"] = time.perf_counter() - start
        return prediction

    def _fit(self, prediction: Prediction, tasks: Sequence[str]) -> None:
        """Keep a photo below the ceiling: alone or beside fewer others, or in windows. PhotoError if it cannot be."""
        try:
            prediction.windows = self.budget.windows(prediction.sizes, tasks)
        except ValueError as error:
            raise PhotoError(f"{prediction.name} is too large: {error}") from None
        most = 1 if prediction.windows else self.batch_size
        prediction.together = self.budget.together(prediction.sizes, tasks, most)

    @torch.inference_mode()
    def _predict(self, batch: Sequence[Prediction], tasks: Sequence[str]) -> tuple[dict[str, Outputs], Clock]:
        """The network's outputs for photos of one padded size, by task, and the clock that timed it."""
        self._leave_training()
        parameter = next(self.model.parameters())
        clock = Clock(parameter.device)
        pixel_values = torch.stack([p.pixel_values for p in batch]).to(
            parameter.device, parameter.dtype
        )  # (B, 3, h, w)
        for prediction in batch:
            prediction.pixel_values = None
        outputs = run_network(self.model, pixel_values, tasks, self.compile_mode)
        clock.stop()
        return outputs, clock

    def _predict_windows(
        self, prediction: Prediction, tasks: Sequence[str], single: bool, finisher: ThreadPoolExecutor
    ) -> None:
        """Fill in the result of a photo that is cut into windows, each of which goes the way of a photo, alone."""
        windows, seconds = prediction.windows, prediction.seconds
        merged = {
            task: MergedMasks(windows, self.classes) if task == "instance" else MergedMap(task, windows, self.classes)
            for task in tasks
        }
        for window in windows:
            start = time.perf_counter()
            part = Prediction(prediction.source, sizes=window.sizes)
            part.pixel_values = self.preprocess.window(prediction.photo, window.box, window.sizes)
            seconds["reading"] += time.perf_counter() - start
            finisher.submit(self._finish, [part], *self._predict([part], tasks), False).result()
            start = time.perf_counter()
            if part.error is not None:
                prediction.error = part.error
                return
            for name, found in part.result.items():
                merged[name].add(window, found)
            part.seconds["post-processing"] += time.perf_counter() - start
            for step, of_window in part.seconds.items():
                seconds[step] = seconds.get(step, 0.0) + of_window
        start = time.perf_counter()
        found = {name: of_task.result() for name, of_task in merged.items()}
        for result in found.values():
            result.photo, result.name = prediction.photo, prediction.name
        seconds["post-processing"] += time.perf_counter() - start
        prediction.result = found.popitem()[1] if single else found

    @torch.inference_mode()  # which holds for one thread only, and this is another
    def _finish(self, batch: Sequence[Prediction], outputs: dict[str, Outputs], clock: Clock, single: bool) -> None:
        """Fill in the results of a batch, once its outputs are there; single: for one task, not a dict."""
        with clock.beside():
            network = clock.seconds() / len(batch)
            for row, prediction in enumerate(batch):
                start = time.perf_counter()
                found = {}
                try:
                    for name, predicted in outputs.items():
                        found[name] = self.segment(predicted[row], prediction.sizes, name)
                        found[name].photo, found[name].name = prediction.photo, prediction.name
                except NotFinite as error:
                    prediction.error = ValueError(f"{prediction.label}: {error}")
                    continue
                prediction.seconds |= {"network": network, "post-processing": time.perf_counter() - start}
                prediction.result = found.popitem()[1] if single else found  # from here on it is done

    def segment(self, outputs: Outputs, sizes: PhotoSizes, task: str) -> Segmentation:
        """The segments in the network's outputs for one photo: post-processing alone. ValueError where these are not
        finite."""
        require_finite(outputs, self.model)
        if task == "instance":
            masks, segments = postprocess.instance(outputs, sizes, self.classes, **self.instance_options)
            return Segmentation(task, segments, self.classes, masks=masks)
        if task == "panoptic":
            ids, segments = postprocess.panoptic(outputs, sizes, self.classes, **self.panoptic_options)
            return Segmentation(task, segments, self.classes, ids=ids.cpu().numpy())
        labels = postprocess.semantic(outputs, sizes, sum_first=self.protocol.tasks == ("semantic",))
        return Segmentation.from_labels(labels.cpu().numpy(), self.classes)

    def _leave_training(self) -> None:
        """Back into evaluation mode where somebody has put the model, or a part of it, into training mode."""
        if any(module.training for module in self.model.modules()):
            self.model.eval()
            if not self._warned_of_training:
                self._warned_of_training = True
                warnings.warn(
                    "the predictor's model was put into training mode, where dropout makes its answers random; it is "
                    "in evaluation mode again",
                    stacklevel=2,
                )

    def _tasks(self, task: str | Sequence[str] | None) -> tuple[str, ...]:
        """The tasks to do. Warns, once in the predictor's life, of such as the model was not trained for."""
        trained = self.protocol.tasks
        if task == "all":
            return trained
        several = isinstance(task, list | tuple)
        tasks = tuple(task) if several else trained[:1] if task is None else (task,)
        if not tasks or any(not isinstance(name, str) or name not in TASKS for name in tasks):
            raise ValueError(f"task {task!r}: expected one of {TASKS}, a list of them, or 'all'")
        untrained = [name for name in tasks if name not in trained]
        if untrained and not self._warned:
            self._warned = True
            warnings.warn(
                f"the model was trained for {', '.join(trained)}, not for {', '.join(untrained)}: expect worse results",
                stacklevel=3,
            )
        return tasks


_END = object()


def _default(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
