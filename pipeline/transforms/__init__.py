"""Dictionary transforms that MONAI lacks: strict reading and writing, training masks and weights, augmentation."""

from pipeline.transforms.border_weight import BorderWeightd
from pipeline.transforms.classes_from_logits import ClassesFromLogitsd
from pipeline.transforms.instances import Instancesd, LabelInstancesd
from pipeline.transforms.instances_to_mask import InstancesToMaskd
from pipeline.transforms.load_image import StrictLoadImaged
from pipeline.transforms.rand_elastic import RandElasticd
from pipeline.transforms.save_image import AtomicSaveImaged

__all__ = [
    "AtomicSaveImaged",
    "BorderWeightd",
    "ClassesFromLogitsd",
    "InstancesToMaskd",
    "Instancesd",
    "LabelInstancesd",
    "RandElasticd",
    "StrictLoadImaged",
]
