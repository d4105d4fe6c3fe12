"""How fast tokens are here: V and M of tokens against IRIS's tokenizer and transformer, written plainly at IRIS's sizes
(benchmarks/iris_models.py), fp32, in one run.

Writes  docs/benchmarks.md        its section "tokens"

    python -m benchmarks.iris

What is compared takes turns, because a machine's speed drifts; a ratio is the median of the ratios of the turns.
IRIS's models have the batch they are fastest with here, tried out before, and in training their tokens ready. Dreams
have random actions and are those of models that have not learnt: what is drawn costs the same. Leave the machine alone
meanwhile.
"""

import argparse
import time
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path

import dreamdrive.utils.idle_threads  # noqa: F401  before torch

import torch
from torch import Tensor, nn

from dreamdrive.benchmarks.iris_models import CONTEXT, LAYERS, TOKENS, VOCABULARY, Tokenizer, Transformer
from dreamdrive.benchmarks.racing import HEAD, Racer, Result, fastest, race
from dreamdrive.benchmarks.report import circumstances, table, write_section
from dreamdrive.data.loaders import Windows
from dreamdrive.envs.dream import Dream, imagine
from dreamdrive.models.tokens import FSQ, VQ, FSQConfig, VQConfig
from dreamdrive.models.world_model import Memory, Vision, build
from dreamdrive.utils.argument_types import positive, positive_float
from dreamdrive.utils.precision import channels_last
from dreamdrive.utils.script import run
from dreamdrive.utils.settings import parser

ACTIONS, BATCHES, WINDOW = 3, (1, 8, 32, 128), 32
STEPS = 5  # of a dream that is timed
TRANSFORMER = {"layers": LAYERS, "context": CONTEXT}


def timed(work: Callable[[], int]) -> Racer:
    """Units a second of something that is done again and again."""

    def racer(seconds: float) -> float:
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            done += work()
        return done / (time.perf_counter() - start)

    return racer


