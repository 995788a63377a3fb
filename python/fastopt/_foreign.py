"""What the words of other libraries for optimizers, layers, schedules and losses are called here.

Only errors need the table: it is imported when there is one.
"""

from __future__ import annotations

from typing import NamedTuple


class Meant(NamedTuple):
    """What a word may mean: one of the known names, or without a name advice, where the name ``having`` is known."""

    name: str = ""
    note: str = ""
    having: str = ""


def _words(words: str, *meanings: Meant) -> dict[str, tuple[Meant, ...]]:
    return {word: tuple(one for one in meanings if one.name != word) for word in words.split()}


def _in_step(name: str) -> Meant:
    """An option of the step, which people look for in the constructor."""
    return Meant(note=f"it is an option of the step: opt.step(..., {name}=...)", having="lr")


def _of_step(name: str, note: str = "") -> tuple[Meant, Meant]:
    return Meant(name, note), _in_step(name)


def _in_array(key: str) -> Meant:
    """An initializer."""
    return Meant(note=f"write into the layer's {key} once the layer is made")


_OF_LR = Meant(note="a schedule begins with the optimizer's lr; set it there", having="optimizer")
_ANY_SCHEDULE = Meant(note="this schedule has none; LambdaLR takes any function of the step", having="optimizer")
_WARMUP = (
    Meant("warmup_steps"),
    Meant("pct_start", "the part of total_steps that is warm-up"),
    Meant(note="WarmupCosineLR warms up; for others, SequentialLR puts LinearLR before them", having="optimizer"),
    Meant(note="warm up with a schedule, such as fo.schedules.WarmupCosineLR", having="lr"),
)
_SMALLEST_LR = (
    Meant("eta_min"),
    Meant("min_lr"),
    Meant("base_lr"),
    Meant("end_factor", "a factor of the optimizer's lr"),
    Meant("final_div_factor", "the first lr divided by the last"),
    _ANY_SCHEDULE,
)
_LENGTH = (*map(Meant, ("T_max", "T_0", "total_iters", "total_steps")),)
_NO_BIAS = Meant(note="this layer has no bias", having="dtype")
_NO_MOMENTUM = Meant(note="this optimizer has neither betas nor momentum", having="lr")
_GROUPS = Meant(note="give groups, each with its own: [{'params': [...], 'lr': ...}, ...]", having="lr")
_NO_DECAY = Meant(note="give groups, or fo.optim.no_decay(params)", having="weight_decay")
_STOCHASTIC = Meant("seed", "an integer")
_MODES = Meant(note="layer.train() and layer.eval() switch")

