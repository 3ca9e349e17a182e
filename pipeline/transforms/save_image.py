"""Saving of predictions: one whole output file per input file, in the input's format and geometry."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, SaveImaged
from monai.utils import ImageMetaKey, MetaKeys

from pipeline.errors import InputError
from pipeline.volumes.reading import suffix_of
from pipeline.volumes.writing import write_label_map, write_volume

READ_ONLY = {".jpg": ".png", ".jpeg": ".png", ".bmp": ".png"}  # lossy or dated formats, and what is written instead


class AtomicSaveImaged(SaveImaged):
    """Write `data[key]` of shape (channels, *spatial) to the input's relative path below another folder.

    ``root/a/x.nii.gz`` becomes ``output_dir/a/x<postfix>.nii.gz``. Where the output needs another format, the input's
    suffix stays in the name, so that x.jpg (``x.jpg.png``) and x.png (``x.png``) keep apart.

    Args:
        keys: keys to save; the input file is named by the meta data of `data[key]`, else of `data["image"]`.
        output_dir: folder to write to; missing folders are made.
        root: folder that all inputs lie in.
        postfix: put between the input's stem and suffix, such as "_seg".
        kind: "labels" demands one channel of whole numbers; "probabilities" writes all channels as float32.
        allow_missing_keys: skip a key that the data lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | PathLike[str],
        root: str | PathLike[str],
        postfix: str = "",
        kind: Literal["labels", "probabilities"] = "labels",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if kind not in ("labels", "probabilities"):
            raise ValueError(f"kind must be 'labels' or 'probabilities', got {kind!r}")
        self.output_dir, self.root, self.postfix, self.kind = Path(output_dir), Path(root), postfix, kind
        self._input_of: dict[Path, Path] = {}

    def output_file(self, file: str | PathLike[str]) -> Path:
        """Return where the result for the input `file` is written."""
        path, root = Path(os.path.abspath(file)), Path(os.path.abspath(self.root))  # a link keeps its own place
        if not path.is_relative_to(root):
            raise InputError(
                f"does not lie in the root folder '{root}'", file=file, remedy="set root to a folder of it"
            )
        suffix = suffix_of(path)
        written = READ_ONLY.get(suffix, suffix)
        if self.kind == "probabilities" and written == ".png":
            written = ".tif"  # PNG holds whole numbers only
        stem, spelled = path.name[: -len(suffix)], path.name[-len(suffix) :]
        name = stem + self.postfix + spelled + (written if written != suffix else "")
        output = self.output_dir / path.relative_to(root).with_name(name)
        if output.resolve() == path.resolve():
            raise InputError("would be overwritten by its own result", file=file, remedy="change output_dir or postfix")
        return output

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Save each key; `data["id"]`, where given, names the case in errors."""
        record = dict(data)
        case = None if record.get("id") is None else str(record["id"])
        for key in self.key_iterator(record):
            source = _source_file(record, key, case)
            output = self.output_file(source)
            if self._input_of.setdefault(output, source) != source:
                raise InputError(
                    f"its result '{output}' is already that of '{self._input_of[output]}'",
                    case=case,
                    file=source,
                    remedy="rename one of the two inputs",
                )
            tensor = torch.as_tensor(record[key]).detach().cpu()
            if self.kind == "labels":
                write_label_map(output, _only_channel(tensor.numpy(), output, case), like=source, case=case)
            else:
                write_volume(output, tensor.float().numpy(), like=source, case=case)
            if hasattr(record[key], "meta"):
                record[key].meta[MetaKeys.SAVED_TO] = str(output)
        return record


def _source_file(record: Mapping[Hashable, Any], key: Hashable, case: str | None) -> Path:
    for holder in (key, "image"):
        file = getattr(record.get(holder), "meta", {}).get(ImageMetaKey.FILENAME_OR_OBJ)
        if file:
            return Path(file)
    raise InputError(
        f"neither '{key}' nor 'image' carries the name of its input file (meta['filename_or_obj'])",
        case=case,
        remedy="load with StrictLoadImaged, and keep the meta data up to here",
    )


def _only_channel(array: np.ndarray, output: Path, case: str | None) -> np.ndarray:
    if len(array) != 1:
        raise InputError(
            f"a label map needs one channel, got shape {array.shape}",
            case=case,
            file=output,
            remedy="take the argmax before saving, or save kind 'probabilities'",
        )
    return array[0]
