"""Pack WORK/lm, WORK/tokenizer.json and WORK/saes into a folder as the server reads it, in half precision.

OUT/model is a Hugging Face folder, OUT/saes/L-NAME are SAELens v6 folders.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from training.streams import BOS


def export_model(work: Path, out: Path) -> None:
    """Weights, configuration and tokenizer."""
    model = GPT2LMHeadModel.from_pretrained(work / "lm")
    model.half().save_pretrained(out)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(work / "tokenizer.json"),
        bos_token=BOS,
        eos_token=BOS,
        unk_token=BOS,
        model_max_length=model.config.n_positions,
    )
    tokenizer.save_pretrained(out)


def export_sae(folder: Path, out: Path) -> None:
    """Weights and configuration of one SAE."""
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.half() for name, weight in load_file(folder / "sae_weights.safetensors").items()}
    config = json.loads((folder / "cfg.json").read_text()) | {"dtype": "float16"}
    save_file(weights, out / "sae_weights.safetensors")
    (out / "cfg.json").write_text(json.dumps(config, indent=1))


def main(argv: Sequence[str] | None = None) -> None:
    """Write OUT."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="folder that all steps share")
    parser.add_argument("out", type=Path, help="folder to write")
    arguments = parser.parse_args(argv)
    export_model(arguments.work, arguments.out / "model")
    saes = sorted(path for path in (arguments.work / "saes").iterdir() if path.is_dir())
    for folder in saes:
        export_sae(folder, arguments.out / "saes" / folder.name)
    print(f"{arguments.out}: a model and {len(saes)} SAEs")


if __name__ == "__main__":
    main()
