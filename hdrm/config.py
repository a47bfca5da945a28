"""The configuration of a model and its training: one dataclass, named presets, checked values."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Search:
    """How `hdrm tune` varies a field; :mod:`hdrm.train.space` reads it.

    values: "LOW:HIGH" or "a,b,c"; a bound such as 5x is a multiple of the settings' own value.
    read: the stages that read the field, and the settings with which alone they do; "|" stands
        between several values of one. Unless fields are named, those of the encoder are searched.
    asked: never searched unless it is named.
    """

    values: str
    read: Mapping[str, Mapping[str, str]]
    asked: bool = False


_ENCODER: dict[str, dict[str, str]] = {"encoder": {}}
_DIFFUSION: dict[str, dict[str, str]] = {"diffusion": {}}
_HINGE = {"encoder": {"loss": "hinge"}}
_HINGE_OF_DIFFUSION = {"diffusion": {"loss": "hinge"}}
_SOFTMAX = {"encoder": {"loss": "softmax"}, "diffusion": {"loss": "softmax"}}
_FULL = {"encoder": {"propagation": "full"}}
_LINEAR = {"diffusion": {"schedule": "linear|linear-var", "conditioning": "history"}}
_PAIR = {"diffusion": {"conditioning": "pair"}}
# What moves a whole table on its device.
_WHOLE = (("users", "items"), ("users", "mean"), ("encoder_optimizer", "adam"))


def _choice(default: str, *options: str):
    return dataclasses.field(default=default, metadata={"options": options})


def _number(default, low: float, high: float = math.inf, *, open_low=False, search=None):
    metadata = {"range": (low, high, open_low), "search": search}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Everything that decides what a run computes. Defaults are those of the preset ``large``.

    Raises:
        ValueError: a value out of range or not among its options; the message names the field.
        TypeError: a value of the wrong type.
    """

    # Model
    # ambient width, time coordinate included
    dim: int = _number(64, 2, search=Search("32,64,128,256", _ENCODER | _DIFFUSION, asked=True))
    # c: the space has curvature −c
    curvature: float = _number(1.0, 0, open_low=True, search=Search("0.03:3", _ENCODER))
    # rounds of aggregation L; odd ranks better
    layers: int = _number(3, 1, search=Search("1:4", _FULL))
    # items: users start at the origin, no table. mean: nor have they; a user's vector is the mean of
    # those of its items
    users: str = _choice("table", "table", "items", "mean")
    hidden: tuple[int, ...] = (200, 1100)  # hidden widths of the denoisers
    activation: str = _choice("tanh", "tanh", "relu")
    dropout: float = _number(0.5, 0, 1, search=Search("0:0.7", _DIFFUSION))
    noise: str = _choice("directional", "directional", "isotropic")
    # What a denoiser's output is: ẑ_0 − z_t on the noise's scale, ẑ_0 itself, or the noise.
    predict: str = _choice("residual", "residual", "x0", "eps")
    # history: on edges that the graph does not have, a user beside its history; both generate.
    # pair: as published, a user beside the item to be ranked; the item's denoiser generates.
    conditioning: str = _choice("history", "history", "pair")
    # 1−ᾱ runs from noise_scale·noise_min to noise_scale·noise_max (linear, linear-var).
    schedule: str = _choice("linear-var", "linear", "linear-var", "cosine", "binomial")
    steps: int = _number(50, 1)  # T
    noise_scale: float = _number(1.0, 0, open_low=True)
    noise_min: float = _number(1e-3, 0, open_low=True)
    noise_max: float = _number(0.5, 0, open_low=True, search=Search("0.05:0.9", _LINEAR))
    growth: float = _number(0.0, 0)  # radial growth δ of the forward noise
    # T': reverse steps at inference
    sampling_steps: int = _number(10, 1, search=Search("1:10", _DIFFUSION, asked=True))
    sampling_noise: bool = False  # add the posterior's variance in reverse steps
    # Both stages
    seed: int = _number(0, 0, 2**31 - 1)
    # hinge: pairs against the nearest of the drawn items. softmax: hidden interactions against all
    # unseen items, over what is left of the graph.
    loss: str = _choice("hinge", "hinge", "softmax")
    # softmax: τ, the share hidden at a step, and users a step, each compared with all items
    temperature: float = _number(0.5, 0, open_low=True, search=Search("0.1:2", _SOFTMAX))
    edge_dropout: float = _number(0.5, 0, 1, open_low=True, search=Search("0.2:0.8", _SOFTMAX))
    softmax_users: int = _number(1_000, 1, search=Search("0.25x:4x", _SOFTMAX, asked=True))
    pairs: str = _choice("users", "users", "interactions")  # what batches are drawn from
    margin: float = _number(0.1, 0, search=Search("0.02:1", _HINGE | _HINGE_OF_DIFFUSION))
    # decay of the weights' running average, per step
    averaging: float = _number(
        0.99, 0, 1, search=Search("0,0.9,0.98,0.99,0.997", _FULL | _DIFFUSION)
    )
    eval_steps: int = _number(80, 1)  # a validation ends the first epoch after so many steps
    patience: int = _number(5, 1)  # validations without a better Recall@20 until a stage stops
    # Stage 1, the encoder
    encoder_optimizer: str = _choice("sgd", "sgd", "adam")  # Riemannian
    encoder_epochs: int = _number(50, 0)
    encoder_batch: int = _number(10_000, 1, search=Search("0.25x:4x", _HINGE, asked=True))
    # unseen items drawn a row; the nearest one counts
    encoder_negatives: int = _number(16, 1, search=Search("1:64", _HINGE))
    encoder_lr: float = _number(3e-3, 0, open_low=True, search=Search("0.2x:5x", _ENCODER))
    # softmax: interactions ranked a step that encoder_lr is for; with n fewer, √(n/encoder_lr_at) of
    # it. 0: for any
    encoder_lr_at: int = _number(0, 0)
    encoder_momentum: float = _number(0.95, 0, 1, search=Search("0.5:0.99", _ENCODER))
    encoder_weight_decay: float = _number(0.005, 0, search=Search("1e-6:0.05", _ENCODER))
    # full: a step propagates over the whole graph. sampled: over neighbours drawn for its batch, and
    # it moves their rows only; memory and time of a step follow the batch. Validation is full.
    propagation: str = _choice("full", "full", "sampled")  # sampled ignores averaging
    fanouts: tuple[int, ...] = (10, 5, 5)  # neighbours drawn a node, from the batch outwards
    tables_on: str = _choice("device", "device", "host")  # points, momentum and their average
    work_tables: str = _choice("float32", "float32", "bfloat16")  # between rounds of a full one
    micro_batches: int = _number(1, 1)  # parts a batch is computed in, of the same gradient
    # Stage 2, the diffusion: Adam
    diffusion_epochs: int = _number(10, 0)
    diffusion_batch: int = _number(10_000, 1)  # hinge, pair
    diffusion_negatives: int = _number(1, 1, search=Search("1:16", _HINGE_OF_DIFFUSION))
    diffusion_lr: float = _number(1e-3, 0, open_low=True, search=Search("0.2x:5x", _DIFFUSION))
    step_sampling: str = _choice("uniform", "uniform", "importance")  # how training draws t
    # α: weight of the reconstruction loss
    reconstruction: float = _number(0.05, 0, 1, search=Search("0.01:0.9", _DIFFUSION))
    folds: int = _number(5, 2)  # hinge: parts of the edges, each hidden while it is the positives
    tables: str = _choice("frozen", "frozen", "joint")  # joint: stage 2 trains the table too
    # pair: weight of the prediction in training
    training_omega: float = _number(1.0, 0, 1, search=Search("0.05:1", _PAIR))
    omega: float | None = _number(None, 0, 1)  # at inference; None: by validation, 0 among them
    # Checkpoints, from which a run is resumed; of no influence on what is computed
    checkpoint_minutes: float = _number(10.0, 0)  # at most so long without one; 0: every step
    checkpoints_kept: int = _number(2, 1)  # the newest; the others are for one that is damaged

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(field.name, value))
        if not all(width >= 1 for width in self.hidden):
            raise ValueError(f"hidden: widths must be at least 1, got {list(self.hidden)}")
        if not all(fanout >= 1 for fanout in self.fanouts):
            raise ValueError(f"fanouts must be at least 1, got {list(self.fanouts)}")
        if self.propagation == "sampled" and len(self.fanouts) != self.layers:
            raise ValueError(
                f"fanouts must be {self.layers} numbers, one of each of the layers, got "
                f"{list(self.fanouts)}"
            )
        needs = []
        if self.propagation == "sampled":
            needs += [
                (*setting, "propagation = full") for setting in (("loss", "softmax"), *_WHOLE)
            ]
        if self.tables_on == "host":
            needs += [(*setting, "tables_on = device") for setting in _WHOLE]
        for name, value, other in needs:
            if getattr(self, name) == value:
                raise ValueError(f"{name} = {value} needs {other}; the preset large has another")
        if self.conditioning == "history" and self.training_omega != 1:
            raise ValueError(
                f"training_omega = {self.training_omega:g} needs conditioning = pair; otherwise "
                f"the prediction alone is trained"
            )
        if self.sampling_steps > self.steps:
            raise ValueError(
                f"sampling_steps must not exceed steps = {self.steps}, got {self.sampling_steps}"
            )

    def replace(self, **changes) -> Config:
        """A copy with some fields changed; unknown names raise ValueError."""
        _known(changes)
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Config:
        """The configuration that to_json wrote.

        Raises:
            ValueError, TypeError: not a JSON object, unknown keys, or values that do not fit.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError(f"a configuration is a JSON object, got {type(values).__name__}")
        _known(values)
        return cls(**values)


_TYPES = typing.get_type_hints(Config)
_FIELDS = {field.name: field for field in dataclasses.fields(Config)}


def preset_for(name: str, num_users: int, num_items: int, device: str = "cpu") -> str:
    """The preset that trains a data set of this name and size unless another is asked for.

    ``best`` compares every user with every item in an epoch; ``large`` is for data where that takes
    too long on the device: minutes of a core, or of a GPU, which multiplies a hundred times as much
    (by data sheets; not measured).
    """
    if name == "demo":
        return name
    most = COMPARED_BY_BEST * (1 if device.split(":")[0] == "cpu" else 100)
    return "best" if num_users * num_items <= most else "large"


def parse_assignments(assignments: tuple[str, ...]) -> dict:
    """{"dim": 32} from ("dim=32",), typed by Config's fields.

    Raises:
        ValueError: no "=", an unknown key, or a value that is not of the field's type.
    """
    changes = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"expected key=value, got {text!r}")
        _known([key])
        changes[key] = _parse(key, value)
    return changes


def format_assignments(config: Config, base: Config) -> list[str]:
    """What parse_assignments reads as the difference of a configuration from ``base``."""
    return [
        f"{name}={format_value(value)}"
        for name, value in dataclasses.asdict(config).items()
        if value != getattr(base, name)
    ]


def format_value(value) -> str:
    """A field's value as the command line takes it; floats keep every digit."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _known(names) -> None:
    unknown = sorted(set(names) - set(_FIELDS))
    if unknown:
        raise ValueError(
            f"unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(_FIELDS))}"
        )


