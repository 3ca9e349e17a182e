"""Dictionary transforms that MONAI lacks: strict reading and writing, training masks and weights, augmentation."""

from pipeline.transforms.border_weight import BorderWeightd
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.instances import Instancesd, LabelInstancesd
from pipeline.transforms.instances_to_mask import InstancesToMaskd
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.rand_elastic import RandElasticd
from pipeline.transforms.regions import LabelsFromRegionsd, RegionsFromLabelsd
from pipeline.transforms.save_image import AtomicSaveImaged
from pipeline.transforms.to_grid import FromGridd, ToGridd

__all__ = [
    "AtomicSaveImaged",
    "BorderWeightd",
    "ClassesFromLogitsd",
    "FromGridd",
    "InstancesToMaskd",
    "Instancesd",
    "LabelInstancesd",
    "LabelsFromRegionsd",
    "RandElasticd",
    "RegionsFromLabelsd",
    "StrictLoadImaged",
    "ToGridd",
]
