"""A causal language model of a few thousand random weights and a tokenizer made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from routing_service.routers.transformers.causal_prompts import FORMS
from routing_service.routers.transformers.model_files import quiet

TEXT = [form.instructions for form in FORMS.values()]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(*, chat: bool = True, added: tuple[str, ...] = ()) -> Any:
    """Byte-level BPE with merges learned from the instructions, so that these are short."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    if added:
        fast.add_tokens(list(added), special_tokens=True)
    if chat:
        fast.chat_template = CHAT
    return fast


def tiny_model(tokenizer: Any, *, seed: int = 0, tied: bool = True, **options: Any) -> Any:
    values: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.3,  # so that answers differ
        "tie_word_embeddings": tied,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        auto: Any = AutoModelForCausalLM
        return auto.from_config(LlamaConfig(**values | options)).eval()


def save_tiny(directory: Path, *, chat: bool = True, **options: Any) -> str:
    """A model's directory as transformers writes it."""
    tokenizer = tiny_tokenizer(chat=chat)
    with quiet():
        tiny_model(tokenizer, **options).save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    return str(directory)
