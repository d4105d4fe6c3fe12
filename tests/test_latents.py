"""The cache holds what V makes of every frame, and whatever is wrong with it is put right by making it again."""

import pytest
import torch

from dreamdrive.data.latents import cache_latents, load_sequences
from dreamdrive.data.loaders import open_datasets
from dreamdrive.models.vae import VAE, VAEConfig, to_float
from dreamdrive.tests.tiny_run import DISCRETE, write_dataset
from dreamdrive.utils.errors import UserError

CPU = torch.device("cpu")
LENGTHS = [5, 20, 3, 9, 12, 4]
V, OTHER = "a" * 64, "b" * 64  # digests


class CountingVAE(VAE):
    """Knows how many frames it has encoded."""

    encoded = 0

    def encode(self, obs):
        self.encoded += len(obs)
        return super().encode(obs)


@pytest.fixture
def vae():
    torch.manual_seed(0)
    return CountingVAE(VAEConfig(latent=3)).eval().requires_grad_(False)


@pytest.fixture
def made(tmp_path, vae):
    """(folder of the run, its dataset), cached by `vae`."""
    dataset = write_dataset(tmp_path / "data", LENGTHS)
    cache_latents(tmp_path / "run", vae, V, [dataset], CPU)
    vae.encoded = 0
    return tmp_path / "run", dataset


def direct(vae, dataset):
    """(mu, logsigma) of every frame, encoded shard by shard."""
    found = []
    for entry in dataset.shards:
        with dataset.open_shard(entry) as shard:
            posterior = vae.encode(to_float(torch.from_numpy(shard.frames(0, entry.frames))))
            found.append((posterior.mu, posterior.logsigma))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def check(run, dataset, vae, digest=V, wanted=None):
    """The cache is complete and right."""
    data = load_sequences(run, vae, digest, [dataset])
    mu, logsigma = wanted or direct(vae, dataset)
    assert data.latents.keys() == {"mu", "logsigma"}
    assert torch.equal(data.latents["mu"], mu) and torch.equal(data.latents["logsigma"], logsigma)
    return data


def frames(dataset):
    return sum(s.frames for s in dataset.shards)


def test_the_cache_is_what_v_makes_of_every_frame_and_is_made_once(made, vae):
    run, dataset = made
    check(run, dataset, vae)
    vae.encoded = 0
    cache_latents(run, vae, V, [dataset], CPU)
    assert vae.encoded == 0
    assert len(list((run / "latents").glob("*.h5"))) == len(dataset.shards) == 3