# For each word what it may mean, the most likely first; the first one whose names the function has is suggested.
WORDS: dict[str, tuple[Meant, ...]] = {
    # Optimizers
    **_words("learning_rate", Meant("lr", "Keras's and optax's learning_rate"), Meant("optimizer", "lr is the optimizer's")),
    **_words("learning_rate_init", Meant("lr", "scikit-learn's learning_rate_init")),
    **_words("eta eta0", Meant("lr")),
    **_words("step_size", Meant("lr"), Meant("step_size_up")),
    **_words(
        "alpha",
        Meant("lr", "the α of papers; scikit-learn's alpha, divided by the batch, is weight_decay"),
        Meant("eta_min", "Keras's alpha is eta_min / lr"),
    ),
    **_words("rho", Meant("alpha", "Keras's rho", "centered"), Meant("betas")),
    **_words("discounting_factor smoothing", Meant("alpha", "", "centered")),
    **_words("beta1 beta2 beta_1 beta_2 b1 b2", Meant("betas", "betas=(beta1, beta2)"), Meant("momentum"), _NO_MOMENTUM),
    **_words(
        "beta",
        Meant("betas"),
        Meant("momentum", "", "lr"),
        _NO_MOMENTUM,
        Meant("delta", "huber_loss with delta=beta is beta·smooth_l1_loss"),
        Meant(note="it is the layer's bias", having="eps"),
    ),
    **_words("gamma", Meant(note="it is the layer's weight", having="eps")),
    **_words(
        "epsilon",
        Meant("eps", "Keras's epsilon with eps_hat=True", "eps_hat"),
        Meant("eps", "Keras's epsilon with eps_in_sqrt=True", "eps_in_sqrt"),
        Meant("eps"),
        Meant(note="this rule does not divide by a root, and needs none", having="lr"),
    ),
    **_words("eps", Meant(note="this rule does not divide by a root, and needs none", having="lr")),
    **_words("eps_root", Meant("eps", "with eps_in_sqrt=True", "eps_in_sqrt"), Meant("eps", "outside of the root")),
    **_words("eps_inside_sqrt", Meant("eps_in_sqrt", "timm's eps_inside_sqrt")),
    **_words("epsilon_1 epsilon_2 eps1 eps2", Meant("eps", "eps=(epsilon_1, epsilon_2)", "beta2_decay")),
    **_words("rms_norm_eps layer_norm_eps layer_norm_epsilon", Meant("eps")),
    **_words("mu", Meant("momentum"), Meant("betas", "the first is the momentum"), _NO_MOMENTUM),
    **_words("momentum", Meant("betas", "the first is the momentum"), _NO_MOMENTUM),
    **_words(
        "nesterov use_nesterov",
        Meant("nesterov"),
        Meant(note="NAdam is Adam with Nesterov's momentum", having="betas"),
        Meant(note="SGD, LARS and Muon have it", having="lr"),
    ),
    **_words("amsgrad", Meant(note="Adam and AdamW have it", having="lr")),
    **_words("rectify", Meant(note="RAdam is rectified Adam", having="betas")),
    **_words("bias_correction correct_bias", Meant(note="leave it out: Adam and AdamW always correct the bias", having="amsgrad")),
    **_words("adam_w_mode adamw_mode decouple", Meant("decoupled_weight_decay", "AdamW is Adam with it", "amsgrad"), Meant("decoupled_weight_decay")),
    **_words("no_prox", Meant("decoupled_weight_decay", "True is the authors' no_prox")),
    **_words(
        "decay",
        Meant("alpha", "optax's decay; Keras's is weight_decay or a schedule", "centered"),
        Meant("weight_decay", "Keras's old decay is a schedule, LambdaLR with 1/(1 + decay·t)"),
    ),
    **_words("wd l2 l2_reg weight_decay_rate", Meant("weight_decay")),
    **_words("mask weight_decay_mask exclude_from_weight_decay", _NO_DECAY),
    **_words("layer_decay lr_scale lr_mult", _GROUPS),
    **_words("ema ema_momentum use_ema", Meant("ema_decay")),
    **_words("ema_overwrite_frequency", Meant(note="opt.swap_ema() puts the averages in the parameters' place", having="ema_decay")),
    **_words("mu_dtype momentum_dtype dtype_momentum accumulator_dtype", Meant("moments")),
    **_words("fp32_optimizer_states", Meant("moments", "None, the default, is float32")),
    **_words(
        "foreach fused capturable differentiable jit use_triton",
        Meant(note="leave it out: each step is one fused pass", having="lr"),
        Meant(note="leave it out: it is one pass over all gradients", having="grads"),
    ),
    **_words("device", Meant(note="leave it out: everything is on the CPU")),
    **_words(
        "dtype",
        Meant(note="leave it out: parameters have their dtypes; moments and weights choose how the state is kept", having="lr"),
        Meant(note="leave it out: results have the dtype of the input"),
    ),
    **_words("name", Meant(note="leave it out: nothing here has a name")),
    **_words("set_grad_none set_to_none", _in_step("zero_grads")),
    **_words("schedule scheduler", Meant("lr_lambda"), Meant(note="a schedule is an object of its own, made of the optimizer: fo.schedules", having="lr")),
    **_words("function fn lr_fn", Meant("lr_lambda")),
    **_words("lookahead", Meant(note="there is no Lookahead; ema_decay and swa_start average the weights", having="ema_decay")),
    **_words("cautious caution", Meant(note="leave it out: there are no cautious steps", having="lr")),
    **_words("trust_coeff", Meant("trust_coefficient")),
    **_words("trust_clip max_coeff min_coeff always_adapt", Meant(note="leave it out: the ratio of the norms has no bounds", having="lr")),
    **_words("eta_minus eta_plus", Meant("etas", "etas=(eta_minus, eta_plus)")),
    **_words("b3 beta3 beta_3", Meant("betas", "betas=(beta1, beta2, beta3)")),
    **_words("t_alpha", Meant("alpha_warmup")),
    **_words("t_beta3 T_alpha_beta3", Meant("beta3_warmup", "with alpha_warmup")),
    **_words("clip_lambda", Meant("clip_exponent", "the exponent of the step")),
    **_words("beta_2_decay", Meant("beta2_decay", "Keras's beta_2_decay")),
    **_words("clip_threshold clipping_threshold", Meant("d")),
    **_words("relative_step scale_parameter multiply_by_parameter_scale", Meant(note="leave it out: lr is the largest relative step, always scaled by the parameter", having="beta2_decay")),
    **_words("warmup_init", Meant(note="leave it out: the step is min(lr, 1/√t), and a schedule may change lr", having="beta2_decay")),
    **_words("factored min_dim_size_to_factor", Meant(note="leave it out: the state of every matrix is factored", having="beta2_decay")),
    **_words("schedule_decay", Meant("momentum_decay")),
    **_words("backend_steps", Meant("ns_steps")),
    **_words("ns_coeffs", Meant("ns_coefficients", "optax's ns_coeffs")),
    **_words("consistent_rms", Meant("adjust_lr_fn", "'match_rms_adamw' has consistent_rms=0.2")),
    **_words("adam_b1 adam_b2 adam_learning_rate", Meant(note="Muon is for matrices; give other parameters to AdamW", having="ns_steps")),
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
    **_words("max_grad_norm clip_grad_norm clip_grad", Meant("max_norm"), *_of_step("clip_norm")),
    **_words("max_norm", *_of_step("clip_norm"), Meant(note="scale the rows of the layer's weight yourself", having="num_embeddings")),
    **_words("clipvalue", *_of_step("clip_value", "Keras's clipvalue")),
    **_words("apply_if_finite", *_of_step("skip_nonfinite")),
    **_words("loss_scale inv_scale loss_scale_factor", *_of_step("grad_scale")),
    **_words("gradient_accumulation_steps every_k_schedule", Meant(note="add up gradients before the step: opt.accumulate(grads) for NumPy, several backward() in torch", having="lr")),
    **_words("closure", Meant(note="compute the gradients before the step", having="clip_norm"), Meant(note="compute the gradients before the step", having="lr")),
    # Layers
    **_words("rate dropout_rate drop_prob dropout", Meant("p", "Keras's rate")),
    **_words("keep_prob", Meant("p", "p = 1 - keep_prob")),
    **_words("noise_shape broadcast_dims", Meant(note="ChannelDropout drops whole channels; there are no other shapes", having="p")),
    **_words("rng rngs key random_state", _STOCHASTIC),
    **_words("training deterministic use_running_average", _MODES),
    **_words("trainable", Meant(note="give the optimizer only the parameters that learn")),
    **_words("param_dtype", Meant("dtype", "Flax's param_dtype")),
    **_words("center create_offset", Meant("bias", "Keras's center"), Meant("affine", "Keras's center and scale together"), _NO_BIAS),
    **_words("scale use_scale create_scale", Meant("elementwise_affine", "Keras's scale"), Meant("affine", "Keras's center and scale together")),
    **_words("affine", Meant("elementwise_affine")),
    **_words("elementwise_affine", Meant("affine")),
    **_words("bias", Meant("affine", "weight and bias together"), _NO_BIAS),
    **_words("use_bias", Meant("bias"), Meant("affine", "weight and bias together"), _NO_BIAS),
    **_words("axis reduction_axes feature_axes", Meant("channel_axis"), Meant("normalized_shape", "the sizes of the last axes"), Meant("dim", "the size of the last axis")),
    **_words("data_format channels_last", Meant("channel_axis", "-1 for channels_last, 1 for channels_first")),
    **_words("groups", Meant("num_groups")),
    **_words("group_size", Meant("num_groups", "num_groups = num_channels // group_size")),
    **_words("num_channels", Meant("num_features")),
    **_words("num_features", Meant("num_channels"), Meant("normalized_shape"), Meant("in_features")),
    **_words("normalized_shape", Meant("dim", "the size of the last axis"), Meant("num_features")),
    **_words("hidden_size d_model", *map(Meant, ("normalized_shape", "dim", "num_features", "num_channels", "embedding_dim"))),
    **_words("units", Meant("out_features", "Keras's units")),
    **_words("features", Meant("out_features", "Flax's features"), Meant("out_channels", "Flax's features"), Meant("embedding_dim", "Flax's features"), Meant("num_features"), Meant("normalized_shape")),
    **_words("input_dim", Meant("num_embeddings"), Meant("in_features")),
    **_words("output_dim", Meant("embedding_dim"), Meant("out_features")),
    **_words("in_channels in_dim input_size", Meant("in_features")),
    **_words("out_channels out_dim output_size", Meant("out_features")),
    **_words("filters", Meant("out_channels", "Keras's filters")),
    **_words("strides window_strides", Meant("stride")),
    **_words("pool_size window_shape", Meant("kernel_size", "Keras's pool_size")),
    **_words("dilation_rate kernel_dilation", Meant("dilation")),
    **_words("feature_group_count", Meant("groups", "Flax's feature_group_count")),
    **_words("padding_mode", Meant(note="the padding is zeros; numpy.pad makes others", having="padding")),
    **_words("activation", Meant(note="put a layer behind it, such as nn.ReLU()", having="dtype")),
    **_words("return_indices", Meant(note="leave it out: the layer keeps them for backward", having="ceil_mode")),
    **_words("vocab_size n_vocab", Meant("num_embeddings")),
    **_words("mask_zero", Meant("padding_idx", "0 is Keras's mask_zero")),
    **_words("kernel_initializer kernel_init gamma_initializer scale_init embeddings_initializer embedding_init", _in_array("weight")),
    **_words("bias_initializer bias_init beta_initializer", _in_array("bias")),
    **_words("moving_mean_initializer", _in_array("running_mean")),
    **_words("moving_variance_initializer", _in_array("running_var")),
    **_words("kernel_regularizer", Meant("weight_decay"), Meant(note="it is the optimizer's weight_decay")),
    **_words("bias_regularizer beta_regularizer gamma_regularizer embeddings_regularizer", Meant(note="it is the optimizer's weight_decay, for a group of its own")),
    **_words("kernel_constraint bias_constraint beta_constraint gamma_constraint embeddings_constraint", Meant(note="change the parameters after the step")),
    **_words("synchronized axis_name process_group", Meant("comm"), Meant(note="fo.distributed.SyncBatchNorm has a batch that processes share", having="num_features")),
    **_words("renorm", Meant(note="BatchRenorm is a layer of its own", having="track_running_stats")),
    **_words("inplace", Meant(note="call the layer with out=x")),
    # Schedules
    **_words(
        "initial_learning_rate init_value warmup_target init_lr initial_lr",
        Meant("base_lr"),
        Meant("div_factor", "the first lr is max_lr / div_factor"),
        _OF_LR,
    ),
    **_words("maximal_learning_rate", Meant("max_lr"), _OF_LR),
    **_words(
        "lr",
        _OF_LR,
        Meant(note="set it in opt.param_groups, or use a schedule", having="clip_norm"),
    ),
    **_words("first_decay_steps", Meant("T_0")),
    **_words("t_mul T_mul cycle_mul", Meant("T_mult")),
    **_words(
        "decay_steps transition_steps",
        *map(Meant, ("T_max", "T_0", "step_size", "total_iters", "total_steps", "step_size_up", "milestones")),
        Meant("gamma", "gamma = decay_rate ** (1 / decay_steps)"),
        _ANY_SCHEDULE,
    ),
    **_words(
        "decay_rate",
        Meant("gamma", "with step_size=decay_steps", "step_size"),
        Meant("gamma", "", "milestones"),
        Meant("gamma", "gamma = decay_rate ** (1 / decay_steps)", "optimizer"),
        Meant("factor", "", "patience"),
        Meant("beta2_decay", "optax's decay_rate is -beta2_decay"),
        _ANY_SCHEDULE,
        Meant("momentum", "momentum = 1 - decay_rate", "track_running_stats"),
    ),
    **_words("num_training_steps t_initial max_epochs max_iters num_steps epochs n_epochs total_iters total_steps", *_LENGTH),
    **_words("end_learning_rate end_value lr_min final_lr lr_end eta_min min_lr", *_SMALLEST_LR),
    **_words("min_lr_ratio min_lr_rate", Meant("eta_min", "eta_min = min_lr_ratio·lr"), _ANY_SCHEDULE),
    **_words("peak_value peak_lr cycle_max_lr", Meant("max_lr"), Meant(note="it is the optimizer's lr", having="optimizer")),
    **_words("max_lr base_lr", _OF_LR),
    **_words("cycle_min_lr", Meant("base_lr")),
    **_words("boundaries boundaries_and_scales", Meant("boundaries"), Meant("milestones")),
    **_words("warmup num_warmup_steps warmup_steps warmup_epochs warmup_iters warmup_t", *_WARMUP),
    **_words("warmup_ratio", Meant("warmup_steps", "warmup_ratio·total_steps"), *_WARMUP[1:]),
    **_words("warmup_lr_init warmup_lr warmup_init_lr", Meant(note="leave it out: the first step has lr/warmup_steps", having="warmup_steps")),
    **_words("timescale", Meant("warmup_steps")),
    **_words("num_stable_steps", Meant("total_steps", "the sum of the three numbers", "decay_steps")),
    **_words("num_decay_steps", Meant("decay_steps")),
    **_words("exponent power k_decay m_mul cycle num_cycles cycle_limit cycle_decay noise_range_t transition_begin", _ANY_SCHEDULE),
    **_words("min_delta", Meant("threshold", "Keras's min_delta with threshold_mode='abs'")),
    **_words("rtol", Meant("threshold", "optax's rtol with threshold_mode='rel'")),
    **_words("atol tol", Meant("threshold", "with threshold_mode='abs'")),
    **_words("monitor", Meant(note="give the value to the step: schedule.step(loss)", having="patience")),
    **_words("last_epoch", Meant(note="load_state_dict continues where another one was")),
    **_words("staircase", Meant(note="StepLR is ExponentialLR with a staircase", having="gamma"), _ANY_SCHEDULE),
    **_words("verbose", Meant(note="print schedule.get_last_lr()", having="optimizer")),
    # Losses and clipping
    **_words("input logits y_pred predictions preds", Meant("x", "", "target")),
    **_words("labels y_true targets", Meant("target")),
    **_words("from_logits", *(Meant(note="leave it out: x has logits", having=one) for one in ("ignore_index", "pos_weight"))),
    **_words("size_average reduce", Meant("reduction")),
    **_words("class_weight", Meant("weight", "one of each class", "ignore_index")),
    **_words("sample_weight", Meant(note="weight has one of each class, and samples have none", having="ignore_index"), Meant("weight")),
    **_words("ignore_class ignore_label", Meant("ignore_index")),
    **_words("parameters", Meant("grads", "the gradients themselves")),
    **_words("norm_type", Meant(note="leave it out: it is the 2-norm", having="max_norm")),
    **_words("max_grad clip max_value max_delta", Meant("clip_value")),
}  # fmt: skip
