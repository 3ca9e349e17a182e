"""Networks: one U-Net whose variants are options."""

from pipeline.networks.unet import UNet

__all__ = ["UNet"]
