"""The two trained bundles of the repository, as they are served."""

import pytest
from discs import ROOT

from pipeline.serving.served_bundle import read_bundle

BUNDLES = {name: ROOT / "bundles" / name for name in ("unet", "unet3d")}


@pytest.fixture(scope="session", params=BUNDLES)
def bundle(request):
    """Each of the bundles, with its network; nobody changes it."""
    return read_bundle(BUNDLES[request.param])
