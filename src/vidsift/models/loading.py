"""`load_model`: from a bundled name, a folder, a preset or a hub id to a model in eval mode."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

import torch

from vidsift.errors import DeviceError, ModelNotFoundError
from vidsift.models.base import RetrievalModel
from vidsift.models.presets import PRESETS
from vidsift.models.storage import CONFIG, read_model

DEFAULT_MODEL = "clip-tiny"
BUNDLED = Path(__file__).resolve().parent.parent / "bundled"
# A reachable hub answers in well under a second; a firewall that drops packets never does.
PROBE_SECONDS = 6.0
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_FILES = ("*.json", "*.txt", "*.model")
T = TypeVar("T")


def bundled_models() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG}"))


def best_device() -> str:
    """A GPU that torch can use, else the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(name: str = DEFAULT_MODEL, device: str | torch.device = "cpu") -> RetrievalModel:
    """Load a model in eval mode.

    name: tried in this order: a bundled name, a folder (ours, or a plain Hugging Face dual encoder), a preset
    (`vidsift.models.presets`), a hub id `owner/name`.
    Raises DeviceError for a device that is not there; ModelNotFoundError within seconds when nothing of that
    name can be had, with the command that fixes it; ModelFormatError when it is there but cannot be used.
    """
    path = Path(name).expanduser()
    if name not in bundled_models() and path.is_dir():
        model = read_model(path)
        # The whole path, so that whoever remembers the name can load the model again.
        model.name = str(path.resolve())
        return _on(model, device)
    model = read_model(resolve(name))
    model.name = name
    return _on(model, device)


def _on(model: RetrievalModel, device: str | torch.device) -> RetrievalModel:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:  # what torch raises depends on how it was built
        raise DeviceError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def resolve(name: str) -> Path:
    """Folder of a bundled model, a preset or a hub id.  Raises ModelNotFoundError, as `load_model` does."""
    if name in bundled_models():
        return BUNDLED / name
    if name in PRESETS:
        return fetch(PRESETS[name].hub_id)
    if _HUB_ID.fullmatch(name):
        return fetch(name)
    known = [*bundled_models(), *PRESETS]
    near = get_close_matches(name, known, n=1)
    if name == DEFAULT_MODEL:
        raise ModelNotFoundError(
            f"the bundled model {name!r} is missing from this installation: reinstall vidsift, or name "
            f"a folder, a preset ({', '.join(PRESETS)}) or a hub id"
        )
    hint = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(known)}"
    raise ModelNotFoundError(
        f"no model {name!r}: not a bundled model, a folder, a preset or a hub id; {hint}"
    )


def locate(name: str) -> Path:
    """Folder of a model by a path, a bundled name, a preset or a hub id, as `load_model` finds it."""
    path = Path(name).expanduser()
    return path if name not in bundled_models() and path.is_dir() else resolve(name)


def fetch(hub_id: str) -> Path:
    """Folder of a hub model: from the local cache, else downloaded.

    Raises ModelNotFoundError when it is neither cached nor reachable (decided within about ten seconds), or
    does not exist, or asks for a login.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    def cached() -> Path | None:
        try:
            path = Path(snapshot_download(hub_id, local_files_only=True))
        except LocalEntryNotFoundError:
            return None
        weights = any(path.glob("*.safetensors")) or any(path.glob("pytorch_model*.bin"))
        return path if weights and (path / CONFIG).is_file() else None

    try:
        found = cached()
        if found is not None:
            return found
        info = _within(PROBE_SECONDS, lambda: HfApi().model_info(hub_id, timeout=PROBE_SECONDS))
    except GatedRepoError as error:
        raise ModelNotFoundError(f"{hub_id} asks for a login: run `hf auth login`, then try again") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelNotFoundError(
            f"{hub_id} is neither a folder here nor a public model on the hub: {error}"
        ) from error
    except _network_errors() as error:
        raise _unreachable(hub_id, error) from error
    names = [s.rfilename for s in info.siblings or []]
    safe = any(n.endswith(".safetensors") and "/" not in n for n in names)
    patterns = [*_FILES, "*.safetensors" if safe else "pytorch_model*.bin"]
    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except _network_errors() as error:
        raise _unreachable(hub_id, error) from error


def _unreachable(hub_id: str, error: BaseException) -> ModelNotFoundError:
    bundled = bundled_models()
    offline = f"; without a network, use the bundled model: {bundled[0]}" if bundled else ""
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return ModelNotFoundError(
        f"{hub_id} is not a folder here, not in the local cache, and the hub cannot be reached ({reason}). "
        f"On a machine with a network run: hf download {hub_id}{offline}"
    )


def _network_errors() -> tuple[type[BaseException], ...]:
    """Everything a failed request can raise, in the HTTP library that huggingface_hub uses."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError

    errors = [OSError, HfHubHTTPError, TimeoutError]
    for base in type(get_session()).__mro__:
        library = __import__(base.__module__.partition(".")[0])
        errors.extend(
            e for n in ("HTTPError", "RequestException") if isinstance(e := getattr(library, n, None), type)
        )
    return tuple(errors)


def _within(seconds: float, work: Callable[[], T]) -> T:
    """Result of `work`, or TimeoutError: name lookup and connecting ignore a request's own timeout."""
    result: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller below
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if failure:
        raise failure[0]
    if not result:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return result[0]
