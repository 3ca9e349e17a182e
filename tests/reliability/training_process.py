"""The training command in a process that is forked after the imports, as one of several ranks if need be."""

import os
from pathlib import Path

import torch
from discs import UNET, small_training
from forked import CONTEXT, status

TIME_LIMIT = 300  # seconds, of which the imports of the first process take most
# Of the handlers of a training, the one that leaves a bundle at the end takes longer than two epochs.
WITHOUT_BUNDLE = {"train#handlers#8#_disabled_": True}


class TrainingProcess:
    """`python -m monai.bundle run training`, as a child that may be killed.

    Args:
        folder: its working directory, where `train.log` gets what it prints.
        discs: the data set.
        options: overrides of the small training.
        files: the config files of bundles/unet.
        environment: what it is to know.
        sabotage: a function that runs in the child before the command.
    """

    def __init__(self, folder, discs, options, files=("train.json",), environment=None, sabotage=None):
        self.log = folder / "train.log"
        options = {**small_training(discs), **WITHOUT_BUNDLE, **options}
        arguments = (folder, [str(UNET / "configs" / file) for file in files], options, environment or {}, sabotage)
        self.process = CONTEXT.Process(target=_train, args=arguments)
        self.process.start()

    def status(self):
        """Wait for its end and return the exit status, negative for a signal."""
        return status(self.process, self.log, TIME_LIMIT)


def _train(folder, files, options, environment, sabotage):
    os.chdir(folder)
    log = os.open("train.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= environment
    torch.set_num_threads(1)
    if sabotage is not None:
        sabotage()
    import monai.bundle

    monai.bundle.run("training", config_file=files, **options)


class SignalInSave:
    """Send the process a signal when the first bytes of the n-th file of this name are on the disk."""

    def __init__(self, which, file_name, number):
        self.which, self.file_name, self.number = which, file_name, number

    def __call__(self):
        save, seen = torch.save, []

        def counting(content, stream, *arguments):
            seen.append(Path(stream.name).name.endswith(f"-{self.file_name}"))
            if seen[-1] and sum(seen) == self.number:
                stream.write(b"the first bytes")
                stream.flush()
                os.kill(os.getpid(), self.which)
            save(content, stream, *arguments)

        torch.save = counting


class DieAfterEpoch:
    """Let the process die without a word after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def __call__(self):
        from pipeline.handlers.checkpoints import Checkpoints

        save = Checkpoints._save

        def die(handler, engine):
            save(handler, engine)
            if engine.state.epoch == self.epoch:
                os.kill(os.getpid(), 9)

        Checkpoints._save = die


class BeginTogether:
    """Wait for so many others before the first step towards a store."""

    def __init__(self, count):
        self.barrier = CONTEXT.Barrier(count)

    def __call__(self):
        from pipeline.tracking import Tracking

        start = Tracking.start

        def together(*arguments, **options):
            self.barrier.wait(TIME_LIMIT)
            return start(*arguments, **options)

        Tracking.start = together