def test_frames_actions_rewards_and_splits_keep_their_places(made, vae):
    run, dataset = made
    data = load_sequences(run, vae, V, [dataset])
    assert (
        data.steps.tolist() == LENGTHS
        and data.train.tolist() == [e.split == "train" for e in dataset.episodes]
        and not data.train.all()
    )
    for e, steps in enumerate(LENGTHS):
        mu, action, expert = data.episode(e)
        assert len(mu) == steps + 1 and len(action) == len(expert) == steps
        torch.testing.assert_close(action, torch.tensor([[e / 100, t / 1000] for t in range(steps)]))
        assert torch.equal(expert, -action)
        own = slice(data.step_offset[e], data.step_offset[e] + steps)
        assert data.reward[own].tolist() == [1000 * e + t for t in range(steps)] and data.terminal[own].tolist() == [
            0
        ] * (steps - 1) + [1]
        with dataset.open_shard(dataset.shards[e // 2]) as shard:
            start = shard.frame_offsets[e % 2]
            torch.testing.assert_close(
                mu, vae.encode(to_float(torch.from_numpy(shard.frames(start, start + steps + 1)))).mu
            )
        assert data.source[e] == f"{dataset.root}/{dataset.shards[e // 2].file}, episode {e}"


def test_discrete_actions_become_one_hot_and_a_mask_says_where_experts_are_known(tmp_path, vae):
    datasets = [
        write_dataset(tmp_path / name, [4, 4], space=DISCRETE, expert=name == "known") for name in ("known", "unknown")
    ]
    cache_latents(tmp_path / "run", vae, V, datasets, CPU)
    data = load_sequences(tmp_path / "run", vae, V, datasets)
    assert data.action.argmax(1).tolist() == [0, 1, 2, 0, 1, 2, 0, 1] * 2 and (data.action.sum(1) == 1).all()
    assert (
        data.expert_action[:8].argmax(1).tolist() == [2, 1, 0, 2, 1, 0, 2, 1]
        and data.known.tolist() == [True] * 8 + [False] * 8
        and (data.expert_action[8:] == 0).all()
    )


@pytest.mark.parametrize("damage", ["missing", "empty", "cut short", "not HDF5", "a folder's worth of zeros"])
def test_a_file_that_is_not_what_it_should_be_is_made_again(damage, made, vae):
    run, dataset = made
    victim = sorted((run / "latents").glob("*.h5"))[1]
    content = victim.read_bytes()
    victim.unlink()
    if damage != "missing":
        victim.write_bytes(
            {
                "empty": b"",
                "cut short": content[: len(content) // 2],
                "not HDF5": b"hello",
                "a folder's worth of zeros": bytes(len(content)),
            }[damage]
        )
    cache_latents(run, vae, V, [dataset], CPU)
    assert 0 < vae.encoded < frames(dataset)
    check(run, dataset, vae)
    assert victim.read_bytes() == content


def test_flipped_bits_are_never_used(made, vae):
    run, dataset = made
    victim = sorted((run / "latents").glob("*.h5"))[0]
    wanted, whole, again = direct(vae, dataset), victim.read_bytes(), 0
    for place in range(0, len(whole), max(1, len(whole) // 50)):
        victim.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        vae.encoded = 0
        cache_latents(run, vae, V, [dataset], CPU)
        again += vae.encoded > 0
        check(run, dataset, vae, wanted=wanted)
    assert again > 10


def test_the_latents_of_another_v_are_replaced(made, vae):
    run, dataset = made
    torch.manual_seed(1)
    other = CountingVAE(VAEConfig(latent=3)).eval().requires_grad_(False)
    cache_latents(run, other, OTHER, [dataset], CPU)
    assert other.encoded == frames(dataset)
    check(run, dataset, other, OTHER)
    assert len(list((run / "latents").glob("*"))) == len(dataset.shards) + 1  # and .lock


def test_a_dataset_that_has_grown_costs_only_its_new_shards(made, vae):
    run, dataset = made
    grown = write_dataset(dataset.root, [*LENGTHS, 7, 8, 2], first=len(LENGTHS))
    assert grown.shards[: len(dataset.shards)] == dataset.shards
    cache_latents(run, vae, V, [grown], CPU)
    assert vae.encoded == frames(grown) - frames(dataset) == 20
    assert check(run, grown, vae).steps.tolist() == [*LENGTHS, 7, 8, 2]


def test_a_second_dataset_keeps_the_first_ones_latents_and_what_a_killed_run_left_goes(made, vae, tmp_path):
    run, dataset = made
    second = write_dataset(tmp_path / "second", [30, 2])
    whole = next((run / "latents").glob("*.h5"))
    for name, content in {"half": b"\x89HDF", "whole": whole.read_bytes()}.items():
        (run / "latents" / f".{name}.h5.1.tmp").write_bytes(content)
    cache_latents(run, vae, V, [second], CPU)
    assert vae.encoded == frames(second)
    vae.encoded = 0
    cache_latents(run, vae, V, [dataset, second], CPU)
    assert vae.encoded == 0 and not list((run / "latents").glob(".*.tmp"))
    data = load_sequences(run, vae, V, [dataset, second])
    wanted = [torch.cat(parts) for parts in zip(direct(vae, dataset), direct(vae, second), strict=True)]
    assert (
        torch.equal(data.latents["mu"], wanted[0])
        and torch.equal(data.latents["logsigma"], wanted[1])
        and data.steps.tolist() == [*LENGTHS, 30, 2]
    )


def test_a_damaged_shard_is_named_and_no_latents_are_made_of_it(tmp_path, vae):
    dataset = write_dataset(tmp_path / "data", LENGTHS)
    victim = dataset.root / dataset.shards[1].file
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 16
    victim.write_bytes(content)
    with pytest.raises(UserError, match=f"{victim} cannot be used .*dreamdrive data verify"):
        cache_latents(tmp_path / "run", vae, V, open_datasets([dataset.root]), CPU)
    assert len(list((tmp_path / "run" / "latents").glob("*.h5"))) == 1, "that of the sound shard before it"


def test_a_cache_that_goes_while_it_is_used_is_named(made, vae):
    run, dataset = made
    gone = sorted((run / "latents").glob("*.h5"))[0]
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone} was whole a moment ago .* run the same command again"):
        load_sequences(run, vae, V, [dataset])
