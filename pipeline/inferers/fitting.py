"""What is done where memory is short: fewer windows at once, then sums on the host, and at last a clear message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch

from pipeline.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
HOST = torch.device("cpu")
logger = logging.getLogger(__name__)


class Shortage(str):
    """Why a call ran out of memory."""


def attempt(call: Callable[[], Result]) -> Result | Shortage:
    """Return what a call returns, or why its memory did not suffice; then all that it held is free again."""
    try:
        return call()
    except (RuntimeError, MemoryError) as error:
        if not _is_shortage(error):
            raise
        reason = Shortage(next(iter(str(error).splitlines()), "out of memory"))
    # Only here, when Python has dropped the error, are the tensors of the frames that its traceback shows gone.
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return reason


def _is_shortage(error: BaseException) -> bool:
    on_host = isinstance(error, MemoryError) or "can't allocate memory" in str(error)
    return on_host or isinstance(error, torch.OutOfMemoryError)


def allocate(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str, zeros: bool = False) -> torch.Tensor:
    """Return a new tensor, on the host where the device has no room for it."""
    make = torch.zeros if zeros else torch.empty
    made = attempt(partial(make, tuple(shape), dtype=dtype, device=device))
    if not isinstance(made, Shortage):
        return made
    if torch.device(device) == HOST:
        raise does_not_fit(made)
    logger.warning("%s has no room for a prediction of shape %s: it is put together on the host", device, tuple(shape))
    return allocate(shape, dtype, HOST, zeros)


def does_not_fit(reason: str) -> InputError:
    """Return the error for a prediction that does not fit, whatever was tried."""
    remedy = "predict with a smaller window (roi_size, tile_size), or with --device cpu"
    return InputError(f"memory does not suffice to predict this image: {reason}", remedy=remedy)


class Fitting:
    """How many windows a network sees at once: as many as asked, and half as many each time that memory is short.

    An inferer keeps one of these, so that the next image starts with what fitted the last.
    """

    def __init__(self) -> None:
        self.limit: int | None = None

    def predictions(
        self,
        windows: Sequence[Item],
        batch_size: int,
        predict: Callable[[Sequence[Item]], torch.Tensor],
        make_room: Callable[[], bool],
    ) -> Iterator[tuple[Sequence[Item], torch.Tensor]]:
        """Yield batches of windows and what the network says of them, until all have had their turn.

        Args:
            windows: what `predict` takes, some at a time.
            batch_size: the most at a time.
            predict: cuts windows out, and calls the network.
            make_room: called where not even a single window fits; tells whether it has freed memory.
        """
        first, limit = 0, self.limit
        while (left := len(windows) - first) > 0:
            count = min(batch_size, self.limit or batch_size)
            # Not one window alone at the end: in float32, a CPU convolves a single volume several times slower.
            batch = windows[first : first + (count - 1 if left == count + 1 > 3 else count)]
            output = attempt(partial(predict, batch))
            if not isinstance(output, Shortage):
                if limit != self.limit:
                    logger.warning("memory is short: %d windows at once instead of %d", self.limit, batch_size)
                    limit = self.limit
                first += len(batch)
                yield batch, output
            elif len(batch) > 1:
                self.limit = len(batch) // 2
            elif not make_room():
                raise does_not_fit(output)
            del output
