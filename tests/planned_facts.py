"""Facts as a list would give them, for the rules of a plan."""

from pipeline.planning.facts import Facts


def facts(spatial_dims=3, **changes):
    """Twenty scans of 40 x 60 x 30 voxels of 1 mm, or pictures of 512 x 512 pixels, on a processor."""
    shape = (40, 60, 30) if spatial_dims == 3 else (512, 512)
    values = {
        "spatial_dims": spatial_dims,
        "classes": ("background", "organ"),
        "channels": ("MRI",) if spatial_dims == 3 else ("intensity",),
        "label_kind": "classes",
        "training": 16,
        "validation": 4,
        "test": 0,
        "shapes": (shape,) * 20,
        "spacings": ((1.0, 1.0, 1.0),) * 20 if spatial_dims == 3 else None,
        "lows": ((1.0,),) * 20,
        "medians": ((50.0,),) * 20,
        "shares": (0.8, 0.2),
        "smallest": (),
        "device": "cpu",
        "cores": 2,
        "memory": 16 * 2**30,
        "cache_memory": 16 * 2**30,
    }
    return Facts(**values | changes)
