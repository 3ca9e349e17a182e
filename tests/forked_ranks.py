"""A function in several ranks at once: processes that are forked after the imports, joined by gloo."""

import os
import pickle
import socket

from forked import CONTEXT

TIME_LIMIT = 100  # seconds


def in_ranks(size, function, *arguments):
    """Return what `function(*arguments)` returns in each rank, None for one that ends without a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
    processes = [
        CONTEXT.Process(target=_be, args=(rank, size, port, sender, function, arguments))
        for rank, (_, sender) in enumerate(pipes)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    found = [_received(receiver) for receiver, _ in pipes]
    for process in processes:
        process.join(TIME_LIMIT)
    return found


def _received(receiver):
    if not receiver.poll(TIME_LIMIT):
        raise AssertionError("a rank hangs")
    try:
        result = pickle.loads(receiver.recv_bytes())
    except EOFError:
        return None
    if isinstance(result, BaseException):
        raise result
    return result


def _be(rank, size, port, sender, function, arguments):
    import torch

    from pipeline import ranks

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        ranks.start()
        result = function(*arguments)
    except Exception as error:
        result = error
    sender.send_bytes(pickle.dumps(result))  # `send` would leave tensors in memory that ends with this process
