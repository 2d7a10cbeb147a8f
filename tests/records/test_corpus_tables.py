"""Texts come out of Parquet files and data sets in the order of their rows; what is no text is named by its row."""

from __future__ import annotations

import json
import sys

import pyarrow as pa
import pytest
from pyarrow import parquet

from saeserve_server.errors import ConfigError
from saeserve_server.records.corpus import Corpus, find_files

TEXTS = [f"text {number} é" for number in range(1000)] + [""]


def write_parquet(path, texts=TEXTS, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({"text": texts, "id": list(range(len(texts))), **columns}), path, row_group_size=300)
    return path


def write_arrow(path, texts, of=pa.ipc.new_stream):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": texts, "id": list(range(len(texts)))})
    with of(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    return path


def saved(folder, shards, split="train"):
    """As `datasets.save_to_disk` leaves it."""
    names = [f"data-{number:05d}-of-{len(shards):05d}.arrow" for number in range(len(shards))]
    for name, texts in zip(names, shards, strict=True):
        write_arrow(folder / name, texts)
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "6b1e0a4b7d9f0c1e",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": split,
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def of_a_file(path):
    corpus = Corpus([path])
    for _ in range(2):
        assert list(corpus) == TEXTS
        assert corpus.read == corpus.size > 0
    return True


def test_a_parquet_file_holds_a_text_a_row(tmp_path):
    assert of_a_file(write_parquet(tmp_path / "a.parquet"))
    assert of_a_file(write_parquet(tmp_path / "large.parquet", pa.array(TEXTS, pa.large_string())))
    assert of_a_file(write_parquet(tmp_path / "numbered.parquet", pa.array(TEXTS).dictionary_encode()))


@pytest.mark.parametrize("of", [pa.ipc.new_stream, pa.ipc.new_file])
def test_so_does_an_arrow_file_of_either_kind(tmp_path, of):
    assert of_a_file(write_arrow(tmp_path / "a.arrow", TEXTS, of))


def test_the_column_can_be_chosen(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", ["x"], body=["one"])
    assert list(Corpus([file], field="body")) == ["one"]


def test_a_row_that_is_no_text_is_named_after_the_good_ones(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", [*TEXTS, None, "later"])
    texts = iter(Corpus([file]))
    assert next(texts) == TEXTS[0]
    with pytest.raises(ConfigError, match=r"a\.parquet: row 1002: column 'text': expected a string, got null"):
        list(texts)
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"ok\xff"))
    file = write_arrow(tmp_path / "b.arrow", broken)
    with pytest.raises(ConfigError, match=r"b\.arrow: row 2: column 'text': not UTF-8 text"):
        list(Corpus([file]))


def test_what_is_not_of_that_kind_is_refused_before_the_model_loads(tmp_path):
    file = write_parquet(tmp_path / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet: no column 'body'; it has text, id: choose with --field"):
        Corpus([file], field="body").check()
    with pytest.raises(ConfigError, match=r"a\.parquet: column 'id': expected strings, got int64"):
        Corpus([file], field="id").check()
    for name in ("cut.parquet", "cut.arrow"):
        (tmp_path / name).write_bytes(file.read_bytes()[:1000])
        with pytest.raises(ConfigError, match=rf"{name}: not a whole (Parquet|Arrow) file"):
            Corpus([tmp_path / name]).check()


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"a\.parquet: needs pyarrow: pip install 'saeserve-server\[parquet\]'"):
        Corpus([file]).check()


def test_a_saved_data_set_is_read_in_the_order_of_its_files(tmp_path):
    folder = saved(tmp_path / "saved", [TEXTS[:600], TEXTS[600:]])
    assert list(Corpus(find_files([folder]))) == list(Corpus(find_files([folder], "train"))) == TEXTS
    with pytest.raises(ConfigError, match="no split 'test': it is a data set of the split 'train'"):
        find_files([folder], "test")
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ConfigError, match=r"1 of 2 files are missing, the first data-00001-of-00002\.arrow"):
        find_files([folder])


def test_of_several_splits_the_train_is_read_or_the_chosen_one(tmp_path):
    for split in ("test", "train"):
        saved(tmp_path / "all" / split, [[split]], split)
    (tmp_path / "all" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    assert list(Corpus(find_files([tmp_path / "all"]))) == ["train"]
    assert list(Corpus(find_files([tmp_path / "all"], "test"))) == ["test"]
    with pytest.raises(ConfigError, match="no split 'dev'; it has test, train: choose with --split"):
        find_files([tmp_path / "all"], "dev")


def test_so_it_is_in_the_layout_of_the_hub(tmp_path):
    for split in ("test", "train"):
        for part in range(2):
            write_parquet(tmp_path / "set" / "data" / f"{split}-0000{part}-of-00002.parquet", [f"{split} {part}"])
    assert list(Corpus(find_files([tmp_path / "set"]))) == ["train 0", "train 1"]
    assert list(Corpus(find_files([tmp_path / "set"], "test"))) == ["test 0", "test 1"]
    write_parquet(tmp_path / "set" / "other" / "train-00000-of-00001.parquet", ["other"])
    with pytest.raises(ConfigError, match=r"holds several configurations \(data, other\): name one of these"):
        find_files([tmp_path / "set"])
    assert list(Corpus(find_files([tmp_path / "set" / "other"]))) == ["other"]


def test_files_that_are_not_named_like_splits_are_all_taken(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": name}))
    assert list(Corpus(find_files([tmp_path]))) == ["test", "train"]
    assert list(Corpus(find_files([tmp_path], "train"))) == ["train"]


def test_a_hub_name_is_found_in_the_cache_or_told_how_to_fetch(tmp_path, monkeypatch):
    import huggingface_hub.constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="`saeserve-server fetch --dataset org/name` brings it"):
        find_files(["org/name"])
    with pytest.raises(ConfigError, match=r"texts/gone\.txt: no such file or folder$"):
        find_files(["texts/gone.txt"])
    commit = "0" * 40
    repo = cache / "datasets--org--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    write_parquet(repo / "snapshots" / commit / "plain" / "train-00000-of-00001.parquet")
    assert list(Corpus(find_files(["org/name"]))) == TEXTS
    assert list(Corpus(find_files(["org/name/plain"]))) == TEXTS
    with pytest.raises(ConfigError, match="org/name in the hub cache has no other"):
        find_files(["org/name/other"])
