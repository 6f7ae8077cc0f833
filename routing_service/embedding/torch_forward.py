"""The forward pass of any sentence encoder with torch: float32 on a CPU, bfloat16 where CUDA computes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from routing_service import device
from routing_service.embedding.base import Floats
from routing_service.embedding.local import Forward
from routing_service.embedding.minibatches import Ids
from routing_service.embedding.model_files import ModelFiles
from routing_service.errors import ConfigurationError, ScoringError

if TYPE_CHECKING:
    import torch

CPU_TOKENS = 512  # a minibatch: what a processor's caches hold
CUDA_MINIBATCHES = 8  # of embedding.minibatch_tokens are one on CUDA

Run = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]

__all__ = ["halving", "load_model", "load_torch", "pool"]


def load_model(files: ModelFiles) -> Any:
    """The transformers model, in evaluation mode. ConfigurationError where the files hold none."""
    try:
        from transformers import AutoModel
        from transformers.utils import logging
    except ImportError:
        raise ConfigurationError(
            "local encoders need torch and transformers: pip install 'routebatch[models]'"
        ) from None
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for a second's work
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


def load_torch(files: ModelFiles, where: device.Device, minibatch_tokens: int) -> Forward:
    """A forward pass on the chosen device."""
    model = load_model(files)
    import torch

    target = device.choose(where)
    model = model.to(target)
    cuda = target.type == "cuda"

    def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(target.type, torch.bfloat16, enabled=cuda):
            states = model(input_ids=ids, attention_mask=mask).last_hidden_state
            pooled: torch.Tensor = pool(states, mask, files.pooling)
        return pooled

    def forward(ids: Ids, mask: Ids) -> Floats:
        vectors: Floats = (
            halving(run, torch.from_numpy(ids).to(target), torch.from_numpy(mask).to(target)).cpu().numpy()
        )
        return vectors

    return Forward(forward, 1, CUDA_MINIBATCHES * minibatch_tokens if cuda else min(CPU_TOKENS, minibatch_tokens))


def halving(run: Run, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The result for all rows, in halves where the device's memory does not hold them together."""
    import torch

    try:
        return run(ids, mask)
    except torch.OutOfMemoryError:
        if len(ids) == 1:
            raise ScoringError(f"the device's memory does not hold a text of {ids.shape[1]} tokens") from None
    torch.cuda.empty_cache()
    middle = len(ids) // 2
    return torch.cat([halving(run, ids[:middle], mask[:middle]), halving(run, ids[middle:], mask[middle:])])
