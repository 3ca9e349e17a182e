"""What other programs need of a bundle: its network with the trained weights, its config and its metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from monai.bundle import ConfigParser
from torch import nn

from pipeline.errors import InputError
from pipeline.handlers.load_weights import load_weights, weights_file
from pipeline.settings import of, read_config
from pipeline.trust import check_config


class ServedBundle(NamedTuple):
    """A bundle that is to be served.

    Args:
        folder: the bundle, or a run's folder.
        parser: holds its `inference.json`.
        config: the same as it stands in the file.
        metadata: its `metadata.json`.
        weights: the file that the network's are from.
        network: trained, on the processor, in evaluation mode.
    """

    folder: Path
    parser: Any
    config: dict[str, Any]
    metadata: dict[str, Any]
    weights: Path
    network: nn.Module

    @property
    def spatial_dims(self) -> int:
        """2 or 3."""
        return int(self.parser.get_parsed_content("spatial_dims"))

    @property
    def class_names(self) -> list[str]:
        """Of the network's output, channel by channel: regions where there are some; the foreground of a single one."""
        if self.regions:
            return list(self.regions)
        names = [str(name) for name in self.parser.get_parsed_content("class_names")]
        return names[1:] if self.channels("outputs") == 1 else names

    @property
    def regions(self) -> dict[str, list[int]]:
        """The labels of each region, where the network has a channel for each region instead of each class."""
        given = self.parser.get_parsed_content("regions") if "regions" in self.config else None
        return {str(name): list(labels) for name, labels in (given or {}).items()}

    def channels(self, part: str) -> int:
        """Return how many channels the network's "inputs" or "outputs" have."""
        known = getattr(self.network, "in_channels" if part == "inputs" else "out_channels", None)
        return int(known or next(iter(self.metadata["network_data_format"][part].values()))["num_channels"])

    def key(self, part: str) -> str:
        """Return what the metadata call the network's "inputs" or "outputs": "image", "pred"."""
        return next(iter(self.metadata["network_data_format"][part]))


def read_bundle(bundle: str | Path, trust: bool = False) -> ServedBundle:
    """Return a bundle with its trained network.

    Args:
        bundle: a run's folder, or another bundle with trained weights.
        trust: run whatever the config says; else only what `pipeline.trust` knows to be harmless.
    """
    folder = Path(bundle)
    files = [folder / "configs" / name for name in ("inference.json", "metadata.json")]
    for file in files:
        if not file.is_file():
            remedy = "name a run's folder, or a bundle such as bundles/unet"
            raise InputError("this folder is no bundle", file=file, remedy=remedy)
    parser = ConfigParser(read_config(files[0]))
    config = of(parser)
    parser.update({"bundle_root": str(folder), "device": "cpu"})
    if not trust:
        check_config(parser, files[0])
    weights = weights_file(folder / "models" / "model.pt")
    network = load_weights(weights, parser.get_parsed_content("network_def")).eval()
    return ServedBundle(folder, parser, config, json.loads(files[1].read_text()), weights, network)
