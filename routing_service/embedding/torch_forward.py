"""The forward pass of any sentence encoder with torch: float32 on a CPU, bfloat16 where CUDA computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from routing_service import device
from routing_service.embedding.base import Floats
from routing_service.embedding.files import ModelFiles
from routing_service.embedding.reading import Ids
from routing_service.errors import ConfigurationError

__all__ = ["load_model", "load_torch", "pool"]


def load_model(files: ModelFiles) -> Any:
    """The transformers model, in evaluation mode. ConfigurationError where the files hold none."""
    try:
        from transformers import AutoModel
    except ImportError:
        raise ConfigurationError(
            "local encoders need torch and transformers: pip install 'routebatch[models]'"
        ) from None
    try:
        model = AutoModel.from_pretrained(files.directory, trust_remote_code=False, use_safetensors=True)
    except Exception as error:
        raise ConfigurationError(f"{files.directory} holds no model that transformers loads: {error}") from error
    return model.float().eval()


def pool(states: Any, mask: Any, pooling: str) -> Any:
    """Token states to a vector a text, in float32: the mean over the tokens that the mask shows, or the first one's."""
    if pooling == "cls":
        return states[:, 0].float()
    weights = mask.unsqueeze(-1).float()
    return (states.float() * weights).sum(1) / weights.sum(1)


def load_torch(files: ModelFiles, where: device.Device) -> Callable[[Ids, Ids], Floats]:
    """A forward pass on the chosen device."""
    model = load_model(files)
    import torch

    target = device.choose(where)
    model = model.to(target)

    def forward(ids: Ids, mask: Ids) -> Floats:
        shown = torch.from_numpy(mask).to(target)
        half = torch.autocast(target.type, torch.bfloat16, enabled=target.type == "cuda")
        with torch.inference_mode(), half:
            states = model(input_ids=torch.from_numpy(ids).to(target), attention_mask=shown).last_hidden_state
            vectors: Floats = pool(states, shown, files.pooling).cpu().numpy()
        return vectors

    return forward
