"""saeserve-server: an inference server that tells what a language model's features respond to.

Arrows run one way: api → scheduler → engine → models, sources; text, records and cache stand beside the scheduler.
Nothing below api knows protobuf; nothing above engine imports torch or transformer_lens.
"""

__version__ = "0.1.0"
