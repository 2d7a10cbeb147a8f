"""What RPCs answer with: the served model's catalog, texts, caches, index and limits. Under api, over the scheduler."""
