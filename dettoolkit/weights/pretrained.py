"""Read pretrained weights safely, translate torchvision's names, and load with every difference named."""

from __future__ import annotations

import http.client
import logging
import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from dettoolkit.backbones.mobilenet import MobileNet
from dettoolkit.finite import require_finite
from dettoolkit.weights.translate import (
    StateDict,
    is_classifier,
    is_lraspp,
    is_ssdlite,
    translate_backbone,
    translate_classifier,
    translate_lraspp,
    translate_ssdlite,
)

logger = logging.getLogger(__name__)

TORCHVISION = "torchvision:"
# Where torchvision's name of a network is another; at width 1.0, the only one fetched by name.
TORCHVISION_NAMES = {"mnasnet_b1": "mnasnet1_0"}


def read_weights(source: str, *, torchvision_model: str) -> StateDict:
    """Read a state dict from a file, or fetch it by torchvision's own enum.

    Args:
        source: a .pth or .ckpt file, or `torchvision:NAME` with a name of the model's weights enum.
        torchvision_model: the builder's name in torchvision, such as `mobilenet_v3_large`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, unsafe to load, or no such weights in torchvision.
        RuntimeError: torchvision's weights cannot be fetched.
    """
    if source.startswith(TORCHVISION):
        return _fetch(source.removeprefix(TORCHVISION), torchvision_model)
    path = Path(source)
    if found := sorted(path.glob("checkpoints/*.ckpt")):
        raise FileNotFoundError(f"{path} is a run's folder, not a file: give its checkpoint, {found[0]}")
    if not path.is_file():
        raise FileNotFoundError(
            f"no weights at {path}: give a .pth or .ckpt file, or 'torchvision:DEFAULT' to fetch those"
        )
    content = load_checkpoint(path)
    for key in ("state_dict", "model", "model_state_dict"):
        inner = content.get(key)
        if isinstance(inner, dict):
            content = inner
            break
    state = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{path} holds no tensors: its keys are {list(content)[:10]}; is it a state dict?")
    return state


