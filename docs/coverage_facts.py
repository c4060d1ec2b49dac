"""What cannot be read from code: why an argument or a name of PyTorch's is not here, and what OneFlow's documentation says.

`generate_coverage.py` puts these beside what it reads from graphc and PyTorch.
"""

from __future__ import annotations

# Arguments that mean nothing here, wherever PyTorch has them; rows do not repeat them.
NEVER = {
    "device, pin_memory, layout, memory_format": "there is one device, the CPU, and one layout; factories, layers with a "
                                                 "`dtype`, `to` and `tensor` take `device=\"cpu\"`",
    "size_average, reduce": "deprecated in PyTorch; `reduction` says it",
    "foreach, fused, capturable, differentiable": "ways in which PyTorch executes an optimizer; here every update is fused, "
                                                  "compiled and differentiable",
    "generator": "`graphc.manual_seed` fixes initial values; random nodes have an explicit seed",
    "out, requires_grad": "symbols have no memory to write to, and no flag: `graphc.grad` says what is differentiated; a "
                          "factory with `requires_grad=True` makes a parameter",
    "inplace": "taken where PyTorch takes it: a symbol that was computed is the result when it is read again; what shares "
               "memory is the compiler's choice",
    "_stacklevel, sparse, sparse_grad": "nothing of the mathematics: gradients are dense, and fused where they are used",
}

# Why one argument of PyTorch's is missing, or one of ours is not PyTorch's: by argument, or by (name, argument).
REASONS: dict[str | tuple[str, str], str] = {
    "max_norm": "it would write the table in the middle of a forward pass; scale the table in the step instead",
    "norm_type": "goes with `max_norm`",
    ("Embedding", "_weight"): "`from_pretrained`, or `load_state_dict`",
    ("EmbeddingBag", "_weight"): "`load_state_dict`",
    ("Embedding", "_freeze"): "`from_pretrained(freeze=)`, or `weight.requires_grad = False`",
    ("EmbeddingBag", "scale_grad_by_freq"): "not written; `nn.Embedding` has it",
    ("embedding_bag", "scale_grad_by_freq"): "not written; `embedding` has it",
    "offsets": "bags are rows of one length, filled up with `padding_idx`",
    "include_last_offset": "goes with `offsets`",
    "min_value": "deprecated in PyTorch: `min_val`",
    "max_value": "deprecated in PyTorch: `max_val`",
    "antialias": "not written",
    "key": "the int64 state that random numbers come from; by default one of its own, which every step advances",
    ("Parameter", "name"): "what text and pictures show; modules overwrite it by their path",
    ("Parameter", "dtype"): "float32 unless given: numpy's arrays are float64 more often than meant",
    ("ParameterDict", "parameters"): "called `values`",
    ("ParameterDict", "values"): "PyTorch's `parameters`",
    "do_bias_correction": "OneFlow's; true by default, as PyTorch always does",
    "decay_rate": "OneFlow's; 1 by default, which is PyTorch's schedule",
    "restart_limit": "OneFlow's; 0 by default, which is PyTorch's schedule",
    "end_learning_rate": "OneFlow's; 0 by default, which is PyTorch's schedule",
    "cycle": "OneFlow's; false by default, which is PyTorch's schedule",
}

# Names of torch.nn, torch.nn.functional, torch.optim, its schedulers and torch.nn.init that graphc lacks, and why.
ABSENT = {
    "Lazy*, Uninitialized*": "shapes are known when a graph is built: give them",
    "DataParallel, SyncBatchNorm": "one process, one machine",
    "Container, NLLLoss2d, CrossMapLRN2d": "deprecated or superseded in PyTorch",
    "RNNBase, RNNCellBase, Buffer": "base classes and markers; `register_buffer` makes a state",
    "SparseAdam": "there are no sparse gradients",
    "AdaptiveLogSoftmaxWithLoss, LinearCrossEntropy*, linear_cross_entropy": "not written: a linear layer, then a loss",
    "FractionalMaxPool*, fractional_max_pool*, MaxUnpool*, max_unpool*, LPPool3d, lp_pool3d": "not written",
    "pdist, conv_tbc": "not written",
    "grouped_mm, scaled_mm, scaled_grouped_mm": "mixed precision of particular devices",
    "multi_head_attention_forward": "`nn.MultiheadAttention`, or `scaled_dot_product_attention`",
    "upsample_bilinear, upsample_nearest": "deprecated in PyTorch: `interpolate`",
    "native_channel_shuffle, *_with_indices, boolean_dispatch": "PyTorch's own helpers",
}

