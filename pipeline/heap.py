"""Large pages for large tensors, which are made and zeroed anew for each tensor."""

from __future__ import annotations

import os

THP = "THP_MEM_ALLOC_ENABLE"  # PyTorch's own switch: it asks Linux for large pages, for tensors of 2 MiB and more


def use_large_pages() -> None:
    """Let PyTorch ask for pages of 2 MiB instead of 4 KiB; what the environment says of it already stays.

    Linux makes and zeroes the pages of a large tensor when they are first written, each time anew. For the logits of 14
    classes that took longer than the convolutions of a light network. It has to be called before the first tensor of
    a process, and processes that are started inherit it. Elsewhere than on Linux, it does nothing.

    Memory that the C library keeps for reuse (`mallopt`) would be faster still, but PyTorch's aligned requests do not
    fit what an equal tensor has left: a process grew by up to seven of its largest tensors.
    """
    os.environ.setdefault(THP, "1")
