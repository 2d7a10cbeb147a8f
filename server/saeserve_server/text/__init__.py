"""Text and tokens, without torch: one tokenizer that is never reconfigured, and the rules for BOS and sort tokens."""
