import json
import struct
from collections.abc import Callable

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kinitro.errors import PolicyError
from kinitro.policy.codec import (
    MAX_REPLY_BYTES,
    ActionSpace,
    WireFormat,
    decode_action,
    decode_health,
    decode_reset,
    encode_act,
    encode_reset,
)
from kinitro.policy.messages import Action, Observation, PolicyHealth, TaskConfig
from kinitro.policy.server import read_observation

SPACE = ActionSpace({"ee_twist": 6, "gripper": 1, "base_vel": 2}, {"interact": 7})
FORMATS = list(WireFormat)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


def pack(document: object, wire: WireFormat) -> bytes:
    return msgpack.packb(document) if wire is WireFormat.MSGPACK else json.dumps(document).encode()


def act_reply(wire: WireFormat, **action: object) -> bytes:
    return pack({"action": action}, wire)


def refused(body: bytes, wire: WireFormat) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        decode_action(body, wire, SPACE)
    assert "\x00" not in str(caught.value)
    assert len(str(caught.value)) < 600
    return caught.value


def code_of(decode: Callable[[], object]) -> str | None:
    """None when it was read; anything but a PolicyError fails the test."""
    try:
        decode()
    except PolicyError as error:
        return error.code
    return None


CODES = {None, "malformed_reply", "malformed_action", "unhealthy"}


@given(st.binary(max_size=400), st.sampled_from(FORMATS))
def test_any_bytes_are_read_or_the_policys_error(body: bytes, wire: WireFormat) -> None:
    assert code_of(lambda: decode_action(body, wire, SPACE)) in CODES
    assert code_of(lambda: decode_reset(body, wire)) in CODES
    assert code_of(lambda: decode_health(body, wire)) in CODES


@given(documents, st.sampled_from(["action", "continuous", "channel", "discrete", "whole"]))
def test_any_document_in_any_place_is_an_action_or_the_policys_error(value: object, place: str) -> None:
    body = {
        "action": {"action": value},
        "continuous": {"action": {"continuous": value}},
        "channel": {"action": {"continuous": {"ee_twist": value}}},
        "discrete": {"action": {"discrete": {"interact": value}}},
        "whole": value,
    }[place]
    assert code_of(lambda: decode_action(json.dumps(body).encode(), WireFormat.JSON, SPACE)) in CODES


@given(documents, st.sampled_from(["model_loaded", "uptime_seconds", "max_concurrent_episodes", "formats"]))
def test_any_health_answer_is_read_or_the_policys_error(value: object, name: str) -> None:
    body = json.dumps({"status": "healthy", name: value}).encode()
    assert code_of(lambda: decode_health(body, WireFormat.JSON)) in CODES


@pytest.mark.parametrize("wire", FORMATS)
@given(
    twist=st.lists(st.floats(-1, 1), min_size=6, max_size=6),
    gripper=st.floats(0, 1),
    interact=st.integers(0, 6),
)
def test_an_action_arrives_as_it_was_sent(wire: WireFormat, twist: list[float], gripper: float, interact: int) -> None:
    body = act_reply(
        wire, continuous={"ee_twist": twist, "gripper": [gripper]}, discrete={"interact": interact}, extra={}
    )
    action = decode_action(body, wire, SPACE)
    assert action.continuous["ee_twist"].tolist() == twist
    assert action.continuous["gripper"].tolist() == [gripper]
    assert action.discrete == {"interact": interact}


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize(
    ("action", "named"),
    [
        ({"continuous": {"ee_twist": [0.0] * 5}}, "'ee_twist' has 5 values"),
        ({"continuous": {"ee_twist": 1.0}}, "'ee_twist' has a float"),
        ({"continuous": {"ee_twist": [float("nan")] + [0.0] * 5}}, "'ee_twist' holds a value that is not finite"),
        ({"continuous": {"base_vel": [float("inf"), 0.0]}}, "'base_vel' holds a value that is not finite"),
        ({"continuous": {"gripper": [True]}}, "'gripper' holds True"),
        ({"continuous": {"gripper": ["1"]}}, "'gripper' holds '1'"),
        ({"continuous": {"gripper": [[1.0]]}}, "'gripper' holds a list"),
        ({"continuous": {"wings": [1.0]}}, "'wings' is not one of this environment's"),
        ({"discrete": {"interact": 1.0}}, "'interact' holds 1.0"),
        ({"discrete": {"interact": True}}, "'interact' holds True"),
        ({"discrete": {"interact": 2**40}}, "'interact' holds 1099511627776"),
        ({"discrete": {"interact": 7}}, "'interact' holds 7; it takes one integer from 0 to 6"),
        ({"discrete": {"interact": -1}}, "'interact' holds -1"),
        ({"discrete": {"nav": 1}}, "'nav' is not one of this environment's"),
    ],
)
def test_a_bad_channel_is_refused_by_name(wire: WireFormat, action: dict[str, object], named: str) -> None:
    error = refused(act_reply(wire, **action), wire)
    assert error.code == "malformed_action"
    assert named in str(error)


