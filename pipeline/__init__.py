"""U-Net segmentation with MONAI bundles: what MONAI lacks, and nothing that it has."""

__version__ = "0.1.0"
