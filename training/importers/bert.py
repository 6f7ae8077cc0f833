"""RouteLLM's published BERT (`routellm/bert_gpt4_augmented`) as an artifact of ours.

The checkpoint is a directory of transformers: config.json, an XLM-RoBERTa with a classification head of three labels
(the strong tier wins, tie, the weak tier wins), in safetensors or an older file of torch's, and a tokenizer. Its win
rate is RouteLLM's: 1 - P(tie) - P(weak). Long prompts are read by head and tail, where RouteLLM reads the head alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from routing_service.errors import ArtifactError
from routing_service.routers.transformers.bert import BertRouter, Figures
from routing_service.routers.transformers.bert_forward import LABELS, Classifier, max_positions
from routing_service.routers.transformers.model_files import KEY, pack_transformer, quiet
from routing_service.settings import Settings

SAFE, OLD = "model.safetensors", "pytorch_model.bin"

__all__ = ["import_bert"]


def import_bert(path: Path, settings: Settings) -> BertRouter:
    """The router of a checkpoint's directory. Nothing is fetched, and nothing in it is executed: of torch's files only
    tensors are read. ArtifactError for whatever is wrong with the files.
    """
    model, tokenizer = _load(path)
    tensors, part = pack_transformer(model, tokenizer)
    config = part[KEY]["config"]
    most = min(int(tokenizer.model_max_length), max_positions(config) or 512, 32_768)
    metadata = {"seed": None, "data": {"checkpoint": path.name, "sources": {"routellm": 1}}, "metrics": {}}
    classifier = Classifier(config, tensors, lambda: model)
    return BertRouter(classifier, Figures(most, "routellm"), settings=settings, metadata=metadata)


def _load(path: Path) -> tuple[Any, Any]:
    weights = _weights(path)
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, num_labels=LABELS, trust_remote_code=False, local_files_only=True)
            with torch.device("meta"):
                known: Any = AutoModelForSequenceClassification
                kind: Any = type(known.from_config(config, trust_remote_code=False))
            model, loading = kind.from_pretrained(
                None, config=config, state_dict=weights, output_loading_info=True, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises whatever it meets
        raise ArtifactError(f"{path} holds no classifier that transformers loads: {error}"[:500]) from error
    if loading["missing_keys"]:
        raise ArtifactError(f"{path} lacks the weights {sorted(loading['missing_keys'])[0]!r}: it is no classifier")
    return model.eval(), tokenizer


def _weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if (path / SAFE).is_file():
            return load_file(path / SAFE)
        weights = torch.load(path / OLD, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path} holds neither {SAFE} nor {OLD}") from None
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise ArtifactError(f"the weights in {path} cannot be read: {error}"[:500]) from error
    except Exception as error:  # of pickle, whose other contents are refused
        raise ArtifactError(f"{path / OLD} holds other things than tensors: {error}"[:300]) from error
    if not isinstance(weights, dict) or not all(isinstance(one, torch.Tensor) for one in weights.values()):
        raise ArtifactError(f"{path / OLD} holds other things than tensors")
    return weights