def load_checkpoint(path: Path) -> dict[str, object]:
    """Load a file with `weights_only=True`, so that nothing in it can run code.

    Raises:
        ValueError: the file is no checkpoint, is damaged, or needs unpickling of arbitrary objects.
    """
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes than a checkpoint's make the unpickler raise nearly anything
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's own words, with the path
        raise ValueError(
            f"{path} cannot be loaded safely (weights_only): {_reason(error)}. The file is damaged, not a "
            "PyTorch one, or holds more than tensors and plain data; save its state_dict alone and use that"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def _check_sums(path: Path) -> None:
    """Compare the parts of a file of torch.save with the checksums that it wrote and does not read."""
    if not zipfile.is_zipfile(path):  # PyTorch's format before 1.6
        return
    with zipfile.ZipFile(path) as archive:
        # All are 0 with torch.serialization.set_crc32_options(False).
        has_sums = any(part.CRC for part in archive.infolist())
        if has_sums and (damaged := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} does not fit")


def _reason(error: Exception) -> str:
    """Return what stopped the loader; PyTorch's own text advises to load the file unsafely."""
    text = str(error).strip()
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it refers to {named[1]}"
    if isinstance(error, pickle.UnpicklingError) or not text:
        return f"it is not what torch.save writes ({type(error).__name__})"
    return f"{type(error).__name__}: {text.splitlines()[0].rstrip('.')}"


def _fetch(name: str, torchvision_model: str) -> StateDict:
    try:
        weights = get_model_weights(torchvision_model)
    except ValueError:
        raise ValueError(
            f"torchvision has no {torchvision_model}, so '{TORCHVISION}{name}' names nothing: give a "
            "file, or train the backbone with a recipe of type classifier"
        ) from None
    if name not in weights.__members__:
        raise ValueError(
            f"torchvision has no weights '{name}' for {torchvision_model}; it has {list(weights.__members__)}"
        )
    try:
        state: StateDict = weights[name].get_state_dict(
            progress=True, check_hash=True, map_location="cpu", weights_only=True
        )
    except (OSError, http.client.HTTPException, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise RuntimeError(
            f"{TORCHVISION}{name} cannot be fetched from {weights[name].url}: "
            f"{error or type(error).__name__}. Without a network, bring that file here by other means and "
            "give its path instead; a damaged copy in PyTorch's cache (torch.hub.get_dir()) must be deleted"
        ) from error
    return state


@dataclass(frozen=True)
class LoadReport:
    """What a load left out, by name: in the module only, in the file only, and of another shape."""

    missing: list[str]
    surplus: list[str]
    replaced: list[str]


def load_weights(
    module: nn.Module, state: StateDict, *, source: str, replaceable: str, remedy: str
) -> LoadReport:
    """Load `state` into `module` and name every difference; nothing is dropped silently.

    Args:
        module: receives the weights.
        state: tensors by the module's names.
        source: where they come from, for messages.
        replaceable: pattern (from the name's start) of tensors which may have another shape in the file
            and then keep their fresh values, such as a class head of another size.
        remedy: what to do about weights that do not fit, for the error.

    Raises:
        ValueError: a tensor is missing, has a value that is not finite, or has another shape and is not
            replaceable.
    """
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    surplus = [key for key in state if key not in own]
    differs = [key for key in own if key in state and own[key].shape != state[key].shape]
    replaced = [key for key in differs if re.match(replaceable, key)]
    refused = [
        f"{key} is {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in differs
        if key not in replaced
    ]
    if missing or refused:
        raise ValueError(f"{_refusal(source, missing, surplus, refused, len(own))}\n  {remedy}")
    if replaced:
        logger.warning(
            "%s: %d tensors have another size in the file and start fresh: %s",
            source,
            len(replaced),
            "; ".join(f"{key} {tuple(state[key].shape)} -> {tuple(own[key].shape)}" for key in replaced),
        )
    if surplus:
        logger.warning(
            "%s: %d tensors of the file are not in the network: %s", source, len(surplus), ", ".join(surplus)
        )
    taken = {key: value for key, value in state.items() if key in own and key not in replaced}
    require_finite(
        taken.items(),
        source=source,
        remedy="the file is damaged or its training diverged: use an earlier checkpoint, or other weights",
    )
    module.load_state_dict(taken, strict=False)
    return LoadReport(missing, surplus, replaced)


def _refusal(source: str, missing: list[str], surplus: list[str], refused: list[str], total: int) -> str:
    lines = [f"{source} does not fit this network ({total} tensors):"]
    if missing:
        lines.append(f"  missing in the file ({len(missing)}): {_some(missing)}")
    if surplus:
        lines.append(f"  in the file only ({len(surplus)}): {_some(surplus)}")
    if refused:
        lines.append(f"  of another shape ({len(refused)}): {_some(refused, '; ')}")
    return "\n".join(lines)


def _some(items: list[str], separator: str = ", ", most: int = 8) -> str:
    """List the first few, and count the rest."""
    more = f" … and {len(items) - most} more" if len(items) > most else ""
    return separator.join(items[:most]) + more


def load_backbone(backbone: MobileNet, source: str, *, network: str) -> LoadReport:
    """Start a backbone from torchvision's classification weights or from a file.

    The rows from C4 on may have other sizes in the file: a reduced tail then starts fresh, with a message.
    The file of a whole network, torchvision's or a checkpoint of ours, is read too; its head is surplus.
    """
    state = _network_of(read_weights(source, torchvision_model=TORCHVISION_NAMES.get(network, network)))
    if is_ssdlite(state):
        state = translate_ssdlite(state, backbone)
    elif is_lraspp(state):
        state = translate_lraspp(state, backbone)
    else:
        state = translate_backbone(state, backbone)
    inner = {key.removeprefix("backbone."): value for key, value in state.items()}
    tail = "|".join(str(row) for row in range(backbone.c4_row - 1, len(backbone.blocks)))
    return load_weights(
        backbone,
        inner,
        source=source,
        replaceable=rf"(last|blocks\.({tail}))\.",
        remedy="check model.backbone.type and width against the network of that file",
    )


def load_classifier(classifier: nn.Module, backbone: MobileNet, source: str, *, network: str) -> LoadReport:
    """Start a whole classifier from torchvision's network, or from a checkpoint or state dict of ours.

    A class layer of another size is replaced, with a message.
    """
    state = _network_of(read_weights(source, torchvision_model=TORCHVISION_NAMES.get(network, network)))
    if is_classifier(state):
        state = translate_classifier(state, backbone)
    return load_weights(
        classifier,
        state,
        source=source,
        replaceable=r"head\.classifier\.",
        remedy="check model.backbone (type, width) and model.head.scale_hidden against the file's network; "
        "weights of a backbone alone go to model.backbone.weights",
    )


def load_ssdlite(detector: nn.Module, backbone: MobileNet, source: str) -> LoadReport:
    """Start a whole detector from torchvision's SSDLite, or from a checkpoint or state dict of ours.

    Class predictors of another size are replaced, with a message.
    """
    state = _network_of(read_weights(source, torchvision_model="ssdlite320_mobilenet_v3_large"))
    if is_ssdlite(state):
        state = translate_ssdlite(state, backbone)
    return load_weights(
        detector,
        state,
        source=source,
        replaceable=r"head\.class_predictors\.\d+\.1\.",
        remedy="check model.backbone (type, width, reduced_tail), model.head.extra_channels and "
        "model.anchors against the network of that file; weights of a backbone alone go to "
        "model.backbone.weights",
    )


def load_segmenter(segmenter: nn.Module, backbone: MobileNet, source: str) -> LoadReport:
    """Start a whole segmenter from torchvision's LR-ASPP, or from a checkpoint or state dict of ours.

    Class convolutions for another number of classes are replaced, with a message; for other features they
    are refused as any tensor is.
    """
    state = _network_of(read_weights(source, torchvision_model="lraspp_mobilenet_v3_large"))
    if is_lraspp(state):
        state = translate_lraspp(state, backbone)
    replaceable = [
        re.escape(key)
        for key, own in segmenter.state_dict().items()
        if re.match(r"head\.(low_)?classifier\.", key) and state.get(key, own).shape[1:] == own.shape[1:]
    ]
    return load_weights(
        segmenter,
        state,
        source=source,
        replaceable=f"({'|'.join(replaceable)})$",
        remedy="check model.type, model.backbone (type, width, reduced_tail) and model.head (filters, low, "
        "gate_bias) against the network of that file; weights of a backbone alone go to "
        "model.backbone.weights",
    )


def _network_of(state: StateDict) -> StateDict:
    return {key.removeprefix("network."): value for key, value in state.items()}


def refuse_replaced(report: LoadReport, weights: str, *, num_classes: int, hint: str) -> None:
    """Refuse to score weights whose class layers had another size and would start fresh.

    Raises:
        ValueError: with the hint as its end.
    """
    if report.replaced:
        raise ValueError(
            f"{weights} predicts another number of classes than the {num_classes} of the data set "
            f"({len(report.replaced)} tensors of another size): score it on data of its own classes; {hint}"
        )
