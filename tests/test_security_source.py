"""What the source may not contain: ways to run what was read. Looked up in the syntax tree of every file."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for package in ("annotate_app", "online_learner", "storage") for path in (ROOT / package).rglob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
CALLS = {"eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "torch.load", "yaml.load", "compile"}


def calls_of(path):
    """(dotted name, keywords) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}, node.lineno


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_can_run(path):
    assert not {name for name in imports_of(path) if name.split(".")[0] in MODULES}
    for name, keywords, line in calls_of(path):
        assert name not in CALLS, f"{path.name}:{line} calls {name}"
        assert keywords.get("shell", "False") == "False", f"{path.name}:{line} runs a shell"
        assert keywords.get("trust_remote_code", "False") == "False", f"{path.name}:{line} trusts code of a model"
        assert keywords.get("allow_pickle", "False") == "False", f"{path.name}:{line} unpickles"
        assert keywords.get("verify", "True") != "False", f"{path.name}:{line} does not check certificates"


def test_weights_are_read_as_safetensors_only():
    loads = [
        (f"{path.relative_to(ROOT)}:{line}", keywords)
        for path in FILES
        for name, keywords, line in calls_of(path)
        if name.startswith("AutoModel") and name.endswith(".from_pretrained") and "bench" not in path.name
    ]
    assert len(loads) >= 2
    assert not [place for place, keywords in loads if keywords.get("use_safetensors") != "True"]


def test_the_scan_sees_what_it_looks_for(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(
        "import pickle.x\nimport subprocess\nsubprocess.run('ls', shell=True)\nM.from_pretrained('m', trust_remote_code=True)\n"
    )
    with pytest.raises(AssertionError):
        test_nothing_that_is_read_can_run(path)
    assert [keywords.get("shell") for _, keywords, _ in calls_of(path)] == ["True", None]
