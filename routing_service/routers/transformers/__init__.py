"""The routers that fine-tune a transformer: bert (a classifier) and causal_llm (a language model that is asked).

`model_files` takes a model and its tokenizer into an artifact; `bert_forward`, `prefix_cache` and `int8_linear` are the
forward passes.
"""
