"""The presets: what each changes of the defaults in `licm.config`."""

from typing import Any

# `paper` is the slides' recipe as reconstructed in docs/method.md.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "data": {"image_size": 32},
        "experts": {"width": 32},
        "discriminator": {"activation": "elu"},
        "identity": {"learning_rate": 1e-3},
        "competition": {
            "objective": "all_experts",
            "loser_samples": None,
            "r1_gamma": 0.0,
            "cycle_weight": 0.0,
            "pair_weight": 0.0,
            "tie_margin": 0.0,
        },
        "router": {"enabled": False},
        "revival": {"enabled": False},
        "training": {"steps": 600, "decay": False},
    },
}
"""What each preset changes."""

PRESET_NOTES = {  # what each is for, in one line
    "default": "what worked best here: minutes on two cores with the embedded digits",
    "paper": "the slides' recipe as reconstructed: wider experts, 32x32, no revival; slower, for mnist",
}