def _parse(key: str, text: str):
    """A field's value from the command line; what cannot be read is left for _checked to refuse."""
    kind = _TYPES[key]
    words = {"true": True, "false": False, "none": None, "null": None}
    if kind is str:
        return text
    value: object
    if text.lower() in words:
        value = words[text.lower()]
    elif kind == tuple[int, ...]:
        value = [_number_or_text(int, part) for part in text.strip("[]()").split(",")]
    else:
        value = _number_or_text(int if kind is int else float, text)
    return _checked(key, value)


def _number_or_text(kind: type, text: str):
    try:
        return kind(text)
    except ValueError:
        return text


def _checked(name: str, value):
    """The value in its field's type and range."""
    kind, metadata = _TYPES[name], _FIELDS[name].metadata
    if kind == tuple[int, ...]:
        if isinstance(value, (list, tuple)) and all(type(width) is int for width in value):
            return tuple(value)
        raise TypeError(f"{name} must be a list of integers, got {value!r}")
    allowed = typing.get_args(kind) or (kind,)
    if float in allowed and type(value) is int:
        value = float(value)
    if type(value) not in allowed:
        names = " or ".join("null" if a is type(None) else a.__name__ for a in allowed)
        raise TypeError(f"{name} must be {names}, got {value!r}")
    if "options" in metadata and value not in metadata["options"]:
        raise ValueError(f"{name} must be one of {', '.join(metadata['options'])}, got {value!r}")
    if "range" in metadata and value is not None:
        low, high, open_low = metadata["range"]
        if not (low < value if open_low else low <= value) or not value <= high:
            bound = f"{'above' if open_low else 'at least'} {low:g}"
            bound += f" and at most {high:.10g}" if high < math.inf else ""
            raise ValueError(f"{name} must be {bound}, got {value!r}")
        if value == math.inf:
            raise ValueError(f"{name} must be finite, got {value!r}")
    return value


