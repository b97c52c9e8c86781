"""The predictor's stream: reading, network and post-processing side by side, in order, and nothing left behind."""

import itertools
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch

from mask2former.inference.predictor import AHEAD, Predictor
from tests.test_predictor import RedOrNot, photo_with_red

SMALL, LARGE = ((size, (3, 3, 30, 30)) for size in ((40, 60), (60, 40)))


class Recorded(RedOrNot):
    """Calls `before` with the number of the batch before it answers."""

    def __init__(self, before):
        super().__init__()
        self.before, self.batches = before, 0

    def forward(self, pixel_values):
        self.batches += 1
        self.before(self.batches)
        return super().forward(pixel_values)


def finishing(predictor, monkeypatch, before):
    """Let the predictor call `before` with the number of the photo before it is post-processed."""
    segment, numbers = predictor.segment, itertools.count(1)
    monkeypatch.setattr(predictor, "segment", lambda *arguments: before(next(numbers)) or segment(*arguments))


def side_threads():
    return [t.name for t in threading.enumerate() if t.name.startswith(("photo reader", "post-processing"))]


def photos(number, of=SMALL):
    return [photo_with_red(*of)] * number


def test_a_batch_is_post_processed_while_the_next_is_in_the_network(monkeypatch):
    """Each of the two waits for the other, which only works side by side."""
    meeting = threading.Barrier(2, timeout=20)
    predictor = Predictor(Recorded(lambda batch: batch > 1 and meeting.wait()))
    finishing(predictor, monkeypatch, lambda photo: photo < 5 and meeting.wait() and None)
    found = list(predictor.stream(photos(5)))
    assert len(found) == 5 and all(p.result.segments[0].label == "red thing" for p in found)


def test_results_come_while_later_photos_are_unread():
    """Also where the first photo waits for another of its size, and none comes."""
    asked = []

    def endless():
        for number in itertools.count():
            asked.append(number)
            yield photo_with_red(*(LARGE if number == 0 else SMALL))

    for batch_size in (1, 2, 3):
        asked.clear()
        with closing(Predictor(RedOrNot(), batch_size=batch_size).stream(endless())) as stream:
            first = next(stream)
            assert first.sizes.photo == LARGE[0] and len(asked) <= (2 * AHEAD + 2) * batch_size
            for taken, _ in enumerate(itertools.islice(stream, 20), start=2):
                assert len(asked) <= taken + (2 * AHEAD + 2) * batch_size


def test_what_the_network_raises_comes_after_what_was_done():
    def fail_in_third(batch):
        if batch == 3:
            raise torch.OutOfMemoryError("no memory left")

    done = []
    with pytest.raises(torch.OutOfMemoryError):
        for prediction in Predictor(Recorded(fail_in_third), batch_size=2).stream(photos(9)):
            done.append(prediction)
    assert len(done) == 4 and all(p.result is not None for p in done)
    assert not side_threads()


def test_what_post_processing_raises_comes_after_what_was_done(monkeypatch):
    predictor, done = Predictor(RedOrNot()), []
    finishing(predictor, monkeypatch, lambda photo: 1 / (photo - 4) and None)
    with pytest.raises(ZeroDivisionError):
        for prediction in predictor.stream(photos(9)):
            done.append(prediction)
    assert len(done) == 3 and not side_threads()
    with pytest.raises(ZeroDivisionError):
        finishing(predictor, monkeypatch, lambda photo: 1 / 0)
        predictor(photos(1)[0])


def test_what_the_source_of_photos_raises_comes_after_what_was_done():
    def source():
        yield from photos(7)
        raise OSError("the disk is gone")

    done = []
    with pytest.raises(OSError, match="disk is gone"):
        for prediction in Predictor(RedOrNot()).stream(source()):
            done.append(prediction)
    assert all(p.result is not None for p in done) and not side_threads()


def test_a_stream_closed_early_leaves_no_thread():
    stream = Predictor(RedOrNot()).stream(photos(50))
    next(stream)
    assert len(side_threads()) == 2
    stream.close()
    assert not side_threads() and next(stream, None) is None


@pytest.fixture
def control_c():
    """It is heard, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["network", "post-processing"])
def test_control_c_ends_a_stream_at_once(where, monkeypatch, control_c):
    """Wherever it strikes, it is the calling thread that hears of it: in the network, or waiting for the other."""

    def strike(number):
        if number == 2:
            signal.raise_signal(signal.SIGINT)

    predictor = Predictor(Recorded(strike if where == "network" else lambda batch: None))
    if where == "post-processing":
        finishing(predictor, monkeypatch, strike)
    with pytest.raises(KeyboardInterrupt):
        list(predictor.stream(photos(50)))
    assert predictor.model.batches <= 5 and not side_threads()


def test_the_side_threads_take_one_core_and_nobody_elses(monkeypatch):
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        predictor = Predictor(Recorded(lambda batch: seen.append(("network", torch.get_num_threads()))))
        finishing(predictor, monkeypatch, lambda photo: seen.append(("after", torch.get_num_threads())))
        list(predictor.stream(photos(3)))
        assert set(seen) == {("network", 3), ("after", 1)} and torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3
    finally:
        torch.set_num_threads(before)