def learning(model: nn.Module, loss: Callable[[], Tensor], units: int) -> Racer:
    """Updates of a model by Adam."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def work() -> int:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()
        return units

    return timed(work)


def frames(num: int) -> Tensor:
    return torch.randint(256, (num, 64, 64, 3), dtype=torch.uint8)


def vision(args: Namespace) -> list[Result]:
    ours: Vision = channels_last(FSQ(FSQConfig()))
    theirs, batch, many = Tokenizer(), frames(64), frames(256)  # as trainvae.py and the cache of latents have them
    found = []
    for what, goal, mine, plain in (
        (
            "V learns",
            30,
            learning(ours, lambda: ours.loss(batch, ours(batch))["loss"], len(batch)),
            {f"batches of {n}": learning(theirs, _loss_of(theirs, frames(n)), n) for n in BATCHES[1:]},
        ),
        (
            "V makes tokens",
            30,
            timed(_held(lambda: len(ours.latents(many)["tokens"]))),
            {f"batches of {n}": timed(_held(_encoded(theirs, frames(n)))) for n in BATCHES[1:]},
        ),
    ):
        setting, one = fastest(plain, args.seconds / 2)
        rates = race({"ours": mine, setting: one}, args)
        against_what = f"IRIS's, {setting}"
        found.append(Result(what, "frames", "fsq, 16 tokens", against_what, rates["ours"], rates[setting], goal))
    return found


def _loss_of(model: Tokenizer, batch: Tensor) -> Callable[[], Tensor]:
    return lambda: model.loss(batch)


def _encoded(model: Tokenizer, batch: Tensor) -> Callable[[], int]:
    return lambda: len(model.encode(batch))


def _held(work: Callable[[], int]) -> Callable[[], int]:
    return torch.inference_mode()(work)


def memory(kind: str, vision: Vision, **more) -> Memory:
    """M of a kind, on the latents of a V."""
    alphabet = vision.alphabet
    sizes = {"letters": [len(letter) for letter in alphabet], "numbers": alphabet[0].shape[1]}
    model = build("mdrnn", {"latent": vision.config.latent, "action": ACTIONS, **sizes, **more}, kind)
    model.meet(vision)
    return model


def windows(vision: Vision, num: int, length: int) -> Windows:
    tokens = torch.randint(VOCABULARY, (num, length + 1, TOKENS))
    z, nothing = vision.z({"tokens": tokens}), torch.zeros(num, length)
    return Windows(z[:, :-1], z[:, 1:], torch.randn(num, length, ACTIONS), nothing, nothing, torch.ones(num, length))


def learns(model: Memory, vision: Vision, num: int, length: int) -> Racer:
    steps = windows(vision, num, length)
    return learning(model.train(), lambda: model.loss(steps)["loss"], num * length)


def dreams(model: Memory, vision: Vision, num: int) -> Racer:
    """Steps of so many dreams at once, from the middle of a context."""
    model = model.eval().requires_grad_(False)
    begun = windows(vision, num, CONTEXT // 2)
    state = model.observe(begun.z, begun.action)[1]
    generator = torch.Generator().manual_seed(0)

    def work() -> int:
        dream = Dream(begun.z_next[:, -1], state)
        for _ in range(STEPS):
            action = torch.randn(num, ACTIONS)
            dream, _ = imagine(model, dream, action, 1.0, model.drawn(num, generator))
        return num * STEPS

    return timed(_held(work))


def plain_learns(num: int) -> Racer:
    model = Transformer(ACTIONS)
    tokens = torch.randint(VOCABULARY, (num, CONTEXT, TOKENS))
    told = (torch.randint(n, (num, CONTEXT)) for n in (ACTIONS, 3, 2))
    actions, rewards, ends = told
    return learning(model, lambda: model.loss(tokens, actions, rewards, ends), num * CONTEXT)


def plain_dreams(num: int) -> Racer:
    model, tokens = Transformer(ACTIONS).eval(), torch.randint(VOCABULARY, (num, TOKENS))

    def work() -> int:
        model.dream(tokens, torch.randint(ACTIONS, (STEPS, num)))
        return num * STEPS

    return timed(work)


def memories(args: Namespace) -> list[Result]:
    digits, book = FSQ(FSQConfig()), VQ(VQConfig())
    setting, plain = fastest({f"batches of {n}": plain_learns(n) for n in BATCHES[:-1]}, args.seconds / 2)
    ours = {
        "lstm and sequence, codes of a book": (learns(memory("lstm-sequence", book), book, 16, WINDOW), 25),
        "lstm and sequence, digits": (learns(memory("lstm-sequence", digits), digits, 16, WINDOW), 0),
        "frames and once, digits": (learns(memory("frames-once", digits), digits, 16, WINDOW), 0),
        "tokens and sequence, 10 x 256, digits": (
            learns(memory("tokens-sequence", digits, **TRANSFORMER), digits, 16, CONTEXT),
            1.4,
        ),
        "tokens and once, 10 x 256, digits": (
            learns(memory("tokens-once", digits, **TRANSFORMER), digits, 16, CONTEXT),
            0,
        ),
    }
    return against("M learns", ours, setting, plain, args)


def imagination(args: Namespace) -> list[Result]:
    digits, book = FSQ(FSQConfig()), VQ(VQConfig())
    setting, plain = fastest({f"batches of {n}": plain_dreams(n) for n in BATCHES}, args.seconds / 2)
    ours = {
        "lstm and sequence, codes of a book, 1024 at once": (dreams(memory("lstm-sequence", book), book, 1024), 40),
        "lstm and sequence, digits, 1024 at once": (dreams(memory("lstm-sequence", digits), digits, 1024), 0),
        "lstm and once, digits, 1024 at once": (dreams(memory("lstm-once", digits), digits, 1024), 120),
        "frames and once, digits, 256 at once": (dreams(memory("frames-once", digits), digits, 256), 0),
        "tokens and sequence, 10 x 256, digits, 32 at once": (
            dreams(memory("tokens-sequence", digits, **TRANSFORMER), digits, 32),
            0,
        ),
    }
    found = against("dreams", ours, setting, plain, args)
    one = {
        "tokens and once, 10 x 256, digits, one": (dreams(memory("tokens-once", digits, **TRANSFORMER), digits, 1), 10)
    }
    return found + against("dreams", one, "one", plain_dreams(1), args)


def against(
    what: str, ours: Mapping[str, tuple[Racer, float]], setting: str, plain: Racer, args: Namespace
) -> list[Result]:
    """Each of ours, with the ratio it is to reach, against the same reference in the same turns."""
    racers = {name: racer for name, (racer, _) in ours.items()} | {"IRIS's": plain}
    for racer in racers.values():
        racer(0.2)  # the first call of anything is slow
    rates = race(racers, args)
    return [
        Result(what, "frames", name, f"IRIS's, {setting}", rates[name], rates["IRIS's"], goal)
        for name, (_, goal) in ours.items()
    ]


SECTIONS = {"vision": vision, "memories": memories, "imagination": imagination}


def main() -> None:
    p = parser(__doc__)
    p.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to measure")
    p.add_argument("--seconds", type=positive_float, default=6.0, help="that one racer gets in one turn")
    p.add_argument("--repetitions", type=positive, default=3, help="turns")
    p.add_argument("--out", type=Path, default=Path("docs/benchmarks.md"), help="document to write the section into")
    args: argparse.Namespace = p.parse_args()
    results = [result for name in args.sections for result in SECTIONS[name](args)]
    text = table(HEAD, [result.row() for result in results])
    print(text)
    write_section(
        args.out,
        "tokens",
        "## Tokens against IRIS's\n\n"
        f"Median (lowest to highest) of {args.repetitions} turns of {args.seconds:g} s each. A frame is 16 tokens.\n\n"
        f"{text}\n\nMeasured on: {circumstances()}",
    )
    print(f"written into {args.out}")


if __name__ == "__main__":
    run(main)