# OneFlow 1.0's documentation: the arguments where they are listed here, or only that the name is there.
ONEFLOW_ARGUMENTS = {
    "L1Loss": "reduction='mean'", "MSELoss": "reduction='mean'", "CTCLoss": "blank=0, reduction='mean', zero_infinity=False",
    "CrossEntropyLoss": "weight=None, ignore_index=-100, reduction='mean', label_smoothing=0.0",
    "NLLLoss": "weight=None, ignore_index=-100, reduction='mean'", "BCELoss": "weight=None, reduction='mean'",
    "BCEWithLogitsLoss": "weight=None, reduction='mean', pos_weight=None", "SmoothL1Loss": "reduction='mean', beta=1.0",
    "KLDivLoss": "reduction='mean', log_target=False", "MarginRankingLoss": "margin=0.0, reduction='mean'",
    "CombinedMarginLoss": "m1=1.0, m2=0.0, m3=0.0",
    "SGD": "params, lr=0.001, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, maximize=False",
    "Adam": "params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, amsgrad=False, do_bias_correction=True",
    "AdamW": "params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, amsgrad=False, do_bias_correction=True",
    "Adagrad": "params, lr=0.001, lr_decay=0.0, weight_decay=0, initial_accumulator_value=0.0, eps=1e-10",
    "RMSprop": "params, lr=0.001, alpha=0.99, eps=1e-08, weight_decay=0, momentum=0.0, centered=False",
    "LAMB": "params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0, adam_w_mode=True, do_bias_correction=True, "
            "amsgrad=False",
    "CosineDecayLR": "optimizer, decay_steps, alpha=0.0", "StepLR": "optimizer, step_size, gamma=0.1",
    "MultiStepLR": "optimizer, milestones, gamma=0.1", "ExponentialLR": "optimizer, gamma", "LambdaLR": "optimizer, lr_lambda",
    "CosineAnnealingLR": "optimizer, T_max, eta_min=0.0",
}
_ALSO = """
TripletMarginLoss Adadelta LBFGS
ConstantLR LinearLR CosineAnnealingWarmRestarts PolynomialLR ReduceLROnPlateau SequentialLR ChainedScheduler MultiplicativeLR
WarmupLR
CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid LogSoftmax Mish PReLU QuickGELU ReLU ReLU6 SELU
SiLU Sigmoid Softmax Softplus Softshrink Softsign SquareReLU Tanh Threshold
Linear Identity Flatten Conv1d Conv2d Conv3d ConvTranspose1d ConvTranspose2d ConvTranspose3d MaxPool1d MaxPool2d MaxPool3d
AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d BatchNorm1d BatchNorm2d BatchNorm3d
LayerNorm GroupNorm InstanceNorm1d InstanceNorm2d InstanceNorm3d RMSNorm Dropout Dropout1d Dropout2d Dropout3d Embedding RNN
LSTM GRU RNNCell LSTMCell GRUCell PixelShuffle Upsample UpsamplingBilinear2d UpsamplingNearest2d Fold Unfold CosineSimilarity
ZeroPad2d ConstantPad1d ConstantPad2d ConstantPad3d ReflectionPad2d ReplicationPad2d Module Parameter
Sequential ModuleList ModuleDict ParameterList ParameterDict
"""
ONEFLOW_NAMES = {*ONEFLOW_ARGUMENTS, *_ALSO.split()}

# How optional arguments of our ops are called in PyTorch; a difference in these names alone is none.
SPELLINGS = {
    "dim": ("axis",), "keepdim": ("keepdims",), "dims": ("axes", "axis", "repeats", "dim"),
}
