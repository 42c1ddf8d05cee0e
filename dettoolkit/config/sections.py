"""Sections of a recipe that every task has, and the bounds of its values. Torch-free, as all of this package.

Every number, list and text of the schema has a bound at both ends (`tests/test_recipe_bounds.py` keeps this).
Beyond them nothing is trained: memory runs out, a value is 0 or infinite in float32, or the run never ends.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

NO_NUL = r"^[^\x00]*$"
DURATION = r"^[0-9]{1,4}:[0-9]{2}:[0-9]{2}:[0-9]{2}$"
PATTERNS = {  # in words
    NO_NUL: "text without the character U+0000",
    DURATION: "days:hours:minutes:seconds such as 00:12:00:00",
}


def _zero_or_more(value: float) -> float:
    """Refuse what float32 could not tell from 0."""
    if 0 < value < 1e-3:
        raise ValueError(f"must be 0 or at least 0.001, got {value:g}")
    return value


def rising(value: tuple[float, float]) -> tuple[float, float]:
    """Refuse a range whose minimum is above its maximum."""
    if value[0] > value[1]:
        raise ValueError(f"{list(value)} must be [min, max]: swap them")
    return value


def _some_time(value: str) -> str:
    """Refuse a duration of nothing, which Lightning takes as a run without a step."""
    if not value.strip("0:"):
        raise ValueError(f"must be above 0, got {value}: set the maximum run time, or null")
    return value


Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(ge=1e-3, le=1)]
FractionBelow1 = Annotated[float, Field(ge=0, lt=1)]
ZeroOrMore = Annotated[float, Field(ge=0, le=100), AfterValidator(_zero_or_more)]
Weight = Annotated[float, Field(ge=1e-6, le=1e6)]
LRFactor = Annotated[float, Field(ge=1e-3, le=1e3)]
Epsilon = Annotated[float, Field(ge=1e-12, le=1)]
InitStd = Annotated[float, Field(ge=1e-6, le=10)]
Count = Annotated[PositiveInt, Field(le=10**9)]
CountOrZero = Annotated[int, Field(ge=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # numpy's, and so Lightning's
Side = Annotated[int, Field(ge=32, le=8192)]
SizeHW = Annotated[tuple[Side, Side], Field(strict=False)]
Text = Annotated[str, Field(min_length=1, max_length=4096, pattern=NO_NUL)]
Std = Annotated[float, Field(ge=1e-3, le=1000)]
DeviceCount = Annotated[PositiveInt, Field(le=64)]
DeviceList = Annotated[list[Annotated[int, Field(ge=0, le=63)]], Field(min_length=1, max_length=64)]
Duration = Annotated[str, Field(pattern=DURATION), AfterValidator(_some_time)]


FeatureName = Literal["low_first", "low_depthwise", "low", "c4", "c5"]
"""Of a backbone, as it publishes them."""


class Section(BaseModel):
    """A mapping of the recipe: unknown keys and wrong types are errors."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Scenes(Section):
    """The generated street scenes."""

    train_images: PositiveInt = Field(320, le=100_000, description="Scenes to train on.")
    val_images: PositiveInt = Field(80, le=100_000, description="Held-out scenes.")
    image_hw: SizeHW = Field((256, 512), description="Height and width of a scene.")
    seed: Seed = Field(0, description="Seed of the generator; the same seed gives the same files.")


class Split(Section):
    """One split of a data set; paths are relative to data.root."""

    images: Text = Field(description="Folder of the images.")


class Data(Section):
    """What the data of every task have."""

    type: str
    root: Text = Field(description="Folder of the data set.")
    scenes: Scenes = Field(default_factory=Scenes)  # type: ignore[arg-type]
    mean: Annotated[tuple[Fraction, Fraction, Fraction], Field(strict=False)] = (0.5, 0.5, 0.5)
    """Subtracted from RGB in [0, 1]."""
    std: Annotated[tuple[Std, Std, Std], Field(strict=False)] = (0.5, 0.5, 0.5)
    """Divides RGB in [0, 1] after the mean."""
    on_bad_image: Literal["error", "skip"] = "error"
    """error: an unreadable image stops the run. skip: it is skipped, counted and listed."""
    max_bad_images: CountOrZero = 100
    """With on_bad_image=skip, the run stops after more unreadable images than this."""
    max_megapixels: float = Field(100.0, gt=0, le=1000)
    """Largest image to read; larger ones count as unreadable and are not decoded. 100 megapixels take 0.3 GB
    as RGB, and up to 1 GB while decoding."""
    batch_size: int = Field(32, ge=2, le=16_384, description="Images per device and step, two or more.")
    workers: int = Field(4, ge=0, le=64, description="Loader processes per device.")


class Evaluation(Section):
    """What is shown after training and evaluation."""

    figures: int = Field(16, ge=0, le=1000, description="Images in the figures.")


class Schedule(Section):
    """The learning rate over the steps of a run."""

    type: Literal["cosine", "poly", "exponential", "constant"] = "cosine"
    """Shape after the warm-up."""
    power: float = Field(0.9, gt=0, le=100, description="Exponent of poly: (1 - progress) ** power.")
    decay: FractionBelow1 = Field(0.01, description="Fraction that exponential removes every decay_epochs.")
    decay_epochs: float = Field(3.0, ge=1e-3, le=1e6, description="Epochs between two decays.")
    staircase: bool = Field(True, description="Exponential decays in steps; false: continuously.")
    warmup_steps: CountOrZero = Field(0, description="Steps of linear warm-up.")
    warmup_factor: Fraction = Field(1 / 3, description="Fraction of the full rate at the first step.")
    final_factor: Fraction = 0.0
    """Fraction of the full learning rate at the last step; for exponential, the minimum."""


