"""SAEs saved as the state dict of two `nn.Linear`: Goodfire's and qresearch's for Llama 3 and DeepSeek R1.

    encoder[_linear].weight [d_sae, d_in]   .bias [d_sae]   decoder[_linear].weight [d_in, d_sae]   .bias [d_in]

A ReLU; nothing is subtracted from inputs. The layer stands in the file's name (…-SAE-l19.pt), after the model's.
"""

from __future__ import annotations

import re
from pathlib import Path

from saeserve_server.sources.description import Description
from saeserve_server.sources.formats.common import describe_file, holds, opened
from saeserve_server.sources.layout import Layout, Part

NAME = "linear"
FILES = "MODEL-SAE-l{n}.pt or .pth, the state dict of an encoder and a decoder"

PREFIXES = ("encoder_linear", "encoder")


def recognise(path: Path) -> bool:
    """Whether it is a state dict of an encoder and a decoder with biases."""
    if not path.is_file() or path.suffix not in (".pt", ".pth"):
        return False
    return any(holds(path, f"{one}.weight", f"{one.replace('en', 'de', 1)}.bias") for one in PREFIXES)


def describe(path: Path) -> Description:
    """What the file and its name say. Raises ConfigError."""
    name = re.fullmatch(r"(.+)-SAE-l(\d+)", path.stem)
    with opened(path) as file:
        encoder = next((one for one in PREFIXES if f"{one}.weight" in file.entries), PREFIXES[0])
        decoder = encoder.replace("en", "de", 1)
        layout = Layout(
            {
                "W_enc": Part(f"{encoder}.weight", "d_sae", "d_in"),
                "b_enc": Part(f"{encoder}.bias", "d_sae"),
                "b_dec": Part(f"{decoder}.bias", "d_in"),
                "W_dec": Part(f"{decoder}.weight", "d_in", "d_sae"),
            }
        )
        return describe_file(
            NAME,
            file,
            layout,
            architecture="standard",
            activation="relu",
            hook_name=f"blocks.{name[2]}.hook_resid_post" if name else None,
            layer=int(name[2]) if name else None,
            model=name[1] if name else None,
            bos=True,
        )
