"""Any overlays merge as they are documented to, and a flattened config says the same."""

import json

from examples import examples
from hypothesis import assume, given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from pipeline.bundle import flatten
from pipeline.settings import unknown_keys

KEYS = st.sampled_from(["epochs", "network", "loss", "steps", "seed"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(-1, 1)
    | st.sampled_from(["text", "$1 + 1", "@epochs", ""])
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
CONFIGS = st.dictionaries(KEYS, TREES, min_size=1, max_size=5)


def merged(folder, *configs):
    files = []
    for number, config in enumerate(configs):
        files.append(str(folder / f"{number}.json"))
        (folder / f"{number}.json").write_text(json.dumps(config))
    return ConfigParser.load_config_files(files)


@examples(40)
@given(CONFIGS, CONFIGS, CONFIGS)
def test_of_overlays_the_later_wins_and_twice_is_once(fresh_folder, base, overlay, other):
    folder = fresh_folder()
    assert merged(folder, base, overlay) == base | overlay
    assert merged(folder, base, overlay, other) == base | overlay | other
    assert merged(folder, base, overlay, overlay) == merged(folder, base, overlay)
    deep = {f"top#{key}": value for key, value in overlay.items()}
    assert merged(folder, {"top": base}, deep) == {"top": base | overlay}


def unflattened(leaves):
    """Nested mappings of paths; a list has become a mapping of its places."""
    root = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = root
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = leaf
    return root


def as_mappings(node):
    """Lists that hold mappings or lists, as mappings of their places."""
    if isinstance(node, list) and any(isinstance(entry, dict | list) for entry in node):
        node = {str(place): entry for place, entry in enumerate(node)}
    return {key: as_mappings(entry) for key, entry in node.items()} if isinstance(node, dict) else node


@examples(60)
@given(CONFIGS)
def test_a_flattened_config_holds_all_of_it(config):
    leaves = flatten(config)
    assert unflattened(leaves) == as_mappings(config)
    assert flatten(unflattened(leaves)) == leaves
    assert not any(isinstance(leaf, dict) and leaf for leaf in leaves.values())


@examples(40)
@given(CONFIGS, st.text("abcdefghij", min_size=1, max_size=8), LEAVES)
def test_a_key_that_no_config_has_is_named_with_a_suggestion(config, key, value):
    assume(key not in config)
    assert [*unknown_keys(config, config)] == []
    (problem,) = unknown_keys({**config, key: value}, config)
    assert f"'{key}'" in problem.reason
    assert any(known in problem.remedy for known in config)
