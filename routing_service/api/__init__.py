"""The HTTP door: OpenAI's Files and Batches API over the use cases. Nothing here decides about routing or money."""
