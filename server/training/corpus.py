"""Collect a folder of plain text into WORK/corpus.jsonl, one cleaned document a line.

Takes *.txt and *.md at any depth; of Markdown only the prose stays. A document's author is the folder it lies in, and
`--authors` can choose and order folders: a file with one name a line.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.streams import write_json_lines

STRAIGHT = str.maketrans({"“": '"', "”": '"', "’": "'", "‘": "'", "—": " -- "})


def clean(text: str) -> str:
    """Prose with straight quotes, one line a paragraph, one empty line between paragraphs."""
    text = re.sub(r"^#+ .*$", "", text, flags=re.MULTILINE)  # headings
    text = re.sub(r"!\[.*?\]\(.*?\)", "", text)  # pictures
    text = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", text)  # links keep their words
    text = re.sub(r"[*_]{1,3}", "", text)  # emphasis
    text = text.translate(STRAIGHT)
    text = re.sub(r"^\s*[>|].*$", "", text, flags=re.MULTILINE)  # quotations and tables
    text = re.sub(r"[ \t]+", " ", text)
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    return re.sub(r"\n\s*\n+", "\n\n", text).strip()


def files(folder: Path, authors: list[str] | None) -> Iterator[Path]:
    """The text files of the folder, or of these folders in it, in a fixed order."""
    for part in [folder] if authors is None else [folder / author for author in authors]:
        yield from sorted(path for path in part.rglob("*") if path.suffix in {".txt", ".md"} and path.is_file())


def main(argv: Sequence[str] | None = None) -> None:
    """Write the corpus and say how large it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, help="folder of text, for example AUTHOR/TITLE.md")
    parser.add_argument("work", type=Path, help="folder that all steps share")
    parser.add_argument("--authors", type=Path, help="file that names the folders to take, in order")
    parser.add_argument("--min-chars", type=int, default=2000, help="shorter documents are left out (%(default)s)")
    arguments = parser.parse_args(argv)
    authors = arguments.authors.read_text().splitlines() if arguments.authors else None
    documents = [
        {"author": path.parent.name, "title": path.stem, "text": text}
        for path in files(arguments.texts, authors)
        if len(text := clean(path.read_text(errors="ignore"))) > arguments.min_chars
    ]
    if not documents:
        raise SystemExit(f"no document of more than {arguments.min_chars} characters in {arguments.texts}")
    write_json_lines(arguments.work / "corpus.jsonl", documents)
    print(f"{len(documents)} documents, {sum(len(d['text']) for d in documents) / 1e6:.2f} million characters")


if __name__ == "__main__":
    main()
