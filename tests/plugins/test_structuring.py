"""From values to components and back: nothing is coerced, nothing is forgiven, everything is named."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Literal

import attrs
import pytest
from attrs.validators import and_, ge, gt, lt

from dlm_plugins import AttentionBias, Loss, MaskFunction, NoiseSchedule, SequenceLayout
from dlm_plugins.discovery import Entry, PluginRecord
from dlm_plugins.errors import ConfigurationError
from dlm_plugins.registry import Registry
from dlm_plugins.structuring import make_converter, structure_component, unstructure_component


class Side(Enum):
    LEFT = "left"
    RIGHT = "right"


@attrs.frozen(kw_only=True)
class Window:
    """A nested object."""

    width: int
    height: float = attrs.field(default=1.0, validator=gt(0))


@attrs.frozen(kw_only=True)
class Everything:
    """A component with every kind of option."""

    count: int = attrs.field(default=1, validator=ge(0))
    rate: float = attrs.field(default=0.5, validator=and_(ge(0), lt(1)))
    flag: bool = False
    label: str = "a"
    limit: int | None = None
    mode: Literal["fast", "slow"] = "fast"
    side: Side = Side.LEFT
    betas: tuple[float, float] = (0.9, 0.95)
    names: Sequence[str] = ()
    sizes: list[int] = attrs.field(factory=list)
    table: Mapping[str, int] = attrs.field(factory=dict)
    window: Window | None = None
    either: int | Sequence[int] = 0

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        return None


@attrs.frozen(kw_only=True)
class Pair:
    """A component made of components."""

    first: AttentionBias = attrs.field(metadata={"unstructured_default": "everything"})
    second: AttentionBias | None = None

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        return None


@attrs.frozen(kw_only=True)
class Many:
    """A component made of a list of components."""

    members: Sequence[AttentionBias] = ()

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        return None


@attrs.frozen(kw_only=True)
class Needy:
    """A component with a required option."""

    weight: float
    offset: float = 0.0

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        return None


@attrs.frozen(kw_only=True)
class Moody:
    """A component whose constructor raises."""

    bad: bool = False
    leaves: bool = False

    def __attrs_post_init__(self) -> None:
        if self.bad:
            raise RuntimeError("the moon\nis full")
        if self.leaves:
            raise SystemExit(3)

    def mask_function(self, layout: SequenceLayout) -> MaskFunction | None:
        return None


def registry_of(**classes: type[Any]) -> Registry:
    entries = tuple(
        Entry(kind="attention_bias", name=name, plugin="toy", distribution="toy", version="1", cls=cls, summary="")
        for name, cls in classes.items()
    )
    return Registry((PluginRecord(name="toy", distribution="toy", version="1", status="ok", entries=entries),))


TOYS = registry_of(everything=Everything, pair=Pair, many=Many, needy=Needy, moody=Moody)


def structured(value: object) -> Any:
    return structure_component(TOYS, "attention_bias", value)


def problems(value: object) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as raised:
        structured(value)
    found = {problem.path: problem.message for problem in raised.value.problems}
    assert len(found) == len(raised.value.problems)
    return found


def of_option(option: str, value: object) -> str:
    found = problems({"name": "everything", option: value})
    assert len(found) == 1, found
    path, message = found.popitem()
    assert path.startswith(option)
    return message


def test_a_bare_name_a_qualified_name_and_a_mapping_select_the_same_component() -> None:
    assert (
        structured("everything") == structured("toy:everything") == structured({"name": "everything"}) == Everything()
    )


def test_options_stand_beside_the_name() -> None:
    assert structured({"name": "needy", "weight": 2, "offset": 0.5}) == Needy(weight=2.0, offset=0.5)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("count", True),
        ("count", "7"),
        ("count", 3.7),
        ("count", 3.0),
        ("count", None),
        ("rate", "0.5"),
        ("rate", True),
        ("rate", float("nan")),
        ("rate", float("inf")),
        ("rate", 10**400),
        ("flag", 1),
        ("flag", "false"),
        ("flag", 0.0),
        ("label", 3),
        ("label", False),
        ("label", ["a"]),
        ("limit", "none"),
        ("mode", True),
        ("side", 1),
        ("betas", [0.9]),
        ("betas", [0.9, "0.95"]),
        ("betas", "ab"),
        ("names", "abc"),
        ("names", {"a": 1}),
        ("names", [1]),
        ("sizes", (True,)),
        ("table", [1]),
        ("table", {"a": "1"}),
        ("table", {1: 1}),
        ("window", 3),
        ("either", "3"),
        ("either", True),
    ],
)
def test_values_of_the_wrong_type_are_refused_and_never_converted(option: str, value: object) -> None:
    assert of_option(option, value).startswith("must be")


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("count", 7, 7),
        ("rate", 0, 0.0),
        ("limit", None, None),
        ("limit", 4, 4),
        ("side", "right", Side.RIGHT),
        ("betas", [0, 0.5], (0.0, 0.5)),
        ("names", ["a", "b"], ("a", "b")),
        ("sizes", [1, 2], [1, 2]),
        ("table", {"a": 1}, {"a": 1}),
        ("window", {"width": 3}, Window(width=3)),
        ("either", 5, 5),
        ("either", [5, 6], (5, 6)),
    ],
)
def test_values_of_the_right_type_are_taken(option: str, value: object, expected: object) -> None:
    result = getattr(structured({"name": "everything", option: value}), option)
    assert result == expected
    assert type(result) is type(expected)


def test_an_integer_for_a_float_arrives_as_a_float() -> None:
    assert type(structured({"name": "needy", "weight": 2}).weight) is float


def test_messages_say_what_is_allowed_and_what_was_found() -> None:
    assert of_option("count", "7") == "must be an integer, not '7', which is text"
    assert of_option("flag", 1) == "must be true or false, not 1"
    assert of_option("mode", "fsat") == "must be one of fast, slow, not 'fsat'; did you mean 'fast'?"
    assert of_option("side", "up") == "must be one of left, right, not 'up'"
    assert of_option("either", "x") == "must be an integer or a list, not 'x'"
    assert of_option("betas", [1.0]) == "must be a list of 2 values, not of 1"


def test_the_validators_own_message_is_kept() -> None:
    assert of_option("count", -1) == "must be >= 0: -1"
    assert of_option("rate", 1.5) == "must be < 1: 1.5"


def test_all_problems_are_reported_at_once_even_when_types_and_ranges_are_mixed() -> None:
    found = problems(
        {
            "name": "everything",
            "count": -1,
            "rate": 7,
            "flag": "no",
            "sizes": [1, "2", 3.5],
            "window": {"width": "3", "heigth": 2},
            "zzz": 0,
        }
    )
    assert set(found) == {"count", "rate", "flag", "sizes[1]", "sizes[2]", "window.width", "window.heigth", "zzz"}
    assert "did you mean 'height'" in found["window.heigth"]
    assert "count" in found["zzz"]


def test_two_ranges_that_are_both_wrong_are_both_reported() -> None:
    assert set(problems({"name": "everything", "count": -1, "rate": 2.0})) == {"count", "rate"}


def test_a_missing_option_is_named_in_the_short_form_too() -> None:
    assert problems("needy") == {"weight": "required, but missing"}


def test_a_misspelt_key_and_the_required_key_it_stands_for_make_one_message() -> None:
    found = problems({"name": "needy", "wieght": 1.0})
    assert found == {"wieght": "unknown key; did you mean 'weight', which is required?"}


def test_a_component_that_raises_is_named_with_its_reason_on_one_line() -> None:
    assert problems({"name": "moody", "bad": True}) == {"": "moody: RuntimeError: the moon is full"}
    assert problems({"name": "moody", "leaves": True}) == {"": "moody: SystemExit: 3"}


def test_unknown_names_are_placed_where_they_were_written() -> None:
    assert "did you mean 'needy'" in problems("neddy")[""]
    assert "did you mean 'needy'" in problems({"name": "neddy", "weight": 1.0})["name"]


@pytest.mark.parametrize("value", [None, 3, True, [], ["needy"], {}, {"weight": 1.0}, {"name": None}, {"name": ["a"]}])
def test_what_is_neither_name_nor_mapping_is_refused_with_the_names_there_are(value: object) -> None:
    assert "everything, many, moody, needy, pair" in next(iter(problems(value).values()))


def test_components_nest() -> None:
    pair = structured({"name": "pair", "second": {"name": "needy", "weight": 1.0}})
    assert pair == Pair(first=Everything(), second=Needy(weight=1.0))
    found = problems({"name": "pair", "first": "nedy", "second": {"name": "needy", "weigt": 1}})
    assert set(found) == {"first", "second.weigt"}


def test_unstructuring_writes_qualified_names_all_options_and_plain_values() -> None:
    plain = unstructure_component(TOYS, "attention_bias", Pair(first=Everything(side=Side.RIGHT), second=None))
    assert plain["name"] == "toy:pair"
    first = plain["first"]
    assert isinstance(first, dict)
    assert (first["name"], first["side"], first["betas"], first["names"]) == (
        "toy:everything",
        "right",
        [0.9, 0.95],
        [],
    )
    assert structured(plain) == Pair(first=Everything(side=Side.RIGHT), second=None)


def test_components_in_a_list_keep_their_names() -> None:
    many = structured({"name": "many", "members": ["everything", {"name": "needy", "weight": 1.0}, {"name": "many"}]})
    assert many == Many(members=(Everything(), Needy(weight=1.0), Many()))
    plain = unstructure_component(TOYS, "attention_bias", many)
    members = plain["members"]
    assert isinstance(members, list)
    assert [each["name"] for each in members] == ["toy:everything", "toy:needy", "toy:many"]
    assert structured(plain) == many
    assert set(problems({"name": "many", "members": ["everything", "nedy"]})) == {"members[1]"}


def test_unstructuring_under_the_wrong_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="provides attention_bias, not loss"):
        unstructure_component(TOYS, "loss", Needy(weight=1.0))


def test_a_key_at_home_elsewhere_is_sent_there() -> None:
    converter = make_converter(places={"lr": "optim.lr"})
    with pytest.raises(ConfigurationError, match=r"lr: unknown key here; did you mean 'optim\.lr'\?"):
        converter.structure({"width": 1, "lr": 0.1}, Window)


def test_every_kind_has_its_protocol_as_the_type_that_selects_it() -> None:
    converter = make_converter(TOYS)
    for protocol in (Loss, NoiseSchedule):
        with pytest.raises(ConfigurationError, match="unknown"):
            converter.structure("everything", protocol)
