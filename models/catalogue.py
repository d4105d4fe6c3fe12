"""What kinds of networks there are, by the names that settings and checkpoints have for them, and what may be chosen of
each. Nothing imports torch for that; a kind's module is imported when one is built.
"""

import json
from pathlib import Path

from dreamdrive.utils.errors import UserError
from dreamdrive.utils.files import raise_if_unreadable

# Kinds by the stage that trains them, each with its module and its class; a checkpoint without `kind` is of the first.
KINDS = {
    "vae": {
        "gaussian": ("dreamdrive.models.vae", "VAE"),
        "fsq": ("dreamdrive.models.tokens", "FSQ"),
        "vq": ("dreamdrive.models.tokens", "VQ"),
    },
    "mdrnn": {
        "lstm-mixture": ("dreamdrive.models.mdrnn", "MDRNN"),
        "lstm-mixture-ensemble": ("dreamdrive.models.mdrnn", "Ensemble"),
        "cfc-mixture": ("dreamdrive.models.mdrnn", "CfCMixture"),
        "lstm-once": ("dreamdrive.models.token_memory", "LSTMOnce"),
        "cfc-once": ("dreamdrive.models.token_memory", "CfCOnce"),
        "lstm-sequence": ("dreamdrive.models.token_memory", "LSTMSequence"),
        "cfc-sequence": ("dreamdrive.models.token_memory", "CfCSequence"),
        "ncp-mixture": ("dreamdrive.models.mdrnn", "NCPMixture"),
        "ncp-once": ("dreamdrive.models.token_memory", "NCPOnce"),
        "ncp-sequence": ("dreamdrive.models.token_memory", "NCPSequence"),
        "frames-mixture": ("dreamdrive.models.mdrnn", "FramesMixture"),
        "frames-once": ("dreamdrive.models.token_memory", "FramesOnce"),
        "frames-sequence": ("dreamdrive.models.token_memory", "FramesSequence"),
        "tokens-once": ("dreamdrive.models.token_transformer", "TokensOnce"),
        "tokens-sequence": ("dreamdrive.models.token_transformer", "TokensSequence"),
        "simulator": ("dreamdrive.envs.simulated", "Simulated"),
    },
}
FRAMES = "frames"  # the `features` of a head that sees frames themselves
WITHOUT_LATENTS = ("state", FRAMES)  # `features` of heads that drive without V and M
LATENT_FEATURES = ("z", "zh")  # of an actor
DECODED = "decoded"  # `features` of a watcher: frames as V makes them of latents
ACTOR, WATCHER = "actor", "watcher"  # the `head` of checkpoints of actor-critic
OF_ACTOR_CRITIC = (ACTOR, WATCHER)
MEMORIES = ("cfc", "lstm", "gru", "mlp")  # of a policy on frames
# Heads by what they see, the `features` of their configs: z, z and h, a world's own numbers, or frames; each with its
# module and its class
HEADS = {
    "z": ("dreamdrive.models.controller", "Controller"),
    "zh": ("dreamdrive.models.controller", "Controller"),
    "state": ("dreamdrive.models.controller", "Controller"),
    FRAMES: ("dreamdrive.models.policy", "Policy"),
    # of actor-critic, whose configs say it by `head`: one sees latents, one what V makes of them
    ACTOR: ("dreamdrive.models.actor", "Actor"),
    WATCHER: ("dreamdrive.models.watcher", "Watcher"),
}
# of V
SIZES = (64, 128)  # of a frame's side, pixels
GRID = 8  # side of the grid of latents
TOKENS = (16, 64)  # that there may be of a frame
BOOKS = ("averages", "gradient")  # what codes are learnt by
COMMITMENT = 0.25  # weight of the distance from a code (van den Oord et al. 2017, eq. 3)
TERMS = ("l2", "l1", "perceptual")  # of the error of frames
FREE_BITS = 0.5  # nats per latent dimension that cost nothing; Ha & Schmidhuber's kl_tolerance
RETURN_STEPS, RETURN_DISCOUNT = 8, 0.9  # of the returns that V may be asked for


def latent_features() -> tuple[str, ...]:
    """What a head can be told to see of V and M."""
    return tuple(features for features in HEADS if features not in (*WITHOUT_LATENTS, *OF_ACTOR_CRITIC))


def gpt2_sizes(folder: Path) -> dict[str, int]:
    """Width, layers and heads of the GPT-2 in a folder, as `hidden`, `layers`, `heads`; UserError where it has none."""
    path = Path(folder) / "config.json"
    try:
        found = json.loads(path.read_text())
        return {"hidden": int(found["n_embd"]), "layers": int(found["n_layer"]), "heads": int(found["n_head"])}
    except OSError as error:
        raise_if_unreadable(path, error)
        raise UserError(
            f"{path} cannot be read ({error.strerror}): --gpt2 takes a folder with config.json and model.safetensors, "
            "as huggingface.co/gpt2 has them"
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} does not say n_embd, n_layer and n_head: it is no configuration of a GPT-2") from None