def test_an_integer_too_large_for_a_float_is_not_finite() -> None:
    error = refused(b'{"action":{"continuous":{"gripper":[' + b"9" * 400 + b"]}}}", WireFormat.JSON)
    assert "not finite" in str(error)


@pytest.mark.parametrize("wire", FORMATS)
def test_twist_and_gripper_are_clipped_to_their_range(wire: WireFormat) -> None:
    body = act_reply(wire, continuous={"ee_twist": [9, -9, 0.5, 0, 0, 0], "gripper": [-3], "base_vel": [7, -7]})
    action = decode_action(body, wire, SPACE)
    assert action.continuous["ee_twist"].tolist() == [1.0, -1.0, 0.5, 0.0, 0.0, 0.0]
    assert action.continuous["gripper"].tolist() == [0.0]
    assert action.continuous["base_vel"].tolist() == [7.0, -7.0]


@pytest.mark.parametrize("wire", FORMATS)
def test_missing_channels_mean_no_command(wire: WireFormat) -> None:
    for action in ({}, {"continuous": {}}, {"continuous": None, "discrete": {}, "extra": {"note": "x"}}):
        assert decode_action(act_reply(wire, **action), wire, SPACE) == Action()


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"action":{},"action":{}}',
        b'{"action":{}}x',
        '{"action":{}}'.encode("utf-16"),
        b'{"action":{"extra":{"a":"\xff"}}}',
        b'{"action":' + b"1" * 5000 + b"}",
        b"",
    ],
)
def test_hostile_json_is_a_malformed_reply(body: bytes) -> None:
    assert refused(body, WireFormat.JSON).code == "malformed_reply"


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 200_000,
        b"\xd6\xff\x00\x00\x00\x00",
        msgpack.packb({"action": {"extra": {"t": msgpack.Timestamp(1, 2)}}}),
        msgpack.packb({"action": {"extra": {"t": msgpack.ExtType(5, b"x")}}}),
        msgpack.packb({"action": {"extra": {"t": b"raw"}}}),
        msgpack.packb({"action": {"continuous": {1: [0.0]}}}),
        b"\x82\xa6action\x80\xa6action\x80",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x81\xa6action\xa1\xff",
        b"\xc1",
        b"",
    ],
)
def test_hostile_msgpack_is_a_malformed_reply(body: bytes) -> None:
    assert refused(body, WireFormat.MSGPACK).code == "malformed_reply"


@pytest.mark.parametrize("wire", FORMATS)
def test_replies_too_large_too_deep_or_too_full_are_refused(wire: WireFormat) -> None:
    deep: object = {}
    for _ in range(30):
        deep = {"d": deep}
    assert refused(b" " * (MAX_REPLY_BYTES + 1), wire).code == "oversized_reply"
    assert "nested deeper" in str(refused(act_reply(wire, extra=deep), wire))
    assert "more than 10000 values" in str(refused(act_reply(wire, extra={"x": [0] * 20_000}), wire))