class Optim(Section):
    """The optimizer and its schedule."""

    type: Literal["sgd", "adamw", "rmsprop", "rmsprop_tf"] = "sgd"
    """Optimizer. rmsprop_tf: TensorFlow's variant, with eps inside the square root, mean squares that start
    at one, and the learning rate applied before momentum."""
    lr: float = Field(gt=0, le=1000, description="Learning rate for lr_batch_size images per step.")
    lr_batch_size: Count | None = None
    """Images per step for which lr is set; lr is scaled linearly to the actual number (batch_size x devices x
    nodes x accumulate). null: no scaling."""
    backbone_lr_factor: LRFactor = Field(1.0, description="Learning rate of the backbone, relative to lr.")
    momentum: FractionBelow1 = Field(0.9, description="Momentum of SGD and RMSProp (first beta of AdamW).")
    smoothing: FractionBelow1 = Field(0.9, description="Decay of RMSProp's mean of squared gradients.")
    eps: Epsilon = Field(1e-3, description="RMSProp's epsilon: added to the root, or inside it (rmsprop_tf).")
    weight_decay: float = Field(0.0, ge=0, le=10, description="Weight decay.")
    decay_on: Literal["kernels", "all"] = "kernels"
    """kernels: only convolution kernels, like TensorFlow. all: every parameter."""
    schedule: Schedule = Field(default_factory=Schedule)  # type: ignore[arg-type]


class EMA(Section):
    """Exponential moving average of the weights, used for validation and in checkpoints."""

    decay: float = Field(0.9998, gt=0, lt=1, description="Decay per step.")
    warmup_steps: CountOrZero = 2000
    """The decay rises to its final value over about this many steps, which helps short runs."""


class EarlyStopping(Section):
    """Stop when the validation score no longer improves."""

    patience: Count = Field(description="Validations without improvement before the run stops.")
    min_delta: Fraction = Field(0.0, description="Minimum increase that counts as an improvement.")


class Loggers(Section):
    """Where metrics go; the CSV file is always written."""

    tensorboard: bool = Field(True, description="Write TensorBoard events.")
    wandb: Text | None = Field(None, description="Project of Weights & Biases (extra 'wandb').")
    mlflow: Text | None = Field(None, description="Experiment of MLflow (extra 'mlflow').")


class TrainerExtra(Section):
    """Arguments passed unchanged to Lightning's Trainer; null: Lightning's default."""

    max_time: Duration | None = Field(None, description="Stop after days:hours:minutes:seconds.")
    limit_train_batches: Count | Annotated[float, Field(gt=0, le=1)] | None = None
    """Batches of an epoch, or their fraction; 1 is one batch, 1.0 all."""
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    """What trainer.gradient_clip limits: the gradient's norm, or each of its values."""
    deterministic: bool | Literal["warn"] | None = None
    """Use only deterministic algorithms of PyTorch; warn: warn if there is none."""
    benchmark: bool | None = Field(None, description="Let cuDNN find the fastest convolutions.")
    inference_mode: bool | None = Field(None, description="Validate in inference mode or with no_grad.")
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    """Lightning's profiler, which measures the parts of a run."""
    detect_anomaly: bool | None = Field(None, description="Find the operation that made a NaN; slow.")
    enable_autolog_hparams: bool | None = Field(None, description="Log hyperparameters at the start.")
    enable_progress_bar: bool | None = Field(None, description="Show the progress bar.")

    @model_serializer(mode="wrap")
    def _only_what_is_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class Trainer(Section):
    """How long, where and how the run trains."""

    max_epochs: Count | None = Field(None, description="Length in epochs.")
    max_steps: Count | None = Field(None, description="Length in optimizer steps.")
    length_images: Count | None = None
    """Images to train on that the length is meant for; the doctor compares it with yours."""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field("auto", description="Where it trains.")
    devices: DeviceCount | Literal["auto"] | DeviceList = "auto"
    """Devices per node: a count, or a list of GPU indices."""
    num_nodes: PositiveInt = Field(1, le=4096, description="Number of machines.")
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"] = "auto"
    """Lightning's strategy. auto: ddp if there is more than one process."""
    sync_batchnorm: bool = Field(False, description="Synchronize batch statistics over all processes.")
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = Field("32-true", description="Number format.")
    accumulate: PositiveInt = Field(1, le=100_000, description="Batches per optimizer step.")
    gradient_clip: Weight | None = Field(None, description="Maximum norm of the gradient.")
    channels_last: bool = Field(True, description="Use the channels-last memory format.")
    compile: bool = Field(False, description="torch.compile the network.")
    seed: Seed = Field(0, description="Seed of weights, sample order and augmentation.")
    val_every_epochs: Count = Field(1, description="Epochs between validations.")
    checkpoint_every_steps: Count | None = None
    """Also save last.ckpt every so many steps; null saves it at each epoch's end."""
    log_every_steps: Count = Field(50, description="Steps between lines of metrics.csv.")
    early_stopping: EarlyStopping | None = Field(None, description="null: no early stopping.")
    ema: EMA | None = Field(None, description="null: no EMA.")
    norm_batches: CountOrZero = 0
    """Training batches over which batch normalization's statistics are computed anew before each validation;
    0 keeps the moving averages of training."""
    loggers: Loggers = Field(default_factory=Loggers)  # type: ignore[arg-type]
    out: Text = Field("runs", description="Folder of the runs; each gets <out>/<recipe>/<time>.")
    extra: TrainerExtra = Field(default_factory=TrainerExtra)  # type: ignore[arg-type]
    """More arguments of Lightning's Trainer."""

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.max_epochs is None) == (self.max_steps is None):
            unset = "an override such as trainer.max_steps=null unsets the other"
            raise ValueError(f"set exactly one of max_epochs and max_steps ({unset})")
        return self
