"""MONAI without what a prediction never uses: packages that modules only mention are loaded when they are needed."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import RLock
from types import ModuleType
from typing import Any

# Each takes 50 to 1,000 ms, and is named in the first lines of a module that most predictions load and few use.
MENTIONED = {
    "IPython",
    "SimpleITK",
    "itk",
    "jsonschema",
    "jsonschema.exceptions",
    "matplotlib",
    "matplotlib.axes",
    "matplotlib.figure",
    "matplotlib.patches",
    "matplotlib.pyplot",
    "mlflow",
    "pandas",
    "pydicom",
    "pydicom.dataelem",
    "pydicom.dataset",
    "pydicom.sr",
    "pydicom.sr.coding",
    "pydicom.uid",
    "requests",
    "scipy.interpolate",
    "scipy.ndimage",
    "scipy.signal",
    "scipy.sparse",
    "scipy.sparse.csgraph",
    "scipy.sparse.linalg",
    "skimage.exposure",
    "skimage.measure",
    "skimage.morphology",
    "skimage.segmentation",
    "torch.distributed.optim",  # with it come torch's tensors of many processes, and SymPy
}
# Whose `from package import name` means a function or class for later: what others take by name is loaded at once.
MENTIONING = {
    "ignite.handlers.checkpoint",
    "monai.utils.module",
    "nibabel.nifti1",
    "pipeline.figures",
    "pipeline.transforms.instances",
    "pipeline.transforms.rand_elastic",
    "pipeline.volumes.dicom_file",
    "pipeline.volumes.dicom_seg",
}
NEEDED = ("bundle", "data", "engines", "inferers", "networks.nets", "transforms")  # where short names are mostly from


def import_monai() -> None:
    """Import MONAI in a third of the time, for a process that predicts and ends; nothing where it is imported already.

    `import monai` loads all of its modules, so that a config may name any component by its last name. Here a component
    of a module that is not loaded is found when a config names it.
    """
    if "monai" in sys.modules:
        return
    sys.meta_path.insert(0, _DeferringFinder())
    with _without_walk():
        for name in NEEDED:
            import_module(f"monai.{name}")
    for module in list(sys.modules.values()):
        _find_submodules_later(module)
    _find_components_later()


@contextmanager
def _without_walk() -> Iterator[None]:
    """Let `import monai` find no modules below it."""
    walk = pkgutil.walk_packages
    pkgutil.walk_packages = lambda *args, **kwargs: iter(())
    try:
        yield
    finally:
        pkgutil.walk_packages = walk
        if module := sys.modules.get("monai.utils.module"):
            module.walk_packages = walk  # type: ignore[attr-defined]


class _DeferringFinder(MetaPathFinder):
    """Lets the modules of `MENTIONED` be loaded when something of them is used, not when they are imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in MENTIONED:
            _load(sys.modules.get(fullname.rpartition(".")[0]))
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _DeferringLoader(spec.loader)
        return spec


class _DeferringLoader(Loader):
    def __init__(self, real: Loader) -> None:
        self.real, self.begun, self.lock = real, False, RLock()

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Deferred(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Leave the module empty."""

    def load(self, module: ModuleType) -> None:
        """Fill the module, after the package that it is in; another thread waits until all is there."""
        _load(sys.modules.get(module.__name__.rpartition(".")[0]))
        with self.lock:
            if not self.begun:
                self.begun = True
                self.real.exec_module(module)
                module.__class__ = ModuleType

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class _Deferred(ModuleType):
    """A module that is loaded by the first look at what is in it."""

    def __getattribute__(self, name: str) -> Any:
        held = ModuleType.__getattribute__(self, "__dict__")
        if not name.startswith("__") and not isinstance(held.get(name), ModuleType):
            frame: Any = sys._getframe(1)
            while frame.f_globals.get("__name__") == "importlib._bootstrap":
                frame = frame.f_back
            if frame.f_globals.get("__name__") in MENTIONING and not held["__spec__"].loader.begun:
                return _Mentioned(name, (), {"_module": self})
            _load(self)
        return ModuleType.__getattribute__(self, name)


class _Mentioned(type):
    """A function or class of a deferred module: called, asked or looked into, it is the real one."""

    @property
    def real(cls) -> Any:
        return getattr(_load(vars(cls)["_module"]), cls.__name__)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return cls.real(*args, **kwargs)

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.real)

    def __getattr__(cls, name: str) -> Any:
        return getattr(cls.real, name)


def _load(module: ModuleType | None) -> Any:
    loader = getattr(getattr(module, "__spec__", None), "loader", None)
    if isinstance(module, _Deferred) and isinstance(loader, _DeferringLoader):
        loader.load(module)
    return module


def _find_submodules_later(module: ModuleType) -> None:
    """Let `monai.losses` be what it is after an import of everything."""
    if module.__name__.split(".")[0] == "monai" and hasattr(module, "__path__") and "__getattr__" not in vars(module):
        module.__getattr__ = partial(_submodule, module.__name__)  # type: ignore[method-assign]


def _submodule(package: str, name: str) -> ModuleType:
    if name.startswith("_") or find_spec(f"{package}.{name}") is None:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    module = import_module(f"{package}.{name}")
    _find_submodules_later(module)
    return module


def _find_components_later() -> None:
    """Let a config's short name that no loaded module has be looked for in all of MONAI."""
    from monai.bundle import ComponentLocator

    find: Callable[..., Any] = ComponentLocator.get_component_module_name

    def found(self: ComponentLocator, name: str) -> list[str] | str | None:
        module = find(self, name)
        if module is None and "." not in name:
            _import_all()
            self._components_table = None
            module = find(self, name)
        return module

    ComponentLocator.get_component_module_name = found  # type: ignore[method-assign]


def _import_all() -> None:
    """Import what `import monai` would have."""
    import monai
    from monai.utils.module import load_submodules

    for load_all in (False, True):
        load_submodules(monai, load_all, exclude_pattern=monai.excludes)
