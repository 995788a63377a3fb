"""The words that other libraries have for what is here, and errors that lead from an unknown keyword to ours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Meant(NamedTuple):
    """What a word may mean: one of the known names, or without a name advice, where the name ``having`` is known."""

    name: str = ""
    note: str = ""
    having: str = ""


def _words(words: str, *meanings: Meant) -> dict[str, tuple[Meant, ...]]:
    return dict.fromkeys(words.split(), meanings)


def _in_step(name: str) -> Meant:
    """An option of the step, which people look for in the constructor."""
    return Meant(note=f"it is an option of the step: opt.step(grads, {name}=...)", having="lr")


def _of_step(name: str, note: str = "") -> tuple[Meant, Meant]:
    return Meant(name, note), _in_step(name)


# For each word what it may mean, the most likely first; the first one whose names the function has is suggested.
WORDS: dict[str, tuple[Meant, ...]] = {
    # Optimizers
    **_words("learning_rate", Meant("lr", "Keras's and optax's learning_rate"), Meant("optimizer", "lr is the optimizer's")),
    **_words("learning_rate_init", Meant("lr", "scikit-learn's learning_rate_init")),
    **_words("eta eta0 step_size", Meant("lr")),
    **_words(
        "alpha",
        Meant("lr", "the α of papers; scikit-learn's alpha, divided by the batch, is weight_decay"),
        Meant("eta_min", "Keras's alpha is eta_min / lr"),
    ),
    **_words("rho", Meant("alpha", "Keras's rho", "centered"), Meant("betas")),
    **_words("beta1 beta2 beta_1 beta_2 b1 b2", Meant("betas", "betas=(beta1, beta2)"), Meant("momentum")),
    **_words("beta", Meant("betas"), Meant("momentum"), Meant(note="it is layer.params['bias']", having="eps")),
    **_words("gamma", Meant(note="it is layer.params['weight']", having="eps")),
    **_words(
        "epsilon",
        Meant("eps", "Keras's epsilon with eps_hat=True", "eps_hat"),
        Meant("eps", "Keras's epsilon with eps_in_sqrt=True", "eps_in_sqrt"),
        Meant("eps"),
    ),
    **_words("eps_root", Meant("eps", "with eps_in_sqrt=True", "eps_in_sqrt"), Meant("eps", "outside of the root")),
    **_words("mu", Meant("momentum"), Meant("betas", "the first is the momentum")),
    **_words("momentum", Meant("betas", "the first is the momentum")),
    **_words("nesterov", Meant(note="NAdam is Adam with Nesterov's momentum", having="betas")),
    **_words("amsgrad", Meant(note="Adam and AdamW have it", having="lr")),
    **_words(
        "decay",
        Meant("alpha", "optax's decay; Keras's is weight_decay or a schedule", "centered"),
        Meant("weight_decay", "Keras's old decay is a schedule, LambdaLR with 1/(1 + decay·t)"),
    ),
    **_words("wd l2 l2_reg weight_decay_rate kernel_regularizer", Meant("weight_decay")),
    **_words("mask weight_decay_mask", Meant(note="give groups, or fo.optim.no_decay(params)", having="weight_decay")),
    **_words("ema ema_momentum use_ema", Meant("ema_decay")),
    **_words("mu_dtype", Meant("moments")),
    **_words(
        "foreach fused capturable differentiable", Meant(note="leave it out: each step is one fused pass", having="lr")
    ),
    **_words("eta_minus eta_plus", Meant("etas", "etas=(eta_minus, eta_plus)")),
    **_words("b3 beta_3", Meant("betas", "betas=(beta1, beta2, beta3)")),
    **_words("warmup", Meant("warmup_steps"), Meant("ema_warmup")),
    **_words("nesterovs_momentum", Meant("nesterov", "scikit-learn's nesterovs_momentum")),
    **_words("reg penalty", Meant("weight_decay")),
    **_words("power_t", Meant(note="it is a schedule: fo.schedules.LambdaLR", having="lr")),
    **_words("n_iter_no_change", Meant("patience"), Meant(note="fo.schedules.ReduceLROnPlateau has patience", having="lr")),
    # The step
    **{name: (_in_step(name),) for name in (
        "clip_norm", "clip_value", "clip_param_norm", "clip_adaptive", "grad_scale", "skip_nonfinite", "zero_grads"
    )},
    **_words("clipnorm", *_of_step("clip_param_norm", "Keras's clipnorm, for each gradient by itself")),
    **_words("global_clipnorm", *_of_step("clip_norm", "Keras's global_clipnorm")),
    **_words("max_norm max_grad_norm clip_grad_norm", *_of_step("clip_norm")),
    **_words("clipvalue", *_of_step("clip_value", "Keras's clipvalue")),
    **_words("apply_if_finite", *_of_step("skip_nonfinite")),
    **_words("loss_scale inv_scale loss_scale_factor", *_of_step("grad_scale")),
    **_words("gradient_accumulation_steps every_k_schedule", Meant(note="call opt.accumulate(grads), then opt.step()", having="lr")),
    **_words("closure", Meant(note="compute the gradients before the step", having="clip_norm")),
    # Layers
    **_words("rate dropout_rate", Meant("p", "Keras's rate")),
    **_words("keep_prob", Meant("p", "p = 1 - keep_prob")),
    **_words("center", Meant("bias", "Keras's center"), Meant("affine", "Keras's center and scale together")),
    **_words("scale", Meant("elementwise_affine", "Keras's scale"), Meant("affine", "Keras's center and scale together")),
    **_words("affine", Meant("elementwise_affine")),
    **_words("elementwise_affine", Meant("affine")),
    **_words("axis", Meant("channel_axis"), Meant("normalized_shape", "the sizes of the last axes"), Meant("dim")),
    **_words("data_format", Meant("channel_axis", "-1 for channels_last, 1 for channels_first")),
    **_words("groups", Meant("num_groups")),
    **_words("num_channels", Meant("num_features")),
    **_words("num_features", Meant("num_channels")),
    **_words("units", Meant("out_features", "Keras's units")),
    **_words("input_dim", Meant("num_embeddings"), Meant("in_features")),
    **_words("output_dim", Meant("embedding_dim"), Meant("out_features")),
    **_words("use_bias", Meant("bias")),
    **_words("filters", Meant("out_channels", "Keras's filters")),
    **_words("strides", Meant("stride")),
    **_words("pool_size", Meant("kernel_size", "Keras's pool_size")),
    **_words("dilation_rate", Meant("dilation")),
    **_words("inplace", Meant(note="call the layer with out=x", having="p")),
    # Schedules
    **_words(
        "initial_learning_rate init_value warmup_target",
        Meant(note="a schedule begins with the optimizer's lr; set it there", having="optimizer"),
    ),
    **_words(
        "lr",
        Meant(note="a schedule begins with the optimizer's lr; set it there", having="optimizer"),
        Meant(note="set it in opt.param_groups, or use a schedule", having="clip_norm"),
    ),
    **_words("first_decay_steps", Meant("T_0")),
    **_words("t_mul T_mul", Meant("T_mult")),
    **_words(
        "decay_steps transition_steps",
        *map(Meant, ("T_max", "T_0", "step_size", "total_iters", "total_steps")),
        Meant("gamma", "gamma = decay_rate ** (1 / decay_steps)"),
    ),
    **_words("decay_rate", Meant("gamma", "gamma = decay_rate ** (1 / decay_steps)")),
    **_words("end_learning_rate end_value", Meant("eta_min"), Meant("min_lr")),
    **_words("min_lr", Meant("eta_min")),
    **_words("peak_value", Meant("max_lr"), Meant(note="it is the optimizer's lr", having="optimizer")),
    **_words("boundaries", Meant("milestones")),
    **_words("num_warmup_steps", Meant("warmup_steps")),
    **_words("num_training_steps", Meant("total_steps")),
    **_words("min_delta", Meant("threshold", "Keras's min_delta with threshold_mode='abs'")),
    **_words("staircase", Meant(note="StepLR is ExponentialLR with a staircase", having="gamma")),
    **_words("verbose", Meant(note="print schedule.get_last_lr()", having="optimizer")),
    # Losses and the rest
    **_words("max_grad clip", Meant("clip_value")),
}  # fmt: skip


def meant_by(word: str, known: Iterable[str]) -> Meant | None:
    """What the caller probably meant: a known name with a note, advice without a name, or ``None`` if nothing is likely."""
    import difflib  # only errors need it

    names = list(known)
    for one in WORDS.get(word, ()):
        if (not one.name or one.name in names) and (not one.having or one.having in names):
            return one
    close = difflib.get_close_matches(word, names, 1, 0.75)
    return Meant(close[0]) if close else None


def closest(word: str, known: Iterable[str]) -> str:
    """The known name that the caller probably meant; empty if none is likely."""
    meant = meant_by(word, known)
    return meant.name if meant else ""


def no_such(function: str, word: str, known: Iterable[str]) -> str:
    """The text of an error about an unknown keyword that leads to what was meant; empty if nothing is likely."""
    meant = meant_by(word, known)
    if meant is None:
        return ""
    note = f" ({meant.note})" if meant.name and meant.note else ""
    way = f"did you mean {meant.name}{note}?" if meant.name else meant.note
    return f"{function}: there is no {word}; {way}"


def unknown_hyperparameter(function: str, word: str, known: Iterable[str]) -> str:
    """The text of an error about an unknown hyperparameter: what was meant, or else what there is."""
    names = list(known)
    return no_such(function, word, names) or f"{function}: unknown hyperparameter {word!r}; it has {', '.join(names)}"


def unknown_option(name: str, step: Callable[..., Any], unknown: Iterable[str]) -> TypeError:
    """The error about options that a step does not have."""
    import inspect

    word = next(iter(unknown))
    options = [key for key, one in inspect.signature(step).parameters.items() if one.kind is one.KEYWORD_ONLY]
    return TypeError(
        no_such(name, word, options) or f"{name}: step has no option {word!r}; it has {', '.join(options)}"
    )


def expect_keywords(name: str, function: Callable[..., Any], given: Iterable[str]) -> None:
    """After a TypeError: raises a better one if a keyword is unknown to the function and a known one was probably meant."""
    import inspect

    parameters = inspect.signature(function).parameters
    if any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        return
    for word in given:
        if word not in parameters and (text := no_such(name, word, parameters)):
            raise TypeError(text) from None


def spoken(function: _Function) -> _Function:
    """The function or method, which leads from an unknown keyword to what it is called here.

    The signature stays.  A call costs a fraction of a microsecond more, which the optimizers' step does not have to spare: it
    takes ``**unknown``.
    """
    of_object = "." in function.__qualname__ and "<locals>" not in function.__qualname__

    @wraps(function)
    def call(*args: Any, **keywords: Any) -> Any:
        try:
            return function(*args, **keywords)
        except TypeError:
            expect_keywords(type(args[0]).__name__ if of_object else function.__name__, function, keywords)
            raise

    return cast(_Function, call)


def speak(cls: Any) -> None:
    """Makes the constructor of one of our own classes :func:`spoken`; users' subclasses stay as they are."""
    if "__init__" in vars(cls) and cls.__module__.partition(".")[0] == "fastopt":
        cls.__init__ = spoken(cls.__init__)