def test_health_has_the_contracts_defaults() -> None:
    health = decode_health(b'{"status":"healthy","model_loaded":true,"uptime_seconds":3}', WireFormat.JSON)
    assert health == PolicyHealth(model_loaded=True, uptime_s=3.0)
    assert (health.max_concurrent_episodes, health.formats, health.needs_images) == (1, ("json",), True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_loaded", 1),
        ("uptime_seconds", float("nan")),
        ("uptime_seconds", -1),
        ("max_concurrent_episodes", 0),
        ("max_concurrent_episodes", 1.5),
        ("formats", "json"),
        ("needs_depth", 1),
        ("needs_images", "no"),
    ],
)
def test_a_wrong_field_of_health_is_named(field: str, value: object) -> None:
    with pytest.raises(PolicyError, match=field):
        decode_health(json.dumps({"status": "healthy", field: value}).encode(), WireFormat.JSON)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"status": "ok"},
        {"status": "ok", "episode_id": ""},
        {"status": "ok", "episode_id": 3},
        {"status": "ok", "episode_id": "x" * 201},
        {"status": "ok", "episode_id": "\ud800"},
        {"status": "no", "episode_id": "e"},
    ],
)
def test_a_reset_answer_without_a_usable_episode_id_is_refused(answer: dict[str, object]) -> None:
    with pytest.raises(PolicyError) as caught:
        decode_reset(json.dumps(answer).encode(), WireFormat.JSON)
    assert caught.value.code == "malformed_reply"


@pytest.mark.parametrize("wire", FORMATS)
def test_an_observation_reaches_the_policy_server_bit_for_bit(wire: WireFormat) -> None:
    rng = np.random.default_rng(1)
    sent = Observation(
        proprio={"ee_pos": rng.normal(size=3), "gripper": np.array([0.1])},
        rgb={"front": rng.integers(0, 256, (84, 84, 3), dtype=np.uint8)},
        depth={"front": rng.random((84, 84), dtype=np.float32)},
        cam_intrinsics={"front": rng.normal(size=(3, 3))},
        cam_extrinsics={"front": rng.normal(size=(4, 4))},
        extra={"instruction": "push"},
    )
    body = encode_act(sent, "e1", wire)
    document = msgpack.unpackb(body) if wire is WireFormat.MSGPACK else json.loads(body)
    got = read_observation(document["obs"])
    assert document["episode_id"] == "e1"
    for part in ("proprio", "rgb", "depth", "cam_intrinsics", "cam_extrinsics"):
        for name, values in getattr(sent, part).items():
            np.testing.assert_array_equal(got[part][name], values)
            assert got[part][name].dtype == values.dtype
    assert got["extra"] == {"instruction": "push"}


def test_json_images_are_base64_with_shape_and_dtype() -> None:
    body = encode_act(Observation({}, rgb={"c": np.zeros((2, 3, 3), np.uint8)}), "e", WireFormat.JSON)
    assert json.loads(body)["obs"]["rgb"]["c"] == {"data": "A" * 24, "shape": [2, 3, 3], "dtype": "uint8"}


def test_reset_tells_the_policy_its_task_and_nothing_else() -> None:
    body = encode_reset(TaskConfig("a/b", "a", "b", 7, "t-1"), WireFormat.JSON)
    assert json.loads(body) == {
        "task_config": {"env_id": "a/b", "env_name": "a", "task_name": "b", "seed": 7, "task_id": "t-1"}
    }


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_json_and_msgpack_carry_the_same_number(value: float) -> None:
    observation = Observation({"ee_pos": np.array([value])})
    as_json = json.loads(encode_act(observation, "e", WireFormat.JSON))["obs"]["proprio"]["ee_pos"][0]
    as_msgpack = msgpack.unpackb(encode_act(observation, "e", WireFormat.MSGPACK))["obs"]["proprio"]["ee_pos"][0]
    assert struct.pack("<d", as_json) == struct.pack("<d", as_msgpack) == struct.pack("<d", value)


def test_the_format_is_read_from_the_content_type() -> None:
    assert WireFormat.of("Application/MsgPack; charset=x") is WireFormat.MSGPACK
    assert WireFormat.of("application/json; charset=utf-8") is WireFormat.JSON
    assert WireFormat.of("") is WireFormat.JSON
