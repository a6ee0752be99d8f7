"""Frozen networks that turn images into features."""

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from continual_ep.errors import ConfigurationError, InputError, MissingDataError
from continual_ep.features.preprocessing import Preprocessing

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Backbone:
    """A frozen network and everything that its features depend on.

    :param name: the name that was asked for.
    :param network: ``(n, 3, crop, crop) -> (n, ...)``; what it returns is flattened.
    :param fingerprint: a hash of its weights.
    :param preprocessing: of its images.
    """

    name: str
    network: Network
    fingerprint: str
    preprocessing: Preprocessing

    def to(self, device: torch.device | str) -> "Backbone":
        """The same backbone on a device, in evaluation mode."""
        if not isinstance(self.network, nn.Module):
            return self
        network = self.network.to(device=device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        return replace(self, network=network)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Features ``(n, d)`` of framed images ``(n, 3, crop, crop)`` in [0, 1].

        :raises InputError: if the network returns anything but one row of numbers for each image.
        """
        features = self.network(self.preprocessing.normalised(images))
        if not isinstance(features, Tensor) or features.dim() < 2 or len(features) != len(images):
            shape = (
                tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            )
            raise InputError(
                f"backbone {self.name!r} returned {shape} for {len(images)} images: a tensor with a "
                "row for each is needed."
            )
        return features.flatten(1)

    def identity(self) -> dict[str, Any]:
        """The values that decide the features, for the cache key."""
        return {
            "backbone": self.name,
            "weights": self.fingerprint,
            "preprocessing": asdict(self.preprocessing),
        }


@dataclass(frozen=True)
class Architecture:
    """A backbone by name.

    :param build: builds the network with arbitrary weights and without its classifier; returns it
        with the prefixes of the published state dict's keys that it does not use.
    :param preprocessing: of the published weights.
    :param url: of the published weights; the file is expected in torch's download cache under the
        URL's file name. None: there are none, and the user has to name a file.
    """

    build: Callable[[], tuple[nn.Module, tuple[str, ...]]]
    preprocessing: Preprocessing
    url: str | None

    @property
    def file(self) -> Path | None:
        if self.url is None:
            return None
        return Path(torch.hub.get_dir()) / "checkpoints" / self.url.rpartition("/")[2]


#: Backbones by name, in addition to all of torchvision's classification networks.
BACKBONES: dict[str, Callable[[], Architecture]] = {}


def backbone(name: str) -> Callable[[Callable[[], Architecture]], Callable[[], Architecture]]:
    """Register a function that returns an :class:`Architecture` under a name."""

    def register(make: Callable[[], Architecture]) -> Callable[[], Architecture]:
        BACKBONES[name] = make
        return make

    return register


def as_backbone(
    wanted: "str | Network | Backbone",
    *,
    weights: str | Path | None = None,
    preprocessing: Preprocessing | dict[str, Any] | None = None,
    download: bool = False,
) -> Backbone:
    """Load a backbone by name, or wrap any function of images.

    :param wanted: a name of torchvision's (``"mobilenet_v2"``, ``"resnet50"``, ``"vgg16"``, ...;
        the features are the input of its last linear layer), ``"dinov2_vits14"``, ``"dinov2_vitb14"``,
        ``"dinov2_vitl14"`` (built by timm),
        ``"module:function"``, where the function returns the network, or the network itself: an
        ``nn.Module`` or any callable.
    :param weights: a state dict, ``.safetensors`` or written by ``torch.save``; None: the published
        weights, if torch's cache has them. Files with pickled objects are refused.
    :param preprocessing: instead of the published one, or changes to it by name.
    :param download: fetch the published weights if they are missing.
    :raises ConfigurationError: an unknown name, or weights for a network that brings its own.
    :raises MissingDataError: weights that are not on disk.
    :raises InputError: weights that do not fit.
    """
    if isinstance(wanted, Backbone):
        return wanted
    if isinstance(wanted, str) and ":" not in wanted:
        return _named(wanted, weights, preprocessing, download)
    network = _imported(wanted) if isinstance(wanted, str) else wanted
    name = wanted if isinstance(wanted, str) else _name_of(network)
    if not callable(network):
        raise ConfigurationError(f"backbone {name!r} is a {type(network).__name__}, no function.")
    if weights is not None:
        if not isinstance(network, nn.Module):
            raise ConfigurationError(
                f"backbone {name!r} is no nn.Module: it cannot load {weights}."
            )
        load_weights(network, Path(weights), name)
    how = _changed(Preprocessing(), preprocessing)
    return Backbone(name, network, fingerprint(network, how.crop), how)


def fingerprint(network: Network, side: int = 224) -> str:
    """Hash a module's structure and weights, or a function's source and its output for fixed images.

    :param side: of the images that a function is called with.
    """
    digest = hashlib.sha256()
    if isinstance(network, nn.Module):
        digest.update(repr(network).encode())
        for name, value in sorted(network.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            plain = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            digest.update(plain.numpy().tobytes())
        return digest.hexdigest()
    try:
        digest.update(inspect.getsource(network).encode())
    except (OSError, TypeError):
        pass  # no source (a builtin): the output alone identifies it
    generator = torch.Generator().manual_seed(0)
    output = network(torch.rand(2, 3, side, side, generator=generator))
    # The output shows changes in what the source calls. Rounded: the number of threads changes last digits.
    rounded = torch.as_tensor(output).detach().cpu().to(torch.bfloat16).reshape(-1)
    digest.update(rounded.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_weights(network: nn.Module, path: Path, name: str, spare: tuple[str, ...] = ()) -> None:
    """Load the state dict of a file into a network.

    :param spare: prefixes of keys that the file may hold and the network does not use.
    :raises MissingDataError: no such file.
    :raises InputError: a file that is damaged, needs pickle, or does not fit.
    """
    if not path.is_file():
        raise MissingDataError(
            f"weights for backbone {name!r} are not at {str(path.absolute())!r}."
        )
    state, expected = _read(path), network.state_dict()
    misfits = [
        key for key, x in expected.items() if key not in state or state[key].shape != x.shape
    ]
    unknown = [key for key in state if key not in expected and not key.startswith(spare or ("\0",))]
    if misfits or unknown:
        raise InputError(
            f"the weights {str(path)!r} do not fit backbone {name!r}: missing or of another shape "
            f"{misfits[:3]} ({len(misfits)} in all), unknown {unknown[:3]} ({len(unknown)})."
        )
    network.load_state_dict({key: state[key] for key in expected})


def _read(path: Path) -> dict[str, Tensor]:
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise InputError(
            f"the weights {str(path)!r} cannot be read as plain tensors ({_first_line(error)}): "
            "save the state dict alone, by safetensors or torch.save."
        ) from error
    for key in ("state_dict", "model"):  # as training scripts save it
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(
            f"the weights {str(path)!r} are no state dict: a dict of tensors is needed."
        )
    return {key.removeprefix("module."): value for key, value in state.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _named(
    name: str,
    weights: str | Path | None,
    preprocessing: Preprocessing | dict[str, Any] | None,
    download: bool,
) -> Backbone:
    architecture = BACKBONES[name]() if name in BACKBONES else _of_torchvision(name)
    path = architecture.file if weights is None else Path(weights)
    if path is None:
        raise MissingDataError(
            f"backbone {name!r} has no published weights: name a file (weights)."
        )
    if weights is None and not path.is_file():
        if not download:
            raise MissingDataError(
                f"the weights of backbone {name!r} are not on disk: expected at {str(path)!r}. Fetch "
                f"them from {architecture.url}, let it be done (download=True, --download), or name "
                "a file of your own (weights, --weights)."
            )
        _fetch(architecture.url or "", path, name)
    network, spare = architecture.build()
    load_weights(network, path, name, spare)
    how = _changed(architecture.preprocessing, preprocessing)
    return Backbone(name, network, fingerprint(network), how)


def _fetch(url: str, path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digits = path.stem.rpartition("-")[2]
    is_hash = len(digits) == 8 and all(c in "0123456789abcdef" for c in digits)
    try:
        torch.hub.download_url_to_file(url, str(path), digits if is_hash else None)
    except (OSError, RuntimeError) as error:
        raise MissingDataError(
            f"the weights of backbone {name!r} could not be fetched from {url}: {error}"
        ) from error


def _changed(
    published: Preprocessing, wanted: Preprocessing | dict[str, Any] | None
) -> Preprocessing:
    if isinstance(wanted, Preprocessing):
        return wanted
    known = set(asdict(published))
    unknown = sorted(set(wanted or {}) - known)
    if unknown:
        raise ConfigurationError(
            f"preprocessing: {unknown} are unknown: choose from {sorted(known)}."
        )
    tuples: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in (wanted or {}).items()
    }
    return replace(published, **tuples)


def _imported(wanted: str) -> Any:
    module, _, function = wanted.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)  # as `python -m` does: the user's module is in the current folder
    try:
        return getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"backbone {wanted!r} cannot be imported: {error}.") from error
    finally:
        sys.path.remove(here)


def _name_of(network: Any) -> str:
    kind = network if inspect.isroutine(network) else type(network)
    return f"{kind.__module__}:{kind.__qualname__}"


def _of_torchvision(name: str) -> Architecture:
    import torchvision.models as models  # slow to import

    if name not in models.list_models(module=models):
        raise ConfigurationError(
            f"backbone {name!r} is unknown: use one of torchvision's classification networks "
            f"(mobilenet_v2, resnet18, resnet50, vgg16, ...), {', '.join(BACKBONES)}, or "
            "module:function."
        )
    published = models.get_model_weights(name).DEFAULT
    transforms = published.transforms()
    preprocessing = Preprocessing(
        transforms.resize_size[0],
        transforms.crop_size[0],
        transforms.interpolation.value,
        tuple(transforms.mean),
        tuple(transforms.std),
    )
    return Architecture(lambda: _without_head(name), preprocessing, published.url)


def _without_head(name: str) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with its last linear layer, the classifier, replaced by the identity."""
    import torchvision.models as models

    # As torchvision builds these two for its published weights, without the auxiliary classifiers.
    inception = {"aux_logits": False, "transform_input": True, "init_weights": False}
    more = inception if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(name, weights=None, **more)
    linear = [n for n, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ConfigurationError(
            f"backbone {name!r} does not end in a linear layer: give the network without its "
            "classifier instead, as a module or module:function."
        )
    parent, _, last = linear[-1].rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network, (f"{linear[-1]}.", "aux1.", "aux2.", "AuxLogits.")


def _dinov2(name: str, size: str) -> None:
    @backbone(name)
    def make() -> Architecture:
        """DINOv2 (Oquab et al. 2023, arXiv:2304.07193): the class token, 14-pixel patches."""
        return Architecture(
            lambda: (_of_timm(f"vit_{size}_patch14_dinov2.lvd142m", name), ("mask_token",)),
            Preprocessing(256, 224, "bicubic"),
            f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth",
        )


for _letter, _size in (("s", "small"), ("b", "base"), ("l", "large")):
    _dinov2(f"dinov2_vit{_letter}14", _size)


def _of_timm(architecture: str, name: str) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ConfigurationError(
            f"backbone {name!r} is built by timm: pip install 'continual-ep[timm]'."
        ) from error
    network: nn.Module = timm.create_model(
        architecture, pretrained=False, num_classes=0, dynamic_img_size=True
    )
    return network
