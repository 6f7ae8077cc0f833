"""The gain router, the default: kernel ridge on cheap features of the prompt, without an encoder.

Read `router` first, then `model` (what is fitted), `text_features`, `tfidf` and `kernel`.
"""
