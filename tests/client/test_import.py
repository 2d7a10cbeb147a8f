"""What importing the client costs and does not drag in, in interpreters of their own."""

import subprocess
import sys

import pytest


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "statement",
    [
        "import saeserve; [getattr(saeserve, name) for name in saeserve.__all__]",
        "from saeserve.v1 import feature_service_pb2_grpc, types_pb2",
        "import saeserve.cli.main",
    ],
)
def test_the_client_never_imports_torch_or_the_server(statement):
    done = python(
        f"import sys; {statement}\n"
        "assert not {'torch', 'transformers', 'transformer_lens', 'saeserve_server'} & set(sys.modules)\n"
        "assert not {'pandas', 'polars', 'pyarrow', 'scipy', 'matplotlib', 'saeserve.notebook'} & set(sys.modules)"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_names_are_loaded_when_they_are_used():
    done = python(
        "import sys, saeserve\n"
        "assert not {'grpc', 'numpy', 'google.protobuf', 'rich', 'asyncio'} & set(sys.modules)\n"
        "assert saeserve.__version__ == '0.1.0'\n"
        "saeserve.Client\n"
        "assert 'grpc' in sys.modules and 'rich' not in sys.modules\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_generated_code_can_be_imported_without_the_client():
    done = python("import sys, saeserve.v1.types_pb2\nassert 'grpc' not in sys.modules and 'numpy' not in sys.modules")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_public_name_is_there_and_no_other():
    import saeserve

    for name in saeserve.__all__:
        assert getattr(saeserve, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Clientt'"):
        saeserve.Clientt  # noqa: B018
