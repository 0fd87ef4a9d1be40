from kinitro.scoring.seeds import episode_seed, policy_seed, salt_digest

SALT = bytes(range(32))
BLOCK_HASH = "0x" + "11" * 32
ENV = "metaworld/reach-v3"
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


def test_the_salt_is_published_as_its_sha256() -> None:
    assert salt_digest(SALT) == "630dcd2966c4336691125448bbb25b4ff412a49c732db2c8abc1b8581bd710dd"


def test_episode_seeds_match_the_contracts_vectors() -> None:
    assert [episode_seed(SALT, BLOCK_HASH, ENV, i) for i in (0, 1, 49)] == [289255596, 239228044, 541393746]


def test_policy_seeds_match_the_contracts_vectors() -> None:
    assert [policy_seed(SALT, HOTKEY, ENV, i) for i in (0, 1, 49)] == [17717783, 901054336, 1108288343]