# The published system (Yuan et al., WWW 2025) on ML-1M, as the released code trains it; what it is
# made of and how it differs from ours is said in hdrm/train/pair_diffusion.py.
_PAPER = Config(
    dim=512,
    predict="x0",
    conditioning="pair",
    noise_scale=1e-5,
    noise_min=1e-5,
    noise_max=1e-4,
    sampling_steps=50,
    averaging=0.0,
    encoder_negatives=1,
    diffusion_epochs=20,
    diffusion_batch=20_000,
    training_omega=0.05,
    omega=0.05,
)

COMPARED_BY_BEST = 2 * 10**10  # users × items, on a CPU; Amazon-Book has half of it
PRESETS: Mapping[str, Config] = types.MappingProxyType(
    {
        "best": Config(
            dim=128,
            curvature=0.3,
            users="items",
            loss="softmax",
            edge_dropout=0.3,
            pairs="interactions",
            noise="isotropic",
            noise_max=0.3,
            reconstruction=0.3,
            encoder_optimizer="adam",
            encoder_lr=0.05,
            encoder_lr_at=20_000,  # of ML-1M
            encoder_momentum=0.9,
            encoder_weight_decay=2e-5,
            encoder_epochs=1000,  # patience ends it; small data have a step an epoch
            averaging=0.99,
            diffusion_epochs=30,
            eval_steps=30,
            patience=8,
        ),
        "large": Config(),
        "yelp": Config(hidden=(200, 1000), steps=30, sampling_steps=6, reconstruction=0.3),
        "amazon-book": Config(hidden=(200, 1000), layers=2, fanouts=(10, 5), reconstruction=0.5),
        "demo": Config(
            encoder_epochs=24, encoder_batch=2_000, diffusion_batch=2_000, diffusion_epochs=4
        ),
        "paper": _PAPER,
        "paper-yelp": _PAPER.replace(
            hidden=(200, 1000),
            steps=30,
            sampling_steps=30,
            noise_scale=1e-4,
            noise_min=1e-4,
            noise_max=1e-2,
            reconstruction=0.3,
        ),
        "paper-amazon-book": _PAPER.replace(
            hidden=(200, 1000),
            layers=2,
            fanouts=(10, 5),
            noise_scale=1e-2,
            noise_min=1e-4,
            noise_max=1e-3,
            reconstruction=0.5,
        ),
    }
)
