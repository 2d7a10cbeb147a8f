"""Ways to compute which latents of an SAE fire on rows of activations, all exact in float32. Worker only; torch is.

The plain way is `sources/plain.py`. `packed` computes every latent too, from weights laid out for it. `screened`
computes a product of small integers first (`products`), leaves out what cannot fire by a proven bound (`bounds`,
`equalising`), and computes the rest exactly; `compiled` are its loops.
"""
